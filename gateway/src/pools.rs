//! The pools of all namespaces as the watch tells them. Does no IO: whoever watches the API server feeds it.

use crate::session::Key;
use camofleet_crds::v1alpha1::WorkerPool;
use std::{
    collections::BTreeMap,
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

    /// A pool is there, or changed.
    pub fn put(&self, key: Key, pool: WorkerPool) {
        let mut cache = self.cache();
        let Cache { known, listed, .. } = &mut *cache;
        listed.as_mut().unwrap_or(known).insert(key, Arc::new(pool));
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

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Every change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::v1alpha1::WorkerPoolSpec;

    fn key(name: &str) -> Key {
        Key::new("ns", name).unwrap()
    }

    fn pool(replicas: i32) -> WorkerPool {
        WorkerPool::new("pool", WorkerPoolSpec { replicas: Some(replicas), ..WorkerPoolSpec::default() })
    }

    #[test]
    fn a_list_takes_the_place_of_what_was_known_once_it_is_complete() {
        let pools = Pools::default();
        for name in ["same", "changed", "gone"] {
            pools.put(key(name), pool(1));
        }
        pools.begin_list();
        pools.put(key("same"), pool(1));
        pools.put(key("changed"), pool(2));
        pools.put(key("new"), pool(1));
        assert!(pools.get(&key("gone")).is_some() && pools.get(&key("new")).is_none() && !pools.is_read());
        assert_eq!(pools.end_list(), [key("gone"), key("changed"), key("new")]);
        assert!(pools.get(&key("gone")).is_none() && pools.is_read());
        assert_eq!(pools.in_namespace("ns").len(), 3);
        assert_eq!(pools.in_namespace("other").len(), 0);
    }
}
