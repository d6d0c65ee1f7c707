//! Calls that are repeated until they were answered.

use crate::core::clock::Mono;
use camofleet_runtime::backoff::ExponentialBackoff;
use std::time::Duration;

/// The pauses of a call that fails.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_millis(200), Duration::from_secs(30));

/// A call of which at most one is under way, and which is repeated with growing pauses until it was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::core) enum RetryState {
    /// None is wanted, or it may be made now.
    #[default]
    Idle,
    /// It is under way.
    InFlight { failures: u32 },
    /// It failed, and may be made again then.
    Pause { until: Mono, failures: u32 },
    /// It was refused for good: only another object makes it worthwhile.
    Refused,
}

impl RetryState {
    pub(in crate::core) fn may_start(self, now: Mono) -> bool {
        match self {
            Self::Idle => true,
            Self::InFlight { .. } | Self::Refused => false,
            Self::Pause { until, .. } => until <= now,
        }
    }

    pub(in crate::core) fn started(self) -> Self {
        match self {
            Self::Pause { failures, .. } | Self::InFlight { failures } => Self::InFlight { failures },
            Self::Idle | Self::Refused => Self::InFlight { failures: 0 },
        }
    }

    /// After a failure: each subject's pause is a little different.
    pub(in crate::core) fn failed(self, subject: &str, now: Mono) -> Self {
        let failures = match self {
            Self::InFlight { failures } | Self::Pause { failures, .. } => failures.saturating_add(1),
            Self::Idle | Self::Refused => 1,
        };
        let pause = BACKOFF.after(failures);
        let jitter =
            subject.bytes().fold(failures, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte))) % 256;
        Self::Pause { until: now.after(pause.mul_f64(0.75 + f64::from(jitter) / 1024.0)), failures }
    }

    /// How often it failed in a row.
    pub(in crate::core) fn failures(self) -> u32 {
        match self {
            Self::InFlight { failures } | Self::Pause { failures, .. } => failures,
            Self::Idle | Self::Refused => 0,
        }
    }

    pub(in crate::core) fn retry_at(self) -> Option<Mono> {
        match self {
            Self::Pause { until, .. } => Some(until),
            Self::Idle | Self::InFlight { .. } | Self::Refused => None,
        }
    }
}
