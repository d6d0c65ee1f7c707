//! Runners that do not answer or answer incorrectly. Each kind has its own namespace and pool.

use crate::fixture::{
    POOL, TIMEOUT, assert_invariants_except, retained_session_spec, start_leader, wait_until, with_fleet,
};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    harness::{Harness, pool_of_reused_runners},
    simulator::{Behaviour, Runner},
};
use camofleet_crds::{
    conditions::{
        self, READY,
        session::{RUNNER_LOST, RUNNER_UNREACHABLE},
    },
    v1alpha1::BrowserSession,
};
use camofleet_runner_api::Session;
use futures::future::try_join_all;
use kube::ResourceExt;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Enough sessions for 4 runners with 4 slots that no runner stays empty.
const EARLY: usize = 10;
const MEANWHILE: usize = 4;

#[test]
fn a_misbehaving_runner_loses_only_its_own_sessions() {
    with_fleet("runners", async |harness| {
        let _operator = start_leader(harness, "a").await?;
        let harness = &*harness;
        tokio::try_join!(
            misbehaves(harness, "hangs", Behaviour::Hangs, async |victim| assert_unreachable(
                harness, "hangs", &victim
            )
            .await),
            misbehaves(harness, "slow", Behaviour::Slow(Duration::from_secs(2)), async |_| Ok(())),
            misbehaves(harness, "too-slow", Behaviour::Slow(Duration::from_secs(7)), async |_| Ok(())),
            misbehaves(harness, "garbage", Behaviour::Garbage, async |_| Ok(())),
            misbehaves(harness, "no-events", Behaviour::NoEvents, async |victim| assert_unreachable(
                harness,
                "no-events",
                &victim
            )
            .await),
            omits_sessions(harness),
            restarts(harness),
            reports_extra_sessions(harness),
        )?;
        ensure!(harness.simulator.binding_log().bound_twice().is_empty(), "two runners held the same session");
        Ok(())
    });
}

/// A runner with sessions misbehaves while other sessions are created. No session ends because of it.
async fn misbehaves(
    harness: &Harness,
    namespace: &str,
    behaviour: Behaviour,
    meanwhile: impl AsyncFnOnce(Arc<Runner>) -> Result<()>,
) -> Result<()> {
    let victim = start_pool(harness, namespace).await?;
    victim.set_behaviour(behaviour);
    claim_in(harness, namespace, "meanwhile", MEANWHILE).await?;
    meanwhile(victim.clone()).await?;
    // A user deletes a session on the misbehaving runner.
    let ended = victim.sessions().first().context("the runner has no sessions")?.name.clone();
    harness.session_client().delete(namespace, &ended).await?;
    victim.set_behaviour(Behaviour::Normal);
    claim_in(harness, namespace, "late", 1).await?;
    assert_invariants_except(harness, namespace, |_, _| false).await
}

/// A runner omits its sessions from its reports. They finish, and are gone from the runner.
async fn omits_sessions(harness: &Harness) -> Result<()> {
    let namespace = "omits-sessions";
    let victim = start_pool(harness, namespace).await?;
    let forgotten: BTreeSet<String> = victim.sessions().into_iter().map(|session| session.uid).collect();
    victim.set_behaviour(Behaviour::OmitsSessions);
    let is_over = |seen: &camofleet_bench::sessions::ObservedSession| seen.finished.is_some();
    harness.sessions.wait_for(forgotten.len(), namespace, "finished", TIMEOUT, is_over).await?;
    victim.set_behaviour(Behaviour::Normal);
    claim_in(harness, namespace, "late", 1).await?;
    assert_invariants_except(harness, namespace, |session, reason| {
        reason == RUNNER_LOST && session.uid().is_some_and(|uid| forgotten.contains(&uid))
    })
    .await
}

/// The runner's process restarts on the same address with a new boot ID.
async fn restarts(harness: &Harness) -> Result<()> {
    let namespace = "restarts";
    let victim = start_pool(harness, namespace).await?;
    let lost: BTreeSet<String> = victim.sessions().into_iter().map(|session| session.uid).collect();
    victim.restart();
    claim_in(harness, namespace, "late", MEANWHILE).await?;
    let is_over = |seen: &camofleet_bench::sessions::ObservedSession| seen.finished.is_some();
    harness.sessions.wait_for(lost.len(), namespace, "finished", TIMEOUT, is_over).await?;
    assert_invariants_except(harness, namespace, |session, reason| {
        reason == RUNNER_LOST && session.uid().is_some_and(|uid| lost.contains(&uid))
    })
    .await
}

/// A runner reports sessions of other runners, and one that never existed.
async fn reports_extra_sessions(harness: &Harness) -> Result<()> {
    let namespace = "reports-extra-sessions";
    let victim = start_pool(harness, namespace).await?;
    let others = harness
        .simulator
        .runners()
        .into_iter()
        .filter(|runner| runner.pod.namespace == namespace && runner.pod.uid != victim.pod.uid);
    let mut extra_sessions: Vec<Session> = others.flat_map(|runner| runner.sessions()).collect();
    let model = extra_sessions.first().context("the other runners have no sessions")?.clone();
    extra_sessions.push(Session { uid: "invented".to_owned(), name: "invented".to_owned(), ..model });
    victim.set_extra_sessions(extra_sessions);
    claim_in(harness, namespace, "meanwhile", 1).await?;
    victim.set_extra_sessions(Vec::new());
    claim_in(harness, namespace, "late", 1).await?;
    assert_invariants_except(harness, namespace, |_, _| false).await
}

/// Creates a pool with sessions, and returns its runner with the most sessions.
async fn start_pool(harness: &Harness, namespace: &str) -> Result<Arc<Runner>> {
    harness.create_namespace(namespace).await?;
    harness.create_hot_pool(namespace, POOL, pool_of_reused_runners(4, 4)).await?;
    claim_in(harness, namespace, "early", EARLY).await?;
    let runners = harness.simulator.runners().into_iter().filter(|runner| runner.pod.namespace == namespace);
    runners.max_by_key(|runner| runner.sessions().len()).context("the pool has no runners")
}

async fn claim_in(harness: &Harness, namespace: &str, name: &str, count: usize) -> Result<()> {
    let claims = (0..count).map(|index| {
        let client = harness.session_client();
        client.claim_with(namespace.to_owned(), format!("{name}-{index}"), retained_session_spec(POOL), TIMEOUT)
    });
    let claims = try_join_all(claims).await?;
    ensure!(claims.iter().all(|claim| claim.ready.is_some()), "not all sessions of {namespace} were Ready in time");
    Ok(())
}

/// Waits until the sessions of a runner are published as unreachable.
async fn assert_unreachable(harness: &Harness, namespace: &str, victim: &Runner) -> Result<()> {
    let name = victim.sessions().first().context("the runner has no sessions")?.name.clone();
    let api = harness.api::<BrowserSession>(namespace);
    wait_until("the session is published as unreachable", async || {
        let status = api.get(&name).await?.status.unwrap_or_default();
        Ok(conditions::get(&status.conditions, READY).is_some_and(|ready| ready.reason == RUNNER_UNREACHABLE))
    })
    .await
}
