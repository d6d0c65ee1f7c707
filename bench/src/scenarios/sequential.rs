//! Claims of hot slots, one after another.

use super::steps::{
    FLEET, FLOOR, POOL, SLOTS_PER_RUNNER, WARM_UP, claim, floor, measure, start_leader, wait_until_quiet, warm_up,
};
use anyhow::Result;
use camofleet_bench::{
    arrivals::Arrivals,
    cpu::CpuWatch,
    harness::{Harness, pool_of_reused_runners},
    report::Report,
};
use clap::Args;

/// Number of claims.
#[derive(Clone, Debug, Args)]
pub struct Sequential {
    /// Number of claims.
    #[arg(long, default_value_t = 200)]
    claims: usize,
}

impl Sequential {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        let mut report = Report::new("sequential");
        harness.create_namespace(FLOOR).await?;
        harness.create_namespace(FLEET).await?;
        // Half of the floor before the fleet and half after, so that a machine that changes speed favours neither.
        eprintln!("measuring the floor");
        let first_half = self.claims.div_ceil(2);
        let mut floor_stats = floor(harness, Arrivals::Sequential, first_half).await?;

        eprintln!("measuring the fleet");
        let mut operator = start_leader(harness, "operator-0").await?;
        let runners = (self.claims + WARM_UP).div_ceil(SLOTS_PER_RUNNER);
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(runners, SLOTS_PER_RUNNER)).await?;
        warm_up(harness).await?;
        wait_until_quiet(&operator).await?;
        let (before, watch) = (operator.writes().await?, CpuWatch::start(harness, &operator)?);
        let fleet = measure(harness, FLEET, Arrivals::Sequential, self.claims, claim).await?;
        report.set("cpu_percent", watch.percent(harness, &operator)?);
        let writes = operator.writes().await?.since(&before);
        operator.stop().await?;

        eprintln!("measuring the floor again");
        floor_stats.merge(&floor(harness, Arrivals::Sequential, self.claims - first_half).await?);
        report.claims(&fleet);
        report.compare_with_floor(&fleet, &floor_stats);
        // The totals of runs of different lengths cannot be compared.
        report.set("total_ratio", serde_json::Value::Null);
        report.set("floor_total_ms", serde_json::Value::Null);
        report.writes(&writes, self.claims);
        Ok(report)
    }
}
