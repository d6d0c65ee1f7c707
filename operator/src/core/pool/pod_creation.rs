//! Creates runner pods for ordinals that lack one.

use crate::core::{
    coordinator::Coordinator,
    ids::Key,
    messages::{Effect, WriteFailure},
    pool::{
        launch_budget::{MissingOrdinal, PoolLaunches},
        state::Pool,
    },
    runner::{pod_build, state::Runner},
    step_context::ReconcileKey,
};
use camofleet_crds::conditions::pool as reasons;
use std::collections::{BTreeMap, VecDeque};

impl Coordinator {
    pub(in crate::core) fn lacks_canary(&self, pool: &Pool) -> bool {
        let stays = |runner: &Runner| runner.occupies_ordinal(self.context.now()) && !runner.is_terminating();
        let is_there = || {
            self.runners.of(pool.object()).any(|runner| stays(runner) && pool.shapes.is_canary(&runner.pod().revision))
        };
        let is_coming = || pool.ordinals.revisions_creating().any(|revision| pool.shapes.is_canary(revision));
        pool.shapes.is_rolling_out() && pool.desired() > 0 && !is_there() && !is_coming()
    }

    /// Creates the missing pods of all pools, as far as the launch budget allows.
    pub(in crate::core) fn launch_runners(&mut self) {
        let Some(keys) = self.cluster.keys().map(str::to_owned) else { return };
        let mut launches = self.launches_of_pools();
        if launches.values().all(|pool| pool.wanted.is_empty()) {
            for pool in self.pools.values_mut() {
                pool.set_launch_wait(None);
            }
            return;
        }
        let now = self.context.monotonic();
        let cpus = self.cluster.launch_cpus();
        let granted = self.launches.grant(&mut launches, cpus, now);
        // The next write of the pool's status publishes why the launch waits.
        for (key, pool) in &mut self.pools {
            pool.set_launch_wait(launches.get(key).and_then(|launches| launches.launch_wait(cpus)));
        }
        for (key, MissingOrdinal { ordinal, canary, .. }) in granted {
            let Some(pool) = self.pools.get_mut(&key) else { continue };
            let shape = if canary { pool.shapes.update() } else { pool.shapes.current_or_update() };
            let replaces = pool.ordinals.last(ordinal);
            let pod = pod_build::runner_pod(shape, &self.installation, ordinal, replaces, &keys, canary);
            let name = pod.metadata.name.clone().unwrap_or_default();
            pool.ordinals.begin_create(ordinal, name, &shape.revision, now);
            self.context.send(Effect::CreatePod { pool: key.clone(), pod: Box::new(pod) });
            let timer = self.next_pool_timer(&key);
            self.context.set_timer(ReconcileKey::Pool(key), timer);
        }
    }

    /// The current and wanted launches of each pool that has any.
    fn launches_of_pools(&self) -> BTreeMap<Key, PoolLaunches> {
        let wanting = self.pools.values().any(|pool| pool.ordinals.lacks_pods());
        let mut launches = BTreeMap::new();
        if !wanting {
            return launches;
        }
        for (key, pool) in &self.pools {
            let wanted = self.wanted_ordinals(pool);
            let launching = pool.ordinals.creating();
            if !wanted.is_empty() || launching > 0 {
                launches.insert(key.clone(), PoolLaunches { wanted, launching, overdue: 0 });
            }
        }
        for runner in self.runners.iter() {
            // A deleted pool's runner uses CPUs, but does not count against a new pool of the same name.
            let overdue = runner.is_overdue(self.context.now()) && self.pool_of(runner).is_some();
            let launching = runner.is_launching(self.context.now());
            if launching || overdue {
                let empty = || PoolLaunches { wanted: VecDeque::new(), launching: 0, overdue: 0 };
                let pool = launches.entry(runner.pod().pool.0.clone()).or_insert_with(empty);
                pool.launching += usize::from(launching);
                pool.overdue += usize::from(overdue);
            }
        }
        launches
    }

    /// The ordinals of a pool that lack a pod and do not pause after a failure. The one that has lacked a pod longest
    /// is first.
    fn wanted_ordinals(&self, pool: &Pool) -> VecDeque<MissingOrdinal> {
        // Most pools lack no pod, and the search for a canary visits all runners.
        if !pool.ordinals.lacks_pods() {
            return VecDeque::new();
        }
        let mut wanted: Vec<_> = pool
            .ordinals
            .missing(self.lacks_canary(pool))
            .filter(|missing| {
                let shape = if missing.canary { pool.shapes.update() } else { pool.shapes.current_or_update() };
                pool.shapes.pause_until(&shape.revision).is_none_or(|until| until <= self.context.monotonic())
            })
            .collect();
        wanted.sort_unstable();
        wanted.into()
    }

    pub(in crate::core) fn pod_created(&mut self, key: &Key, name: &str, answer: Result<(), WriteFailure>) {
        let now = self.context.monotonic();
        let Some(pool) = self.pools.get_mut(key) else { return };
        if let Err(failure) = answer
            && let Some(revision) = pool.ordinals.create_failed(name)
        {
            let message = match failure {
                WriteFailure::Rejected(message) | WriteFailure::Transient(message) => message,
                WriteFailure::Conflict | WriteFailure::Gone => "the namespace is being deleted".to_owned(),
            };
            pool.shapes.failed(&revision, (reasons::POD_REFUSED, message), now);
        }
        self.context.enqueue(ReconcileKey::Pool(key.clone()));
    }
}
