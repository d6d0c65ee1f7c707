//! Limits how many writes of `Queued` are under way. More would only wait in a line, and with them those of their sessions that get
//! a slot meanwhile.

use crate::core::ids::Uid;
use std::collections::BTreeSet;

/// Writes of `Queued` that are under way at once.
const MAX_IN_FLIGHT: usize = 8;

/// The sessions whose `Queued` is being written, and those that wait for their turn.
#[derive(Debug, Default)]
pub(in crate::core) struct QueuedWrites {
    under_way: BTreeSet<Uid>,
    waiting: BTreeSet<Uid>,
}

impl QueuedWrites {
    /// Begins the write of a session's status. False: as many as may be are under way, and [`QueuedWrites::finish`] returns the session
    /// when one of them has finished.
    pub(in crate::core) fn begin(&mut self, session: &Uid) -> bool {
        if self.under_way.len() >= MAX_IN_FLIGHT {
            self.waiting.insert(session.clone());
            return false;
        }
        self.under_way.insert(session.clone());
        true
    }

    /// A write of a session's status has finished. Returns a session whose turn it is now; none when the write was of another state, or
    /// none waits.
    pub(in crate::core) fn finish(&mut self, session: &Uid) -> Option<Uid> {
        if self.under_way.remove(session) { self.waiting.pop_first() } else { None }
    }

    /// The session has no `Queued` to write any more.
    pub(in crate::core) fn withdraw(&mut self, session: &Uid) {
        self.waiting.remove(session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_writes_in_flight_and_starts_the_next_one() {
        let mut writes = QueuedWrites::default();
        let session = |number: usize| format!("s-{number:02}");
        let began: Vec<_> = (0..12).filter(|number| writes.begin(&session(*number))).collect();
        assert_eq!(began, (0..MAX_IN_FLIGHT).collect::<Vec<_>>());
        assert_eq!(writes.finish(&session(11)), None, "it was not under way");
        writes.withdraw(&session(8));
        assert_eq!(writes.finish(&session(3)), Some(session(9)));
        assert!(writes.begin(&session(9)));
        assert_eq!(writes.finish(&session(0)), Some(session(10)));
        assert_eq!(writes.finish(&session(1)), Some(session(11)));
        assert_eq!(writes.finish(&session(2)), None, "none waits");
        assert_eq!(writes.finish(&session(2)), None, "it has finished before");
    }
}
