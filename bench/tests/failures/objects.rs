//! Objects that go all at once, and one that nobody understands.

use crate::fleet::{
    FLEET, PATIENCE, POOL, all_ready, assert_whole, assert_whole_but, begin_claims, claim, leader, on_a_fleet, session,
    until,
};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::Arrivals,
    harness::{Harness, lasting_pool},
};
use camofleet_crds::v1alpha1::{
    AllowedNamespaces, BrowserSession, BrowserSessionSpec, NamespacesFrom, PoolRef, Rollout, WorkerPool, WorkerPoolSpec,
};
use k8s_openapi::{
    api::core::v1::{Namespace, Pod},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

const CROWD: usize = 2000;

#[test]
fn a_crowd_that_is_deleted_at_once_leaves_nothing_on_any_runner() {
    on_a_fleet("crowd", async |harness| {
        let _operator = leader(harness, "a").await?;
        harness.hot_pool(FLEET, POOL, lasting_pool(CROWD.div_ceil(32), 32)).await?;
        all_ready(&begin_claims(harness, "claim", CROWD, Arrivals::AllAtOnce).await?)?;
        for index in 0..CROWD {
            harness.sessions.give_up(FLEET, &format!("claim-{index}"));
        }
        harness
            .api::<BrowserSession>(FLEET)
            .delete_collection(&DeleteParams::default(), &ListParams::default())
            .await?;
        until("no runner holds any", async || Ok(harness.simulator.record().held().is_empty())).await?;
        claim(harness, "late", 50).await?;
        ensure!(harness.simulator.record().count() == CROWD + 50, "a runner was given a session twice");
        assert_whole(harness).await
    });
}

#[test]
fn a_namespace_that_is_deleted_with_live_sessions_goes_and_leaves_nothing() {
    on_a_fleet("namespace", async |harness| {
        let _operator = leader(harness, "a").await?;
        // One with a pool and its sessions, and one whose sessions are on another's pool.
        for namespace in ["both", "guests"] {
            harness.namespace(namespace).await?;
        }
        // Kubernetes waits for pods first, and asks again after half of their grace period.
        let rollout: Rollout = serde_json::from_value(json!({ "drainTimeoutSeconds": 5 }))?;
        harness.hot_pool("both", POOL, WorkerPoolSpec { rollout, ..lasting_pool(5, 4) }).await?;
        let shared = WorkerPoolSpec {
            allowed_namespaces: AllowedNamespaces { from: NamespacesFrom::All, selector: None },
            ..lasting_pool(30, 1)
        };
        harness.hot_pool("camo-fleet", POOL, shared).await?;
        let at = |namespace: &str| BrowserSessionSpec {
            pool_ref: Some(PoolRef { name: POOL.to_owned(), namespace: Some(namespace.to_owned()) }),
            ..session(POOL)
        };
        for index in 0..10 {
            for (namespace, pool) in [("both", "both"), ("guests", "camo-fleet"), (FLEET, "camo-fleet")] {
                let (claims, name) = (harness.claims(), format!("claim-{index}"));
                let claim = claims.claim_with(namespace.to_owned(), name, at(pool), PATIENCE).await?;
                ensure!(claim.ready.is_some(), "a session of {namespace} was not Ready");
            }
        }
        let namespaces = Api::<Namespace>::all(harness.client.clone());
        for namespace in ["both", "guests"] {
            for index in 0..10 {
                harness.sessions.give_up(namespace, &format!("claim-{index}"));
            }
            namespaces.delete(namespace, &DeleteParams::default()).await?;
        }
        until("the namespaces are gone", async || {
            Ok(namespaces.get_opt("both").await?.is_none() && namespaces.get_opt("guests").await?.is_none())
        })
        .await?;
        for namespace in ["both", "guests", "camo-fleet", FLEET] {
            assert_whole_but(harness, namespace, |_, _| false).await?;
        }
        let runners = harness.simulator.runners().into_iter().filter(|runner| runner.pod.namespace == "both").count();
        ensure!(runners == 0, "{runners} runners are left of a namespace that is gone");
        Ok(())
    });
}

/// A session and a pool as a version with other fields could have written them: they are there before an operator starts, and one
/// comes while it runs.
#[test]
fn what_cannot_be_understood_does_not_stop_the_others() {
    on_a_fleet("poison", async |harness| {
        let (session_kind, pool_kind) =
            (ApiResource::erase::<BrowserSession>(&()), ApiResource::erase::<WorkerPool>(&()));
        open_schema(harness, "browsersessions.camofleet.dev").await?;
        open_schema(harness, "workerpools.camofleet.dev").await?;
        poison(harness, &session_kind, "poison-early", json!({ "display": "Hologram" })).await?;
        poison(harness, &pool_kind, "poison-pool", json!({ "slotsPerRunner": "many" })).await?;
        let mut operator = leader(harness, "a").await?;
        harness.hot_pool(FLEET, POOL, lasting_pool(5, 4)).await?;
        claim(harness, "early", 8).await?;
        poison(harness, &session_kind, "poison-late", json!({ "engine": 7 })).await?;
        claim(harness, "late", 8).await?;
        // One that was served and is now past understanding keeps its browser; its user may end it all the same.
        let patch = json!({ "spec": { "idleTimeoutSeconds": "long" } });
        let sessions = Api::<DynamicObject>::namespaced_with(harness.client.clone(), FLEET, &session_kind);
        sessions.patch("early-0", &PatchParams::default(), &Patch::Merge(patch)).await?;
        claim(harness, "after", 2).await?;
        let record = harness.simulator.record();
        let uid = harness.sessions.seen(FLEET, "early-0").context("it was made")?.uid;
        ensure!(record.held().contains(&uid), "a session ended because nobody understood its new spec");
        // And over a restart.
        operator.stop().await?;
        operator.daemon.start_again()?;
        operator.wait_until_leading().await?;
        claim(harness, "anew", 1).await?;
        for name in ["early-0", "poison-early", "poison-late"] {
            harness.claims().end(FLEET, name).await?;
        }
        let pools = Api::<DynamicObject>::namespaced_with(harness.client.clone(), FLEET, &pool_kind);
        pools.delete("poison-pool", &DeleteParams::default()).await?;
        assert_whole(harness).await?;
        let pods = harness.api::<Pod>(FLEET).list_metadata(&ListParams::default()).await?.items.len();
        ensure!(pods == 5, "{pods} runners of a pool of 5");
        Ok(())
    });
}

/// What is not of the schema is taken, as the schema of a later version would take it.
async fn open_schema(harness: &Harness, name: &str) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(harness.client.clone());
    let crd = api.get(name).await?;
    let mut versions = serde_json::to_value(&crd.spec.versions)?;
    versions[0]["schema"]["openAPIV3Schema"] = json!({
        "type": "object",
        "properties": { "spec": anything(&json!({ "poolRef": anything(&json!({ "name": { "type": "string" } })) })),
            "status": anything(&json!({ "state": { "type": "string" }, "pool": { "type": "string" } })) },
    });
    let patch = json!({ "spec": { "versions": versions } });
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A schema of an object of which only those fields are known.
fn anything(known: &Value) -> Value {
    json!({ "type": "object", "properties": known, "x-kubernetes-preserve-unknown-fields": true })
}

async fn poison(harness: &Harness, kind: &ApiResource, name: &str, spec: Value) -> Result<()> {
    let api = Api::<DynamicObject>::namespaced_with(harness.client.clone(), FLEET, kind);
    let object = DynamicObject::new(name, kind).data(json!({ "spec": spec }));
    // The schema is in force a moment after it was taken.
    until("the object is taken", async || Ok(api.create(&PostParams::default(), &object).await.is_ok())).await
}
