//! Failures of the API server and etcd, and the loss of watch history.

use crate::fixture::{
    FLEET, POOL, TIMEOUT, assert_invariants, assert_invariants_except, claim, ensure_all_ready, start_claims,
    start_leader, wait_until, with_fleet,
};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::Arrivals,
    control_plane::ControlPlane,
    daemon::Daemon,
    harness::{Harness, pool_of_reused_runners},
};
use camofleet_crds::conditions::session::BROWSER_CRASHED;
use std::collections::BTreeSet;

#[test]
fn no_session_is_lost_when_the_api_server_is_killed_and_restarted() {
    with_fleet("api-server", async |harness| {
        assert_survives_restart(harness, |control_plane| &mut control_plane.api_server).await
    });
}

#[test]
fn no_session_is_lost_when_etcd_is_killed_and_restarted() {
    with_fleet("etcd", async |harness| assert_survives_restart(harness, |control_plane| &mut control_plane.etcd).await);
}

#[test]
fn no_session_is_lost_when_the_api_server_freezes_until_the_leader_steps_down() {
    with_fleet("api-server-stopped", async |harness| {
        let operator = start_leader(harness, "a").await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(30, 4)).await?;
        claim(harness, "early", 30).await?;
        let meanwhile = start_claims(harness, "meanwhile", 40, Arrivals::Burst);
        harness.control_plane.api_server.pause()?;
        let meanwhile = tokio::spawn(meanwhile);
        let crashed = crash(harness, 10)?;
        wait_until("the operator does not lead", async || Ok(!operator.is_leader().await)).await?;
        harness.control_plane.api_server.resume()?;
        ensure_all_ready(&meanwhile.await??)?;
        assert_invariants_except(harness, FLEET, |session, reason| {
            reason == BROWSER_CRASHED && session.metadata.uid.as_ref().is_some_and(|uid| crashed.contains(uid))
        })
        .await
    });
}

/// The operator's watches are partitioned while many objects change. A new API server has no watch history, so the
/// resource versions of the watches are expired when they continue.
#[test]
fn a_watch_with_an_expired_resource_version_lists_again_and_misses_nothing() {
    with_fleet("expired", async |harness| {
        let (proxy, kubeconfig) = harness.start_proxy("proxy").await?;
        let mut operator = harness.start_operator_with("a", kubeconfig, Vec::new())?;
        operator.wait_until_leading().await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(10, 4)).await?;
        claim(harness, "early", 20).await?;
        proxy.partition();
        let meanwhile = tokio::spawn(start_claims(harness, "meanwhile", 20, Arrivals::Burst));
        harness.sessions.wait_for(40, FLEET, "made", TIMEOUT, |_| true).await?;
        for index in 0..10 {
            harness.session_client().delete(FLEET, &format!("early-{index}")).await?;
        }
        harness.control_plane.api_server.kill().await?;
        harness.control_plane.api_server.start_again()?;
        harness.control_plane.wait_until_ready().await?;
        proxy.close_watches();
        proxy.heal();
        ensure_all_ready(&meanwhile.await??)?;
        ensure!(
            operator.daemon.log()?.contains("too old resource version"),
            "no watch had an expired resource version"
        );
        assert_invariants(harness).await
    });
}

/// Kills and restarts a process of the control plane while sessions are created and end.
async fn assert_survives_restart(
    harness: &mut Harness,
    which: impl Fn(&mut ControlPlane) -> &mut Daemon,
) -> Result<()> {
    let _operator = start_leader(harness, "a").await?;
    harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(30, 4)).await?;
    claim(harness, "early", 30).await?;
    let bound = harness.simulator.binding_log().count() + 10;
    let meanwhile = tokio::spawn(start_claims(harness, "meanwhile", 40, Arrivals::Poisson { rate: 45.0 }));
    wait_until("some sessions are bound", async || Ok(harness.simulator.binding_log().count() >= bound)).await?;
    which(&mut harness.control_plane).kill().await?;
    let crashed = crash(harness, 10)?;
    which(&mut harness.control_plane).start_again()?;
    harness.control_plane.wait_until_ready().await?;
    ensure_all_ready(&meanwhile.await??)?;
    claim(harness, "late", 20).await?;
    let is_crashed = |uid: &Option<String>| uid.as_ref().is_some_and(|uid| crashed.contains(uid));
    harness.sessions.wait_for(crashed.len(), FLEET, "finished", TIMEOUT, |seen| seen.finished.is_some()).await?;
    assert_invariants_except(harness, FLEET, |session, reason| {
        reason == BROWSER_CRASHED && is_crashed(&session.metadata.uid)
    })
    .await
}

/// Crashes the browsers of the first `count` early sessions, and returns the UIDs of those sessions.
fn crash(harness: &Harness, count: usize) -> Result<BTreeSet<String>> {
    let mut crashed = BTreeSet::new();
    for index in 0..count {
        let seen = harness.sessions.get(FLEET, &format!("early-{index}")).context("the session was not observed")?;
        let runner = seen.runners.first().and_then(|runner| harness.simulator.runner(runner));
        runner.context("the session was not bound")?.crash(&seen.uid)?;
        crashed.insert(seen.uid);
    }
    Ok(crashed)
}
