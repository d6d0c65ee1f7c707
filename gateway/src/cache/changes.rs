//! What changed, in order, for those who follow everything: the events of the REST API. Does no IO.
//!
//! It keeps *which* objects changed, not how: a reader is told how each stands when it is read. So a reader that is slow skips
//! states and never falls behind by more than there are objects; one that was away for too long begins anew.

use crate::cache::session::Key;
use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// So many changes are kept for readers that come back.
const KEPT: usize = 8192;

/// An object that changed, or is gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Changed {
    /// A session.
    Session(Key),
    /// A pool.
    Pool(Key),
}

/// The changes since this process began to watch.
pub struct Feed {
    /// Tells the positions of this process from those of others.
    run: String,
    log: Mutex<VecDeque<Changed>>,
    /// How many changes there were. Those in the log are the latest.
    count: watch::Sender<u64>,
}

/// Where a reader is: it was told of everything before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

impl Default for Feed {
    fn default() -> Self {
        Self { run: uuid::Uuid::new_v4().simple().to_string(), log: Mutex::default(), count: watch::Sender::default() }
    }
}

impl Feed {
    /// An object changed.
    pub fn record(&self, changed: Changed) {
        let mut log = self.log();
        if log.len() == KEPT {
            log.pop_front();
        }
        log.push_back(changed);
        self.count.send_modify(|count| *count += 1);
    }

    /// Where a reader stands that is told everything as it is now.
    pub fn now(&self) -> Position {
        Position(*self.count.borrow())
    }

    /// What changed since then, each object once, and where the reader stands after it. None when that is too long ago to know.
    pub fn since(&self, Position(position): Position) -> Option<(Vec<Changed>, Position)> {
        let log = self.log();
        let count = *self.count.borrow();
        let missed = usize::try_from(count.checked_sub(position)?).ok()?;
        let first = log.len().checked_sub(missed)?;
        let mut seen = HashSet::new();
        let changed = log.range(first..).filter(|changed| seen.insert(*changed)).cloned().collect();
        Some((changed, Position(count)))
    }

    /// Waits until there is more than that.
    pub async fn more_than(&self, Position(position): Position) {
        let mut count = self.count.subscribe();
        count.wait_for(|count| *count > position).await.expect("the sender lives in self");
    }

    /// The position as text that a reader can come back with.
    pub fn id(&self, Position(position): Position) -> String {
        format!("{}-{position}", self.run)
    }

    /// The position that this text stands for. None when another process gave it, or nobody.
    pub fn position(&self, id: &str) -> Option<Position> {
        let (run, position) = id.split_once('-')?;
        let position = Position(position.parse().ok()?);
        (run == self.run && position <= self.now()).then_some(position)
    }

    fn log(&self) -> MutexGuard<'_, VecDeque<Changed>> {
        // Every change is complete before anything can panic.
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
    fn a_reader_is_told_of_each_object_once() {
        let feed = Feed::default();
        feed.record(session("before"));
        let start = feed.now();
        for name in ["a", "b", "a", "a"] {
            feed.record(session(name));
        }
        let (changed, then) = feed.since(start).unwrap();
        assert_eq!(changed, [session("a"), session("b")]);
        assert_eq!(feed.since(then), Some((vec![], then)));
        assert!(feed.more_than(start).now_or_never().is_some());
        assert!(feed.more_than(then).now_or_never().is_none());
    }

    #[test]
    fn a_reader_that_was_away_comes_back_by_id_unless_for_too_long() {
        let feed = Feed::default();
        let start = feed.position(&feed.id(feed.now())).unwrap();
        for number in 0..KEPT {
            feed.record(session(&number.to_string()));
        }
        assert_eq!(feed.since(start).unwrap().0.len(), KEPT);
        feed.record(session("one-more"));
        assert_eq!(feed.since(start), None);
    }

    #[test]
    fn ids_of_other_processes_and_nonsense_are_no_positions() {
        let feed = Feed::default();
        let foreign = Feed::default();
        let from_the_future = format!("{}-1", feed.run);
        for id in [foreign.id(foreign.now()).as_str(), &from_the_future, "", "-", "x", &format!("{}-x", feed.run)] {
            assert_eq!(feed.position(id), None, "{id:?}");
        }
    }
}
