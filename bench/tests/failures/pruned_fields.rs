//! Outdated CRDs: the API server prunes fields that the operator writes.

use crate::fixture::{
    FLEET, POOL, assert_invariants, claim, retained_session_spec, start_leader, wait_until, with_fleet,
};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    harness::{Harness, pool_of_reused_runners},
    operator::NAMESPACE,
};
use camofleet_crds::v1alpha1::{BrowserSession, WorkerPool, WorkerPoolSpec};
use k8s_openapi::{
    api::coordination::v1::Lease, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

const CRDS: [&str; 2] = ["browsersessions.camofleet.dev", "workerpools.camofleet.dev"];
const KINDS: [&str; 2] = ["BrowserSession", "WorkerPool"];
/// Objects of each kind that do not change during the test.
const UNCHANGED: usize = 10;
/// Pruned writes after which the back-off is long: about six per object.
const REPEATED: f64 = 60.0;
/// Lease renewals during the measurement, one every 2 s, as a measure of time that a loaded machine stretches too.
const RENEWALS: usize = 10;
const PRUNED: &str = "camofleet_operator_pruned_writes_total";

#[test]
fn outdated_crds_do_not_cause_endless_writes_and_sessions_are_served() {
    with_fleet("pruned", async |harness| {
        let mut former = Vec::new();
        for name in CRDS {
            former.push(drop_field(harness, name, "observedGeneration").await?);
        }
        wait_until_pruned(harness).await?;
        let operator = start_leader(harness, "a").await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(2, 4)).await?;
        claim(harness, "served", 4).await?;
        for index in 0..UNCHANGED {
            harness.session_client().create(FLEET, &format!("waits-{index}"), retained_session_spec("nowhere")).await?;
            let empty = WorkerPoolSpec { replicas: Some(0), ..WorkerPoolSpec::default() };
            harness.create_pool(FLEET, &format!("empty-{index}"), empty).await?;
        }
        // The first retries come fast.
        for kind in KINDS {
            wait_until("the operator has detected the pruned writes", async || {
                Ok(operator.metrics().await?.sum(PRUNED, &[("kind", kind)]) >= REPEATED)
            })
            .await?;
        }
        let (status, body) = operator.readiness().await?;
        ensure!(status == 503, "the operator is ready: {status} {body}");
        for kind in KINDS {
            ensure!(
                body.contains(&format!("{kind} status.observedGeneration")),
                "the readiness response does not name {kind}: {body}"
            );
        }

        let before = operator.writes().await?;
        wait_for_renewals(harness).await?;
        let since = operator.writes().await?.since(&before);
        // Without back-off there were about a hundred writes per session and twenty per pool.
        for (kind, objects) in [("browsersession_status", UNCHANGED + 4), ("workerpool_status", UNCHANGED + 1)] {
            let writes = since.of_kind(kind);
            ensure!(writes <= 6 * objects, "{writes} writes of {kind} for {objects} objects: {}", since.to_json());
        }
        claim(harness, "served-later", 2).await?;

        // The CRDs of the current version are applied.
        for (name, versions) in CRDS.iter().zip(former) {
            apply_versions(harness, name, versions).await?;
        }
        wait_until("every status is complete", async || {
            let sessions = harness.api::<BrowserSession>(FLEET).list(&ListParams::default()).await?.items;
            let pools = harness.api::<WorkerPool>(FLEET).list(&ListParams::default()).await?.items;
            let of_sessions = sessions.iter().map(|session| session.status.as_ref()?.observed_generation);
            let of_pools = pools.iter().map(|pool| pool.status.as_ref()?.observed_generation);
            Ok(of_sessions.chain(of_pools).all(|generation| generation.is_some()))
        })
        .await?;
        wait_until("the operator is ready", async || Ok(operator.readiness().await?.0 == 200)).await?;
        for index in 0..UNCHANGED {
            harness.session_client().delete(FLEET, &format!("waits-{index}")).await?;
            harness.api::<WorkerPool>(FLEET).delete(&format!("empty-{index}"), &DeleteParams::default()).await?;
        }
        assert_invariants(harness).await
    });
}

async fn wait_for_renewals(harness: &Harness) -> Result<()> {
    let leases = harness.api::<Lease>(NAMESPACE);
    let (mut version, mut seen) = (None, 0);
    wait_until("the leader has renewed its lease", async || {
        let now = leases.get("camofleet-operator").await?.resource_version();
        if version != now {
            seen += usize::from(version.is_some());
            version = now;
        }
        Ok(seen >= RENEWALS)
    })
    .await
}

/// Removes a status field from the schema of a CRD. Returns the versions of the schema from before the change.
async fn drop_field(harness: &Harness, name: &str, field: &str) -> Result<Value> {
    let crd = Api::<CustomResourceDefinition>::all(harness.client.clone()).get(name).await?;
    let former = serde_json::to_value(&crd.spec.versions)?;
    let mut versions = former.clone();
    let fields = versions[0].pointer_mut("/schema/openAPIV3Schema/properties/status/properties");
    let fields = fields.and_then(Value::as_object_mut).context("the schema has no status fields")?;
    fields.remove(field).context("the schema does not have the field")?;
    apply_versions(harness, name, versions).await?;
    Ok(former)
}

async fn apply_versions(harness: &Harness, name: &str, versions: Value) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(harness.client.clone());
    let patch = Patch::Merge(json!({ "spec": { "versions": versions } }));
    api.patch(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Waits until both schemas are in force, which is a moment after the API server accepts them.
async fn wait_until_pruned(harness: &Harness) -> Result<()> {
    for kind in [ApiResource::erase::<BrowserSession>(&()), ApiResource::erase::<WorkerPool>(&())] {
        let api = Api::<DynamicObject>::namespaced_with(harness.client.clone(), FLEET, &kind);
        let probe = DynamicObject::new("probe", &kind).data(json!({ "spec": {} }));
        api.create(&PostParams::default(), &probe).await?;
        wait_until("the older schema is in force", async || {
            let patch = Patch::Merge(json!({ "status": { "observedGeneration": 1 } }));
            let patched = api.patch_status("probe", &PatchParams::default(), &patch).await?;
            Ok(patched.data["status"]["observedGeneration"].is_null())
        })
        .await?;
        harness.sessions.mark_deleted_by_user(FLEET, "probe");
        api.delete("probe", &DeleteParams::default()).await?;
    }
    Ok(())
}
