//! Claims at a constant mean rate (Poisson arrivals) with short-lived sessions.

use super::steps::{
    FLEET, FLOOR, POOL, SLOTS_PER_RUNNER, TIMEOUT, claim, floor, measure, run_claims, start_leader, wait_until_quiet,
    warm_up,
};
use anyhow::Result;
use camofleet_bench::{
    arrivals::{Arrivals, Claim, ClaimStats},
    cpu::CpuWatch,
    harness::{Harness, SessionClient, pool_of_reused_runners},
    report::Report,
    stats::{as_f64, ratio},
};
use clap::Args;
use std::{future::Future, time::Duration};

/// Rate and duration.
#[derive(Clone, Debug, Args)]
pub struct Sustained {
    /// Claims per second.
    #[arg(long, default_value_t = 45.0)]
    rate: f64,
    /// Duration in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Lifetime of each session.
    #[arg(long, default_value_t = 1000)]
    life_milliseconds: u64,
    /// Afterwards, raise the rates of the fleet and of the floor to find the highest that each sustains. A rate is not
    /// sustained if a claim is not Ready, or if the median of all claims or of the last quarter exceeds three times the
    /// floor's median at the first rate.
    #[arg(long)]
    highest: bool,
    /// Duration of each step in seconds.
    #[arg(long, default_value_t = 8)]
    step_seconds: u32,
    /// Slots of the pool. Default: the sessions of 10 s at the first rate, but 400 to 4000.
    #[arg(long)]
    slots: Option<usize>,
}

/// Factor between two rates.
const STEP: f64 = 1.2;
/// A rate is sustained while the median is at most this multiple of the floor's.
const LIMIT: f64 = 3.0;
/// The search ends at this rate.
const HIGHEST_RATE: f64 = 2000.0;

impl Sustained {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        let mut report = Report::new("sustained");
        harness.create_namespace(FLOOR).await?;
        harness.create_namespace(FLEET).await?;
        let (arrivals, claims) = (Arrivals::Poisson { rate: self.rate }, count(self.rate, self.seconds));
        let lifetime = Duration::from_millis(self.life_milliseconds);
        eprintln!("measuring the floor");
        let floor_stats = floor(harness, arrivals, claims).await?;
        let floor_lifecycle = move |client: SessionClient, name: String| {
            client.floor_lifecycle(FLOOR.to_owned(), name, lifetime, TIMEOUT)
        };
        let lifecycle = measure(harness, FLOOR, arrivals, claims, floor_lifecycle).await?;

        eprintln!("measuring the fleet");
        let mut operator = start_leader(harness, "operator-0").await?;
        let runners = self.slots.unwrap_or_else(|| count(self.rate, 10).clamp(400, 4000)).div_ceil(SLOTS_PER_RUNNER);
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(runners, SLOTS_PER_RUNNER)).await?;
        harness.simulator.set_session_lifetime(Some(lifetime));
        warm_up(harness).await?;
        wait_until_gone(harness).await?;
        wait_until_quiet(&operator).await?;
        let (before, used) = (operator.writes().await?, operator.usage()?);
        let mut fleet = ClaimStats::default();
        let watch = CpuWatch::start(harness, &operator)?;
        let run = run_claims(harness, arrivals, claims, claim).await?;
        report.set("cpu_percent", watch.percent(harness, &operator)?);
        let queued = harness.sessions.count(FLEET, |seen| seen.was_queued);
        wait_until_gone(harness).await?;
        fleet.add(&run);
        let (writes, cpu) = (operator.writes().await?.since(&before), operator.usage()?.cpu.saturating_sub(used.cpu));

        report.claims(&fleet);
        report.compare_with_floor(&fleet, &floor_stats);
        report.row("floor with ends", &lifecycle);
        report.writes(&writes, claims);
        report.set("rate", self.rate);
        report.set("queued", queued);
        report.set("floor_with_ends_p50_ms", lifecycle.latencies.percentile(50));
        report.set("operator_cpu_ms_per_session", cpu.as_secs_f64() * 1000.0 / as_f64(claims));
        if self.highest {
            let limit = floor_stats.latencies.percentile(50).unwrap_or_default() * LIMIT;
            let held = self.highest_rate("the fleet", self.rate, limit, async |rate| {
                let run =
                    run_claims(harness, Arrivals::Poisson { rate }, count(rate, self.step_seconds), claim).await?;
                wait_until_gone(harness).await?;
                Ok(run)
            });
            let held = held.await?;
            operator.stop().await?;
            // The floor sustains every rate that the fleet sustains, so its search starts there.
            let from = held.max(self.rate);
            let floor_stats = async |rate: f64| {
                let claim = |client: SessionClient, name: String| client.floor(FLOOR.to_owned(), name, TIMEOUT);
                self.step(harness, rate, claim).await
            };
            let floor_held = self.highest_rate("the floor", from, limit, floor_stats).await?;
            let with_ends = async |rate: f64| self.step(harness, rate, floor_lifecycle).await;
            let with_ends_held = self.highest_rate("the floor with ends", self.rate, limit, with_ends).await?;
            report.set("highest_rate", held);
            report.set("floor_highest_rate", floor_held);
            report.set("floor_with_ends_highest_rate", with_ends_held);
            report.set("highest_rate_ratio", ratio(held, floor_held));
            report.set("highest_rate_ratio_with_ends", ratio(held, with_ends_held));
        }
        operator.stop().await?;
        Ok(report)
    }

    async fn step<C, F>(&self, harness: &Harness, rate: f64, claim: C) -> Result<Vec<Claim>>
    where
        C: Fn(SessionClient, String) -> F,
        F: Future<Output = Result<Claim>> + Send + 'static,
    {
        let run = run_claims(harness, Arrivals::Poisson { rate }, count(rate, self.step_seconds), claim).await?;
        harness.delete_sessions(FLOOR).await?;
        Ok(run)
    }

    /// The highest sustained rate, starting at `from`; 0 if even that is not sustained.
    async fn highest_rate(
        &self,
        whose: &str,
        from: f64,
        limit: f64,
        run: impl AsyncFn(f64) -> Result<Vec<Claim>>,
    ) -> Result<f64> {
        let (mut held, mut rate) = (0.0, from);
        while rate <= HIGHEST_RATE {
            let claims = run(rate).await?;
            let is_held = is_held(&claims, limit);
            eprintln!("{whose} at {rate:.0} per second: {}", if is_held { "sustained" } else { "not sustained" });
            if !is_held {
                break;
            }
            held = rate;
            rate *= STEP;
        }
        Ok(held)
    }
}

fn is_held(claims: &[Claim], limit: f64) -> bool {
    let mut in_order = claims.to_vec();
    in_order.sort_by_key(|claim| claim.requested);
    // A growing queue delays the last claims.
    let last = &in_order[in_order.len() - in_order.len().div_ceil(4)..];
    [&in_order[..], last].iter().all(|claims| {
        let mut stats = ClaimStats::default();
        stats.add(claims);
        stats.not_ready == 0 && stats.latencies.percentile(50).is_some_and(|median| median <= limit)
    })
}

/// Number of claims at this rate, at least 1.
fn count(rate: f64, seconds: u32) -> usize {
    // Both come from the command line and are small.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float becomes the nearest integer")]
    let count = (rate * f64::from(seconds)).round() as usize;
    count.max(1)
}

/// Waits until all sessions have ended and the operator has deleted them.
async fn wait_until_gone(harness: &Harness) -> Result<()> {
    let all = harness.sessions.count(FLEET, |_| true);
    harness.sessions.wait_for(all, FLEET, "gone", TIMEOUT, |seen| seen.deleted).await?;
    harness.sessions.forget(FLEET);
    Ok(())
}
