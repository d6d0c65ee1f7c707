//! Timers: at most one for each key.

use crate::core::clock::Monotonic;
use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

/// Timers by key. Setting a timer replaces the previous one of its key.
#[derive(Debug)]
pub(super) struct Timers<K> {
    by_key: HashMap<K, Monotonic>,
    by_time: BTreeSet<(Monotonic, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Clone + Ord + Hash> Timers<K> {
    pub(super) fn set(&mut self, key: K, at: Monotonic) {
        self.clear(&key);
        self.by_key.insert(key.clone(), at);
        self.by_time.insert((at, key));
    }

    pub(super) fn clear(&mut self, key: &K) {
        if let Some((key, at)) = self.by_key.remove_entry(key) {
            self.by_time.remove(&(at, key));
        }
    }

    pub(super) fn next(&self) -> Option<Monotonic> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Removes a timer that is due, and returns its key.
    pub(super) fn pop_due(&mut self, now: Monotonic) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }
}
