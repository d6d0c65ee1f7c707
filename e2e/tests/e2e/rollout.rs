//! Rollouts of a new pool revision: a canary tests it first, and sessions continue.

use anyhow::{Context, Result, anyhow, ensure};
use camofleet_crds::{
    conditions::{self, READY, RECONCILING, STALLED, pool as reasons},
    v1alpha1::{SessionState, WorkerPool, WorkerPoolStatus},
};
use camofleet_e2e::{
    TestNamespace,
    clients::NodeClient,
    test,
    wait::{poll, wait_for_object},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

#[test]
fn a_failing_canary_replaces_no_runner() {
    test("rollout", async |ns: TestNamespace| {
        ns.pool("pool", json!({ "sessionsPerRunner": 0, "engine": "Auto" })).await?;
        let [former] = ns.runners().await?.try_into().ok().context("the pool does not have exactly one runner")?;
        let session = ns.ready_session(json!({})).await?;
        let mut client = NodeClient::connect(&ns, &session).await?;
        client.run("await page.goto('data:text/html,<title>here</title>')").await?;

        // The file is executable but not a browser, which only a launch can detect.
        change(&ns, json!({ "env": [{ "name": "CAMOUFOX_EXECUTABLE_PATH", "value": "/bin/false" }] })).await?;
        let status =
            until_pool(&ns, "to be Stalled", |status| conditions::is_true(&status.conditions, STALLED)).await?;
        let stalled = conditions::get(&status.conditions, STALLED).context("the pool has no Stalled condition")?;
        ensure!(
            stalled.reason == reasons::CANARY_FAILED && stalled.message.contains("revert the change"),
            "{stalled:?}"
        );
        ensure!(conditions::is_true(&status.conditions, READY), "the pool is not Ready: {status:?}");
        let current = status.current_revision.map(|current| current.revision);
        ensure!(current.is_some() && current != status.revision, "the current revision is {current:?}");
        ensure!(client.run("return await page.title()").await? == "here", "the session lost its page");
        session.delete().await?;
        session.wait_until_gone().await?;
        let next = ns.ready_session(json!({})).await?;
        let runner = next.runner().await?;
        ensure!(runner.name == former.name_any(), "the session runs on {}", runner.name);

        // A canary tests a working revision too, and the running session continues until the drain deadline.
        change(&ns, json!({ "env": [{ "name": "TZ", "value": "UTC" }] })).await?;
        let is_proven = |status: &WorkerPoolStatus| {
            let current = status.current_revision.as_ref().map(|current| &current.revision);
            current != Some(&revision_of(&former)) && current == status.revision.as_ref()
        };
        let status = until_pool(&ns, "to serve its new revision", is_proven).await?;
        ensure!(!conditions::is_true(&status.conditions, STALLED), "{status:?}");
        // Terminating runners are not listed.
        let [new] = poll("the former runner to be terminating", async || {
            ns.runners().await?.try_into().map_err(|pods| anyhow!("the runners are {pods:?}"))
        })
        .await?;
        let container =
            new.spec.and_then(|spec| spec.containers.into_iter().next()).context("the runner has no container")?;
        ensure!(
            container.env.into_iter().flatten().any(|variable| variable.name == "RUNNER_PROVE"),
            "the runner was not a canary"
        );
        ensure!(next.object().await?.state() == SessionState::Ready, "the rollout ended the session");
        next.delete().await?;
        until_pool(&ns, "to have only runners of its new revision", |status| {
            !conditions::is_true(&status.conditions, RECONCILING)
                && status.replicas == 1
                && status.updated_replicas == 1
        })
        .await?;
        Ok(())
    });
}

async fn change(ns: &TestNamespace, template: Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": { "template": template } }));
    ns.api::<WorkerPool>().patch("pool", &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Waits until the pool's status is of its current generation and fulfils a condition.
async fn until_pool(
    ns: &TestNamespace,
    what: &str,
    condition: impl Fn(&WorkerPoolStatus) -> bool + Send + Sync,
) -> Result<WorkerPoolStatus> {
    let holds = |pool: &WorkerPool| {
        let status = pool.status.as_ref().filter(|status| status.observed_generation == pool.metadata.generation);
        status.is_some_and(&condition)
    };
    let pool = wait_for_object(&ns.api::<WorkerPool>(), "pool", what, holds).await?;
    pool.status.context("the pool has no status")
}

fn revision_of(pod: &Pod) -> String {
    pod.labels().get("camofleet.dev/revision").cloned().unwrap_or_default()
}
