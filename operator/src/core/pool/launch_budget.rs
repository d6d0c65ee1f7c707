//! Decides which pools launch their next runners. Concurrent launches slow each other down, so no more runners launch
//! than the nodes have CPUs, and launches are granted round robin so that no pool starves the others.

use crate::core::{clock::Monotonic, ids::Key};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// Limit on runner pods created per second, over all pools, because other workloads need the scheduler and the kubelets
/// too.
const CREATES_PER_SECOND: usize = 20;

/// Grants launches to pools within the limits of the cluster.
#[derive(Debug, Default)]
pub(in crate::core) struct LaunchBudget {
    /// Times of the creates in the last second.
    created: VecDeque<Monotonic>,
    /// Sequence number of the latest grant.
    grant_sequence: u64,
    /// Sequence number of the latest grant of each namespace and of each pool that still lacks pods.
    namespaces: BTreeMap<String, u64>,
    pools: BTreeMap<Key, u64>,
}

/// The launches of one pool.
#[derive(Debug)]
pub(in crate::core) struct PoolLaunches {
    /// Ordinals that need a pod, in launch order.
    pub(in crate::core) wanted: VecDeque<MissingOrdinal>,
    /// Runners that launch now, including pods that are being created.
    pub(in crate::core) launching: usize,
    /// Runners that have not been warm for the launch timeout of 120 s. They count against the pool's own launches, so
    /// that a pool whose runners never become warm launches one at a time.
    pub(in crate::core) overdue: usize,
}

/// Why a pool's next launch waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum LaunchWait {
    /// Other launches use all CPUs.
    CpusInUse,
    /// Runners of the same pool are overdue.
    OwnRunners { overdue: usize },
}

impl PoolLaunches {
    fn may_launch(&self, limit: usize) -> bool {
        self.launching < limit.saturating_sub(self.overdue).max(1)
    }

    /// Why the next ordinal still has no pod after [`LaunchBudget::grant`]. `None` if no ordinal needs one.
    pub(in crate::core) fn launch_wait(&self, cpus: usize) -> Option<LaunchWait> {
        let waits = if self.overdue == 0 || self.may_launch(cpus.max(1)) {
            LaunchWait::CpusInUse
        } else {
            LaunchWait::OwnRunners { overdue: self.overdue }
        };
        (!self.wanted.is_empty()).then_some(waits)
    }
}

/// An ordinal of a pool that needs a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::core) struct MissingOrdinal {
    /// Since when the ordinal has no pod.
    pub(in crate::core) since: Monotonic,
    pub(in crate::core) ordinal: u32,
    /// The pod is the canary of the update shape.
    pub(in crate::core) canary: bool,
}

impl LaunchBudget {
    /// Returns the ordinals that get a pod now, and leaves the others in `pools`. `cpus` is the number of CPUs of the
    /// nodes.
    ///
    /// The next launch goes to the namespace with the fewest launches, and there to the pool with the fewest. Ties go
    /// to the one whose latest grant is oldest. A namespace without launches does not wait for launches of other
    /// namespaces: it may exceed the limit by one launch. The total never exceeds twice the number of CPUs.
    pub(in crate::core) fn grant(
        &mut self,
        pools: &mut BTreeMap<Key, PoolLaunches>,
        cpus: usize,
        now: Monotonic,
    ) -> Vec<(Key, MissingOrdinal)> {
        while self.created.front().is_some_and(|at| now.since(*at) >= Duration::from_secs(1)) {
            self.created.pop_front();
        }
        let limit = cpus.max(1);
        let mut in_namespaces = BTreeMap::<String, usize>::new();
        for (key, pool) in pools.iter() {
            *in_namespaces.entry(key.namespace.clone()).or_default() += pool.launching;
        }
        let mut total: usize = in_namespaces.values().sum();
        let mut granted = Vec::new();
        while self.created.len() < CREATES_PER_SECOND {
            let candidates = pools.iter().filter(|(_, pool)| !pool.wanted.is_empty() && pool.may_launch(limit));
            let next = candidates.min_by_key(|(key, pool)| {
                let last_grant_of_namespace = self.namespaces.get(&key.namespace).copied().unwrap_or_default();
                let last_grant_of_pool = self.pools.get(*key).copied().unwrap_or_default();
                (in_namespaces[&key.namespace], last_grant_of_namespace, pool.launching, last_grant_of_pool)
            });
            let Some(key) = next.map(|(key, _)| key.clone()) else { break };
            let is_first = in_namespaces[&key.namespace] == 0;
            if total >= limit && !(is_first && total < 2 * limit) {
                break;
            }
            let Some(pool) = pools.get_mut(&key) else { break };
            let Some(missing) = pool.wanted.pop_front() else { break };
            pool.launching += 1;
            total += 1;
            *in_namespaces.entry(key.namespace.clone()).or_default() += 1;
            self.grant_sequence += 1;
            self.namespaces.insert(key.namespace.clone(), self.grant_sequence);
            self.pools.insert(key.clone(), self.grant_sequence);
            self.created.push_back(now);
            granted.push((key, missing));
        }
        // Forget the grants of pools that need no more pods.
        self.pools.retain(|key, _| pools.get(key).is_some_and(|pool| !pool.wanted.is_empty()));
        let waiting: BTreeSet<&String> = self.pools.keys().map(|key| &key.namespace).collect();
        self.namespaces.retain(|namespace, _| waiting.contains(namespace));
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(wanted: u32, launching: usize, overdue: usize) -> PoolLaunches {
        let missing = |ordinal| MissingOrdinal { since: Monotonic(0), ordinal, canary: false };
        PoolLaunches { wanted: (0..wanted).map(missing).collect(), launching, overdue }
    }

    fn key(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// Returns the number of launches that each pool gets. A pool is given by namespace, name, ordinals that need a
    /// pod, current launches and overdue runners.
    fn granted(pools: &[(&str, &str, u32, usize, usize)], cpus: usize) -> Vec<usize> {
        let mut all = BTreeMap::new();
        for (namespace, name, wanted, launching, overdue) in pools {
            all.insert(key(namespace, name), pool(*wanted, *launching, *overdue));
        }
        let grants = LaunchBudget::default().grant(&mut all, cpus, Monotonic(0));
        let count = |namespace: &str, name: &str| grants.iter().filter(|(at, _)| *at == key(namespace, name)).count();
        pools.iter().map(|(namespace, name, ..)| count(namespace, name)).collect()
    }

    #[test]
    fn launches_as_many_runners_as_there_are_cpus() {
        assert_eq!(granted(&[("a", "p", 9, 0, 0)], 4), [4]);
        assert_eq!(granted(&[("a", "p", 9, 3, 0)], 4), [1]);
        assert_eq!(granted(&[("a", "p", 9, 0, 0)], 0), [1], "one launch when no node is ready");
        assert_eq!(granted(&[("a", "p", 99, 0, 0)], 64), [CREATES_PER_SECOND]);
    }

    #[test]
    fn shares_launches_equally_among_namespaces_and_pools() {
        assert_eq!(granted(&[("a", "p", 99, 0, 0), ("a", "q", 99, 0, 0), ("b", "p", 99, 0, 0)], 8), [2, 2, 4]);
        assert_eq!(granted(&[("a", "p", 99, 0, 0), ("b", "p", 1, 0, 0)], 8), [7, 1], "unused shares go to others");
        assert_eq!(granted(&[("a", "p", 99, 3, 0), ("b", "p", 99, 1, 0)], 6), [0, 2], "current launches count");
    }

    #[test]
    fn a_namespace_without_launches_may_exceed_the_cpus() {
        assert_eq!(granted(&[("evil", "p", 200, 4, 0), ("good", "p", 3, 0, 0)], 4), [0, 1]);
        let namespaces = ["a", "b", "c", "d", "e", "f"].map(|namespace| (namespace, "p", 3, 0, 0));
        let with_evil = [&[("evil", "p", 200, 4, 0)], &namespaces[..]].concat();
        assert_eq!(granted(&with_evil, 4)[1..], [1, 1, 1, 1, 0, 0], "up to twice as many launches as CPUs");
    }

    #[test]
    fn overdue_runners_count_against_their_own_pool() {
        assert_eq!(granted(&[("a", "p", 200, 0, 3)], 4), [1]);
        assert_eq!(granted(&[("a", "p", 200, 0, 90)], 4), [1], "one launch at a time is always allowed");
        assert_eq!(granted(&[("a", "p", 200, 1, 90), ("a", "q", 9, 0, 0)], 4), [0, 3]);
    }

    #[test]
    fn reports_why_a_launch_waits() {
        assert_eq!(pool(0, 4, 9).launch_wait(4), None, "no ordinal needs a pod");
        assert_eq!(pool(1, 4, 0).launch_wait(4), Some(LaunchWait::CpusInUse));
        assert_eq!(
            pool(1, 0, 2).launch_wait(4),
            Some(LaunchWait::CpusInUse),
            "its own runners leave room for two launches"
        );
        assert_eq!(pool(1, 2, 2).launch_wait(4), Some(LaunchWait::OwnRunners { overdue: 2 }));
    }

    #[test]
    fn grants_launches_round_robin() {
        let mut budget = LaunchBudget::default();
        let mut pools: BTreeMap<_, _> =
            [("a", "p"), ("a", "q"), ("b", "p")].into_iter().map(|(at, name)| (key(at, name), pool(9, 0, 0))).collect();
        let mut order = Vec::new();
        for second in 0..8 {
            // Each launch is complete by the next second.
            for pool in pools.values_mut() {
                pool.launching = 0;
            }
            let granted = budget.grant(&mut pools, 1, Monotonic(second * 1000));
            order.extend(granted.into_iter().map(|(key, _)| format!("{}/{}", key.namespace, key.name)));
        }
        assert_eq!(order[..6], ["a/p", "b/p", "a/q", "b/p", "a/p", "b/p"].map(String::from)[..], "{order:?}");
    }
}
