//! One pod per session: the rate at which a pool refills.

use super::steps::{FLEET, POOL, claim, run_claims, start_leader};
use anyhow::Result;
use camofleet_bench::{
    arrivals::{Arrivals, Claim, ClaimStats},
    cpu::CpuWatch,
    harness::{Harness, pool_of_reused_runners},
    report::Report,
    stats::as_f64,
};
use camofleet_crds::v1alpha1::WorkerPoolSpec;
use clap::Args;
use futures::future::try_join_all;
use std::time::{Duration, Instant};

/// Size of the pool and of the load.
#[derive(Clone, Debug, Args)]
pub struct Churn {
    /// Runners of the pool, each for one session.
    #[arg(long, default_value_t = 100)]
    runners: usize,
    /// Concurrent claims. Each is followed by the next one when it is Ready.
    #[arg(long, default_value_t = 100)]
    outstanding: usize,
    /// Time before the measurement starts, in which the initial runners are used up.
    #[arg(long, default_value_t = 10)]
    settle_seconds: u64,
    /// Duration of the measurement.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Lifetime of each session.
    #[arg(long, default_value_t = 100)]
    life_milliseconds: u64,
}

impl Churn {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        let mut report = Report::new("churn");
        harness.create_namespace(FLEET).await?;
        let mut operator = start_leader(harness, "operator-0").await?;
        let spec = WorkerPoolSpec { sessions_per_runner: None, ..pool_of_reused_runners(self.runners, 1) };
        harness.create_hot_pool(FLEET, POOL, spec).await?;
        harness.simulator.set_session_lifetime(Some(Duration::from_millis(self.life_milliseconds)));

        eprintln!("running {} concurrent claims", self.outstanding);
        let begin = Instant::now() + Duration::from_secs(self.settle_seconds);
        let end = begin + Duration::from_secs(self.seconds);
        let one_after_another = async || {
            let mut claims = Vec::new();
            while Instant::now() < end {
                claims.extend(run_claims(harness, Arrivals::Sequential, 1, claim).await?);
            }
            anyhow::Ok(claims)
        };
        let writes = async {
            tokio::time::sleep_until(begin.into()).await;
            let (before, watch) = (operator.writes().await?, CpuWatch::start(harness, &operator)?);
            tokio::time::sleep_until(end.into()).await;
            let after = operator.writes().await?;
            anyhow::Ok((after.since(&before), watch.percent(harness, &operator)?))
        };
        let loops = try_join_all((0..self.outstanding).map(|_| one_after_another()));
        let (claims, (writes, cpu)) = tokio::try_join!(loops, writes)?;

        let in_time = |claim: &&Claim| claim.ready.is_none_or(|ready| ready >= begin && ready < end);
        let claims: Vec<Claim> = claims.iter().flatten().filter(in_time).copied().collect();
        let mut stats = ClaimStats::default();
        stats.add(&claims);
        let (ready, seconds) = (as_f64(stats.latencies.count()), Duration::from_secs(self.seconds).as_secs_f64());
        report.claims(&stats);
        report.set("total_ms", serde_json::Value::Null);
        report.writes(&writes, claims.len());
        report.set("claims_per_second", ready / seconds);
        report.set("runners", self.runners);
        report.set("outstanding", self.outstanding);
        report.set("cpu_percent", cpu);
        report.set("doubled", harness.simulator.binding_log().bound_twice().len());
        operator.stop().await?;
        Ok(report)
    }
}
