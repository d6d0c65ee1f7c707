//! Claims on hot slots, one after another.

use super::{FLEET, FLOOR, POOL, SLOTS_PER_RUNNER, WARM_UP, claim, floor, leader, measured, settle, warm_up};
use anyhow::Result;
use camofleet_bench::{
    arrivals::Arrivals,
    cpu::CpuWatch,
    harness::{Harness, lasting_pool},
    report::Report,
};
use clap::Args;

/// How many claims.
#[derive(Clone, Debug, Args)]
pub struct Sequential {
    /// Claims.
    #[arg(long, default_value_t = 200)]
    claims: usize,
}

impl Sequential {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        let mut report = Report::new("sequential");
        harness.namespace(FLOOR).await?;
        harness.namespace(FLEET).await?;
        // Half of the floor before and half after, so that a machine that becomes slower or faster favours nobody.
        eprintln!("the floor");
        let first_half = self.claims.div_ceil(2);
        let mut bare = floor(harness, Arrivals::OneAfterAnother, first_half).await?;

        eprintln!("the fleet");
        let mut operator = leader(harness, "operator-0").await?;
        let runners = (self.claims + WARM_UP).div_ceil(SLOTS_PER_RUNNER);
        harness.hot_pool(FLEET, POOL, lasting_pool(runners, SLOTS_PER_RUNNER)).await?;
        warm_up(harness).await?;
        settle(&operator).await?;
        let (before, watch) = (operator.writes().await?, CpuWatch::start(harness, &operator)?);
        let fleet = measured(harness, FLEET, Arrivals::OneAfterAnother, self.claims, claim).await?;
        report.set("cpu_percent", watch.percent(harness, &operator)?);
        let writes = operator.writes().await?.since(&before);
        operator.stop().await?;

        eprintln!("the floor again");
        bare.merge(&floor(harness, Arrivals::OneAfterAnother, self.claims - first_half).await?);
        report.fleet(&fleet);
        report.against(&fleet, &bare);
        // The totals are of runs of different lengths.
        report.set("total_ratio", serde_json::Value::Null);
        report.set("floor_total_ms", serde_json::Value::Null);
        report.writes(&writes, self.claims);
        Ok(report)
    }
}
