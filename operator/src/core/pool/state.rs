//! A pool as the leader sees it.

use crate::core::{
    clock::Mono,
    ids::Key,
    pool::{
        budget::Budget,
        launches::LaunchWait,
        namespace_policy::{NamespacePolicy, Namespaces},
        places::Places,
        scale::{Need, Scale},
        shapes::Shapes,
        writes::PoolWrites,
    },
    runner::pod_build::{Installation, Shape},
};
use camofleet_crds::v1alpha1::{EngineName, WorkerPool};
use std::{collections::BTreeMap, sync::Arc};

/// Holds a pool until its sessions are gone or the drain deadline passed.
pub const FINALIZER: &str = "camofleet.dev/drain";

/// The command that removes a pool's finalizers where no operator runs; docs/operating.md has it, too.
pub fn finalizer_removal(pool: &Key) -> String {
    let Key { namespace, name } = pool;
    format!(r#"kubectl patch workerpool {name} -n {namespace} --type=merge -p '{{"metadata":{{"finalizers":null}}}}'"#)
}

#[derive(Debug)]
pub(in crate::core) struct Pool {
    object: Arc<WorkerPool>,
    pub(in crate::core) shapes: Shapes,
    pub(in crate::core) places: Places,
    pub(in crate::core) writes: PoolWrites,
    pub(in crate::core) budget: Budget,
    /// Which namespaces it is for.
    namespace_policy: NamespacePolicy,
    /// Sessions on its runners, by tenant: nobody is listed with none.
    running: BTreeMap<String, u32>,
    /// The engine that its runners were last heard to run, of the shape that they are made in.
    engine: Option<EngineName>,
    scale: Scale,
    progress: Progress,
}

/// How a pool comes to its runners.
#[derive(Debug, Default)]
struct Progress {
    /// While it lacks runners: since when none came up.
    lacking: Option<Mono>,
    /// Why its next launch waits. Absent: no place lacks a pod, or the next launch has begun.
    launch_wait: Option<LaunchWait>,
}

impl Pool {
    pub(in crate::core) fn new(object: Arc<WorkerPool>, installation: &Installation) -> Self {
        Self {
            shapes: Shapes::new(&object, installation),
            places: Places::default(),
            writes: PoolWrites::default(),
            budget: Budget::default(),
            namespace_policy: NamespacePolicy::of(&object),
            running: BTreeMap::new(),
            engine: None,
            scale: Scale::resumed(&object.spec, object.status.as_ref().map(|status| status.desired_replicas)),
            progress: Progress::default(),
            object,
        }
    }

    /// What was under way in another term is not this one's.
    pub(in crate::core) fn begin_term(&mut self) {
        self.places.begin_term();
        self.shapes.begin_term(&self.object);
        self.writes.begin_term();
        self.budget.begin_term();
        self.running.clear();
        self.scale =
            Scale::resumed(&self.object.spec, self.object.status.as_ref().map(|status| status.desired_replicas));
        self.progress = Progress::default();
    }

    pub(in crate::core) fn object(&self) -> &Arc<WorkerPool> {
        &self.object
    }

    /// Takes another version of its object. False: only its status has changed, or its metadata.
    pub(in crate::core) fn replace_object(&mut self, object: Arc<WorkerPool>, installation: &Installation) -> bool {
        // Its pods' shape depends on the spec alone, and costs more to hash than to compare.
        let matters = self.object.spec != object.spec
            || self.object.metadata.deletion_timestamp != object.metadata.deletion_timestamp;
        if matters {
            self.namespace_policy = NamespacePolicy::of(&object);
            self.budget.set_disruption(object.spec.disruption);
            if self.shapes.set_update(Shape::of(&object, installation)) {
                self.engine = None;
            }
        }
        self.writes.object_changed();
        self.object = object;
        matters
    }

    /// Whether its owner lets sessions of that namespace use it.
    pub(in crate::core) fn allows_namespace(&self, namespace: &str, namespaces: &Namespaces) -> bool {
        self.object.metadata.namespace.as_deref() == Some(namespace)
            || self.namespace_policy.allows(namespace, namespaces)
    }

    /// Sessions on its runners, by tenant. A tenant without sessions is not listed.
    pub(in crate::core) fn running(&self) -> &BTreeMap<String, u32> {
        &self.running
    }

    /// All sessions on its runners.
    pub(in crate::core) fn sessions(&self) -> u32 {
        self.running.values().sum()
    }

    /// Sessions of a tenant on its runners.
    pub(in crate::core) fn sessions_of(&self, tenant: &str) -> u32 {
        self.running.get(tenant).copied().unwrap_or_default()
    }

    /// A runner of that shape reported its engine. True: it was not known that new runners of the pool run it.
    pub(in crate::core) fn learn_engine(&mut self, engine: Option<EngineName>, revision: &str) -> bool {
        let news = engine.is_some() && self.engine != engine && self.shapes.current().revision == revision;
        if news {
            self.engine = engine;
        }
        news
    }

    /// Follows its spec and what is needed of it; `proven` runners have their place.
    pub(in crate::core) fn update_scale(&mut self, need: Need, serving: usize, now: Mono) {
        self.scale.update(&self.object.spec, need, now);
        self.progress.lacking = (serving < self.desired()).then(|| self.progress.lacking.unwrap_or(now));
    }

    /// When its scale may change without anything else happening.
    pub(in crate::core) fn scale_down_at(&self) -> Option<Mono> {
        self.scale.scale_down_at(&self.object.spec)
    }

    /// A runner became warm: the pool makes progress.
    pub(in crate::core) fn progressed(&mut self, now: Mono) {
        self.progress.lacking = self.progress.lacking.map(|_| now);
    }

    /// While it lacks runners: since when none came up.
    pub(in crate::core) fn lacking_since(&self) -> Option<Mono> {
        self.progress.lacking
    }

    /// Why its next launch waits. None: no place lacks a pod, or the next launch has begun.
    pub(in crate::core) fn launch_wait(&self) -> Option<LaunchWait> {
        self.progress.launch_wait
    }

    pub(in crate::core) fn set_launch_wait(&mut self, launch_wait: Option<LaunchWait>) {
        self.progress.launch_wait = launch_wait;
    }

    /// One session more on a tenant's account, or one less.
    pub(in crate::core) fn count(&mut self, tenant: &str, more: bool) {
        if more {
            *self.running.entry(tenant.to_owned()).or_default() += 1;
        } else if let Some(count) = self.running.get_mut(tenant) {
            *count -= 1;
            if *count == 0 {
                self.running.remove(tenant);
            }
        }
    }

    /// Whether it has that engine. What `Auto` found is known from the first runner that spoke.
    pub(in crate::core) fn may_run(&self, engine: EngineName) -> bool {
        self.engine.map_or_else(|| engine.is_served_by(self.object.spec.engine), |known| known == engine)
    }

    /// How many sessions more its limits let it have.
    pub(in crate::core) fn remaining_sessions(&self) -> u32 {
        remaining(self.object.spec.limits.max_sessions, self.sessions())
    }

    /// How many more of that tenant.
    pub(in crate::core) fn remaining_for_tenant(&self, tenant: &str) -> u32 {
        remaining(self.object.spec.limits.max_sessions_per_tenant, self.sessions_of(tenant))
    }

    /// Compares UIDs: another version is the same pool, another pool of the same name is not.
    pub(in crate::core) fn is_same_pool(&self, object: &WorkerPool) -> bool {
        self.object.metadata.uid == object.metadata.uid
    }

    /// How many runners it is to have.
    pub(in crate::core) fn desired(&self) -> usize {
        usize::try_from(self.scale.desired).unwrap_or_default()
    }

    pub(in crate::core) fn is_deleted(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }
}

fn remaining(limit: Option<i32>, count: u32) -> u32 {
    limit.map_or(u32::MAX, |most| u32::try_from(most).unwrap_or_default().saturating_sub(count))
}
