//! Latency of the API server alone.

use super::steps::{FLOOR, floor};
use anyhow::Result;
use camofleet_bench::{
    arrivals::Arrivals,
    harness::Harness,
    report::Report,
    stats::{as_f64, ratio},
};
use clap::Args;

/// Number and rate of claims.
#[derive(Clone, Debug, Args)]
pub struct Floor {
    /// Claims per arrival pattern: one after another, all at once, and Poisson.
    #[arg(long, default_value_t = 300)]
    claims: usize,
    /// Claims per second of the Poisson arrivals.
    #[arg(long, default_value_t = 45.0)]
    rate: f64,
}

impl Floor {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        harness.create_namespace(FLOOR).await?;
        let mut report = Report::new("floor");
        let one_by_one = floor(harness, Arrivals::Sequential, self.claims).await?;
        let burst = floor(harness, Arrivals::Burst, self.claims).await?;
        let random = floor(harness, Arrivals::Poisson { rate: self.rate }, self.claims).await?;
        report.row("one after another", &one_by_one);
        report.row("all at once", &burst);
        report.row(&format!("{} per second", self.rate), &random);
        report.set("sessions", self.claims);
        report.set("not_ready", one_by_one.not_ready + burst.not_ready + random.not_ready);
        report.set("floor_p50_ms", one_by_one.latencies.percentile(50));
        report.set("floor_p99_ms", one_by_one.latencies.percentile(99));
        report.set("floor_burst_total_ms", burst.totals.mean());
        let per_second = burst.totals.mean().and_then(|total| ratio(as_f64(self.claims) * 1000.0, total));
        report.set("floor_burst_per_second", per_second);
        report.set("rate", self.rate);
        report.set("floor_rate_p50_ms", random.latencies.percentile(50));
        report.set("floor_rate_p99_ms", random.latencies.percentile(99));
        Ok(report)
    }
}
