//! Failing browsers in healthy runners.

use crate::fixture::{
    FLEET, POOL, TIMEOUT, assert_invariants, assert_invariants_except, claim, retained_session_spec, start_leader,
    wait_until, with_fleet,
};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    harness::{Harness, pool_of_reused_runners},
    sessions::ObservedSession,
    simulator::{Fault, Runner},
};
use camofleet_crds::{
    conditions::{self, STALLED, pool::CANARY_FAILED, session::LAUNCH_FAILED},
    v1alpha1::{WorkerPool, WorkerPoolStatus},
};
use futures::future::try_join_all;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::sync::Arc;

const BROKEN: &str = "broken";
const FIXED: &str = "fixed";
/// Further launches of the canary that prove it has failed again.
const FURTHER_LAUNCHES: usize = 2;

#[test]
fn a_rollout_stops_at_a_canary_that_cannot_load_a_page() {
    with_fleet("canary", async |harness| {
        let harness = &*harness;
        let _operator = start_leader(harness, "a").await?;
        harness.simulator.set_fault(BROKEN, Fault::PageLoadFails);
        // One slot per runner: with more, other browsers are hot during the smoke test, and the operator reports no
        // failure while one is hot.
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(4, 1)).await?;
        claim(harness, "before", 2).await?;
        let former = current_revision(&status(harness).await?)?;

        set_image(harness, BROKEN).await?;
        wait_until("the canary's failure is published", async || {
            let status = status(harness).await?;
            let stalled = conditions::get(&status.conditions, STALLED);
            Ok(stalled.is_some_and(|stalled| {
                stalled.reason == CANARY_FAILED && stalled.message.contains("could not load a page")
            }))
        })
        .await?;
        let canary = {
            let failing =
                harness.simulator.runners().into_iter().filter(|runner| runner.state().launch_error.is_some());
            failing.collect::<Vec<Arc<Runner>>>().pop().context("no runner reports a launch error")?
        };
        let launches = canary.launches() + FURTHER_LAUNCHES;
        claim(harness, "meanwhile", 1).await?;
        wait_until("the canary's smoke test has failed again", async || Ok(canary.launches() >= launches)).await?;
        let broken = status(harness).await?;
        ensure!(current_revision(&broken)? == former, "a revision that cannot load a page became current");
        ensure!(broken.updated_replicas <= 1, "{} runners have the broken revision", broken.updated_replicas);
        ensure!(canary.sessions().is_empty(), "the canary was given a session");

        set_image(harness, FIXED).await?;
        wait_until("the fixed revision is current", async || {
            let status = status(harness).await?;
            let revision = current_revision(&status)?;
            Ok(revision != former && Some(revision) == status.revision && status.updated_replicas >= 1)
        })
        .await?;
        let ends = ["before-0", "before-1", "meanwhile-0"];
        try_join_all(ends.map(|name| async move { harness.session_client().delete(FLEET, name).await })).await?;
        assert_invariants(harness).await
    });
}

#[test]
fn hung_hot_browsers_are_replaced_and_a_session_whose_launch_hangs_fails() {
    with_fleet("hung", async |harness| {
        let _operator = start_leader(harness, "a").await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(1, 3)).await?;
        claim(harness, "early", 1).await?;
        let runner = harness.simulator.runners().pop().context("the pool has no runner")?;
        runner.set_fault(Fault::Hangs);
        wait_until("no hot browser is offered", async || Ok(status(harness).await?.slots.hot == 0)).await?;

        runner.set_fault(Fault::LaunchHangs);
        harness.session_client().create(FLEET, "stuck", retained_session_spec(POOL)).await?;
        let is_failed = |seen: &ObservedSession| seen.reason.as_deref() == Some(LAUNCH_FAILED);
        harness.sessions.wait_for(1, FLEET, "failed", TIMEOUT, is_failed).await?;

        runner.set_fault(Fault::None);
        harness.wait_for_hot(FLEET, POOL, 2).await?;
        claim(harness, "late", 2).await?;
        assert_invariants_except(harness, FLEET, |session, reason| {
            reason == LAUNCH_FAILED && session.name_any() == "stuck"
        })
        .await
    });
}

async fn status(harness: &Harness) -> Result<WorkerPoolStatus> {
    Ok(harness.api::<WorkerPool>(FLEET).get(POOL).await?.status.unwrap_or_default())
}

/// The current revision of the pool.
fn current_revision(status: &WorkerPoolStatus) -> Result<String> {
    Ok(status.current_revision.as_ref().context("the pool has no current revision")?.revision.clone())
}

async fn set_image(harness: &Harness, image: &str) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": { "template": { "image": image } } }));
    harness.api::<WorkerPool>(FLEET).patch(POOL, &PatchParams::default(), &patch).await?;
    Ok(())
}
