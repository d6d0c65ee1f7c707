//! Scenarios on a cluster of the harness, and their shared steps.

mod burst;
mod chaos;
mod churn;
mod compare;
mod drain;
mod fairness;
mod floor;
mod hostile;
mod leader_kill;
mod scale;
mod sequential;
mod sustained;

pub use compare::Compare;
pub use hostile::{Hostile, failures};

use anyhow::{Context, Result, bail, ensure};
use camofleet_bench::{
    arrivals::{Arrivals, Claim, ClaimStats},
    harness::{Claims, Harness, Options},
    operator::Operator,
    report::Report,
};
use clap::Subcommand;
use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Namespace of the measured sessions and pools.
const FLEET: &str = "fleet";
/// Namespace of the sessions of the floor.
const FLOOR: &str = "floor";
/// Name of the measured pool.
const POOL: &str = "hot";
/// Slots per runner where runners are not what is measured.
const SLOTS_PER_RUNNER: usize = 4;
/// Unmeasured claims that open connections before the fleet or the floor is measured.
const WARM_UP: usize = 64;
/// A claim that takes longer counts as not Ready.
const TIMEOUT: Duration = Duration::from_secs(60);
/// An operator that writes nothing for this long is quiet.
const QUIET_PERIOD: Duration = Duration::from_secs(3);
const QUIET_TIMEOUT: Duration = Duration::from_secs(180);

/// Scenarios.
#[derive(Clone, Debug, Subcommand)]
pub enum Scenario {
    /// The API server alone: a create, a status patch, and the watch event of the patch.
    Floor(floor::Floor),
    /// Claims of hot slots, one after another.
    Sequential(sequential::Sequential),
    /// Claims of hot slots, all at once.
    Burst(burst::Burst),
    /// Claims at a constant mean rate (Poisson arrivals) with short-lived sessions.
    Sustained(sustained::Sustained),
    /// A long queue for few slots: its cost while nothing changes, and the rate at which it is served.
    Drain(drain::Drain),
    /// Three tenants share a pool that one of them floods.
    Fairness(fairness::Fairness),
    /// Many runners and sessions: memory, idle CPU, and the time from a start of the operator to its first bind.
    Scale(scale::Scale),
    /// One pod per session: the rate at which a pool refills.
    Churn(churn::Churn),
    /// Two operators; the leader is killed repeatedly.
    LeaderKill(leader_kill::LeaderKill),
    /// Sessions come and go while a failure is injected every few seconds.
    Chaos(chaos::Chaos),
}

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

impl Scenario {
    /// Name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Floor(_) => "floor",
            Self::Sequential(_) => "sequential",
            Self::Burst(_) => "burst",
            Self::Sustained(_) => "sustained",
            Self::Drain(_) => "drain",
            Self::Fairness(_) => "fairness",
            Self::Scale(_) => "scale",
            Self::Churn(_) => "churn",
            Self::LeaderKill(_) => "leader-kill",
            Self::Chaos(_) => "chaos",
        }
    }

    /// Runs the scenario.
    pub async fn run(self, harness: &mut Harness) -> Result<Report> {
        match self {
            Self::Floor(floor) => floor.run(harness).await,
            Self::Sequential(sequential) => sequential.run(harness).await,
            Self::Burst(burst) => burst.run(harness).await,
            Self::Sustained(sustained) => sustained.run(harness).await,
            Self::Drain(drain) => drain.run(harness).await,
            Self::Fairness(fairness) => fairness.run(harness).await,
            Self::Scale(scale) => scale.run(harness).await,
            Self::Churn(churn) => churn.run(harness).await,
            Self::LeaderKill(leader_kill) => leader_kill.run(harness).await,
            Self::Chaos(chaos) => chaos.run(harness).await,
        }
    }
}

/// Measures the floor after a warm-up, and deletes its sessions.
async fn floor(harness: &Harness, arrivals: Arrivals, count: usize) -> Result<ClaimStats> {
    let claim = |claims: Claims, name: String| claims.floor(FLOOR.to_owned(), name, TIMEOUT);
    run_claims(harness, Arrivals::Burst, WARM_UP, claim).await?;
    measure(harness, FLOOR, arrivals, count, claim).await
}

/// Runs claims, and deletes all sessions of the namespace afterwards.
async fn measure<C, F>(
    harness: &Harness,
    namespace: &str,
    arrivals: Arrivals,
    count: usize,
    claim: C,
) -> Result<ClaimStats>
where
    C: Fn(Claims, String) -> F,
    F: Future<Output = Result<Claim>> + Send + 'static,
{
    let mut stats = ClaimStats::default();
    stats.add(&run_claims(harness, arrivals, count, claim).await?);
    harness.delete_sessions(namespace).await?;
    Ok(stats)
}

/// Runs claims with names that were never used before, so that late watch events of former sessions cannot be mistaken.
async fn run_claims<C, F>(harness: &Harness, arrivals: Arrivals, count: usize, claim: C) -> Result<Vec<Claim>>
where
    C: Fn(Claims, String) -> F,
    F: Future<Output = Result<Claim>> + Send + 'static,
{
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    arrivals.run(count, |index| claim(harness.claims(), format!("claim-{run}-{index}"))).await
}

/// Starts an operator and waits until it leads.
async fn start_leader(harness: &Harness, identity: &str) -> Result<Operator> {
    let mut operator = harness.start_operator(identity)?;
    operator.wait_until_leading().await?;
    Ok(operator)
}

/// Waits until the operator stops writing, for example events.
async fn wait_until_quiet(operator: &Operator) -> Result<()> {
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
fn claim(claims: Claims, name: String) -> impl Future<Output = Result<Claim>> + Send + 'static {
    claims.claim(FLEET.to_owned(), name, POOL.to_owned(), TIMEOUT)
}

/// Opens the operator's connections by unmeasured claims.
async fn warm_up(harness: &Harness) -> Result<()> {
    run_claims(harness, Arrivals::Burst, WARM_UP, claim).await?;
    Ok(())
}
