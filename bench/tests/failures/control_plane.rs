//! An API server and a store that go and come back, and what they then know no longer.

use crate::fleet::{
    FLEET, PATIENCE, POOL, all_ready, assert_whole, assert_whole_but, begin_claims, claim, leader, on_a_fleet, until,
};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::Arrivals,
    control_plane::ControlPlane,
    daemon::Daemon,
    harness::{Harness, lasting_pool},
};
use camofleet_crds::conditions::session::BROWSER_CRASHED;
use std::collections::BTreeSet;

#[test]
fn an_api_server_that_is_killed_and_comes_back_loses_nothing() {
    on_a_fleet("api-server", async |harness| {
        killed_and_started(harness, |control_plane| &mut control_plane.api_server).await
    });
}

#[test]
fn a_store_that_is_killed_and_comes_back_loses_nothing() {
    on_a_fleet("etcd", async |harness| killed_and_started(harness, |control_plane| &mut control_plane.etcd).await);
}

#[test]
fn an_api_server_that_stands_still_until_nobody_leads_loses_nothing() {
    on_a_fleet("api-server-stopped", async |harness| {
        let operator = leader(harness, "a").await?;
        harness.hot_pool(FLEET, POOL, lasting_pool(30, 4)).await?;
        claim(harness, "early", 30).await?;
        let meanwhile = begin_claims(harness, "meanwhile", 40, Arrivals::AllAtOnce);
        harness.control_plane.api_server.pause()?;
        let meanwhile = tokio::spawn(meanwhile);
        let crashed = crash(harness, 10)?;
        until("nobody leads", async || Ok(!operator.leads().await)).await?;
        harness.control_plane.api_server.resume()?;
        all_ready(&meanwhile.await??)?;
        assert_whole_but(harness, FLEET, |session, reason| {
            reason == BROWSER_CRASHED && session.metadata.uid.as_ref().is_some_and(|uid| crashed.contains(uid))
        })
        .await
    });
}

/// The operator's watches stand still while much changes, and their place is forgotten before they go on: a new API server
/// keeps no history.
#[test]
fn a_watch_whose_place_is_forgotten_begins_anew_and_misses_nothing() {
    on_a_fleet("expired", async |harness| {
        let (proxy, kubeconfig) = harness.proxy("proxy").await?;
        let mut operator = harness.operator_in("a", kubeconfig, Vec::new())?;
        operator.wait_until_leading().await?;
        harness.hot_pool(FLEET, POOL, lasting_pool(10, 4)).await?;
        claim(harness, "early", 20).await?;
        proxy.part();
        let meanwhile = tokio::spawn(begin_claims(harness, "meanwhile", 20, Arrivals::AllAtOnce));
        harness.sessions.wait_for(40, FLEET, "made", PATIENCE, |_| true).await?;
        for index in 0..10 {
            harness.claims().end(FLEET, &format!("early-{index}")).await?;
        }
        harness.control_plane.api_server.kill().await?;
        harness.control_plane.api_server.start_again()?;
        harness.control_plane.wait_until_ready().await?;
        proxy.cut_watches();
        proxy.join();
        all_ready(&meanwhile.await??)?;
        ensure!(operator.daemon.log()?.contains("too old resource version"), "no watch had lost its place");
        assert_whole(harness).await
    });
}

/// Sessions are asked for, and end, while it is away.
async fn killed_and_started(harness: &mut Harness, which: impl Fn(&mut ControlPlane) -> &mut Daemon) -> Result<()> {
    let _operator = leader(harness, "a").await?;
    harness.hot_pool(FLEET, POOL, lasting_pool(30, 4)).await?;
    claim(harness, "early", 30).await?;
    let bound = harness.simulator.record().count() + 10;
    let meanwhile = tokio::spawn(begin_claims(harness, "meanwhile", 40, Arrivals::Random { rate: 45.0 }));
    until("some are bound", async || Ok(harness.simulator.record().count() >= bound)).await?;
    which(&mut harness.control_plane).kill().await?;
    let crashed = crash(harness, 10)?;
    which(&mut harness.control_plane).start_again()?;
    harness.control_plane.wait_until_ready().await?;
    all_ready(&meanwhile.await??)?;
    claim(harness, "late", 20).await?;
    let is_crashed = |uid: &Option<String>| uid.as_ref().is_some_and(|uid| crashed.contains(uid));
    harness.sessions.wait_for(crashed.len(), FLEET, "finished", PATIENCE, |seen| seen.finished.is_some()).await?;
    assert_whole_but(harness, FLEET, |session, reason| reason == BROWSER_CRASHED && is_crashed(&session.metadata.uid))
        .await
}

/// The browsers of so many of the early sessions crash.
fn crash(harness: &Harness, count: usize) -> Result<BTreeSet<String>> {
    let mut crashed = BTreeSet::new();
    for index in 0..count {
        let seen = harness.sessions.seen(FLEET, &format!("early-{index}")).context("it was made")?;
        let runner = seen.runners.first().and_then(|runner| harness.simulator.runner(runner));
        runner.context("it was bound")?.crash(&seen.uid)?;
        crashed.insert(seen.uid);
    }
    Ok(crashed)
}
