//! Monotonic and wall time as values. Durations are measured on the monotonic clock, so that setting a wall clock ends
//! no session. Published times are wall time.

use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

/// A time on the process's monotonic clock, in milliseconds. It may lie before the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub i64);

impl Monotonic {
    /// Adds a duration.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(millis(time)))
    }

    /// Subtracts a duration.
    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(millis(time)))
    }

    /// The time since `earlier`. Zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The current time on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time, for durations.
    pub monotonic: Monotonic,
    /// Wall time, for published times and for comparison with them.
    pub wall: Timestamp,
}

/// The interval between two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Start.
    pub from: Now,
    /// End.
    pub to: Now,
}

impl Interval {
    /// Length on the monotonic clock.
    pub fn length(self) -> Duration {
        self.to.monotonic.since(self.from.monotonic)
    }
}

impl Now {
    /// Converts a past wall time to the monotonic clock. A future time counts as now.
    pub fn monotonic_of(self, wall: Timestamp) -> Monotonic {
        let age = self.wall.duration_since(wall);
        self.monotonic.before(Duration::try_from(age).unwrap_or_default())
    }
}
