//! Delays prewarming and the smoke test after a browser without a session failed. Launches for sessions are never
//! delayed.

use camofleet_runtime::backoff::ExponentialBackoff;
use std::time::{Duration, Instant};

const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Uptime of a browser that resets the backoff. A successful launch alone does not, because the browser may crash at
/// its first page.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// The consecutive failures, until a browser launched after them has been up for [`STABLE_AFTER`].
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Option<Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Instant,
    /// Consecutive failures including this one.
    count: u32,
    /// Whether a browser has become ready since.
    was_ready: bool,
    /// Whether a browser launched since has been up for [`STABLE_AFTER`].
    was_stable: bool,
}

impl Backoff {
    pub(super) fn failed(&mut self, now: Instant) {
        let in_a_row = self.last.filter(|failure| !failure.was_stable);
        let count = in_a_row.map_or(0, |failure| failure.count).saturating_add(1);
        self.last = Some(Failure { at: now, count, was_ready: false, was_stable: false });
    }

    pub(super) fn browser_ready(&mut self) {
        if let Some(failure) = &mut self.last {
            failure.was_ready = true;
        }
    }

    /// Records that a browser, ready since `since`, is still running.
    pub(super) fn browser_running(&mut self, since: Instant, now: Instant) {
        if let Some(failure) = &mut self.last {
            failure.was_stable |= since > failure.at && since + STABLE_AFTER <= now;
        }
    }

    /// Whether a browser has failed and none has become ready since.
    pub(super) fn is_failing(&self) -> bool {
        self.last.is_some_and(|failure| !failure.was_ready)
    }

    /// Time before which no browser is prewarmed.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.last.map(|failure| failure.at + BACKOFF.after(failure.count))
    }
}
