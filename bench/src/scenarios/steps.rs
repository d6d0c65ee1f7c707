//! Steps that scenarios share: a cluster for a run, claims, and waiting for the operator.

use anyhow::{Context, Result, bail, ensure};
use camofleet_bench::{
    arrivals::{Arrivals, Claim, ClaimStats},
    harness::{Harness, Options, SessionClient},
    operator::Operator,
};
use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Namespace of the measured sessions and pools.
pub(super) const FLEET: &str = "fleet";
/// Namespace of the sessions of the floor.
pub(super) const FLOOR: &str = "floor";
/// Name of the measured pool.
pub(super) const POOL: &str = "hot";
/// Slots per runner where runners are not what is measured.
pub(super) const SLOTS_PER_RUNNER: usize = 4;
/// Unmeasured claims that open connections before the fleet or the floor is measured.
pub(super) const WARM_UP: usize = 64;
/// A claim that takes longer counts as not Ready.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// An operator that writes nothing for this long is quiet.
pub(super) const QUIET_PERIOD: Duration = Duration::from_secs(3);
pub(super) const QUIET_TIMEOUT: Duration = Duration::from_secs(180);

/// Runs on a new cluster, which is stopped at the end, on errors and on interruption.
pub async fn with_harness<T>(
    options: Options,
    interrupted: &CancellationToken,
    run: impl AsyncFnOnce(&mut Harness) -> Result<T>,
) -> Result<T> {
    let mut harness = tokio::select! {
        started = Harness::start(options) => started?,
        () = interrupted.cancelled() => bail!("interrupted"),
    };
    let outcome = tokio::select! {
        outcome = run(&mut harness) => outcome,
        () = interrupted.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    harness.stop().await.context("cannot stop the cluster")?;
    outcome
}

/// Measures the floor after a warm-up, and deletes its sessions.
pub(super) async fn floor(harness: &Harness, arrivals: Arrivals, count: usize) -> Result<ClaimStats> {
    let claim = |client: SessionClient, name: String| client.floor(FLOOR.to_owned(), name, TIMEOUT);
    run_claims(harness, Arrivals::Burst, WARM_UP, claim).await?;
    measure(harness, FLOOR, arrivals, count, claim).await
}

/// Runs claims, and deletes all sessions of the namespace afterwards.
pub(super) async fn measure<C, F>(
    harness: &Harness,
    namespace: &str,
    arrivals: Arrivals,
    count: usize,
    claim: C,
) -> Result<ClaimStats>
where
    C: Fn(SessionClient, String) -> F,
    F: Future<Output = Result<Claim>> + Send + 'static,
{
    let mut stats = ClaimStats::default();
    stats.add(&run_claims(harness, arrivals, count, claim).await?);
    harness.delete_sessions(namespace).await?;
    Ok(stats)
}

/// Runs claims with names that were never used before, so that late watch events of former sessions cannot be mistaken.
pub(super) async fn run_claims<C, F>(
    harness: &Harness,
    arrivals: Arrivals,
    count: usize,
    claim: C,
) -> Result<Vec<Claim>>
where
    C: Fn(SessionClient, String) -> F,
    F: Future<Output = Result<Claim>> + Send + 'static,
{
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    arrivals.run(count, |index| claim(harness.session_client(), format!("claim-{run}-{index}"))).await
}

/// Starts an operator and waits until it leads.
pub(super) async fn start_leader(harness: &Harness, identity: &str) -> Result<Operator> {
    let mut operator = harness.start_operator(identity)?;
    operator.wait_until_leading().await?;
    Ok(operator)
}

/// Waits until the operator stops writing, for example events.
pub(super) async fn wait_until_quiet(operator: &Operator) -> Result<()> {
    let began = Instant::now();
    let mut writes = operator.writes().await?;
    loop {
        tokio::time::sleep(QUIET_PERIOD).await;
        let now = operator.writes().await?;
        if now == writes {
            return Ok(());
        }
        ensure!(
            began.elapsed() < QUIET_TIMEOUT,
            "the operator does not stop writing: {}",
            now.since(&writes).to_json()
        );
        writes = now;
    }
}

/// Claims a session of the measured pool.
pub(super) fn claim(client: SessionClient, name: String) -> impl Future<Output = Result<Claim>> + Send + 'static {
    client.claim(FLEET.to_owned(), name, POOL.to_owned(), TIMEOUT)
}

/// Opens the operator's connections by unmeasured claims.
pub(super) async fn warm_up(harness: &Harness) -> Result<()> {
    run_claims(harness, Arrivals::Burst, WARM_UP, claim).await?;
    Ok(())
}
