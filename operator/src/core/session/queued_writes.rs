//! Limits how many writes of `Queued` are in flight. More of them would delay the next write of a session that gets a
//! slot in the meantime.

use crate::core::ids::Uid;
use std::collections::BTreeSet;

/// Concurrent writes of `Queued`.
const MAX_IN_FLIGHT: usize = 8;

/// Sessions whose `Queued` is being written, and sessions that wait for their turn.
#[derive(Debug, Default)]
pub(in crate::core) struct QueuedWrites {
    in_flight: BTreeSet<Uid>,
    waiting: BTreeSet<Uid>,
}

impl QueuedWrites {
    /// Begins the write for a session. Returns `false` when the limit is reached. [`QueuedWrites::finish`] then returns
    /// the session later.
    pub(in crate::core) fn begin(&mut self, session: &Uid) -> bool {
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.waiting.insert(session.clone());
            return false;
        }
        self.in_flight.insert(session.clone());
        true
    }

    /// Records that a status write of a session has finished. Returns the next session to write. Returns `None` when
    /// the write was of another state, or no session waits.
    pub(in crate::core) fn finish(&mut self, session: &Uid) -> Option<Uid> {
        if self.in_flight.remove(session) { self.waiting.pop_first() } else { None }
    }

    /// Removes a session that no longer needs `Queued` written.
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
        assert_eq!(writes.finish(&session(11)), None, "its write was not in flight");
        writes.withdraw(&session(8));
        assert_eq!(writes.finish(&session(3)), Some(session(9)));
        assert!(writes.begin(&session(9)));
        assert_eq!(writes.finish(&session(0)), Some(session(10)));
        assert_eq!(writes.finish(&session(1)), Some(session(11)));
        assert_eq!(writes.finish(&session(2)), None, "no session waits");
        assert_eq!(writes.finish(&session(2)), None, "its write has already finished");
    }
}
