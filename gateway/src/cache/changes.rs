//! The change log behind the REST API's event streams. Does no I/O.
//!
//! The log records *which* objects changed, not how: a reader looks up the current state of each object. A slow reader
//! therefore skips states, and its backlog is never longer than the number of objects. A reader that reconnects after
//! more than `KEPT` changes starts over.

use crate::cache::session::Key;
use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The number of changes that are kept for readers that reconnect.
const KEPT: usize = 8192;

/// An object that was created, changed or deleted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Changed {
    /// A session.
    Session(Key),
    /// A pool.
    Pool(Key),
}

/// The changes since the start of this process.
pub struct Changes {
    /// Random prefix of event ids, which distinguishes them from the ids of other processes.
    run: String,
    log: Mutex<VecDeque<Changed>>,
    /// Total number of changes. The log has the latest of them.
    count: watch::Sender<u64>,
}

/// A reader's position in the log, after the last change that it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

impl Default for Changes {
    fn default() -> Self {
        Self { run: uuid::Uuid::new_v4().simple().to_string(), log: Mutex::default(), count: watch::Sender::default() }
    }
}

impl Changes {
    /// Appends a change.
    pub fn record(&self, changed: Changed) {
        let mut log = self.log();
        if log.len() == KEPT {
            log.pop_front();
        }
        log.push_back(changed);
        self.count.send_modify(|count| *count += 1);
    }

    /// The position after the latest change.
    pub fn end(&self) -> Position {
        Position(*self.count.borrow())
    }

    /// Returns the objects that changed after a position, each once, and the position after them. None when the log no
    /// longer has all those changes.
    pub fn since(&self, Position(position): Position) -> Option<(Vec<Changed>, Position)> {
        let log = self.log();
        let count = *self.count.borrow();
        let missed = usize::try_from(count.checked_sub(position)?).ok()?;
        let first = log.len().checked_sub(missed)?;
        let mut seen = HashSet::new();
        let changed = log.range(first..).filter(|changed| seen.insert(*changed)).cloned().collect();
        Some((changed, Position(count)))
    }

    /// Waits for a change after a position.
    pub async fn wait_past(&self, Position(position): Position) {
        let mut count = self.count.subscribe();
        count.wait_for(|count| *count > position).await.expect("the sender lives in self");
    }

    /// Formats a position as an event id, which a reader sends when it reconnects.
    pub fn event_id(&self, Position(position): Position) -> String {
        format!("{}-{position}", self.run)
    }

    /// Parses an event id. None when it is malformed or from another process.
    pub fn parse_event_id(&self, id: &str) -> Option<Position> {
        let (run, position) = id.split_once('-')?;
        let position = Position(position.parse().ok()?);
        (run == self.run && position <= self.end()).then_some(position)
    }

    fn log(&self) -> MutexGuard<'_, VecDeque<Changed>> {
        // Poisoning is harmless: no code panics between two parts of an update.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn session(name: &str) -> Changed {
        Changed::Session(Key::new("ns", name).unwrap())
    }

    #[test]
    fn returns_each_changed_object_once() {
        let changes = Changes::default();
        changes.record(session("before"));
        let start = changes.end();
        for name in ["a", "b", "a", "a"] {
            changes.record(session(name));
        }
        let (changed, then) = changes.since(start).unwrap();
        assert_eq!(changed, [session("a"), session("b")]);
        assert_eq!(changes.since(then), Some((vec![], then)));
        assert!(changes.wait_past(start).now_or_never().is_some());
        assert!(changes.wait_past(then).now_or_never().is_none());
    }

    #[test]
    fn resumes_from_an_event_id_within_the_kept_changes() {
        let changes = Changes::default();
        let start = changes.parse_event_id(&changes.event_id(changes.end())).unwrap();
        for number in 0..KEPT {
            changes.record(session(&number.to_string()));
        }
        assert_eq!(changes.since(start).unwrap().0.len(), KEPT);
        changes.record(session("one-more"));
        assert_eq!(changes.since(start), None);
    }

    #[test]
    fn rejects_event_ids_that_are_malformed_or_of_another_process() {
        let changes = Changes::default();
        let foreign = Changes::default();
        let from_the_future = format!("{}-1", changes.run);
        for id in
            [foreign.event_id(foreign.end()).as_str(), &from_the_future, "", "-", "x", &format!("{}-x", changes.run)]
        {
            assert_eq!(changes.parse_event_id(id), None, "{id:?}");
        }
    }
}
