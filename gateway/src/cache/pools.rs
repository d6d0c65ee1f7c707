//! The pools of all namespaces as the watch tells them. Does no IO: whoever watches the API server feeds it.

use crate::cache::session::Key;
use camofleet_crds::v1alpha1::{NamespacesFrom, RunnerTemplate, WorkerPool};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The cache.
#[derive(Default)]
pub struct Pools(Mutex<Cache>);

#[derive(Default)]
struct Cache {
    known: BTreeMap<Key, Arc<WorkerPool>>,
    synced: bool,
}

/// The pool without the shape of its runner pods: it is the largest part of a pool, and the gateway does not read it.
pub fn without_template(mut pool: WorkerPool) -> WorkerPool {
    pool.spec.template = RunnerTemplate::default();
    if let Some(status) = &mut pool.status {
        status.serving = None;
    }
    pool
}

impl Pools {
    /// Takes the complete list of pools: one that is not in it is gone. Returns what changed.
    pub fn replace_all(&self, pools: Vec<(Key, Arc<WorkerPool>)>) -> Vec<Key> {
        let mut cache = self.cache();
        let former = mem::replace(&mut cache.known, pools.into_iter().collect());
        cache.synced = true;
        let gone = former.keys().filter(|key| !cache.known.contains_key(*key));
        let changed = cache.known.iter().filter(|(key, pool)| former.get(*key) != Some(*pool)).map(|(key, _)| key);
        gone.chain(changed).cloned().collect()
    }

    /// A pool is there. Whether that is news.
    pub fn put(&self, key: Key, pool: impl Into<Arc<WorkerPool>>) -> bool {
        let pool = pool.into();
        let known = &mut self.cache().known;
        let is_news = known.get(&key) != Some(&pool);
        known.insert(key, pool);
        is_news
    }

    /// A pool was deleted.
    pub fn remove(&self, key: &Key) {
        self.cache().known.remove(key);
    }

    /// Whether a whole list was read once.
    pub fn has_synced(&self) -> bool {
        self.cache().synced
    }

    /// The pool of that name.
    pub fn get(&self, key: &Key) -> Option<Arc<WorkerPool>> {
        self.cache().known.get(key).cloned()
    }

    /// A namespace's pools by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<WorkerPool>> {
        let cache = self.cache();
        cache.known.iter().filter(|(key, _)| key.namespace() == namespace).map(|(_, pool)| Arc::clone(pool)).collect()
    }

    /// Whether a session of that namespace may find a pool: one of its own, or one that is for other namespaces too.
    /// For which, the operator judges.
    pub fn any_may_serve(&self, namespace: &str) -> bool {
        let shared = |pool: &WorkerPool| pool.spec.allowed_namespaces.from != NamespacesFrom::Same;
        self.cache().known.iter().any(|(key, pool)| key.namespace() == namespace || shared(pool))
    }

    /// The namespaces that have pools.
    pub fn namespaces(&self) -> BTreeSet<String> {
        self.cache().known.keys().map(|key| key.namespace().to_owned()).collect()
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Every change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::v1alpha1::{Serving, WorkerPoolSpec, WorkerPoolStatus};

    fn key(name: &str) -> Key {
        Key::new("ns", name).unwrap()
    }

    fn pool(replicas: i32) -> WorkerPool {
        WorkerPool::new("pool", WorkerPoolSpec { replicas: Some(replicas), ..WorkerPoolSpec::default() })
    }

    #[test]
    fn drops_the_template_and_the_serving_shape() {
        let (pools, mut pool) = (Pools::default(), pool(1));
        pool.spec.template.image = Some("image".into());
        let serving = Serving { revision: "revision".into(), shape: "shape".into() };
        pool.status = Some(WorkerPoolStatus { queued: 3, serving: Some(serving), ..WorkerPoolStatus::default() });
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
