//! Log of which runner held which session and when, to detect sessions that two runners held at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// The bindings of all runners.
#[derive(Debug, Default)]
pub struct BindingLog(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    bindings: BTreeMap<String, Vec<Binding>>,
    bound_twice: BTreeSet<String>,
    gone: BTreeMap<String, Instant>,
    latest: Option<Instant>,
}

/// A session on a runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// UID of the runner's pod.
    pub runner: String,
    /// When the runner bound the session.
    pub bound: Instant,
    /// When the slot was free again.
    pub ended: Option<Instant>,
}

impl BindingLog {
    /// Records that a runner bound a new session.
    pub fn record_bind(&self, session: &str, runner: &str, now: Instant) {
        let mut entries = self.entries();
        let bindings = entries.bindings.entry(session.to_owned()).or_default();
        let is_bound = bindings.iter().any(|binding| binding.ended.is_none());
        bindings.push(Binding { runner: runner.to_owned(), bound: now, ended: None });
        entries.latest = Some(now);
        if is_bound {
            entries.bound_twice.insert(session.to_owned());
        }
    }

    /// Records that a runner freed the slot of a session.
    pub fn record_end(&self, session: &str, runner: &str, now: Instant) {
        let mut entries = self.entries();
        let bindings = entries.bindings.get_mut(session).into_iter().flatten();
        for binding in bindings.filter(|binding| binding.runner == runner && binding.ended.is_none()) {
            binding.ended = Some(now);
        }
    }

    /// Records that a runner, or its process, is gone with all its sessions.
    pub fn record_runner_gone(&self, runner: &str, now: Instant) {
        let mut entries = self.entries();
        for binding in entries.bindings.values_mut().flatten().filter(|binding| binding.runner == runner) {
            binding.ended = binding.ended.or(Some(now));
        }
        entries.gone.entry(runner.to_owned()).or_insert(now);
    }

    /// When a runner, or its first process, was gone.
    pub fn runner_gone_at(&self, runner: &str) -> Option<Instant> {
        self.entries().gone.get(runner).copied()
    }

    /// All bindings of a session, oldest first.
    pub fn of_session(&self, session: &str) -> Vec<Binding> {
        self.entries().bindings.get(session).cloned().unwrap_or_default()
    }

    /// Sessions that two runners held at the same time.
    pub fn bound_twice(&self) -> BTreeSet<String> {
        self.entries().bound_twice.clone()
    }

    /// Sessions that runners hold now.
    pub fn held(&self) -> BTreeSet<String> {
        let entries = self.entries();
        let held = |bindings: &[Binding]| bindings.iter().any(|binding| binding.ended.is_none());
        entries.bindings.iter().filter(|(_, bindings)| held(bindings)).map(|(session, _)| session.clone()).collect()
    }

    /// Number of bindings of all sessions.
    pub fn count(&self) -> usize {
        self.entries().bindings.values().map(Vec::len).sum()
    }

    /// Time of the first binding after `time`.
    pub fn first_bind_after(&self, time: Instant) -> Option<Instant> {
        let entries = self.entries();
        entries.latest.filter(|latest| *latest > time)?;
        entries.bindings.values().flatten().map(|binding| binding.bound).filter(|bound| *bound > time).min()
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_bindings_that_overlap_count_as_bound_twice() {
        let (binding_log, now) = (BindingLog::default(), Instant::now());
        binding_log.record_bind("a", "one", now);
        binding_log.record_end("a", "one", now);
        binding_log.record_bind("a", "two", now);
        assert!(binding_log.bound_twice().is_empty());
        binding_log.record_bind("a", "three", now);
        assert_eq!(binding_log.bound_twice(), BTreeSet::from(["a".to_owned()]));
        assert_eq!(binding_log.of_session("a").len(), 3);
    }

    #[test]
    fn a_runner_that_is_gone_holds_no_session() {
        let (binding_log, now) = (BindingLog::default(), Instant::now());
        binding_log.record_bind("a", "one", now);
        assert_eq!(binding_log.held(), BTreeSet::from(["a".to_owned()]));
        binding_log.record_runner_gone("one", now);
        assert!(binding_log.held().is_empty());
        assert_eq!((binding_log.runner_gone_at("one"), binding_log.runner_gone_at("two")), (Some(now), None));
        binding_log.record_bind("a", "two", now);
        assert!(binding_log.bound_twice().is_empty());
    }

    #[test]
    fn finds_the_first_bind_after_a_time() {
        let (binding_log, now) = (BindingLog::default(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        binding_log.record_bind("a", "one", now);
        assert_eq!(binding_log.first_bind_after(now), None);
        binding_log.record_bind("b", "one", later(1));
        binding_log.record_bind("c", "one", later(2));
        assert_eq!(binding_log.first_bind_after(now), Some(later(1)));
    }
}
