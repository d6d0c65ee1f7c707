//! Scenarios on a cluster of the harness.

mod backlog;
mod burst;
mod chaos;
mod churn;
pub mod compare;
mod fairness;
mod floor;
pub mod hostile;
mod leader_kill;
mod scale;
mod sequential;
pub mod steps;
mod sustained;

use anyhow::Result;
use camofleet_bench::{harness::Harness, report::Report};
use clap::Subcommand;

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
    #[command(name = "drain")]
    Backlog(backlog::Backlog),
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

impl Scenario {
    /// Name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Floor(_) => "floor",
            Self::Sequential(_) => "sequential",
            Self::Burst(_) => "burst",
            Self::Sustained(_) => "sustained",
            Self::Backlog(_) => "drain",
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
            Self::Backlog(backlog) => backlog.run(harness).await,
            Self::Fairness(fairness) => fairness.run(harness).await,
            Self::Scale(scale) => scale.run(harness).await,
            Self::Churn(churn) => churn.run(harness).await,
            Self::LeaderKill(leader_kill) => leader_kill.run(harness).await,
            Self::Chaos(chaos) => chaos.run(harness).await,
        }
    }
}
