//! When claims come, and what became of them.

use crate::figures::{Samples, milliseconds};
use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// How claims come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// Each when the one before is Ready.
    OneAfterAnother,
    /// All in the same moment.
    AllAtOnce,
    /// So many a second, each independent of all others (a Poisson process). The same every time.
    Random {
        /// Claims a second.
        rate: f64,
    },
}

/// What became of one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// When it was made: just before the call that creates it, or queues up for a connection to do so.
    pub asked: Instant,
    /// When the watch said that it is Ready; absent when it did not in time.
    pub ready: Option<Instant>,
}

impl Arrivals {
    /// Makes so many claims, and waits for all of them.
    ///
    /// # Errors
    /// When one cannot be made at all.
    pub async fn make<C, F>(self, count: usize, claim: C) -> Result<Vec<Claim>>
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
                Self::OneAfterAnother => claims.push(claim(index).await?),
                Self::AllAtOnce => drop(under_way.spawn(claim(index))),
                Self::Random { .. } => {
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

    /// The times between arrivals: exponentially distributed, by inversion.
    fn delays(self) -> impl FnMut() -> Duration {
        let mut random = SmallRng::seed_from_u64(9);
        move || match self {
            Self::OneAfterAnother | Self::AllAtOnce => Duration::ZERO,
            Self::Random { rate } => {
                let uniform: f64 = random.random();
                Duration::from_secs_f64(-(1.0 - uniform).ln() / rate)
            }
        }
    }
}

/// The figures of one or more runs of claims.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// From each claim to its Ready.
    pub latencies: Samples,
    /// From the first claim of each run to its last Ready.
    pub totals: Samples,
    /// Claims.
    pub claims: usize,
    /// Claims that were not Ready in time.
    pub not_ready: usize,
}

impl Figures {
    /// Takes in one more run.
    pub fn add(&mut self, run: &[Claim]) {
        self.claims += run.len();
        for claim in run {
            match claim.ready {
                Some(ready) => self.latencies.add(ready.duration_since(claim.asked)),
                None => self.not_ready += 1,
            }
        }
        let first = run.iter().map(|claim| claim.asked).min();
        let last = run.iter().filter_map(|claim| claim.ready).max();
        if let (Some(first), Some(last)) = (first, last) {
            self.totals.add(last.duration_since(first));
        }
    }

    /// Takes in another's runs.
    pub fn merge(&mut self, other: &Self) {
        self.latencies.extend(&other.latencies);
        self.totals.extend(&other.totals);
        self.claims += other.claims;
        self.not_ready += other.not_ready;
    }
}

/// Claims that were Ready a second, from the first claim to the last Ready.
pub fn rate(run: &[Claim]) -> Option<f64> {
    let mut figures = Figures::default();
    figures.add(run);
    let total = figures.totals.mean()?;
    crate::figures::ratio(
        crate::figures::number(figures.latencies.count()) * milliseconds(Duration::from_secs(1)),
        total,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_arrivals_keep_their_rate_and_repeat() {
        let arrivals = Arrivals::Random { rate: 50.0 };
        let total = |mut delays: Box<dyn FnMut() -> Duration>| (0..5000).map(|_| delays()).sum::<Duration>();
        let once = total(Box::new(arrivals.delays()));
        assert!((95.0..105.0).contains(&once.as_secs_f64()), "{once:?}");
        assert_eq!(once, total(Box::new(arrivals.delays())));
    }

    #[tokio::test(start_paused = true)]
    async fn claims_come_as_they_are_said_to() {
        let claim = |_| async {
            let asked = tokio::time::Instant::now().into_std();
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(Claim { asked, ready: Some(asked + Duration::from_secs(1)) })
        };
        let start = tokio::time::Instant::now();
        Arrivals::AllAtOnce.make(10, claim).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        Arrivals::OneAfterAnother.make(10, claim).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(11));
    }

    #[test]
    fn a_claim_that_is_never_ready_counts_as_one() {
        let asked = Instant::now();
        let after = |seconds| Some(asked + Duration::from_secs(seconds));
        let mut figures = Figures::default();
        figures.add(&[
            Claim { asked, ready: after(1) },
            Claim { asked, ready: None },
            Claim { asked, ready: after(3) },
        ]);
        assert_eq!((figures.claims, figures.not_ready), (3, 1));
        assert_eq!(figures.totals.mean(), Some(3000.0));
    }
}
