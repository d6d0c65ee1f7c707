//! Arrival patterns of claims, and statistics of their latencies. A claim is the creation of one session, timed until
//! the session is Ready.

use crate::stats::{Samples, milliseconds};
use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// The arrival pattern of claims.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// Closed loop: each claim starts when the previous one is Ready.
    Sequential,
    /// All claims start at once.
    Burst,
    /// Open loop: a Poisson process with a fixed seed, so every run has the same arrivals.
    Poisson {
        /// Mean arrivals per second.
        rate: f64,
    },
}

/// The creation of one session, timed until the session is Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Taken just before the create call, including any wait for a connection.
    pub requested: Instant,
    /// When the watch showed Ready. `None` if that took too long.
    pub ready: Option<Instant>,
}

impl Arrivals {
    /// Starts `count` claims in this pattern and waits for all of them.
    ///
    /// # Errors
    /// Returns an error if a claim fails.
    pub async fn run<C, F>(self, count: usize, claim: C) -> Result<Vec<Claim>>
    where
        C: Fn(usize) -> F,
        F: Future<Output = Result<Claim>> + Send + 'static,
    {
        let mut claims = Vec::with_capacity(count);
        let mut under_way = JoinSet::new();
        let mut delays = self.delays();
        let mut next = Instant::now();
        for index in 0..count {
            match self {
                Self::Sequential => claims.push(claim(index).await?),
                Self::Burst => drop(under_way.spawn(claim(index))),
                Self::Poisson { .. } => {
                    next += delays();
                    tokio::time::sleep_until(next.into()).await;
                    under_way.spawn(claim(index));
                }
            }
        }
        while let Some(claim) = under_way.join_next().await {
            claims.push(claim.context("a claim failed")??);
        }
        Ok(claims)
    }

    /// Gaps between arrivals: exponentially distributed, by inversion.
    fn delays(self) -> impl FnMut() -> Duration {
        let mut random = SmallRng::seed_from_u64(9);
        move || match self {
            Self::Sequential | Self::Burst => Duration::ZERO,
            Self::Poisson { rate } => {
                let uniform: f64 = random.random();
                Duration::from_secs_f64(-(1.0 - uniform).ln() / rate)
            }
        }
    }
}

/// Latency statistics of one or more runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimStats {
    /// Time from claim to Ready.
    pub latencies: Samples,
    /// Time from the first claim of a run to the last Ready.
    pub totals: Samples,
    /// Number of claims.
    pub claims: usize,
    /// Number of claims that were not Ready in time.
    pub not_ready: usize,
}

impl ClaimStats {
    /// Adds a run.
    pub fn add(&mut self, run: &[Claim]) {
        self.claims += run.len();
        for claim in run {
            match claim.ready {
                Some(ready) => self.latencies.add(ready.duration_since(claim.requested)),
                None => self.not_ready += 1,
            }
        }
        let first = run.iter().map(|claim| claim.requested).min();
        let last = run.iter().filter_map(|claim| claim.ready).max();
        if let (Some(first), Some(last)) = (first, last) {
            self.totals.add(last.duration_since(first));
        }
    }

    /// Adds all runs of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.latencies.extend(&other.latencies);
        self.totals.extend(&other.totals);
        self.claims += other.claims;
        self.not_ready += other.not_ready;
    }
}

/// Ready claims per second, from the first claim to the last Ready.
pub fn rate(run: &[Claim]) -> Option<f64> {
    let mut stats = ClaimStats::default();
    stats.add(run);
    let total = stats.totals.mean()?;
    crate::stats::ratio(crate::stats::as_f64(stats.latencies.count()) * milliseconds(Duration::from_secs(1)), total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poisson_arrivals_have_the_given_rate_and_are_repeatable() {
        let arrivals = Arrivals::Poisson { rate: 50.0 };
        let total = |mut delays: Box<dyn FnMut() -> Duration>| (0..5000).map(|_| delays()).sum::<Duration>();
        let once = total(Box::new(arrivals.delays()));
        assert!((95.0..105.0).contains(&once.as_secs_f64()), "{once:?}");
        assert_eq!(once, total(Box::new(arrivals.delays())));
    }

    #[tokio::test(start_paused = true)]
    async fn claims_run_at_once_or_in_sequence() {
        let claim = |_| async {
            let requested = tokio::time::Instant::now().into_std();
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(Claim { requested, ready: Some(requested + Duration::from_secs(1)) })
        };
        let start = tokio::time::Instant::now();
        Arrivals::Burst.run(10, claim).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        Arrivals::Sequential.run(10, claim).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(11));
    }

    #[test]
    fn counts_a_claim_that_is_never_ready() {
        let requested = Instant::now();
        let after = |seconds| Some(requested + Duration::from_secs(seconds));
        let mut stats = ClaimStats::default();
        stats.add(&[
            Claim { requested, ready: after(1) },
            Claim { requested, ready: None },
            Claim { requested, ready: after(3) },
        ]);
        assert_eq!((stats.claims, stats.not_ready), (3, 1));
        assert_eq!(stats.totals.mean(), Some(3000.0));
    }
}
