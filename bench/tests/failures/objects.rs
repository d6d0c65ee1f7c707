//! Mass deletions, deleted namespaces, objects that do not parse, and oversized templates.

use crate::fixture::{
    FLEET, POOL, TIMEOUT, assert_invariants, assert_invariants_except, claim, ensure_all_ready, retained_session_spec,
    start_claims, start_leader, wait_until, with_fleet,
};
use anyhow::{Context, Result, bail, ensure};
use camofleet_bench::{
    arrivals::Arrivals,
    harness::{Harness, pool_of_reused_runners},
};
use camofleet_crds::{
    conditions,
    v1alpha1::{
        AllowedNamespaces, BrowserSession, BrowserSessionSpec, NamespacesFrom, PoolRef, Rollout, WorkerPool,
        WorkerPoolSpec,
    },
};
use k8s_openapi::{
    api::core::v1::{Namespace, Pod},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

const SESSIONS: usize = 2000;

#[test]
fn no_runner_keeps_a_session_after_2000_are_deleted_at_once() {
    with_fleet("mass-deletion", async |harness| {
        let _operator = start_leader(harness, "a").await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(SESSIONS.div_ceil(32), 32)).await?;
        ensure_all_ready(&start_claims(harness, "claim", SESSIONS, Arrivals::Burst).await?)?;
        for index in 0..SESSIONS {
            harness.sessions.mark_deleted_by_user(FLEET, &format!("claim-{index}"));
        }
        harness
            .api::<BrowserSession>(FLEET)
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await?;
        wait_until("no runner holds a session", async || Ok(harness.simulator.binding_log().held().is_empty())).await?;
        claim(harness, "late", 50).await?;
        ensure!(harness.simulator.binding_log().count() == SESSIONS + 50, "a runner was given a session twice");
        assert_invariants(harness).await
    });
}

#[test]
fn a_namespace_with_live_sessions_can_be_deleted_and_leaves_no_runner() {
    with_fleet("namespace", async |harness| {
        let _operator = start_leader(harness, "a").await?;
        // `both` has a pool and its sessions; `guests` has sessions on a pool of another namespace.
        for namespace in ["both", "guests"] {
            harness.create_namespace(namespace).await?;
        }
        // The namespace controller waits for pods and retries after half of their grace period, so a short drain
        // timeout suffices.
        let rollout: Rollout = serde_json::from_value(json!({ "drainTimeoutSeconds": 5 }))?;
        harness.create_hot_pool("both", POOL, WorkerPoolSpec { rollout, ..pool_of_reused_runners(5, 4) }).await?;
        let shared = WorkerPoolSpec {
            allowed_namespaces: AllowedNamespaces { from: NamespacesFrom::All, selector: None },
            ..pool_of_reused_runners(30, 1)
        };
        harness.create_hot_pool("camo-fleet", POOL, shared).await?;
        let at = |namespace: &str| BrowserSessionSpec {
            pool_ref: Some(PoolRef { name: POOL.to_owned(), namespace: Some(namespace.to_owned()) }),
            ..retained_session_spec(POOL)
        };
        for index in 0..10 {
            for (namespace, pool) in [("both", "both"), ("guests", "camo-fleet"), (FLEET, "camo-fleet")] {
                let (client, name) = (harness.session_client(), format!("claim-{index}"));
                let claim = client.claim_with(namespace.to_owned(), name, at(pool), TIMEOUT).await?;
                ensure!(claim.ready.is_some(), "a session of {namespace} was not Ready");
            }
        }
        let namespaces = Api::<Namespace>::all(harness.client.clone());
        for namespace in ["both", "guests"] {
            for index in 0..10 {
                harness.sessions.mark_deleted_by_user(namespace, &format!("claim-{index}"));
            }
            namespaces.delete(namespace, &DeleteParams::default()).await?;
        }
        wait_until("the namespaces are gone", async || {
            Ok(namespaces.get_opt("both").await?.is_none() && namespaces.get_opt("guests").await?.is_none())
        })
        .await?;
        for namespace in ["both", "guests", "camo-fleet", FLEET] {
            assert_invariants_except(harness, namespace, |_, _| false).await?;
        }
        let runners = harness.simulator.runners().into_iter().filter(|runner| runner.pod.namespace == "both").count();
        ensure!(runners == 0, "{runners} runners are left of a deleted namespace");
        Ok(())
    });
}

/// Sessions and a pool as an operator version with other fields could have written them: some exist before the operator
/// starts, one is created while it runs.
#[test]
fn objects_that_do_not_parse_do_not_stop_others() {
    with_fleet("unparsable", async |harness| {
        let (session_kind, pool_kind) =
            (ApiResource::erase::<BrowserSession>(&()), ApiResource::erase::<WorkerPool>(&()));
        relax_schema(harness, "browsersessions.camofleet.dev").await?;
        relax_schema(harness, "workerpools.camofleet.dev").await?;
        create_dynamic(harness, &session_kind, "unparsable-early", json!({ "display": "Hologram" })).await?;
        create_dynamic(harness, &pool_kind, "unparsable-pool", json!({ "slotsPerRunner": "many" })).await?;
        let mut operator = start_leader(harness, "a").await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(5, 4)).await?;
        claim(harness, "early", 8).await?;
        create_dynamic(harness, &session_kind, "unparsable-late", json!({ "engine": 7 })).await?;
        claim(harness, "late", 8).await?;
        // A served session whose spec no longer parses keeps its browser, and its user can still end it.
        let patch = json!({ "spec": { "idleTimeoutSeconds": "long" } });
        let sessions = Api::<DynamicObject>::namespaced_with(harness.client.clone(), FLEET, &session_kind);
        sessions.patch("early-0", &PatchParams::default(), &Patch::Merge(patch)).await?;
        claim(harness, "after", 2).await?;
        let binding_log = harness.simulator.binding_log();
        let uid = harness.sessions.get(FLEET, "early-0").context("the session was not observed")?.uid;
        ensure!(binding_log.held().contains(&uid), "a session ended because its new spec does not parse");
        // The same after a restart of the operator.
        operator.stop().await?;
        operator.daemon.start_again()?;
        operator.wait_until_leading().await?;
        claim(harness, "restarted", 1).await?;
        for name in ["early-0", "unparsable-early", "unparsable-late"] {
            harness.session_client().delete(FLEET, name).await?;
        }
        let pools = Api::<DynamicObject>::namespaced_with(harness.client.clone(), FLEET, &pool_kind);
        pools.delete("unparsable-pool", &DeleteParams::default()).await?;
        assert_invariants(harness).await?;
        let pods = harness.api::<Pod>(FLEET).list_metadata(&ListParams::default()).await?.items.len();
        ensure!(pods == 5, "{pods} runners instead of 5");
        Ok(())
    });
}

/// The API server rejects oversized fields, the operator rejects a template whose total is too large, and a pool from
/// before the bounds still gets a status and can be deleted.
#[test]
fn oversized_pools_are_rejected_and_one_from_before_the_bounds_can_be_deleted() {
    with_fleet("large-pools", async |harness| {
        let pools = harness.api::<WorkerPool>(FLEET);
        let text = |length: usize| "x".repeat(length);
        let map = |entries: usize, value: &str| -> Value {
            (0..entries).map(|index| (format!("example.com/{index:03}"), Value::from(value))).collect()
        };
        let term = |values: usize| json!({ "matchExpressions": [{ "key": "a", "operator": "In", "values": vec!["b"; values] }] });
        let node_affinity = |values: usize| {
            json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [term(values)] } } })
        };
        let with = |template: Value| -> Result<WorkerPool> {
            let spec = json!({ "replicas": 1, "template": template });
            Ok(WorkerPool::new("large", serde_json::from_value(spec)?))
        };
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        for (field, fits, too_large) in [
            ("env", json!([{ "name": "A", "value": text(4096) }]), json!([{ "name": "A", "value": text(4097) }])),
            ("nodeSelector", map(32, "a"), map(33, "a")),
            ("nodeSelector", json!({ text(317): "a" }), json!({ text(318): "a" })),
            ("affinity", node_affinity(32), node_affinity(33)),
            ("metadata", json!({ "annotations": map(1, &text(8192)) }), json!({ "annotations": map(1, &text(8193)) })),
        ] {
            pools
                .create(&dry, &with(json!({ field: fits }))?)
                .await
                .with_context(|| format!("{field} within its bound was rejected"))?;
            let answer = pools.create(&dry, &with(json!({ field: too_large }))?).await;
            let Err(kube::Error::Api(status)) = answer else { bail!("oversized {field} was not rejected: {answer:?}") };
            ensure!(status.code == 422 && status.message.contains(&format!("spec.template.{field}")), "{status:?}");
        }

        // An object that the former CRDs would have accepted.
        let definitions = Api::<CustomResourceDefinition>::all(harness.client.clone());
        let former = definitions.get("workerpools.camofleet.dev").await?.spec.versions;
        relax_schema(harness, "workerpools.camofleet.dev").await?;
        let pool_kind = ApiResource::erase::<WorkerPool>(&());
        let image = json!({ "image": "runner", "env": [{ "name": "A", "value": text(1_000_000) }], "nodeSelector": map(100, "a") });
        create_dynamic(harness, &pool_kind, "of-before", json!({ "replicas": 1, "template": image })).await?;
        let patch = Patch::Merge(json!({ "spec": { "versions": former } }));
        definitions.patch("workerpools.camofleet.dev", &PatchParams::default(), &patch).await?;
        wait_until("the bounds are in force again", async || {
            Ok(pools.create(&dry, &with(json!({ "nodeSelector": map(33, "a") }))?).await.is_err())
        })
        .await?;

        let _operator = start_leader(harness, "a").await?;
        // Created as a dynamic object, because `WorkerPool` drops an oversized template when it is deserialized.
        let annotations = json!({ "metadata": { "annotations": map(5, &text(8000)) } });
        create_dynamic(harness, &pool_kind, "large", json!({ "replicas": 1, "template": annotations })).await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(1, 4)).await?;
        claim(harness, "served", 4).await?;
        for name in ["large", "of-before"] {
            wait_until("the pool is rejected", async || {
                let status = pools.get(name).await?.status.unwrap_or_default();
                let stalled = conditions::get(&status.conditions, conditions::STALLED);
                Ok(stalled.is_some_and(|it| it.status == "True" && it.reason == conditions::pool::TEMPLATE_TOO_LARGE))
            })
            .await?;
        }
        ensure!(harness.count_pods(FLEET).await? == 1, "a runner was created from an oversized template");
        // Adding and removing the finalizer also writes the oversized pool.
        for name in ["large", "of-before"] {
            wait_until("the pool has its finalizer", async || Ok(!pools.get(name).await?.finalizers().is_empty()))
                .await?;
            pools.delete(name, &DeleteParams::default()).await?;
            wait_until("the pool is gone", async || Ok(pools.get_opt(name).await?.is_none())).await?;
        }
        assert_invariants(harness).await
    });
}

/// Opens the schema of a CRD so that it accepts unknown fields, as the schema of a later version would.
async fn relax_schema(harness: &Harness, name: &str) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(harness.client.clone());
    let crd = api.get(name).await?;
    let mut versions = serde_json::to_value(&crd.spec.versions)?;
    versions[0]["schema"]["openAPIV3Schema"] = json!({
        "type": "object",
        "properties": { "spec": open_object(&json!({ "poolRef": open_object(&json!({ "name": { "type": "string" } })) })),
            "status": open_object(&json!({ "state": { "type": "string" }, "pool": { "type": "string" } })) },
    });
    let patch = json!({ "spec": { "versions": versions } });
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A schema with the known fields that keeps unknown ones.
fn open_object(known: &Value) -> Value {
    json!({ "type": "object", "properties": known, "x-kubernetes-preserve-unknown-fields": true })
}

async fn create_dynamic(harness: &Harness, kind: &ApiResource, name: &str, spec: Value) -> Result<()> {
    let api = Api::<DynamicObject>::namespaced_with(harness.client.clone(), FLEET, kind);
    let object = DynamicObject::new(name, kind).data(json!({ "spec": spec }));
    // The schema is in force a moment after the API server accepts it.
    wait_until("the object is taken", async || Ok(api.create(&PostParams::default(), &object).await.is_ok())).await
}
