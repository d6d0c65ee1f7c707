//! Percentiles, medians and ratios.

use std::time::Duration;

/// Durations in milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a sample.
    pub fn add(&mut self, took: Duration) {
        self.0.push(milliseconds(took));
    }

    /// Adds all samples of `other`.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// Number of samples.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The nearest-rank percentile: the smallest sample that at least `percent` percent of all samples do not exceed.
    pub fn percentile(&self, percent: usize) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied()
    }

    /// The mean, or `None` without samples.
    pub fn mean(&self) -> Option<f64> {
        ratio(self.0.iter().sum(), as_f64(self.0.len()))
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        Self(times.into_iter().map(milliseconds).collect())
    }
}

/// The middle value, or the mean of the two middle values. `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (lower, upper) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*lower, *upper))
}

/// Converts a duration to milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Converts a count for arithmetic; saturates at `u32::MAX`.
pub fn as_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The quotient, or `None` if `to` is not positive.
pub fn ratio(of: f64, to: f64) -> Option<f64> {
    (to > 0.0).then(|| of / to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(milliseconds: impl IntoIterator<Item = u64>) -> Samples {
        milliseconds.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let hundred = samples((1..=100).rev());
        assert_eq!([50, 90, 99, 100].map(|percent| hundred.percentile(percent)), [50.0, 90.0, 99.0, 100.0].map(Some));
        let three = samples([3, 1, 2]);
        assert_eq!([0, 50, 67, 99].map(|percent| three.percentile(percent)), [1.0, 2.0, 3.0, 3.0].map(Some));
        assert_eq!(Samples::default().percentile(50), None);
    }

    #[test]
    fn the_median_of_an_even_count_is_the_mean_of_the_middle_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_mean_of_no_samples_is_none() {
        assert_eq!(samples([1, 2, 6]).mean(), Some(3.0));
        assert_eq!(Samples::default().mean(), None);
    }
}
