//! A change of the runners' shape: tested by one first, and nobody's session taken.

use anyhow::{Context, Result, anyhow, ensure};
use camofleet_crds::{
    conditions::{self, READY, RECONCILING, STALLED, pool as reasons},
    v1alpha1::{SessionState, WorkerPool, WorkerPoolStatus},
};
use camofleet_e2e::{
    Space,
    clients::NodeClient,
    test,
    wait::{poll, until_it},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

#[test]
fn a_shape_in_which_no_browser_starts_replaces_nothing() {
    test("rollout", async |space: Space| {
        space.pool("pool", json!({ "sessionsPerRunner": 0, "engine": "Auto" })).await?;
        let [former] = space.runners().await?.try_into().ok().context("it has one runner")?;
        let session = space.ready_session(json!({})).await?;
        let mut client = NodeClient::connect(&space, &session).await?;
        client.run("await page.goto('data:text/html,<title>here</title>')").await?;

        // There is a file where Camoufox should be, and it can be executed: only a browser that is launched shows that it is none.
        change(&space, json!({ "env": [{ "name": "CAMOUFOX_EXECUTABLE_PATH", "value": "/bin/false" }] })).await?;
        let status =
            until_pool(&space, "to be Stalled", |status| conditions::is_true(&status.conditions, STALLED)).await?;
        let stalled = conditions::get(&status.conditions, STALLED).context("it was just there")?;
        ensure!(
            stalled.reason == reasons::CANARY_FAILED && stalled.message.contains("revert the change"),
            "{stalled:?}"
        );
        ensure!(conditions::is_true(&status.conditions, READY), "the former runner serves: {status:?}");
        let serving = status.serving.map(|serving| serving.revision);
        ensure!(serving.is_some() && serving != status.revision, "it makes runners of shape {serving:?}");
        ensure!(client.run("return await page.title()").await? == "here", "the session was disturbed");
        session.delete().await?;
        session.gone().await?;
        let next = space.ready_session(json!({})).await?;
        let runner = next.runner().await?;
        ensure!(runner.name == former.name_any(), "it runs on {}", runner.name);

        // A shape that is well is tested, too, and the session that is there lives on until the drain deadline.
        change(&space, json!({ "env": [{ "name": "TZ", "value": "UTC" }] })).await?;
        let proven = |status: &WorkerPoolStatus| {
            let serving = status.serving.as_ref().map(|serving| &serving.revision);
            serving != Some(&revision_of(&former)) && serving == status.revision.as_ref()
        };
        let status = until_pool(&space, "to have proven its new shape", proven).await?;
        ensure!(!conditions::is_true(&status.conditions, STALLED), "{status:?}");
        // Those that drain are not listed.
        let [new] = poll("the former runner to drain", async || {
            space.runners().await?.try_into().map_err(|pods| anyhow!("there are {pods:?}"))
        })
        .await?;
        let container = new.spec.and_then(|spec| spec.containers.into_iter().next()).context("it has a container")?;
        ensure!(
            container.env.into_iter().flatten().any(|variable| variable.name == "RUNNER_PROVE"),
            "it was not tested"
        );
        ensure!(next.object().await?.state() == SessionState::Ready, "the rollout took the session");
        next.delete().await?;
        until_pool(&space, "to have its new shape", |status| {
            !conditions::is_true(&status.conditions, RECONCILING)
                && status.replicas == 1
                && status.updated_replicas == 1
        })
        .await?;
        Ok(())
    });
}

async fn change(space: &Space, template: Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": { "template": template } }));
    space.api::<WorkerPool>().patch("pool", &PatchParams::default(), &patch).await?;
    Ok(())
}

/// The pool's status of its current spec, once it is so.
async fn until_pool(
    space: &Space,
    what: &str,
    is_so: impl Fn(&WorkerPoolStatus) -> bool + Send + Sync,
) -> Result<WorkerPoolStatus> {
    let answered = |pool: &WorkerPool| {
        let status = pool.status.as_ref().filter(|status| status.observed_generation == pool.metadata.generation);
        status.is_some_and(&is_so)
    };
    let pool = until_it(&space.api::<WorkerPool>(), "pool", what, answered).await?;
    pool.status.context("it was just there")
}

fn revision_of(pod: &Pod) -> String {
    pod.labels().get("camofleet.dev/revision").cloned().unwrap_or_default()
}
