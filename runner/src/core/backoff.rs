//! How long prewarming waits after a browser failed that had no session: at its launch, or soon after.

use camofleet_runtime::backoff::ExponentialBackoff;
use std::time::{Duration, Instant};

/// How long after failures the next browser is launched.
const PAUSES: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Once a browser has run for this long, the next failure is a first one again. A launch that succeeds shows less, since the browser may
/// crash at its first page.
const LIVED: Duration = Duration::from_secs(30);

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
    launched: bool,
    /// Whether one that was launched since has lived.
    lived: bool,
}

impl Backoff {
    /// A browser failed.
    pub(super) fn failed(&mut self, now: Instant) {
        let in_a_row = self.last.filter(|failure| !failure.lived);
        let count = in_a_row.map_or(0, |failure| failure.count).saturating_add(1);
        self.last = Some(Failure { at: now, count, launched: false, lived: false });
    }

    /// A browser is ready.
    pub(super) fn launched(&mut self) {
        if let Some(failure) = &mut self.last {
            failure.launched = true;
        }
    }

    /// A browser that has been ready since then runs.
    pub(super) fn runs(&mut self, since: Instant, now: Instant) {
        if let Some(failure) = &mut self.last {
            failure.lived |= since > failure.at && since + LIVED <= now;
        }
    }

    /// Whether the last browser failed, and none was ready since.
    pub(super) fn is_failing(&self) -> bool {
        self.last.is_some_and(|failure| !failure.launched)
    }

    /// Before this moment nothing is prewarmed.
    pub(super) fn until(&self) -> Option<Instant> {
        self.last.map(|failure| failure.at + PAUSES.after(failure.count))
    }
}
