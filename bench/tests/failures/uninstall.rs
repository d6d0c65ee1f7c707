//! Uninstalling the release and deleting its namespace: other pools are not deleted, and no pool is left with a
//! finalizer that only an operator would remove.

use crate::{
    chart::Chart,
    fixture::{FLEET, TIMEOUT, retained_session_spec, start_leader, wait_until, with_fleet},
};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    harness::{Harness, ignore_not_found, pool_of_reused_runners},
    operator::NAMESPACE,
};
use camofleet_crds::{
    conditions::{self, READY, STALLED, pool as reasons},
    v1alpha1::{BrowserSession, BrowserSessionSpec, PoolRef, Rollout, SessionState, WorkerPool, WorkerPoolSpec},
};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    rbac::v1::ClusterRoleBinding,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

const FINALIZER: &str = "camofleet.dev/drain";
const APPLY: &str = "camofleet-apply-pools";
const DELETE: &str = "camofleet-delete-pools";
const ABANDON: &str = "camofleet-abandon-pools";
/// The chart's values in these tests: pools without runners, except one that serves other namespaces.
const VALUES: [&str; 6] = [
    "uninstall.drainTimeoutSeconds=1",
    "pools.headless.allowedNamespaces.from=All",
    "pools.live.replicas=0",
    "pools.again.replicas=0",
    "pools.former.replicas=0",
    "pools.found.replicas=0",
];

fn release_pools(harness: &Harness) -> Api<WorkerPool> {
    harness.api(NAMESPACE)
}

/// Names and UIDs of the pools of the release's namespace that are not being deleted.
async fn present(harness: &Harness) -> Result<Vec<(String, String)>> {
    let pools = release_pools(harness).list(&ListParams::default()).await?;
    let stay = pools.iter().filter(|pool| pool.metadata.deletion_timestamp.is_none());
    Ok(stay.map(|pool| (pool.name_any(), pool.uid().unwrap_or_default())).collect())
}

/// Creates a pool from a saved one, with its labels and annotations, as `kubectl get -o yaml | kubectl apply` does.
async fn copy(harness: &Harness, of: &WorkerPool, name: &str) -> Result<()> {
    let mut copied = WorkerPool::new(name, of.spec.clone());
    copied.spec.replicas = Some(0);
    copied.metadata.labels = of.metadata.labels.clone();
    copied.metadata.annotations = of.metadata.annotations.clone();
    release_pools(harness).create(&PostParams::default(), &copied).await?;
    Ok(())
}

/// Applies a pool as the previous version of the chart did: without a record of the release.
async fn apply_as_previous_chart(harness: &Harness, name: &str) -> Result<()> {
    let pool = json!({
        "apiVersion": "camofleet.dev/v1alpha1", "kind": "WorkerPool",
        "metadata": { "name": name, "labels": {
            "app.kubernetes.io/name": "camofleet-pool", "app.kubernetes.io/instance": "camo-fleet" } },
        "spec": { "replicas": 0 },
    });
    let params = PatchParams::apply("camofleet-chart").force();
    release_pools(harness).patch(name, &params, &Patch::Apply(pool)).await?;
    Ok(())
}

#[test]
fn an_uninstall_deletes_only_the_pools_that_the_release_created() {
    with_fleet("uninstall", async |harness| {
        let mut operator = start_leader(harness, "a").await?;
        let chart = Chart::render(harness, &VALUES).await?;
        let printed = Chart::print(harness, &VALUES).await?.of_kind("Job", |_| true).count();
        ensure!(printed == 0, "helm template without a cluster renders {printed} Jobs");
        let pools = release_pools(harness);

        // Pools that exist before: two of the previous chart, a copy of one of them, a user's pool with the name of one
        // in the values, and another team's pool.
        for name in ["former", "removed"] {
            apply_as_previous_chart(harness, name).await?;
        }
        copy(harness, &pools.get("former").await?, "copy-of-former").await?;
        harness.create_pool(NAMESPACE, "found", pool_of_reused_runners(0, 1)).await?;
        harness.create_hot_pool(FLEET, "theirs", pool_of_reused_runners(1, 1)).await?;
        chart.run_job(harness, APPLY).await?;
        let names = |present: Vec<(String, String)>| present.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let expected = ["again", "copy-of-former", "former", "found", "headless", "live"];
        ensure!(names(present(harness).await?) == expected, "after the first apply: {:?}", present(harness).await?);

        // A copy of a pool, and a pool that its user deletes and recreates from a file that contains the record of the
        // release.
        copy(harness, &pools.get("headless").await?, "copy").await?;
        let again = pools.get("again").await?;
        pools.delete("again", &DeleteParams::default()).await?;
        wait_until("the pool is gone", async || Ok(pools.get_opt("again").await?.is_none())).await?;
        copy(harness, &again, "again").await?;
        // A rollback to the previous chart, which writes no record, and an upgrade whose values lack a pool.
        apply_as_previous_chart(harness, "live").await?;
        apply_as_previous_chart(harness, "found").await?;
        let upgraded = Chart::render(harness, &[&VALUES[..], &["pools.former=null"]].concat()).await?;
        upgraded.run_job(harness, APPLY).await?;
        let kept = present(harness).await?;
        let expected = ["again", "copy", "copy-of-former", "found", "headless", "live"];
        ensure!(names(kept.clone()) == expected, "after an upgrade: {kept:?}");

        // One session on the release's pool, from another namespace, and one on the other team's.
        harness.wait_for_hot(NAMESPACE, "headless", 1).await?;
        let on = |namespace: &str, name: &str| BrowserSessionSpec {
            pool_ref: Some(PoolRef { name: name.to_owned(), namespace: Some(namespace.to_owned()) }),
            ..retained_session_spec(name)
        };
        for (name, spec) in [("guest", on(NAMESPACE, "headless")), ("own", on(FLEET, "theirs"))] {
            let claim = harness.session_client().claim_with(FLEET.to_owned(), name.to_owned(), spec, TIMEOUT).await?;
            ensure!(claim.ready.is_some(), "session {name} was not Ready in time");
        }
        upgraded.run_job(harness, DELETE).await?;
        let expected: Vec<_> = kept.into_iter().filter(|(name, _)| name != "headless" && name != "live").collect();
        ensure!(present(harness).await? == expected, "after the uninstall: {:?}", present(harness).await?);
        let sessions = harness.api::<BrowserSession>(FLEET);
        ensure!(sessions.get_opt("guest").await?.is_none(), "a session outlives its pool");
        ensure!(sessions.get("own").await?.state() == SessionState::Ready, "another team's session was ended");
        let theirs = harness.api::<WorkerPool>(FLEET);
        ensure!(theirs.get("theirs").await?.metadata.deletion_timestamp.is_none(), "another team's pool was deleted");

        // The pools that stay can be deleted without an operator.
        operator.stop().await?;
        upgraded.run_job(harness, ABANDON).await?;
        assert_abandoned(&theirs.get("theirs").await?)?;
        let pods = harness.count_pods(FLEET).await?;
        ensure!(pods == 1, "{pods} runners of another team's pool instead of 1");
        pools.delete("copy", &DeleteParams::default()).await?;
        wait_until("the copy is gone", async || Ok(pools.get_opt("copy").await?.is_none())).await?;

        // An operator that is installed later takes the pools over.
        operator.daemon.start_again()?;
        operator.wait_until_leading().await?;
        wait_until("the pool is served again", async || {
            let pool = theirs.get("theirs").await?;
            let conditions = pool.status.map(|status| status.conditions).unwrap_or_default();
            Ok(pool.metadata.finalizers.is_some_and(|finalizers| finalizers == [FINALIZER])
                && conditions::is_true(&conditions, READY)
                && !conditions::is_true(&conditions, STALLED))
        })
        .await?;
        upgraded.run_job(harness, APPLY).await?;
        wait_until("the release's pool has a runner and the finalizer", async || {
            let pool = pools.get("headless").await?;
            Ok(!pool.finalizers().is_empty() && pool.status.is_some_and(|status| status.slots.hot == 1))
        })
        .await?;

        // An uninstall of a release whose operator does not run.
        operator.stop().await?;
        upgraded.run_job(harness, DELETE).await?;
        let kept = present(harness).await?;
        ensure!(names(kept.clone()) == ["again", "copy-of-former", "found"], "without an operator: {kept:?}");
        let all = Chart::render(harness, &[&VALUES[..], &["uninstall.deleteAllPools=true"]].concat()).await?;
        all.run_job(harness, DELETE).await?;
        let left = Api::<WorkerPool>::all(harness.client.clone()).list(&ListParams::default()).await?.items;
        ensure!(left.is_empty(), "{} pools are left after deleteAllPools", left.len());
        Ok(())
    });
}

/// Asserts that the pool was not deleted, has no finalizer, and that its conditions name the missing operator.
fn assert_abandoned(pool: &WorkerPool) -> Result<()> {
    let name = pool.name_any();
    ensure!(pool.metadata.deletion_timestamp.is_none(), "pool {name} was deleted");
    ensure!(pool.finalizers().is_empty(), "pool {name} has the finalizers {:?}", pool.finalizers());
    let conditions = pool.status.as_ref().context("the pool has no status")?.conditions.as_slice();
    let stalled = conditions::get(conditions, STALLED).context("the pool has no condition Stalled")?;
    ensure!(stalled.status == "True" && stalled.reason == reasons::NO_OPERATOR, "pool {name}: {stalled:?}");
    ensure!(stalled.message.contains("kubectl patch workerpool"), "pool {name}: {}", stalled.message);
    Ok(())
}

#[test]
fn deleting_the_release_namespace_leaves_no_pool_stuck_in_deletion() {
    with_fleet("release-namespace", async |harness| {
        // The operator has only the permissions of the chart.
        let chart = Chart::render(harness, &[]).await?;
        let bindings = Api::<ClusterRoleBinding>::all(harness.client.clone());
        ignore_not_found(bindings.delete("camofleet-operator", &DeleteParams::default()).await)?;
        chart.grant(&harness.client, "camofleet-operator").await?;
        let mut leading = start_leader(harness, "a").await?;
        let mut following = harness.start_operator("b")?;

        // A pool of the release and one of another team, each with a session; and a pool that is being deleted while
        // its only runner is on a dead node, so that the runner's pod never terminates.
        let on_node = |node: &str, drain: i64| -> Result<WorkerPoolSpec> {
            let rollout: Rollout = serde_json::from_value(json!({ "drainTimeoutSeconds": drain }))?;
            let template = serde_json::from_value(json!({ "nodeSelector": { "kubernetes.io/hostname": node } }))?;
            Ok(WorkerPoolSpec { rollout, template, ..pool_of_reused_runners(1, 1) })
        };
        let (dead, alive) = ("simulated-0", "simulated-1");
        harness.create_hot_pool(NAMESPACE, "headless", on_node(alive, 5)?).await?;
        harness.create_hot_pool(FLEET, "theirs", on_node(alive, 5)?).await?;
        harness.create_hot_pool(FLEET, "dead", on_node(dead, 3600)?).await?;
        for (namespace, pool) in [(NAMESPACE, "headless"), (FLEET, "theirs")] {
            let (namespace, name) = (namespace.to_owned(), format!("on-{pool}"));
            let claim =
                harness.session_client().claim_with(namespace, name, retained_session_spec(pool), TIMEOUT).await?;
            ensure!(claim.ready.is_some(), "the session on {pool} was not Ready in time");
        }
        harness.simulator.power_off_node(dead);
        let theirs = harness.api::<WorkerPool>(FLEET);
        theirs.delete("dead", &DeleteParams::default()).await?;

        let namespaces = Api::<Namespace>::all(harness.client.clone());
        namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
        // Kubernetes stops the operator's pods at once, in any order.
        following.stop().await?;
        leading.stop().await?;

        wait_until("the pool with a dead runner is gone", async || Ok(theirs.get_opt("dead").await?.is_none())).await?;
        assert_abandoned(&theirs.get("theirs").await?)?;
        wait_until("the release's namespace is gone", async || Ok(namespaces.get_opt(NAMESPACE).await?.is_none()))
            .await?;
        // Another team deletes its pool later.
        theirs.delete("theirs", &DeleteParams::default()).await?;
        wait_until("the pool and its runner are gone", async || {
            let pods = harness.api::<Pod>(FLEET).list_metadata(&ListParams::default()).await?;
            let left = pods.iter().filter(|pod| !pod.name_any().starts_with("dead-")).count();
            Ok(theirs.get_opt("theirs").await?.is_none() && left == 0)
        })
        .await
    });
}
