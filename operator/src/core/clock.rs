//! Time as a value. Waiting is measured on a monotonic clock, so that nobody's session ends because a wall clock was
//! set; what people read is wall time.

use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

/// A moment of the process's monotonic clock, in milliseconds. It may lie before the process's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub i64);

impl Mono {
    /// So much later.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(millis(time)))
    }

    /// So much earlier.
    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(millis(time)))
    }

    /// The time since an earlier moment; nothing when it is a later one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The present, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For measuring.
    pub mono: Mono,
    /// For people and for what other processes wrote.
    pub wall: Timestamp,
}

/// A time from one moment to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Its beginning.
    pub from: Now,
    /// Its end.
    pub to: Now,
}

impl Interval {
    /// How long it is.
    pub fn length(self) -> Duration {
        self.to.mono.since(self.from.mono)
    }
}

impl Now {
    /// When something that carries a wall time happened, on the monotonic clock. The future counts as now.
    pub fn mono_of(self, wall: Timestamp) -> Mono {
        let age = self.wall.duration_since(wall);
        self.mono.before(Duration::try_from(age).unwrap_or_default())
    }
}
