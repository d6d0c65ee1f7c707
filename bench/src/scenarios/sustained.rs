//! Claims that come at random at a rate, and live briefly.

use super::{
    FLEET, FLOOR, POOL, SLOTS_PER_RUNNER, TIMEOUT, claim, floor, measure, run_claims, start_leader, wait_until_quiet,
    warm_up,
};
use anyhow::Result;
use camofleet_bench::{
    arrivals::{Arrivals, Claim, ClaimStats},
    cpu::CpuWatch,
    harness::{Claims, Harness, long_lived_pool},
    report::Report,
    stats::{as_f64, ratio},
};
use clap::Args;
use std::{future::Future, time::Duration};

/// How many claims a second, and for how long.
#[derive(Clone, Debug, Args)]
pub struct Sustained {
    /// Claims a second.
    #[arg(long, default_value_t = 45.0)]
    rate: f64,
    /// For so long.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// How long each session lives.
    #[arg(long, default_value_t = 1000)]
    life_milliseconds: u64,
    /// Then raise the rate until it is not held any more, of the fleet and of the floor: until the median is more than three
    /// times the floor's at the first rate, of all claims or of the last quarter, or not all are Ready.
    #[arg(long)]
    highest: bool,
    /// For so long at each raised rate.
    #[arg(long, default_value_t = 8)]
    step_seconds: u32,
    /// Slots of the pool. Absent: as many as sessions of the first rate could be there in 10 s, at most 4000.
    #[arg(long)]
    slots: Option<usize>,
}

/// By so much the rate is raised each time.
const STEP: f64 = 1.2;
/// A rate is held as long as the median is not more than so many times the floor's.
const LIMIT: f64 = 3.0;
/// Nobody needs to know more.
const HIGHEST_RATE: f64 = 2000.0;

impl Sustained {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        let mut report = Report::new("sustained");
        harness.create_namespace(FLOOR).await?;
        harness.create_namespace(FLEET).await?;
        let (arrivals, claims) = (Arrivals::Poisson { rate: self.rate }, count(self.rate, self.seconds));
        let lifetime = Duration::from_millis(self.life_milliseconds);
        eprintln!("the floor");
        let floor_stats = floor(harness, arrivals, claims).await?;
        let floor_lifecycle =
            move |claims: Claims, name: String| claims.floor_lifecycle(FLOOR.to_owned(), name, lifetime, TIMEOUT);
        let lifecycle = measure(harness, FLOOR, arrivals, claims, floor_lifecycle).await?;

        eprintln!("the fleet");
        let mut operator = start_leader(harness, "operator-0").await?;
        let runners = self.slots.unwrap_or_else(|| count(self.rate, 10).clamp(400, 4000)).div_ceil(SLOTS_PER_RUNNER);
        harness.create_hot_pool(FLEET, POOL, long_lived_pool(runners, SLOTS_PER_RUNNER)).await?;
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
            // What the fleet holds, the floor alone holds as well: it need not be tried from the first rate on.
            let from = held.max(self.rate);
            let floor_stats = async |rate: f64| {
                let claim = |claims: Claims, name: String| claims.floor(FLOOR.to_owned(), name, TIMEOUT);
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
        C: Fn(Claims, String) -> F,
        F: Future<Output = Result<Claim>> + Send + 'static,
    {
        let run = run_claims(harness, Arrivals::Poisson { rate }, count(rate, self.step_seconds), claim).await?;
        harness.delete_sessions(FLOOR).await?;
        Ok(run)
    }

    /// The last rate that was held, from that one on; 0 when that was not.
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
            eprintln!("{whose} at {rate:.0} a second: {}", if is_held { "held" } else { "not held" });
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
    // A queue that grows shows in those who came last.
    let last = &in_order[in_order.len() - in_order.len().div_ceil(4)..];
    [&in_order[..], last].iter().all(|claims| {
        let mut stats = ClaimStats::default();
        stats.add(claims);
        stats.not_ready == 0 && stats.latencies.percentile(50).is_some_and(|median| median <= limit)
    })
}

/// Claims that come in that time.
fn count(rate: f64, seconds: u32) -> usize {
    // Both are numbers that somebody typed in.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float becomes the nearest integer")]
    let count = (rate * f64::from(seconds)).round() as usize;
    count.max(1)
}

/// Sessions end by themselves, and are deleted by the operator.
async fn wait_until_gone(harness: &Harness) -> Result<()> {
    let all = harness.sessions.count(FLEET, |_| true);
    harness.sessions.wait_for(all, FLEET, "gone", TIMEOUT, |seen| seen.deleted).await?;
    harness.sessions.forget(FLEET);
    Ok(())
}
