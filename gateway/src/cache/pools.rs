//! The cache of the pools of all namespaces. Does no I/O; the watches in `kubernetes` feed it.

use crate::cache::session::Key;
use camofleet_crds::v1alpha1::{NamespacesFrom, RunnerTemplate, WorkerPool};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The cache of pools.
#[derive(Default)]
pub struct Pools(Mutex<Cache>);

#[derive(Default)]
struct Cache {
    by_key: BTreeMap<Key, Arc<WorkerPool>>,
    synced: bool,
}

/// Removes the template of the runner pods and the current revision, which are most of a pool and which the gateway does
/// not read.
pub fn without_template(mut pool: WorkerPool) -> WorkerPool {
    pool.spec.template = RunnerTemplate::default();
    if let Some(status) = &mut pool.status {
        status.current_revision = None;
    }
    pool
}

impl Pools {
    /// Replaces the cache with a complete list of pools. Returns the keys of pools that changed or are gone.
    pub fn replace_all(&self, pools: Vec<(Key, Arc<WorkerPool>)>) -> Vec<Key> {
        let mut cache = self.cache();
        let former = mem::replace(&mut cache.by_key, pools.into_iter().collect());
        cache.synced = true;
        let gone = former.keys().filter(|key| !cache.by_key.contains_key(*key));
        let changed = cache.by_key.iter().filter(|(key, pool)| former.get(*key) != Some(*pool)).map(|(key, _)| key);
        gone.chain(changed).cloned().collect()
    }

    /// Inserts or replaces a pool. Returns whether it changed.
    pub fn put(&self, key: Key, pool: impl Into<Arc<WorkerPool>>) -> bool {
        let pool = pool.into();
        let by_key = &mut self.cache().by_key;
        let changed = by_key.get(&key) != Some(&pool);
        by_key.insert(key, pool);
        changed
    }

    /// Removes a deleted pool.
    pub fn remove(&self, key: &Key) {
        self.cache().by_key.remove(key);
    }

    /// Whether a complete list was received.
    pub fn has_synced(&self) -> bool {
        self.cache().synced
    }

    /// The pool with this name.
    pub fn get(&self, key: &Key) -> Option<Arc<WorkerPool>> {
        self.cache().by_key.get(key).cloned()
    }

    /// The pools of a namespace, sorted by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<WorkerPool>> {
        let cache = self.cache();
        cache.by_key.iter().filter(|(key, _)| key.namespace() == namespace).map(|(_, pool)| Arc::clone(pool)).collect()
    }

    /// Whether any pool may serve sessions of this namespace: a pool of the same namespace, or one that allows other
    /// namespaces. The operator decides which of those namespaces it allows.
    pub fn any_may_serve(&self, namespace: &str) -> bool {
        let shared = |pool: &WorkerPool| pool.spec.allowed_namespaces.from != NamespacesFrom::Same;
        self.cache().by_key.iter().any(|(key, pool)| key.namespace() == namespace || shared(pool))
    }

    /// The namespaces that have pools.
    pub fn namespaces(&self) -> BTreeSet<String> {
        self.cache().by_key.keys().map(|key| key.namespace().to_owned()).collect()
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Poisoning is harmless: no code panics between two parts of an update.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::v1alpha1::{CurrentRevision, WorkerPoolSpec, WorkerPoolStatus};

    fn key(name: &str) -> Key {
        Key::new("ns", name).unwrap()
    }

    fn pool(replicas: i32) -> WorkerPool {
        WorkerPool::new("pool", WorkerPoolSpec { replicas: Some(replicas), ..WorkerPoolSpec::default() })
    }

    #[test]
    fn drops_the_template_and_the_current_revision() {
        let (pools, mut pool) = (Pools::default(), pool(1));
        pool.spec.template.image = Some("image".into());
        let current = CurrentRevision { revision: "revision".into(), shape: "shape".into() };
        pool.status =
            Some(WorkerPoolStatus { queued: 3, current_revision: Some(current), ..WorkerPoolStatus::default() });
        pools.put(key("pool"), without_template(pool));
        let kept = pools.get(&key("pool")).unwrap();
        assert_eq!(kept.spec.template, RunnerTemplate::default());
        assert_eq!(kept.status, Some(WorkerPoolStatus { queued: 3, ..WorkerPoolStatus::default() }));
    }

    #[test]
    fn a_list_replaces_the_cache_and_returns_the_changes() {
        let (pools, pool) = (Pools::default(), |replicas| Arc::new(pool(replicas)));
        for name in ["same", "changed", "gone"] {
            assert!(pools.put(key(name), pool(1)));
        }
        assert!(!pools.put(key("same"), pool(1)));
        assert!(pools.get(&key("gone")).is_some() && pools.get(&key("new")).is_none() && !pools.has_synced());
        let listed = [("same", 1), ("changed", 2), ("new", 1)].map(|(name, replicas)| (key(name), pool(replicas)));
        assert_eq!(pools.replace_all(listed.to_vec()), [key("gone"), key("changed"), key("new")]);
        assert!(pools.get(&key("gone")).is_none() && pools.has_synced());
        assert_eq!(pools.in_namespace("ns").len(), 3);
        assert_eq!(pools.in_namespace("other").len(), 0);
    }
}
