//! Paces the writes of a pool's status and finalizers. At most one is in flight, because each names the object's
//! resourceVersion.

use crate::core::{clock::Monotonic, messages::WriteFailure, retry::RetryState, status_write::StatusWrite};
use camofleet_crds::v1alpha1::WorkerPoolStatus;
use std::time::Duration;

/// Minimum interval between writes of a pool's status, which changes with every session.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(in crate::core) struct PoolWrites {
    status: StatusWrite<WorkerPoolStatus>,
    finalizers: RetryState,
    in_flight: Option<Patch>,
    /// When the status was written last.
    written: Option<Monotonic>,
}

/// A write in flight.
#[derive(Debug, PartialEq, Eq)]
enum Patch {
    Status,
    /// The sent finalizers.
    Finalizers(Vec<String>),
}

/// What the API server stored for an accepted write.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::core) enum AcceptedWrite {
    /// The status, except for these fields.
    Status { pruned: Vec<String> },
    /// The finalizers. `reverted` if they differ from the sent ones.
    Finalizers { reverted: bool },
    /// The write belongs to a former term.
    FormerTerm,
}

impl PoolWrites {
    /// Forgets writes of a former term, except for the time of the last status write.
    pub(in crate::core) fn begin_term(&mut self) {
        *self = Self { written: self.written, ..Self::default() };
    }

    /// Allows rejected writes again, because the object has changed.
    pub(in crate::core) fn object_changed(&mut self) {
        self.status.object_changed();
        if self.finalizers == RetryState::Rejected {
            self.finalizers = RetryState::Idle;
        }
    }

    pub(in crate::core) fn status(&self) -> &StatusWrite<WorkerPoolStatus> {
        &self.status
    }

    /// Returns whether no status may be written now.
    pub(in crate::core) fn status_is_blocked(&self, now: Monotonic) -> bool {
        let paused = self.written.is_some_and(|at| at.after(STATUS_PAUSE) > now);
        paused || self.in_flight.is_some() || self.status.is_blocked(now)
    }

    pub(in crate::core) fn begin_status(&mut self, status: WorkerPoolStatus, now: Monotonic) {
        self.status.begin(status);
        (self.in_flight, self.written) = (Some(Patch::Status), Some(now));
    }

    /// Starts the write of these finalizers. Returns `false` if it is not allowed now.
    pub(in crate::core) fn begin_finalizers(&mut self, finalizers: &[String], now: Monotonic) -> bool {
        let begins = self.in_flight.is_none() && self.finalizers.may_start(now);
        if begins {
            self.finalizers = self.finalizers.started();
            self.in_flight = Some(Patch::Finalizers(finalizers.to_owned()));
        }
        begins
    }

    /// Records that the write in flight was accepted, and compares it with the stored values.
    pub(in crate::core) fn accepted(
        &mut self,
        status: Option<&WorkerPoolStatus>,
        finalizers: &[String],
        pool: &str,
        now: Monotonic,
    ) -> AcceptedWrite {
        match self.in_flight.take() {
            Some(Patch::Status) => AcceptedWrite::Status { pruned: self.status.accepted(status, pool, now) },
            Some(Patch::Finalizers(sent)) => {
                let reverted = finalizers != sent;
                self.finalizers = if reverted { self.finalizers.failed(pool, now) } else { RetryState::Idle };
                AcceptedWrite::Finalizers { reverted }
            }
            None => AcceptedWrite::FormerTerm,
        }
    }

    /// Records that the write in flight failed. After a conflict the watch delivers the newer object.
    pub(in crate::core) fn failed(&mut self, failure: &WriteFailure, pool: &str, now: Monotonic) {
        match (self.in_flight.take(), failure) {
            (Some(Patch::Status), failure) => self.status.failed(failure, pool, now),
            (Some(Patch::Finalizers(_)), WriteFailure::Rejected(_)) => self.finalizers = RetryState::Rejected,
            (Some(Patch::Finalizers(_)), _) => self.finalizers = self.finalizers.failed(pool, now),
            (None, _) => {}
        }
    }

    /// When a write may become due.
    pub(in crate::core) fn timers(&self) -> impl Iterator<Item = Monotonic> {
        let paused = self.written.map(|at| at.after(STATUS_PAUSE));
        [self.status.retry_at(), self.finalizers.retry_at(), paused].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finalizers() -> Vec<String> {
        vec!["a/b".to_owned()]
    }

    #[test]
    fn allows_one_write_at_a_time_and_one_status_a_second() {
        let (mut writes, status) = (PoolWrites::default(), WorkerPoolStatus::default());
        writes.begin_status(status.clone(), Monotonic(0));
        assert!(!writes.begin_finalizers(&finalizers(), Monotonic(0)));
        assert_eq!(writes.accepted(Some(&status), &[], "p", Monotonic(10)), AcceptedWrite::Status { pruned: vec![] });
        assert!(writes.status_is_blocked(Monotonic(999)) && !writes.status_is_blocked(Monotonic(1000)));
        assert_eq!(writes.timers().collect::<Vec<_>>(), [Monotonic(1000)]);
        assert!(writes.begin_finalizers(&finalizers(), Monotonic(1000)) && writes.status_is_blocked(Monotonic(1000)));
        assert_eq!(
            writes.accepted(None, &finalizers(), "p", Monotonic(1000)),
            AcceptedWrite::Finalizers { reverted: false }
        );
        assert_eq!(writes.accepted(None, &[], "p", Monotonic(1000)), AcceptedWrite::FormerTerm);
    }

    #[test]
    fn retries_reverted_finalizers_after_a_pause() {
        let mut writes = PoolWrites::default();
        assert!(writes.begin_finalizers(&finalizers(), Monotonic(0)));
        assert_eq!(writes.accepted(None, &[], "p", Monotonic(0)), AcceptedWrite::Finalizers { reverted: true });
        assert!(!writes.begin_finalizers(&finalizers(), Monotonic(0)));
        let retry_at = writes.timers().next().unwrap();
        assert!(writes.begin_finalizers(&finalizers(), retry_at));
    }

    #[test]
    fn a_rejected_write_waits_for_a_changed_object() {
        let mut writes = PoolWrites::default();
        assert!(writes.begin_finalizers(&finalizers(), Monotonic(0)));
        writes.failed(&WriteFailure::Rejected(String::new()), "p", Monotonic(0));
        assert!(!writes.begin_finalizers(&finalizers(), Monotonic(i64::MAX)));
        writes.object_changed();
        assert!(writes.begin_finalizers(&finalizers(), Monotonic(0)));
        writes.begin_term();
        assert!(writes.begin_finalizers(&finalizers(), Monotonic(0)), "the rejection belongs to an earlier term");
    }
}
