//! Claims on hot slots, all at once.

use super::{FLEET, FLOOR, POOL, SLOTS_PER_RUNNER, WARM_UP, claim, floor, leader, measured, settle, warm_up};
use anyhow::Result;
use camofleet_bench::{
    arrivals::{Arrivals, Figures},
    cpu::CpuWatch,
    harness::{Harness, lasting_pool},
    operator::Writes,
    report::Report,
};
use clap::Args;

/// How many claims, and how often.
#[derive(Clone, Debug, Args)]
pub struct Burst {
    /// Claims at once.
    #[arg(long, default_value_t = 300)]
    claims: usize,
    /// How often, of the fleet and of the floor.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

impl Burst {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        let mut report = Report::new("burst");
        harness.namespace(FLOOR).await?;
        harness.namespace(FLEET).await?;
        eprintln!("the floor");
        let (mut bare, mut fleet) = (Figures::default(), Figures::default());
        for _ in 0..self.rounds.div_ceil(2) {
            bare.merge(&floor(harness, Arrivals::AllAtOnce, self.claims).await?);
        }

        eprintln!("the fleet");
        let mut operator = leader(harness, "operator-0").await?;
        let slots = self.claims + WARM_UP;
        let runners = slots.div_ceil(SLOTS_PER_RUNNER);
        let mut writes = Writes::default();
        harness.hot_pool(FLEET, POOL, lasting_pool(runners, SLOTS_PER_RUNNER)).await?;
        for round in 0..self.rounds {
            eprintln!("round {} of {}", round + 1, self.rounds);
            warm_up(harness).await?;
            settle(&operator).await?;
            let (before, watch) = (operator.writes().await?, CpuWatch::start(harness, &operator)?);
            fleet.merge(&measured(harness, FLEET, Arrivals::AllAtOnce, self.claims, claim).await?);
            report.set("cpu_percent", watch.percent(harness, &operator)?);
            writes = writes.and(operator.writes().await?.since(&before));
            harness.wait_for_hot(FLEET, POOL, i32::try_from(runners * SLOTS_PER_RUNNER)?).await?;
        }
        operator.stop().await?;

        eprintln!("the floor again");
        for _ in self.rounds.div_ceil(2)..self.rounds {
            bare.merge(&floor(harness, Arrivals::AllAtOnce, self.claims).await?);
        }
        report.fleet(&fleet);
        report.against(&fleet, &bare);
        report.writes(&writes, fleet.claims);
        report.set("claims_at_once", self.claims);
        Ok(report)
    }
}
