//! Retry state of a call.

use crate::core::clock::Monotonic;
use camofleet_runtime::backoff::ExponentialBackoff;
use std::time::Duration;

const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_millis(200), Duration::from_secs(30));

/// A call that is repeated with growing pauses until it succeeds. At most one is in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::core) enum RetryState {
    /// No call is needed, or the call may start now.
    #[default]
    Idle,
    InFlight {
        failures: u32,
    },
    /// The call failed, and may start again at `until`.
    Pause {
        until: Monotonic,
        failures: u32,
    },
    /// The call was rejected. It is not repeated until the object changes.
    Rejected,
}

impl RetryState {
    pub(in crate::core) fn may_start(self, now: Monotonic) -> bool {
        match self {
            Self::Idle => true,
            Self::InFlight { .. } | Self::Rejected => false,
            Self::Pause { until, .. } => until <= now,
        }
    }

    pub(in crate::core) fn started(self) -> Self {
        match self {
            Self::Pause { failures, .. } | Self::InFlight { failures } => Self::InFlight { failures },
            Self::Idle | Self::Rejected => Self::InFlight { failures: 0 },
        }
    }

    /// Schedules the next attempt. The pause has a jitter that depends on `id`.
    pub(in crate::core) fn failed(self, id: &str, now: Monotonic) -> Self {
        let failures = match self {
            Self::InFlight { failures } | Self::Pause { failures, .. } => failures.saturating_add(1),
            Self::Idle | Self::Rejected => 1,
        };
        let pause = BACKOFF.after(failures);
        let jitter = id.bytes().fold(failures, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte))) % 256;
        Self::Pause { until: now.after(pause.mul_f64(0.75 + f64::from(jitter) / 1024.0)), failures }
    }

    /// Number of consecutive failures.
    pub(in crate::core) fn failures(self) -> u32 {
        match self {
            Self::InFlight { failures } | Self::Pause { failures, .. } => failures,
            Self::Idle | Self::Rejected => 0,
        }
    }

    pub(in crate::core) fn retry_at(self) -> Option<Monotonic> {
        match self {
            Self::Pause { until, .. } => Some(until),
            Self::Idle | Self::InFlight { .. } | Self::Rejected => None,
        }
    }
}
