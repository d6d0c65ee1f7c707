//! Exponential backoff between failed attempts.

use std::time::Duration;

/// A delay that doubles with each consecutive failure, up to a maximum.
#[derive(Clone, Copy, Debug)]
pub struct ExponentialBackoff {
    initial: Duration,
    max: Duration,
}

impl ExponentialBackoff {
    /// Delays from `initial`, after one failure, to `max`.
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max }
    }

    /// Delay after this many consecutive failures.
    pub fn after(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(u32::BITS - 1);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_the_maximum() {
        let backoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let delays = [1, 2, 3, 5, 6, 32, 33, u32::MAX].map(|failures| backoff.after(failures).as_secs());
        assert_eq!(delays, [1, 2, 4, 16, 30, 30, 30, 30]);
    }
}
