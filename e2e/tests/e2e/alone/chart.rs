//! The chart on a running fleet: upgrade, uninstall with running sessions and with pools that the release does not own,
//! and reinstall.

use anyhow::{Context, Result, ensure};
use camofleet_crds::v1alpha1::{BrowserSession, SessionState, WorkerPool};
use camofleet_e2e::{
    Session, TestNamespace,
    clients::NodeClient,
    fleet::{RELEASE_NAMESPACE, repository_path, run_program},
    test_alone,
    wait::{poll, wait_for, wait_for_object},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use std::path::Path;

const RELEASE: &str = "camo-fleet";
/// Every kind that the chart or the operator creates, except pools.
const KINDS: &str = "deployments,replicasets,jobs,pods,services,serviceaccounts,roles,rolebindings,clusterroles,\
                     clusterrolebindings,poddisruptionbudgets,networkpolicies,validatingadmissionpolicies,\
                     validatingadmissionpolicybindings";
/// Selects the objects of all components.
const COMPONENTS: &str = "app.kubernetes.io/name in (camofleet-operator, camofleet-gateway, camofleet-hooks, camofleet-runner, \
                     camofleet-runners)";

async fn helm(command: &str, values: &Path, more: &[&str]) -> Result<()> {
    let (chart, values) =
        (repository_path("charts/camo-fleet"), values.to_str().context("the path is not UTF-8")?.to_owned());
    let chart = chart.to_str().context("the path is not UTF-8")?;
    let arguments = [&[command, RELEASE, chart, "-n", RELEASE_NAMESPACE, "--wait", "-f", &values], more].concat();
    run_program("dev/helm", &arguments).await.map(|_| ())
}

async fn uninstall() -> Result<()> {
    run_program("dev/helm", &["uninstall", RELEASE, "-n", RELEASE_NAMESPACE, "--wait"]).await.map(|_| ())
}

/// Installs the release and the examples as `dev/up` does.
async fn reinstall(ns: &TestNamespace, values: &Path) -> Result<()> {
    helm("upgrade", values, &["--install", "--reset-values"]).await?;
    let [pools, demo] = ["examples/pools.yaml", "examples/demo.yaml"].map(repository_path);
    for example in [pools, demo] {
        let example = example.to_str().context("the path is not UTF-8")?;
        run_program("dev/kubectl", &["apply", "-n", RELEASE_NAMESPACE, "-f", example]).await?;
    }
    let ready = |session: &BrowserSession| session.state() == SessionState::Ready;
    wait_for_object(&ns.fleet.release(), "demo", "to be Ready", ready).await.map(|_| ())
}

#[test]
fn upgrades_uninstalls_and_reinstalls_the_release() {
    test_alone("chart", async |ns: TestNamespace| {
        let values = tempfile::NamedTempFile::new()?;
        let original =
            run_program("dev/helm", &["get", "values", RELEASE, "-n", RELEASE_NAMESPACE, "-o", "yaml"]).await?;
        std::fs::write(&values, original)?;
        let result = exercise_release(&ns, values.path()).await;
        let restored = reinstall(&ns, values.path()).await;
        result.and(restored)
    });
}

async fn exercise_release(ns: &TestNamespace, values: &Path) -> Result<()> {
    ns.pool("pool", json!({ "slotsPerRunner": 2 })).await?;
    let finished = ns.session(json!({ "poolRef": { "name": "none" }, "queueTimeoutSeconds": 1 })).await?;
    let live = ns.ready_session(json!({ "poolRef": { "name": "pool" } })).await?;
    finished.wait_until_finished().await?;

    upgrade_keeps_sessions(ns, values, &live).await.context("upgrade")?;
    uninstall().await?;
    live.wait_until_gone().await.context("the session outlived the drain timeout")?;
    wait_until_uninstalled().await.context("after an uninstall with a running session")?;
    // Finished sessions remain, as a record.
    finished.wait_until_finished().await?;

    // Without a lease, the uninstall must not wait for a leader.
    run_program("dev/kubectl", &["delete", "lease/camofleet-operator", "-n", RELEASE_NAMESPACE]).await?;
    // Without an operator, nothing removes finalizers from pools.
    let all = "uninstall.deleteAllPools=true";
    helm("install", values, &["--set", "operator.replicas=0,uninstall.drainTimeoutSeconds=0", "--set", all]).await?;
    let pools = ns.fleet.release::<WorkerPool>();
    let mut pool = WorkerPool::new("held", serde_json::from_value(json!({ "replicas": 0 }))?);
    pool.metadata.finalizers = Some(vec!["camofleet.dev/drain".to_owned()]);
    pools.create(&PostParams::default(), &pool).await?;
    uninstall().await?;
    wait_until_uninstalled().await.context("after an uninstall without an operator")?;
    keeps_a_pool_that_the_release_did_not_create(ns, values).await
}

/// The pool can also be deleted after the uninstall, without an operator.
async fn keeps_a_pool_that_the_release_did_not_create(ns: &TestNamespace, values: &Path) -> Result<()> {
    helm("install", values, &[]).await?;
    let pools = ns.fleet.release::<WorkerPool>();
    let pool = WorkerPool::new("kept", serde_json::from_value(json!({ "replicas": 0 }))?);
    pools.create(&PostParams::default(), &pool).await?;
    wait_for_object(&pools, "kept", "to have the operator's finalizer", |pool| !pool.finalizers().is_empty()).await?;
    uninstall().await?;
    let kept = pools.get("kept").await?;
    ensure!(kept.metadata.deletion_timestamp.is_none(), "the release deleted a pool that it did not create");
    ensure!(kept.finalizers().is_empty(), "the uninstall left finalizers {:?} on the pool", kept.finalizers());
    pools.delete("kept", &DeleteParams::default()).await?;
    wait_until_uninstalled().await.context("after an uninstall with a pool of another owner")
}

/// Upgrades that replace the pods of operator and gateway, add a pool, and remove it again.
async fn upgrade_keeps_sessions(ns: &TestNamespace, values: &Path, live: &Session) -> Result<()> {
    let (before, pools) = (live.object().await?.status, ns.fleet.release::<WorkerPool>());
    let mut client = NodeClient::connect(ns, live).await?;
    client.run("await page.evaluate(() => { window.kept = 'kept' })").await?;

    let debug = "operator.logLevel=debug,gateway.logLevel=debug,operator.replicas=2";
    helm("upgrade", values, &["--set", debug, "--set", "pools.extra.replicas=0"]).await?;
    ensure!(
        client.run("return disconnected").await? == true,
        "the client was not disconnected when its gateway stopped"
    );
    client.run("await connect()").await?;
    ensure!(client.run("return page.evaluate(() => window.kept)").await? == "kept", "the page lost its state");
    ensure!(live.object().await?.status == before, "the session's status changed");
    ensure!(pools.get("extra").await?.spec.replicas == Some(0), "the new pool differs from the values");

    helm("upgrade", values, &["--set", "uninstall.drainTimeoutSeconds=1,uninstall.deleteAllPools=true"]).await?;
    wait_for(&pools, "extra", "to be deleted, because the values no longer contain it", |pool| pool.is_none()).await?;
    ensure!(pools.get_opt("headless").await?.is_some(), "the release deleted a pool that it did not create");
    Ok(())
}

/// Waits until only the CRDs, finished sessions, and the objects that processes created for themselves (tokens, keys,
/// lease) remain.
async fn wait_until_uninstalled() -> Result<()> {
    poll("the objects of the release to be deleted", async || {
        let all = ["--all-namespaces", "--output=name"];
        let pools = run_program("dev/kubectl", &[&["get", "workerpools"][..], &all].concat()).await?;
        let parts = run_program("dev/kubectl", &[&["get", KINDS, "--selector", COMPONENTS][..], &all].concat()).await?;
        ensure!(pools.is_empty() && parts.is_empty(), "remaining: {pools}{parts}");
        Ok(())
    })
    .await
}
