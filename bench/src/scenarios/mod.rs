//! The scenarios, and what they have in common.

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

/// The namespace of what is measured.
const FLEET: &str = "fleet";
/// The namespace of what it is compared with.
const FLOOR: &str = "floor";
/// The pool of what is measured.
const POOL: &str = "hot";
/// The slots of each runner of a pool in which runners are not what is measured.
const SLOTS_PER_RUNNER: usize = 4;
/// Claims that come first, at once, and are not counted: they open connections, of the fleet and of the floor alike.
const WARM_UP: usize = 64;
/// A claim that is not Ready by then counts as one that is not.
const TIMEOUT: Duration = Duration::from_secs(60);
/// An operator that wrote nothing for so long has nothing to do.
const QUIET_PERIOD: Duration = Duration::from_secs(3);
const QUIET_TIMEOUT: Duration = Duration::from_secs(180);

/// What is measured.
#[derive(Clone, Debug, Subcommand)]
pub enum Scenario {
    /// What the API server itself takes: a create, a status patch, and the watch event of that.
    Floor(floor::Floor),
    /// Claims on hot slots, one after another.
    Sequential(sequential::Sequential),
    /// Claims on hot slots, all at once.
    Burst(burst::Burst),
    /// Claims that come at random at a rate, and live briefly.
    Sustained(sustained::Sustained),
    /// A long queue on few slots, which free up.
    Drain(drain::Drain),
    /// Three tenants, of which one floods the pool.
    Fairness(fairness::Fairness),
    /// Many runners and sessions: memory, idle CPU, and how soon an operator that starts binds.
    Scale(scale::Scale),
    /// One pod for each session: how fast a pool refills.
    Churn(churn::Churn),
    /// Two operators, of which the one that leads is killed again and again.
    LeaderKill(leader_kill::LeaderKill),
    /// Sessions come and go while something fails every few seconds.
    Chaos(chaos::Chaos),
}

/// Runs on a cluster of its own, which is stopped whatever comes of it, and when it is interrupted.
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
    harness.stop().await.context("not all could be stopped")?;
    outcome
}

impl Scenario {
    /// Its name on the command line.
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

    /// Measures it.
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

/// The floor of so many claims that arrive like that, after a warm-up. Nothing of it is left.
async fn floor(harness: &Harness, arrivals: Arrivals, count: usize) -> Result<ClaimStats> {
    let claim = |claims: Claims, name: String| claims.floor(FLOOR.to_owned(), name, TIMEOUT);
    run_claims(harness, Arrivals::Burst, WARM_UP, claim).await?;
    measure(harness, FLOOR, arrivals, count, claim).await
}

/// Makes claims, and deletes all sessions of the namespace when all is told.
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

/// Makes claims by names that were never there before: what the watch tells late of a former one is not taken for it.
async fn run_claims<C, F>(harness: &Harness, arrivals: Arrivals, count: usize, claim: C) -> Result<Vec<Claim>>
where
    C: Fn(Claims, String) -> F,
    F: Future<Output = Result<Claim>> + Send + 'static,
{
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    arrivals.run(count, |index| claim(harness.claims(), format!("claim-{run}-{index}"))).await
}

/// An operator that leads.
async fn start_leader(harness: &Harness, identity: &str) -> Result<Operator> {
    let mut operator = harness.start_operator(identity)?;
    operator.wait_until_leading().await?;
    Ok(operator)
}

/// Waits until the operator has written all that it still had to, such as events.
async fn wait_until_quiet(operator: &Operator) -> Result<()> {
    let began = Instant::now();
    let mut writes = operator.writes().await?;
    loop {
        tokio::time::sleep(QUIET_PERIOD).await;
        let now = operator.writes().await?;
        if now == writes {
            return Ok(());
        }
        ensure!(began.elapsed() < QUIET_TIMEOUT, "the operator writes without end: {}", now.since(&writes).to_json());
        writes = now;
    }
}

/// Makes a claim of the measured pool.
fn claim(claims: Claims, name: String) -> impl Future<Output = Result<Claim>> + Send + 'static {
    claims.claim(FLEET.to_owned(), name, POOL.to_owned(), TIMEOUT)
}

/// Claims that open the operator's connections.
async fn warm_up(harness: &Harness) -> Result<()> {
    run_claims(harness, Arrivals::Burst, WARM_UP, claim).await?;
    Ok(())
}
