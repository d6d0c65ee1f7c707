//! A long queue for few slots: its cost while nothing changes, and the rate at which it is served when slots become
//! free.

use super::steps::{FLEET, POOL, SLOTS_PER_RUNNER, claim, run_claims, start_leader, wait_until_quiet};
use anyhow::Result;
use camofleet_bench::{
    arrivals::Arrivals,
    cpu::CpuWatch,
    harness::{Harness, pool_of_reused_runners, session_spec},
    report::Report,
    stats::{as_f64, ratio},
};
use camofleet_crds::v1alpha1::SessionState;
use clap::Args;
use futures::{TryStreamExt, stream};
use std::time::{Duration, Instant};

/// Length of the queue and size of the pool.
#[derive(Clone, Debug, Args)]
pub struct Backlog {
    /// Queued sessions.
    #[arg(long, default_value_t = 5000)]
    sessions: usize,
    /// Slots, all occupied at first.
    #[arg(long, default_value_t = 100)]
    slots: usize,
    /// Lifetime of each session once it is bound.
    #[arg(long, default_value_t = 200)]
    life_milliseconds: u64,
    /// Duration of the measurement of the operator while all sessions are queued.
    #[arg(long, default_value_t = 10)]
    idle_seconds: u64,
}

const QUEUE_TIMEOUT: Duration = Duration::from_secs(300);
/// Concurrent create calls.
const CREATES: usize = 64;

impl Backlog {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        let mut report = Report::new("drain");
        harness.create_namespace(FLEET).await?;
        let mut operator = start_leader(harness, "operator-0").await?;
        let runners = self.slots.div_ceil(SLOTS_PER_RUNNER);
        let slots = runners * SLOTS_PER_RUNNER;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(runners, SLOTS_PER_RUNNER)).await?;
        run_claims(harness, Arrivals::Burst, slots, claim).await?;
        let fillers = harness.simulator.runners();

        eprintln!("queueing {} sessions", self.sessions);
        let before = operator.writes().await?;
        let client = harness.session_client();
        let names = (0..self.sessions).map(|index| format!("queued-{index}"));
        stream::iter(names.map(Ok::<_, anyhow::Error>))
            .try_for_each_concurrent(CREATES, async |name| {
                client.create(FLEET, &name, session_spec(POOL)).await.map(|_| ())
            })
            .await?;
        let waits = |state| state == SessionState::Queued;
        harness.sessions.wait_for(self.sessions, FLEET, "Queued", QUEUE_TIMEOUT, |seen| waits(seen.state)).await?;
        wait_until_quiet(&operator).await?;
        let (start, idle) = (operator.usage()?, Duration::from_secs(self.idle_seconds));
        tokio::time::sleep(idle).await;
        let end = operator.usage()?;
        report.set("queued_cpu_percent", end.cpu.saturating_sub(start.cpu).as_secs_f64() / idle.as_secs_f64() * 100.0);

        eprintln!("freeing the slots");
        harness.simulator.set_session_lifetime(Some(Duration::from_millis(self.life_milliseconds)));
        let (began, watch) = (Instant::now(), CpuWatch::start(harness, &operator)?);
        for runner in fillers {
            for session in runner.state().sessions {
                runner.crash(&session.uid)?;
            }
        }
        let ended = |seen: &camofleet_bench::sessions::ObservedSession| seen.finished.is_some() || seen.deleted;
        harness.sessions.wait_for(self.sessions + slots, FLEET, "finished", QUEUE_TIMEOUT, ended).await?;
        let (took, cpu_percent) = (began.elapsed(), watch.percent(harness, &operator)?);
        let cpu = operator.usage()?.cpu.saturating_sub(end.cpu);
        let seen = harness.sessions.all(FLEET);
        report.set("sessions", self.sessions);
        // A session that ends before its Ready is written is published as Finished at once. It was served all the same.
        let binding_log = harness.simulator.binding_log();
        report.set("not_ready", seen.iter().filter(|seen| binding_log.of_session(&seen.uid).is_empty()).count());
        report.set("never_shown_ready", seen.iter().filter(|seen| seen.ready.is_none()).count());
        report.set("slots", slots);
        report.set("total_ms", took.as_secs_f64() * 1000.0);
        report.set("per_session_ms", ratio(took.as_secs_f64() * 1000.0, as_f64(self.sessions)));
        report.set("sessions_per_second", ratio(as_f64(self.sessions), took.as_secs_f64()));
        report.set("operator_cpu_ms_per_session", ratio(cpu.as_secs_f64() * 1000.0, as_f64(self.sessions)));
        report.set("cpu_percent", cpu_percent);
        report.set("peak_memory_mb", operator.usage()?.peak_memory / 1024);
        report.set("doubled", harness.simulator.binding_log().bound_twice().len());
        report.writes(&operator.writes().await?.since(&before), self.sessions);
        operator.stop().await?;
        Ok(report)
    }
}
