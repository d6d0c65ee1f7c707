//! Claims of hot slots, all at once.

use super::steps::{
    FLEET, FLOOR, POOL, SLOTS_PER_RUNNER, WARM_UP, claim, floor, measure, start_leader, wait_until_quiet, warm_up,
};
use anyhow::Result;
use camofleet_bench::{
    arrivals::{Arrivals, ClaimStats},
    cpu::CpuWatch,
    harness::{Harness, pool_of_reused_runners},
    operator::Writes,
    report::Report,
};
use clap::Args;

/// Size and number of bursts.
#[derive(Clone, Debug, Args)]
pub struct Burst {
    /// Claims per burst.
    #[arg(long, default_value_t = 300)]
    claims: usize,
    /// Bursts, both of the fleet and of the floor.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

impl Burst {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        let mut report = Report::new("burst");
        harness.create_namespace(FLOOR).await?;
        harness.create_namespace(FLEET).await?;
        eprintln!("measuring the floor");
        let (mut floor_stats, mut fleet) = (ClaimStats::default(), ClaimStats::default());
        for _ in 0..self.rounds.div_ceil(2) {
            floor_stats.merge(&floor(harness, Arrivals::Burst, self.claims).await?);
        }

        eprintln!("measuring the fleet");
        let mut operator = start_leader(harness, "operator-0").await?;
        let slots = self.claims + WARM_UP;
        let runners = slots.div_ceil(SLOTS_PER_RUNNER);
        let mut writes = Writes::default();
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(runners, SLOTS_PER_RUNNER)).await?;
        for round in 0..self.rounds {
            eprintln!("round {} of {}", round + 1, self.rounds);
            warm_up(harness).await?;
            wait_until_quiet(&operator).await?;
            let (before, watch) = (operator.writes().await?, CpuWatch::start(harness, &operator)?);
            fleet.merge(&measure(harness, FLEET, Arrivals::Burst, self.claims, claim).await?);
            report.set("cpu_percent", watch.percent(harness, &operator)?);
            writes = writes.plus(operator.writes().await?.since(&before));
            harness.wait_for_hot(FLEET, POOL, i32::try_from(runners * SLOTS_PER_RUNNER)?).await?;
        }
        operator.stop().await?;

        eprintln!("measuring the floor again");
        for _ in self.rounds.div_ceil(2)..self.rounds {
            floor_stats.merge(&floor(harness, Arrivals::Burst, self.claims).await?);
        }
        report.claims(&fleet);
        report.compare_with_floor(&fleet, &floor_stats);
        report.writes(&writes, fleet.claims);
        report.set("claims_at_once", self.claims);
        Ok(report)
    }
}
