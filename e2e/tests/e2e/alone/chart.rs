//! The chart on a running fleet: an upgrade, uninstalls with sessions at work and with pools of others, and the install after it.

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
/// Every kind that the chart or the operator makes, but for pools.
const KINDS: &str = "deployments,replicasets,jobs,pods,services,serviceaccounts,roles,rolebindings,clusterroles,\
                     clusterrolebindings,poddisruptionbudgets,networkpolicies,validatingadmissionpolicies,\
                     validatingadmissionpolicybindings";
/// And the names of the parts that have objects of them.
const PARTS: &str = "app.kubernetes.io/name in (camofleet-operator, camofleet-gateway, camofleet-hooks, camofleet-runner, \
                     camofleet-runners)";

async fn helm(command: &str, values: &Path, more: &[&str]) -> Result<()> {
    let (chart, values) =
        (repository_path("charts/camo-fleet"), values.to_str().context("a path of UTF-8")?.to_owned());
    let chart = chart.to_str().context("a path of UTF-8")?;
    let arguments = [&[command, RELEASE, chart, "-n", RELEASE_NAMESPACE, "--wait", "-f", &values], more].concat();
    run_program("dev/helm", &arguments).await.map(|_| ())
}

async fn uninstall() -> Result<()> {
    run_program("dev/helm", &["uninstall", RELEASE, "-n", RELEASE_NAMESPACE, "--wait"]).await.map(|_| ())
}

/// As `dev/up` made it.
async fn reinstall(ns: &TestNamespace, values: &Path) -> Result<()> {
    helm("upgrade", values, &["--install", "--reset-values"]).await?;
    let [pools, demo] = ["examples/pools.yaml", "examples/demo.yaml"].map(repository_path);
    for example in [pools, demo] {
        let example = example.to_str().context("a path of UTF-8")?;
        run_program("dev/kubectl", &["apply", "-n", RELEASE_NAMESPACE, "-f", example]).await?;
    }
    let ready = |session: &BrowserSession| session.state() == SessionState::Ready;
    wait_for_object(&ns.fleet.release(), "demo", "to be Ready", ready).await.map(|_| ())
}

#[test]
fn upgrades_uninstalls_and_reinstalls_the_release() {
    test_alone("chart", async |ns: TestNamespace| {
        let values = tempfile::NamedTempFile::new()?;
        let had = run_program("dev/helm", &["get", "values", RELEASE, "-n", RELEASE_NAMESPACE, "-o", "yaml"]).await?;
        std::fs::write(&values, had)?;
        let result = exercise_release(&ns, values.path()).await;
        let restored = reinstall(&ns, values.path()).await;
        result.and(restored)
    });
}

async fn exercise_release(ns: &TestNamespace, values: &Path) -> Result<()> {
    ns.pool("pool", json!({ "slotsPerRunner": 2 })).await?;
    let over = ns.session(json!({ "poolRef": { "name": "none" }, "queueTimeoutSeconds": 1 })).await?;
    let live = ns.ready_session(json!({ "poolRef": { "name": "pool" } })).await?;
    over.finished().await?;

    upgrade_keeps_sessions(ns, values, &live).await.context("upgrade")?;
    uninstall().await?;
    live.gone().await.context("a session that outlives the drain")?;
    wait_until_uninstalled().await.context("uninstalled with a session at work")?;
    // What is over is a record.
    over.finished().await?;

    // Whoever drops this, too, waits for no leader that is gone.
    run_program("dev/kubectl", &["delete", "lease/camofleet-operator", "-n", RELEASE_NAMESPACE]).await?;
    // Nobody takes finalizers off.
    let all = "uninstall.deleteAllPools=true";
    helm("install", values, &["--set", "operator.replicas=0,uninstall.drainTimeoutSeconds=0", "--set", all]).await?;
    let pools = ns.fleet.release::<WorkerPool>();
    let mut pool = WorkerPool::new("held", serde_json::from_value(json!({ "replicas": 0 }))?);
    pool.metadata.finalizers = Some(vec!["camofleet.dev/drain".to_owned()]);
    pools.create(&PostParams::default(), &pool).await?;
    uninstall().await?;
    wait_until_uninstalled().await.context("uninstalled without an operator")?;
    keeps_a_pool_that_the_release_did_not_create(ns, values).await
}

/// And it can be deleted when its operator is gone.
async fn keeps_a_pool_that_the_release_did_not_create(ns: &TestNamespace, values: &Path) -> Result<()> {
    helm("install", values, &[]).await?;
    let pools = ns.fleet.release::<WorkerPool>();
    let pool = WorkerPool::new("kept", serde_json::from_value(json!({ "replicas": 0 }))?);
    pools.create(&PostParams::default(), &pool).await?;
    wait_for_object(&pools, "kept", "to have the operator's finalizer", |pool| !pool.finalizers().is_empty()).await?;
    uninstall().await?;
    let kept = pools.get("kept").await?;
    ensure!(kept.metadata.deletion_timestamp.is_none(), "a pool that is not the release's was deleted");
    ensure!(kept.finalizers().is_empty(), "a pool without an operator has {:?}", kept.finalizers());
    pools.delete("kept", &DeleteParams::default()).await?;
    wait_until_uninstalled().await.context("uninstalled beside a pool of another's")
}

/// An upgrade that replaces the pods of operator and gateway, adds a pool, and takes it away again.
async fn upgrade_keeps_sessions(ns: &TestNamespace, values: &Path, live: &Session) -> Result<()> {
    let (before, pools) = (live.object().await?.status, ns.fleet.release::<WorkerPool>());
    let mut client = NodeClient::connect(ns, live).await?;
    client.run("await page.evaluate(() => { window.kept = 'kept' })").await?;

    let debug = "operator.logLevel=debug,gateway.logLevel=debug,operator.replicas=2";
    helm("upgrade", values, &["--set", debug, "--set", "pools.extra.replicas=0"]).await?;
    ensure!(client.run("return disconnected").await? == true, "the client was not told that its gateway goes");
    client.run("await connect()").await?;
    ensure!(client.run("return page.evaluate(() => window.kept)").await? == "kept", "the page is not as it was");
    ensure!(live.object().await?.status == before, "the session's status was touched");
    ensure!(pools.get("extra").await?.spec.replicas == Some(0), "the new pool is not as the values say");

    helm("upgrade", values, &["--set", "uninstall.drainTimeoutSeconds=1,uninstall.deleteAllPools=true"]).await?;
    wait_for(&pools, "extra", "to be gone: it is not in the values any more", |pool| pool.is_none()).await?;
    ensure!(pools.get_opt("headless").await?.is_some(), "a pool that is not the release's was deleted");
    Ok(())
}

/// Nothing but the custom resource definitions, what is over, and what the processes made for themselves: tokens, keys, lease.
async fn wait_until_uninstalled() -> Result<()> {
    poll("what the release was made of to be gone", async || {
        let all = ["--all-namespaces", "--output=name"];
        let pools = run_program("dev/kubectl", &[&["get", "workerpools"][..], &all].concat()).await?;
        let parts = run_program("dev/kubectl", &[&["get", KINDS, "--selector", PARTS][..], &all].concat()).await?;
        ensure!(pools.is_empty() && parts.is_empty(), "there are {pools}{parts}");
        Ok(())
    })
    .await
}
