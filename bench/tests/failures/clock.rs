//! Jumps of the operator's wall clock while sessions are queued, running and ending.

use crate::fixture::{
    FLEET, POOL, TIMEOUT, assert_invariants_except, claim, ensure_all_ready, retained_session_spec, start_claims,
    wait_until, with_fleet,
};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::Arrivals,
    control_plane::User,
    harness::{Harness, pool_of_reused_runners},
};
use camofleet_crds::{conditions::session::BROWSER_CRASHED, v1alpha1::BrowserSessionSpec};
use kube::ResourceExt;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Debian's `faketime`.
const LIBRARY: &str = "libfaketimeMT.so.1";
const HOUR: &str = "3600";

#[test]
fn no_session_ends_when_the_wall_clock_is_set_ahead() {
    with_fleet("clock-ahead", async |harness| assert_survives_clock_change(harness, &format!("+{HOUR}")).await);
}

#[test]
fn no_session_ends_when_the_wall_clock_is_set_back() {
    with_fleet("clock-back", async |harness| assert_survives_clock_change(harness, &format!("-{HOUR}")).await);
}

async fn assert_survives_clock_change(harness: &mut Harness, offset: &str) -> Result<()> {
    let clock = harness.control_plane.file("clock");
    set_clock(&clock, "+0")?;
    let env = [
        ("LD_PRELOAD", library()?.into_os_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.clone().into()),
        // The library reads the file at each call. The monotonic clock stays correct, because no administrator can set
        // it.
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let mut operator = harness.start_operator_with("a", harness.control_plane.kubeconfig(User::Operator), env)?;
    operator.wait_until_leading().await?;
    harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(5, 4)).await?;
    claim(harness, "running", 20).await?;
    // These sessions are queued, because every slot is taken. Their queue timeout is the default, 300 s.
    for index in 0..5 {
        harness.session_client().create_with_retry(FLEET, &format!("waiting-{index}"), queued_spec()).await?;
    }
    let waiting = |seen: &camofleet_bench::sessions::ObservedSession| seen.was_queued;
    harness.sessions.wait_for(5, FLEET, "Queued", TIMEOUT, waiting).await?;

    set_clock(&clock, offset)?;
    for index in 5..10 {
        harness.session_client().create_with_retry(FLEET, &format!("waiting-{index}"), queued_spec()).await?;
    }
    harness.sessions.wait_for(10, FLEET, "Queued", TIMEOUT, waiting).await?;
    let ended =
        |count: usize| harness.sessions.wait_for(count, FLEET, "finished", TIMEOUT, |seen| seen.finished.is_some());
    for index in 0..5 {
        crash(harness, &format!("running-{index}"))?;
    }
    ended(5).await?;
    let ready = |count: usize| harness.sessions.wait_for(count, FLEET, "Ready", TIMEOUT, |seen| seen.ready.is_some());
    ready(25).await?;
    set_clock(&clock, "+0")?;
    for index in 5..10 {
        crash(harness, &format!("running-{index}"))?;
    }
    ended(10).await?;
    ready(30).await?;

    // An operator that starts to lead with a wrong clock reads earlier timestamps correctly, and runners accept its
    // tokens.
    set_clock(&clock, offset)?;
    operator.daemon.kill().await?;
    operator.daemon.start_again()?;
    operator.wait_until_leading().await?;
    for index in 10..15 {
        harness.session_client().delete(FLEET, &format!("running-{index}")).await?;
    }
    ensure_all_ready(&start_claims(harness, "late", 5, Arrivals::Burst).await?)?;
    wait_until("the operator leads", async || Ok(operator.is_leader().await)).await?;
    assert_invariants_except(harness, FLEET, |session, reason| {
        reason == BROWSER_CRASHED && session.name_any().starts_with("running-")
    })
    .await
}

fn queued_spec() -> BrowserSessionSpec {
    BrowserSessionSpec { queue_timeout_seconds: 300, ..retained_session_spec(POOL) }
}

fn crash(harness: &Harness, name: &str) -> Result<()> {
    let seen = harness.sessions.get(FLEET, name).context("the session was not observed")?;
    let runner = seen.runners.first().and_then(|runner| harness.simulator.runner(runner));
    runner.context("the session was not bound")?.crash(&seen.uid)?;
    Ok(())
}

/// Replaces the file atomically, so that a reader sees either the former or the new time.
fn set_clock(clock: &Path, offset: &str) -> Result<()> {
    let new = clock.with_extension("new");
    fs::write(&new, offset)?;
    Ok(fs::rename(new, clock)?)
}

fn library() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path().join("faketime").join(LIBRARY)));
    let found = folders.into_iter().find(|path| path.is_file());
    let found = found.with_context(|| format!("{LIBRARY} is missing; install Debian's package `faketime`"))?;
    ensure!(found.is_absolute());
    Ok(found)
}
