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
    /// While a list is read: what it holds so far.
    listed: Option<BTreeMap<Key, Arc<WorkerPool>>>,
    read: bool,
}

impl Pools {
    /// A list begins. What is known stays until it ends.
    pub fn begin_list(&self) {
        self.cache().listed = Some(BTreeMap::new());
    }

    /// The list is complete. Says what changed by it.
    pub fn end_list(&self) -> Vec<Key> {
        let mut cache = self.cache();
        let listed = cache.listed.take().unwrap_or_default();
        let former = mem::replace(&mut cache.known, listed);
        cache.read = true;
        let gone = former.keys().filter(|key| !cache.known.contains_key(*key));
        let changed = cache.known.iter().filter(|(key, pool)| former.get(*key) != Some(*pool)).map(|(key, _)| key);
        gone.chain(changed).cloned().collect()
    }

    /// A pool is there. Whether that is news now: what a list brings is, when it ends. How runner pods are made is not kept: it is the
    /// largest part of a pool, and nothing here reads it.
    pub fn put(&self, key: Key, mut pool: WorkerPool) -> bool {
        pool.spec.template = RunnerTemplate::default();
        if let Some(status) = &mut pool.status {
            status.serving = None;
        }
        let mut cache = self.cache();
        let Cache { known, listed, .. } = &mut *cache;
        if let Some(listed) = listed {
            listed.insert(key, Arc::new(pool));
            return false;
        }
        let is_news = known.get(&key).is_none_or(|former| **former != pool);
        known.insert(key, Arc::new(pool));
        is_news
    }

    /// A pool is there that cannot be read. Whether it is known from before: then it counts as what it was.
    pub fn keep(&self, key: &Key, uid: &str) -> bool {
        let mut cache = self.cache();
        let Cache { known, listed, .. } = &mut *cache;
        let Some(former) = known.get(key).filter(|former| former.metadata.uid.as_deref() == Some(uid)) else {
            return false;
        };
        if let Some(listed) = listed {
            listed.insert(key.clone(), Arc::clone(former));
        }
        true
    }

    /// A pool was deleted.
    pub fn remove(&self, key: &Key) {
        self.cache().known.remove(key);
    }

    /// Whether a whole list was read once.
    pub fn is_read(&self) -> bool {
        self.cache().read
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

    /// Whether a session of that namespace may find a pool: one of its own, or one that is for other namespaces too. For which, the
    /// operator judges.
    pub fn are_there_for(&self, namespace: &str) -> bool {
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
    use kube::api::ObjectMeta;

    fn key(name: &str) -> Key {
        Key::new("ns", name).unwrap()
    }

    fn pool(replicas: i32) -> WorkerPool {
        WorkerPool::new("pool", WorkerPoolSpec { replicas: Some(replicas), ..WorkerPoolSpec::default() })
    }

    #[test]
    fn the_shape_of_runner_pods_is_not_kept() {
        let (pools, mut pool) = (Pools::default(), pool(1));
        pool.spec.template.image = Some("image".into());
        let serving = Serving { revision: "revision".into(), shape: "shape".into() };
        pool.status = Some(WorkerPoolStatus { queued: 3, serving: Some(serving), ..WorkerPoolStatus::default() });
        pools.put(key("pool"), pool);
        let kept = pools.get(&key("pool")).unwrap();
        assert_eq!(kept.spec.template, RunnerTemplate::default());
        assert_eq!(kept.status, Some(WorkerPoolStatus { queued: 3, ..WorkerPoolStatus::default() }));
    }

    #[test]
    fn a_list_takes_the_place_of_what_was_known_once_it_is_complete() {
        let pools = Pools::default();
        let kept = WorkerPool { metadata: ObjectMeta { uid: Some("uid".into()), ..ObjectMeta::default() }, ..pool(1) };
        for (name, pool) in [("same", pool(1)), ("changed", pool(1)), ("gone", pool(1)), ("kept", kept)] {
            assert!(pools.put(key(name), pool));
        }
        assert!(!pools.put(key("same"), pool(1)));
        pools.begin_list();
        pools.put(key("same"), pool(1));
        assert!(!pools.put(key("changed"), pool(2)), "it is told when the list ends");
        pools.put(key("new"), pool(1));
        assert!(pools.keep(&key("kept"), "uid") && !pools.keep(&key("gone"), "uid"));
        assert!(pools.get(&key("gone")).is_some() && pools.get(&key("new")).is_none() && !pools.is_read());
        assert_eq!(pools.end_list(), [key("gone"), key("changed"), key("new")]);
        assert!(pools.get(&key("gone")).is_none() && pools.is_read());
        assert_eq!(pools.in_namespace("ns").len(), 4);
        assert_eq!(pools.in_namespace("other").len(), 0);
    }
}
