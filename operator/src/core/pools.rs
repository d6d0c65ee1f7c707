//! A pool as the leader sees it.

use super::{
    admission::Audience,
    io::Uid,
    pods::{self, Installation},
    scaling::Scale,
    sessions::Pending,
    time::Mono,
};
use camofleet_crds::v1alpha1::{Disruption, EngineName, WorkerPool};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

/// Holds a pool until its sessions are gone or the drain deadline passed.
pub const FINALIZER: &str = "camofleet.dev/drain";

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) object: Arc<WorkerPool>,
    /// Hash of the shape of its pods.
    pub(super) revision: String,
    /// Places without a pod, and since when.
    pub(super) missing: BTreeMap<u32, Mono>,
    /// Pods that were asked for and not seen yet, by name: their place, and when.
    pub(super) creating: BTreeMap<String, (u32, Mono)>,
    /// The last pod that was seen in each place.
    pub(super) last: HashMap<u32, Uid>,
    pub(super) failures: Failures,
    pub(super) write: Pending,
    /// When its status was written last.
    pub(super) written: Option<Mono>,
    /// When its disruption budget was last as it should be.
    pub(super) protected: Option<Mono>,
    /// The write of its disruption budget.
    pub(super) protection: Pending,
    /// Why it has no disruption budget.
    pub(super) unprotected: Option<String>,
    /// Which namespaces it is for.
    pub(super) audience: Audience,
    /// Sessions on its runners, by tenant: nobody is listed with none.
    pub(super) running: BTreeMap<String, u32>,
    /// The engine that its runners were last heard to run, of the current revision.
    pub(super) engine: Option<EngineName>,
    /// What was asked for when its disruption budget was last seen to.
    pub(super) disruption: Option<Disruption>,
    /// How many runners it is to have.
    pub(super) scale: Scale,
    /// While it lacks runners: since when none came up.
    pub(super) lacking: Option<Mono>,
}

/// How often in a row the pods of a revision failed.
#[derive(Debug, Default)]
pub(super) struct Failures {
    pub(super) revision: String,
    pub(super) count: u32,
    /// No pod is made before then.
    pub(super) pause_until: Option<Mono>,
    /// Reason and message, for `Stalled`.
    pub(super) cause: Option<(&'static str, String)>,
}

impl Pool {
    pub(super) fn new(object: Arc<WorkerPool>, installation: &Installation) -> Self {
        Self {
            revision: pods::revision(&object, installation),
            audience: Audience::of(&object),
            scale: Scale::resumed(&object.spec, object.status.as_ref().map(|status| status.desired_replicas)),
            object,
            missing: BTreeMap::new(),
            creating: BTreeMap::new(),
            last: HashMap::new(),
            failures: Failures::default(),
            write: Pending::Idle,
            written: None,
            protected: None,
            protection: Pending::Idle,
            unprotected: None,
            running: BTreeMap::new(),
            engine: None,
            disruption: None,
            lacking: None,
        }
    }

    /// What was under way in another term is not this one's.
    pub(super) fn begin_term(&mut self) {
        self.missing.clear();
        self.creating.clear();
        self.failures = Failures::default();
        self.write = Pending::Idle;
        self.protected = None;
        self.protection = Pending::Idle;
        self.unprotected = None;
        self.running.clear();
        self.scale =
            Scale::resumed(&self.object.spec, self.object.status.as_ref().map(|status| status.desired_replicas));
        self.lacking = None;
    }

    /// One session more on a tenant's account, or one less.
    pub(super) fn count(&mut self, tenant: &str, more: bool) {
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
    pub(super) fn may_run(&self, engine: EngineName) -> bool {
        self.engine.map_or_else(|| engine.is_served_by(self.object.spec.engine), |known| known == engine)
    }

    /// How many sessions more its limits let it have.
    pub(super) fn may_add(&self) -> u32 {
        left_of(self.object.spec.limits.max_sessions, self.running.values().sum())
    }

    /// How many more of that tenant.
    pub(super) fn may_add_for(&self, tenant: &str) -> u32 {
        let running = self.running.get(tenant).copied().unwrap_or_default();
        left_of(self.object.spec.limits.max_sessions_per_tenant, running)
    }

    /// How many runners it is to have.
    pub(super) fn desired(&self) -> usize {
        usize::try_from(self.scale.desired).unwrap_or_default()
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    pub(super) fn uid(&self) -> &str {
        self.object.metadata.uid.as_deref().unwrap_or_default()
    }

    /// A pod of the current revision failed, or could not be made: the next one waits twice as long, 5 minutes at most.
    pub(super) fn failed(&mut self, cause: (&'static str, String), now: Mono) {
        let pause = Duration::from_secs(1 << self.failures.count.min(9)).min(Duration::from_secs(300));
        self.failures = Failures {
            revision: self.revision.clone(),
            count: self.failures.count.saturating_add(1),
            pause_until: Some(now.after(pause)),
            cause: Some(cause),
        };
    }

    /// A pod of that revision came up: what failed before is over.
    pub(super) fn came_up(&mut self, revision: &str) {
        if revision == self.revision {
            self.failures = Failures::default();
        }
    }
}

fn left_of(limit: Option<i32>, count: u32) -> u32 {
    limit.map_or(u32::MAX, |most| u32::try_from(most).unwrap_or_default().saturating_sub(count))
}
