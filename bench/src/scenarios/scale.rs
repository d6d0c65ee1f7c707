//! Many runners and sessions: memory and CPU of the operator, and the time from its start to its first bind.

use super::steps::{FLEET, POOL, SLOTS_PER_RUNNER, claim, run_claims, start_leader, wait_until_quiet};
use anyhow::{Context, Result};
use camofleet_bench::{
    arrivals::{Arrivals, ClaimStats},
    harness::{Harness, pool_of_reused_runners, session_spec},
    report::Report,
    stats::milliseconds,
};
use clap::Args;
use std::time::{Duration, Instant};

/// Size of the fleet, and measurements.
#[derive(Clone, Debug, Args)]
pub struct Scale {
    /// Runners, each with four slots.
    #[arg(long, default_value_t = 1000)]
    runners: usize,
    /// Number of sessions. Default: one per slot.
    #[arg(long)]
    sessions: Option<usize>,
    /// Duration of the measurement while nothing changes.
    #[arg(long, default_value_t = 30)]
    idle_seconds: u64,
    /// How many times the operator is killed and restarted.
    #[arg(long, default_value_t = 3)]
    starts: usize,
}

/// A pool with free slots when the measured pool is full.
const SPARE: &str = "spare";

impl Scale {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        let mut report = Report::new("scale");
        harness.create_namespace(FLEET).await?;
        let mut operator = start_leader(harness, "operator-0").await?;
        let sessions = self.sessions.unwrap_or(self.runners * SLOTS_PER_RUNNER);
        eprintln!("creating {} runners", self.runners);
        let began = Instant::now();
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(self.runners, SLOTS_PER_RUNNER)).await?;
        report.set("pool_hot_seconds", began.elapsed().as_secs_f64());
        harness
            .create_hot_pool(
                FLEET,
                SPARE,
                pool_of_reused_runners(self.starts.div_ceil(SLOTS_PER_RUNNER), SLOTS_PER_RUNNER),
            )
            .await?;

        eprintln!("creating {sessions} sessions");
        let before = operator.writes().await?;
        let mut stats = ClaimStats::default();
        stats.add(&run_claims(harness, Arrivals::Burst, sessions, claim).await?);
        report.claims(&stats);
        report.writes(&operator.writes().await?.since(&before), sessions);

        report.set("busy_memory_mb", operator.usage()?.memory / 1024);
        let ready = Instant::now();
        wait_until_quiet(&operator).await?;
        report.set("settled_seconds", ready.elapsed().as_secs_f64());
        eprintln!("measuring the idle operator for {} s", self.idle_seconds);
        let (start, idle) = (operator.usage()?, Duration::from_secs(self.idle_seconds));
        tokio::time::sleep(idle).await;
        let end = operator.usage()?;
        report.set("runners", self.runners);
        report.set("memory_mb", end.memory / 1024);
        report.set("peak_memory_mb", end.peak_memory / 1024);
        report.set("idle_cpu_percent", (end.cpu.saturating_sub(start.cpu)).as_secs_f64() / idle.as_secs_f64() * 100.0);

        let mut to_bind = Vec::new();
        let mut to_ready = Vec::new();
        for index in 0..self.starts {
            eprintln!("restart {} of {}", index + 1, self.starts);
            operator.daemon.kill().await?;
            let name = format!("waiting-{index}");
            let ready = harness.sessions.await_ready(FLEET, &name);
            harness.session_client().create(FLEET, &name, session_spec(SPARE)).await?;
            let started = Instant::now();
            operator.daemon.start_again()?;
            let ready = tokio::time::timeout(super::steps::TIMEOUT, ready)
                .await
                .context("the restarted operator did not bind the session in time")??;
            let bound = harness
                .simulator
                .binding_log()
                .first_bind_after(started)
                .context("a session is Ready without a binding")?;
            to_bind.push(bound.duration_since(started));
            to_ready.push(ready.duration_since(started));
        }
        let longest = |times: &[Duration]| times.iter().max().copied().map(milliseconds);
        report.set("start_to_first_bind_ms", longest(&to_bind));
        report.set("start_to_first_ready_ms", longest(&to_ready));
        report.set("starts", self.starts);
        report.set("memory_after_start_mb", operator.usage()?.memory / 1024);
        report.set("doubled", harness.simulator.binding_log().bound_twice().len());
        operator.stop().await?;
        Ok(report)
    }
}
