//! So many in a second, and some at once: a token bucket.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

#[derive(Debug)]
pub(super) struct RateLimiter {
    per_second: f64,
    most: f64,
    left: Mutex<(f64, Instant)>,
}

impl RateLimiter {
    pub(super) fn new(per_second: f64, most: f64) -> Self {
        Self { per_second, most, left: Mutex::new((most, Instant::now())) }
    }

    /// Whether there may be one more now.
    pub(super) fn take(&self) -> bool {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, since) = *left;
        let tokens = (tokens + now.duration_since(since).as_secs_f64() * self.per_second).min(self.most);
        let granted = tokens >= 1.0;
        *left = (if granted { tokens - 1.0 } else { tokens }, now);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn some_at_once_and_then_so_many_a_second() {
        let allowance = RateLimiter::new(10.0, 3.0);
        let start = Instant::now();
        let granted = |millis| (0..100).filter(|_| allowance.take_at(start + Duration::from_millis(millis))).count();
        assert_eq!([granted(0), granted(50), granted(210), granted(10_000)], [3, 0, 2, 3]);
    }
}
