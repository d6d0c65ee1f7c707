//! Which session was held by which runner, and when: what must never be twice at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// The book of all runners.
#[derive(Debug, Default)]
pub struct Record(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    bindings: BTreeMap<String, Vec<Binding>>,
    doubled: BTreeSet<String>,
    gone: BTreeMap<String, Instant>,
    latest: Option<Instant>,
}

/// One session on one runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// UID of the runner's pod.
    pub runner: String,
    /// When the runner took it.
    pub bound: Instant,
    /// When its slot was free again.
    pub ended: Option<Instant>,
}

impl Record {
    /// A runner took a session that it did not have.
    pub fn bound(&self, session: &str, runner: &str, now: Instant) {
        let mut pages = self.pages();
        let bindings = pages.bindings.entry(session.to_owned()).or_default();
        let is_held = bindings.iter().any(|binding| binding.ended.is_none());
        bindings.push(Binding { runner: runner.to_owned(), bound: now, ended: None });
        pages.latest = Some(now);
        if is_held {
            pages.doubled.insert(session.to_owned());
        }
    }

    /// A runner no longer holds a session.
    pub fn ended(&self, session: &str, runner: &str, now: Instant) {
        let mut pages = self.pages();
        let bindings = pages.bindings.get_mut(session).into_iter().flatten();
        for binding in bindings.filter(|binding| binding.runner == runner && binding.ended.is_none()) {
            binding.ended = Some(now);
        }
    }

    /// A runner is gone, with all that it held.
    pub fn gone(&self, runner: &str, now: Instant) {
        let mut pages = self.pages();
        for binding in pages.bindings.values_mut().flatten().filter(|binding| binding.runner == runner) {
            binding.ended = binding.ended.or(Some(now));
        }
        pages.gone.entry(runner.to_owned()).or_insert(now);
    }

    /// When a runner, or the first process in it, was gone.
    pub fn gone_at(&self, runner: &str) -> Option<Instant> {
        self.pages().gone.get(runner).copied()
    }

    /// The runners that ever held a session, the first first.
    pub fn bindings(&self, session: &str) -> Vec<Binding> {
        self.pages().bindings.get(session).cloned().unwrap_or_default()
    }

    /// Sessions that were held by two runners at a time.
    pub fn doubled(&self) -> BTreeSet<String> {
        self.pages().doubled.clone()
    }

    /// Sessions that runners hold now.
    pub fn held(&self) -> BTreeSet<String> {
        let pages = self.pages();
        let held = |bindings: &[Binding]| bindings.iter().any(|binding| binding.ended.is_none());
        pages.bindings.iter().filter(|(_, bindings)| held(bindings)).map(|(session, _)| session.clone()).collect()
    }

    /// How many times a session was taken by a runner.
    pub fn count(&self) -> usize {
        self.pages().bindings.values().map(Vec::len).sum()
    }

    /// The first time after that one at which a runner took a session.
    pub fn first_after(&self, time: Instant) -> Option<Instant> {
        let pages = self.pages();
        pages.latest.filter(|latest| *latest > time)?;
        pages.bindings.values().flatten().map(|binding| binding.bound).filter(|bound| *bound > time).min()
    }

    fn pages(&self) -> std::sync::MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_after_another_is_no_double_and_two_at_once_are() {
        let (record, now) = (Record::default(), Instant::now());
        record.bound("a", "one", now);
        record.ended("a", "one", now);
        record.bound("a", "two", now);
        assert!(record.doubled().is_empty());
        record.bound("a", "three", now);
        assert_eq!(record.doubled(), BTreeSet::from(["a".to_owned()]));
        assert_eq!(record.bindings("a").len(), 3);
    }

    #[test]
    fn a_runner_that_is_gone_holds_nothing() {
        let (record, now) = (Record::default(), Instant::now());
        record.bound("a", "one", now);
        assert_eq!(record.held(), BTreeSet::from(["a".to_owned()]));
        record.gone("one", now);
        assert!(record.held().is_empty());
        assert_eq!((record.gone_at("one"), record.gone_at("two")), (Some(now), None));
        record.bound("a", "two", now);
        assert!(record.doubled().is_empty());
    }

    #[test]
    fn the_first_after_a_moment_is_found() {
        let (record, now) = (Record::default(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        record.bound("a", "one", now);
        assert_eq!(record.first_after(now), None);
        record.bound("b", "one", later(1));
        record.bound("c", "one", later(2));
        assert_eq!(record.first_after(now), Some(later(1)));
    }
}
