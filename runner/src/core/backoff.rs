//! How long prewarming waits after a browser failed that had no session: at its launch, or soon after.

use camofleet_runtime::backoff::ExponentialBackoff;
use std::time::{Duration, Instant};

/// How long after failures the next browser is launched.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Once a browser has run for this long, the next failure is a first one again. A launch that succeeds shows less, since the browser may
/// crash at its first page.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// The failures in a row, until a browser that was launched after them has run long enough.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Option<Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Instant,
    /// How many there were in a row, this one included.
    count: u32,
    /// Whether a browser was ready since.
    ready_since: bool,
    /// Whether one that was launched since has lived.
    stable_since: bool,
}

impl Backoff {
    /// A browser failed.
    pub(super) fn failed(&mut self, now: Instant) {
        let in_a_row = self.last.filter(|failure| !failure.stable_since);
        let count = in_a_row.map_or(0, |failure| failure.count).saturating_add(1);
        self.last = Some(Failure { at: now, count, ready_since: false, stable_since: false });
    }

    /// A browser is ready.
    pub(super) fn browser_ready(&mut self) {
        if let Some(failure) = &mut self.last {
            failure.ready_since = true;
        }
    }

    /// A browser that has been ready since then runs.
    pub(super) fn browser_running(&mut self, since: Instant, now: Instant) {
        if let Some(failure) = &mut self.last {
            failure.stable_since |= since > failure.at && since + STABLE_AFTER <= now;
        }
    }

    /// Whether the last browser failed, and none was ready since.
    pub(super) fn is_failing(&self) -> bool {
        self.last.is_some_and(|failure| !failure.ready_since)
    }

    /// Before this moment nothing is prewarmed.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.last.map(|failure| failure.at + BACKOFF.after(failure.count))
    }
}
