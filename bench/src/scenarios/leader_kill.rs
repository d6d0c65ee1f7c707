//! Two operators, whose leader is killed repeatedly while claims arrive.

use super::steps::{FLEET, POOL, SLOTS_PER_RUNNER, TIMEOUT, claim, run_claims};
use anyhow::{Result, ensure};
use camofleet_bench::{
    arrivals::{Arrivals, ClaimStats},
    harness::{Harness, pool_of_reused_runners},
    operator,
    report::Report,
    stats::Samples,
};
use clap::Args;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::time::{Duration, Instant};

/// Load and number of kills.
#[derive(Clone, Debug, Args)]
pub struct LeaderKill {
    /// Number of claims.
    #[arg(long, default_value_t = 300)]
    claims: usize,
    /// Claims per second.
    #[arg(long, default_value_t = 45.0)]
    rate: f64,
    /// Number of kills. The claims are divided into as many parts, and each part has one kill at a random time.
    #[arg(long, default_value_t = 5)]
    kills: usize,
    /// Seed for the times.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const POLL_INTERVAL: Duration = Duration::from_millis(5);

impl LeaderKill {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        let mut report = Report::new("leader-kill");
        harness.create_namespace(FLEET).await?;
        let mut operators = vec![harness.start_operator("operator-0")?, harness.start_operator("operator-1")?];
        operator::wait_for_leader(&mut operators).await?;
        let runners = self.claims.div_ceil(SLOTS_PER_RUNNER);
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(runners, SLOTS_PER_RUNNER)).await?;

        let mut random = SmallRng::seed_from_u64(self.seed);
        let (mut stats, mut gaps) = (ClaimStats::default(), Samples::default());
        let mut left = self.claims;
        for kill in 0..self.kills {
            let claims = left / (self.kills - kill);
            left -= claims;
            eprintln!("kill {} of {}", kill + 1, self.kills);
            let part = run_claims(harness, Arrivals::Poisson { rate: self.rate }, claims, claim);
            // The kill comes after a random number of this part's claims is bound, so the other claims are in any
            // stage.
            let after = harness.simulator.binding_log().count() + random.random_range(0..claims.max(1));
            let killing = async {
                while harness.simulator.binding_log().count() < after {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                let leader = operator::wait_for_leader(&mut operators).await?;
                operators[leader].daemon.kill().await?;
                let killed = Instant::now();
                let next = operator::wait_for_leader(&mut operators).await?;
                ensure!(next != leader, "the killed operator still leads");
                let bound = async {
                    loop {
                        if let Some(bound) = harness.simulator.binding_log().first_bind_after(killed) {
                            return bound;
                        }
                        tokio::time::sleep(POLL_INTERVAL).await;
                    }
                };
                // If all claims were bound before the kill, there is no next bind.
                if let Ok(bound) = tokio::time::timeout(Duration::from_secs(5), bound).await {
                    gaps.add(bound.duration_since(killed));
                }
                operators[leader].daemon.start_again()
            };
            let (part, killed) = tokio::join!(part, killing);
            killed?;
            stats.add(&part?);
        }
        harness.sessions.wait_for(self.claims, FLEET, "Ready", TIMEOUT, |seen| seen.ready.is_some()).await?;

        let seen = harness.sessions.all(FLEET);
        let lost = seen.iter().filter(|seen| seen.ready.is_none() || seen.finished.is_some() || seen.deleted).count();
        let published_twice = seen.iter().filter(|seen| seen.runners.len() != 1).count();
        let bound_twice = harness.simulator.binding_log().bound_twice();
        let held = harness.simulator.binding_log().held().len();
        report.claims(&stats);
        report.set("total_ms", serde_json::Value::Null);
        report.set("kills", self.kills);
        report.set("lost", lost);
        report.set("doubled", bound_twice.len() + published_twice);
        report.set("leaked", held.saturating_sub(self.claims));
        report.set("kill_to_next_bind_p50_ms", gaps.percentile(50));
        report.set("kill_to_next_bind_max_ms", gaps.percentile(100));
        ensure!(lost == 0, "{lost} sessions were lost");
        ensure!(
            bound_twice.is_empty() && published_twice == 0,
            "bound twice: {bound_twice:?}; published twice: {published_twice}"
        );
        ensure!(held == self.claims, "runners hold {held} sessions, but {} were created", self.claims);
        for operator in &mut operators {
            operator.stop().await?;
        }
        Ok(report)
    }
}
