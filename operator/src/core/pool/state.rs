//! A pool as the leader sees it.

use crate::core::{
    clock::Mono,
    ids::{Key, Uid},
    pool::{launches::Waits, namespace_policy::Audience, scale::Scale},
    retry::Pending,
    runner::pod_build::{Installation, Shape},
    status_write::StatusWrite,
};
use camofleet_crds::{
    conditions::pool as reasons,
    v1alpha1::{Disruption, EngineName, WorkerPool, WorkerPoolStatus},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

/// Holds a pool until its sessions are gone or the drain deadline passed.
pub const FINALIZER: &str = "camofleet.dev/drain";

/// The command that removes a pool's finalizers where no operator runs; docs/operating.md has it, too.
pub fn finalizer_removal(pool: &Key) -> String {
    let Key { namespace, name } = pool;
    format!(r#"kubectl patch workerpool {name} -n {namespace} --type=merge -p '{{"metadata":{{"finalizers":null}}}}'"#)
}

#[derive(Debug)]
pub(in crate::core) struct Pool {
    pub(in crate::core) object: Arc<WorkerPool>,
    /// The shape that its spec asks for.
    pub(in crate::core) wished: Shape,
    /// The latest shape in which a runner came up.
    pub(in crate::core) serving: Option<Shape>,
    /// Places without a pod, and since when.
    pub(in crate::core) missing: BTreeMap<u32, Mono>,
    /// Pods that were asked for and not seen yet, by name.
    pub(in crate::core) creating: BTreeMap<String, Creating>,
    /// The last pod that was seen in each place.
    pub(in crate::core) last: HashMap<u32, Uid>,
    /// How often in a row pods of the two shapes failed, by revision.
    failures: HashMap<String, Failures>,
    /// The write of its status.
    pub(in crate::core) write: StatusWrite<WorkerPoolStatus>,
    /// The write of its finalizers.
    pub(in crate::core) finalization: Pending,
    /// Which of the two is under way: one at a time, because each names the version of the object.
    pub(in crate::core) patch: Option<Patch>,
    /// When its status was written last.
    pub(in crate::core) written: Option<Mono>,
    /// When its disruption budget was last as it should be.
    pub(in crate::core) protected: Option<Mono>,
    /// The write of its disruption budget.
    pub(in crate::core) protection: Pending,
    /// Why it has no disruption budget.
    pub(in crate::core) unprotected: Option<String>,
    /// Which namespaces it is for.
    pub(in crate::core) audience: Audience,
    /// Sessions on its runners, by tenant: nobody is listed with none.
    pub(in crate::core) running: BTreeMap<String, u32>,
    /// The engine that its runners were last heard to run, of the shape that they are made in.
    pub(in crate::core) engine: Option<EngineName>,
    /// What was asked for when its disruption budget was last seen to.
    pub(in crate::core) disruption: Option<Disruption>,
    /// How many runners it is to have.
    pub(in crate::core) scale: Scale,
    /// While it lacks runners: since when none came up.
    pub(in crate::core) lacking: Option<Mono>,
    /// Why its next launch waits. Absent: no place lacks a pod, or the next launch has begun.
    pub(in crate::core) waits: Option<Waits>,
}

/// A write of a pool that is under way.
#[derive(Debug)]
pub(in crate::core) enum Patch {
    Status,
    /// The finalizers that were sent.
    Finalizers(Vec<String>),
}

/// A pod that was asked for.
#[derive(Debug)]
pub(in crate::core) struct Creating {
    pub(in crate::core) ordinal: u32,
    pub(in crate::core) revision: String,
    pub(in crate::core) since: Mono,
}

/// Pods of one shape that failed in a row.
#[derive(Debug)]
struct Failures {
    count: u32,
    /// No pod is made before then.
    pause_until: Mono,
    cause: Trouble,
}

/// What keeps runners from coming up: reason and message, for `Stalled`.
pub(in crate::core) type Trouble = (&'static str, String);

impl Pool {
    pub(in crate::core) fn new(object: Arc<WorkerPool>, installation: &Installation) -> Self {
        Self {
            wished: Shape::wished(&object, installation),
            serving: Shape::published(&object),
            audience: Audience::of(&object),
            scale: Scale::resumed(&object.spec, object.status.as_ref().map(|status| status.desired_replicas)),
            object,
            missing: BTreeMap::new(),
            creating: BTreeMap::new(),
            last: HashMap::new(),
            failures: HashMap::new(),
            write: StatusWrite::default(),
            finalization: Pending::Idle,
            patch: None,
            written: None,
            protected: None,
            protection: Pending::Idle,
            unprotected: None,
            running: BTreeMap::new(),
            engine: None,
            disruption: None,
            lacking: None,
            waits: None,
        }
    }

    /// What was under way in another term is not this one's.
    pub(in crate::core) fn begin_term(&mut self) {
        self.missing.clear();
        self.creating.clear();
        self.failures.clear();
        self.serving = Shape::published(&self.object);
        (self.write, self.finalization, self.patch) = (StatusWrite::default(), Pending::Idle, None);
        self.protected = None;
        self.protection = Pending::Idle;
        self.unprotected = None;
        self.running.clear();
        self.scale =
            Scale::resumed(&self.object.spec, self.object.status.as_ref().map(|status| status.desired_replicas));
        self.lacking = None;
        self.waits = None;
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
    pub(in crate::core) fn may_add(&self) -> u32 {
        left_of(self.object.spec.limits.max_sessions, self.running.values().sum())
    }

    /// How many more of that tenant.
    pub(in crate::core) fn may_add_for(&self, tenant: &str) -> u32 {
        let running = self.running.get(tenant).copied().unwrap_or_default();
        left_of(self.object.spec.limits.max_sessions_per_tenant, running)
    }

    /// Compares UIDs: another version is the same pool, another pool of the same name is not.
    pub(in crate::core) fn is(&self, object: &WorkerPool) -> bool {
        self.object.metadata.uid == object.metadata.uid
    }

    /// How many runners it is to have.
    pub(in crate::core) fn desired(&self) -> usize {
        usize::try_from(self.scale.desired).unwrap_or_default()
    }

    pub(in crate::core) fn is_deleted(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// The shape that runners are made in.
    pub(in crate::core) fn makes(&self) -> &Shape {
        self.serving.as_ref().unwrap_or(&self.wished)
    }

    /// The only known shape is refused, so no runner can be created.
    pub(in crate::core) fn makes_none(&self) -> bool {
        self.makes().refusal().is_some()
    }

    /// Whether the wished shape is new: before others follow, one runner of it, the canary, has to load a page.
    pub(in crate::core) fn is_testing(&self) -> bool {
        self.wished.revision != self.makes().revision && self.wished.refusal().is_none()
    }

    /// Why no runner is made in the wished shape, for `Stalled`.
    pub(in crate::core) fn refusal(&self) -> Option<Trouble> {
        self.wished.refusal().map(|words| (reasons::TEMPLATE_TOO_LARGE, words))
    }

    /// Whether runners of that revision are the new shape's first, which take no sessions yet.
    pub(in crate::core) fn tests(&self, revision: &str) -> bool {
        self.is_testing() && self.wished.revision == revision
    }

    /// The owner wishes another shape, or the same as before.
    pub(in crate::core) fn wish(&mut self, shape: Shape) {
        if self.serving.is_none() && self.wished.revision != shape.revision {
            self.engine = None;
        }
        self.wished = shape;
        let (wished, makes) = (self.wished.revision.clone(), self.makes().revision.clone());
        self.failures.retain(|revision, _| *revision == wished || *revision == makes);
    }

    /// A pod of that shape failed, or could not be made: the next one waits twice as long, 5 minutes at most.
    pub(in crate::core) fn failed(&mut self, revision: &str, cause: Trouble, now: Mono) {
        if revision != self.wished.revision && revision != self.makes().revision {
            return;
        }
        let count = self.failures.get(revision).map_or(0, |failures| failures.count);
        let pause = Duration::from_secs(1 << count.min(9)).min(Duration::from_secs(300));
        let failures = Failures { count: count.saturating_add(1), pause_until: now.after(pause), cause };
        self.failures.insert(revision.to_owned(), failures);
    }

    /// A runner of that shape came up: what failed before is over, and what was new is proven.
    pub(in crate::core) fn came_up(&mut self, revision: &str) {
        self.failures.remove(revision);
        if revision == self.wished.revision {
            self.serving = Some(self.wished.clone());
        }
    }

    /// Until when no pod of that shape is made.
    pub(in crate::core) fn pause_until(&self, revision: &str) -> Option<Mono> {
        self.failures.get(revision).map(|failures| failures.pause_until)
    }

    /// Why the latest pod of that shape failed, when none came up since.
    pub(in crate::core) fn trouble(&self, revision: &str) -> Option<Trouble> {
        self.failures.get(revision).map(|failures| failures.cause.clone())
    }

    /// When pods may be made again.
    pub(in crate::core) fn pauses(&self) -> impl Iterator<Item = Mono> {
        self.failures.values().map(|failures| failures.pause_until)
    }

    /// Whether the runners that it makes fail.
    pub(in crate::core) fn is_failing(&self) -> bool {
        self.failures.contains_key(&self.makes().revision)
    }
}

fn left_of(limit: Option<i32>, count: u32) -> u32 {
    limit.map_or(u32::MAX, |most| u32::try_from(most).unwrap_or_default().saturating_sub(count))
}
