//! The leader's view of a pool.

use crate::core::{
    clock::Monotonic,
    ids::Key,
    pool::{
        disruption_budget::DisruptionBudget,
        launch_budget::LaunchWait,
        namespace_policy::{NamespacePolicy, Namespaces},
        ordinals::Ordinals,
        scale::{RunnerDemand, Scale},
        shapes::Shapes,
        writes::PoolWrites,
    },
    runner::pod_build::{Installation, Shape},
};
use camofleet_crds::v1alpha1::{Engine, WorkerPool};
use std::{collections::BTreeMap, sync::Arc};

/// Finalizer that keeps a deleted pool until its runners are gone or the drain deadline has passed.
pub const FINALIZER: &str = "camofleet.dev/drain";

/// The command that removes a pool's finalizers while no operator runs. `docs/upgrading.md` quotes it.
pub fn finalizer_removal(pool: &Key) -> String {
    let Key { namespace, name } = pool;
    format!(r#"kubectl patch workerpool {name} -n {namespace} --type=merge -p '{{"metadata":{{"finalizers":null}}}}'"#)
}

#[derive(Debug)]
pub(in crate::core) struct Pool {
    object: Arc<WorkerPool>,
    pub(in crate::core) shapes: Shapes,
    pub(in crate::core) ordinals: Ordinals,
    pub(in crate::core) writes: PoolWrites,
    pub(in crate::core) disruption_budget: DisruptionBudget,
    namespace_policy: NamespacePolicy,
    /// Sessions on its runners, by tenant. Tenants without sessions are not listed.
    running: BTreeMap<String, u32>,
    /// The engine that runners of the current shape reported last.
    engine: Option<Engine>,
    scale: Scale,
    progress: Progress,
}

/// A change of the number of a tenant's sessions on a pool's runners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum CountChange {
    Added,
    Removed,
}

/// Progress towards the desired number of runners.
#[derive(Debug, Default)]
struct Progress {
    /// While the pool is short of runners: when the last one became warm, or when the shortage began.
    short_since: Option<Monotonic>,
    /// Why the next launch waits. `None` if no ordinal needs a pod, or the next launch has started.
    launch_wait: Option<LaunchWait>,
}

impl Pool {
    pub(in crate::core) fn new(object: Arc<WorkerPool>, installation: &Installation) -> Self {
        Self {
            shapes: Shapes::new(&object, installation),
            ordinals: Ordinals::default(),
            writes: PoolWrites::default(),
            disruption_budget: DisruptionBudget::default(),
            namespace_policy: NamespacePolicy::of(&object),
            running: BTreeMap::new(),
            engine: None,
            scale: Scale::resumed(&object.spec, object.status.as_ref().map(|status| status.desired_replicas)),
            progress: Progress::default(),
            object,
        }
    }

    /// Forgets calls and counts of a former term.
    pub(in crate::core) fn begin_term(&mut self) {
        self.ordinals.begin_term();
        self.shapes.begin_term(&self.object);
        self.writes.begin_term();
        self.disruption_budget.begin_term();
        self.running.clear();
        self.scale =
            Scale::resumed(&self.object.spec, self.object.status.as_ref().map(|status| status.desired_replicas));
        self.progress = Progress::default();
    }

    pub(in crate::core) fn object(&self) -> &Arc<WorkerPool> {
        &self.object
    }

    /// Stores a newer version of the object. Returns whether its spec has changed or it is now being deleted.
    pub(in crate::core) fn replace_object(&mut self, object: Arc<WorkerPool>, installation: &Installation) -> bool {
        // The shape depends only on the spec. Comparing specs is cheaper than hashing the shape.
        let spec_changed = self.object.spec != object.spec
            || self.object.metadata.deletion_timestamp != object.metadata.deletion_timestamp;
        if spec_changed {
            self.namespace_policy = NamespacePolicy::of(&object);
            self.disruption_budget.set_disruption(object.spec.disruption);
            if self.shapes.set_update(Shape::of(&object, installation)) {
                self.engine = None;
            }
        }
        self.writes.object_changed();
        self.object = object;
        spec_changed
    }

    /// Returns whether sessions of the namespace may use the pool.
    pub(in crate::core) fn allows_namespace(&self, namespace: &str, namespaces: &Namespaces) -> bool {
        self.object.metadata.namespace.as_deref() == Some(namespace)
            || self.namespace_policy.allows(namespace, namespaces)
    }

    /// Sessions on its runners, by tenant. A tenant without sessions is not listed.
    pub(in crate::core) fn running(&self) -> &BTreeMap<String, u32> {
        &self.running
    }

    /// Number of sessions on its runners.
    pub(in crate::core) fn sessions(&self) -> u32 {
        self.running.values().sum()
    }

    /// Number of a tenant's sessions on its runners.
    pub(in crate::core) fn sessions_of(&self, tenant: &str) -> u32 {
        self.running.get(tenant).copied().unwrap_or_default()
    }

    /// Records the engine that a runner of that revision reported. Returns whether the pool's engine has changed.
    pub(in crate::core) fn learn_engine(&mut self, engine: Option<Engine>, revision: &str) -> bool {
        let changed = engine.is_some() && self.engine != engine && self.shapes.current_or_update().revision == revision;
        if changed {
            self.engine = engine;
        }
        changed
    }

    /// Updates the desired number of runners. `serving` is the number of available runners.
    pub(in crate::core) fn update_scale(&mut self, demand: RunnerDemand, serving: usize, now: Monotonic) {
        self.scale.update(&self.object.spec, demand, now);
        self.progress.short_since = (serving < self.desired()).then(|| self.progress.short_since.unwrap_or(now));
    }

    /// When the pool may scale down without another event.
    pub(in crate::core) fn scale_down_at(&self) -> Option<Monotonic> {
        self.scale.scale_down_at(&self.object.spec)
    }

    /// Records that a runner became warm.
    pub(in crate::core) fn runner_became_warm(&mut self, now: Monotonic) {
        self.progress.short_since = self.progress.short_since.map(|_| now);
    }

    /// While the pool is short of runners: since when none has become warm.
    pub(in crate::core) fn short_of_runners_since(&self) -> Option<Monotonic> {
        self.progress.short_since
    }

    /// Why the next launch waits. `None` if no ordinal needs a pod, or the next launch has started.
    pub(in crate::core) fn launch_wait(&self) -> Option<LaunchWait> {
        self.progress.launch_wait
    }

    pub(in crate::core) fn set_launch_wait(&mut self, launch_wait: Option<LaunchWait>) {
        self.progress.launch_wait = launch_wait;
    }

    /// Adds a session to a tenant's count, or removes one.
    pub(in crate::core) fn adjust_running(&mut self, tenant: &str, change: CountChange) {
        match change {
            CountChange::Added => *self.running.entry(tenant.to_owned()).or_default() += 1,
            CountChange::Removed => {
                if let Some(count) = self.running.get_mut(tenant) {
                    *count -= 1;
                    if *count == 0 {
                        self.running.remove(tenant);
                    }
                }
            }
        }
    }

    /// Returns whether its runners run the engine. With `Auto` every engine is possible until the first runner has
    /// reported.
    pub(in crate::core) fn may_run(&self, engine: Engine) -> bool {
        self.engine.map_or_else(|| engine.is_served_by(self.object.spec.engine), |known| known == engine)
    }

    /// Number of further sessions that `limits.maxSessions` allows.
    pub(in crate::core) fn remaining_sessions(&self) -> u32 {
        remaining(self.object.spec.limits.max_sessions, self.sessions())
    }

    /// Number of further sessions of a tenant that `limits.maxSessionsPerTenant` allows.
    pub(in crate::core) fn remaining_for_tenant(&self, tenant: &str) -> u32 {
        remaining(self.object.spec.limits.max_sessions_per_tenant, self.sessions_of(tenant))
    }

    /// Compares UIDs, so that a new pool of the same name is a different pool.
    pub(in crate::core) fn is_same_pool(&self, object: &WorkerPool) -> bool {
        self.object.metadata.uid == object.metadata.uid
    }

    /// Desired number of runners.
    pub(in crate::core) fn desired(&self) -> usize {
        usize::try_from(self.scale.desired).unwrap_or_default()
    }

    pub(in crate::core) fn is_deleted(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }
}

fn remaining(limit: Option<i32>, count: u32) -> u32 {
    limit.map_or(u32::MAX, |max| u32::try_from(max).unwrap_or_default().saturating_sub(count))
}
