//! Limits the number of tunnels per session.

use camofleet_runner_api::{ErrorReason, ErrorResponse};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Counts the tunnels of each session, so that no session can use up the connections that others need.
#[derive(Debug)]
pub(crate) struct TunnelLimiter {
    /// Playwright clients and live-view clients together.
    max_per_session: usize,
    open: Mutex<HashMap<String, usize>>,
}

/// Counts one tunnel until it is dropped.
#[derive(Debug)]
pub(crate) struct TunnelPermit {
    limiter: Arc<TunnelLimiter>,
    session: String,
}

impl TunnelLimiter {
    /// `total` is the number of tunnels that the runner can hold. Each slot gets an equal share, at least one.
    pub(crate) fn new(total: usize, slots: u32) -> Self {
        let slots = usize::try_from(slots).unwrap_or(usize::MAX).max(1);
        Self { max_per_session: (total / slots).max(1), open: Mutex::default() }
    }

    pub(crate) fn acquire(self: &Arc<Self>, session: &str) -> Result<TunnelPermit, ErrorResponse> {
        let mut open = self.lock();
        let count = open.entry(session.to_owned()).or_default();
        if *count >= self.max_per_session {
            let message = format!(
                "session {session} has reached its limit of {} Playwright and live-view clients: close one before you connect another",
                self.max_per_session
            );
            return Err(ErrorResponse { reason: ErrorReason::TooManyConnections, message });
        }
        *count += 1;
        Ok(TunnelPermit { limiter: Arc::clone(self), session: session.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TunnelPermit {
    fn drop(&mut self) {
        let mut open = self.limiter.lock();
        if let Some(count) = open.get_mut(&self.session) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_the_tunnels_of_each_session() {
        let limiter = Arc::new(TunnelLimiter::new(896, 32));
        let held: Vec<_> = (0..28).map(|_| limiter.acquire("a").unwrap()).collect();
        let error = limiter.acquire("a").unwrap_err();
        assert_eq!((error.reason, error.reason.status()), (ErrorReason::TooManyConnections, 429));
        assert!(limiter.acquire("b").is_ok(), "the limit is per session");
        drop(held);
        assert!(limiter.acquire("a").is_ok());
        assert!(limiter.lock().is_empty(), "entries without tunnels are removed");
        assert!(Arc::new(TunnelLimiter::new(0, 1)).acquire("a").is_ok(), "at least one tunnel per session");
    }
}
