//! A token bucket.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

#[derive(Debug)]
pub(super) struct RateLimiter {
    per_second: f64,
    capacity: f64,
    /// Tokens, and the time at which they were counted.
    bucket: Mutex<(f64, Instant)>,
}

impl RateLimiter {
    pub(super) fn new(per_second: f64, capacity: f64) -> Self {
        Self { per_second, capacity, bucket: Mutex::new((capacity, Instant::now())) }
    }

    /// Takes a token. Returns `false` if the bucket is empty.
    pub(super) fn try_acquire(&self) -> bool {
        self.try_acquire_at(Instant::now())
    }

    fn try_acquire_at(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, since) = *bucket;
        let tokens = (tokens + now.duration_since(since).as_secs_f64() * self.per_second).min(self.capacity);
        let granted = tokens >= 1.0;
        *bucket = (if granted { tokens - 1.0 } else { tokens }, now);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn allows_a_burst_and_then_a_steady_rate() {
        let limiter = RateLimiter::new(10.0, 3.0);
        let start = Instant::now();
        let granted =
            |millis| (0..100).filter(|_| limiter.try_acquire_at(start + Duration::from_millis(millis))).count();
        assert_eq!([granted(0), granted(50), granted(210), granted(10_000)], [3, 0, 2, 3]);
    }
}
