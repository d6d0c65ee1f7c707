//! The API server with resourceVersions, preconditions and watch events, and its writers besides the operator: users,
//! the garbage collector, node drains and the kubelet.

use super::{
    GUESTS, Mutation, NAMESPACE, POOL, PoolEdit, QUEUE_TIMEOUT, REPLICAS, SCALE_DOWN_DELAY, SHORT_TTL, World,
    runners::Runner,
};
use camofleet_crds::v1alpha1::{
    AllowedNamespaces, Autoscaling, BrowserSession, BrowserSessionSpec, BrowserSessionStatus, NamespacesFrom, PoolRef,
    WorkerPool, WorkerPoolSpec,
};
use camofleet_operator::core::{
    Change, Event, WriteFailure,
    runner::pod_read::{PodPhase, RunnerPod},
};
use k8s_openapi::{
    api::core::v1::{EnvVar, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::SignedDuration,
};
use std::sync::Arc;

/// The watched kinds. Each has its own watch, and the watches progress independently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sessions,
    Pools,
    Pods,
    Nodes,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Sessions, Self::Pools, Self::Pods, Self::Nodes];
}

impl World {
    /// The current list of a kind.
    pub(super) fn list(&self, kind: Kind) -> Event {
        match kind {
            Kind::Sessions => Event::Sessions(Change::Listed(self.sessions.values().cloned().collect())),
            Kind::Pools => Event::Pools(Change::Listed(self.pool.iter().cloned().collect())),
            Kind::Pods => Event::Pods(Change::Listed(self.runners.iter().map(|runner| runner.pod.clone()).collect())),
            Kind::Nodes => Event::Nodes(Change::Listed(self.nodes.clone())),
        }
    }

    fn publish(&mut self, kind: Kind, event: Event) {
        self.watch_events[kind as usize].push(event);
    }

    // Sessions

    pub fn create(&mut self, name: &str, short_ttl: bool) {
        if self.sessions.contains_key(name) {
            return;
        }
        // Half of the names are sessions of another namespace, which name the pool.
        let is_guest = name.ends_with(['1', '3']);
        let pool_ref = is_guest.then(|| PoolRef { name: POOL.into(), namespace: Some(NAMESPACE.into()) });
        let spec = BrowserSessionSpec {
            pool_ref,
            queue_timeout_seconds: QUEUE_TIMEOUT,
            ttl_seconds_after_finished: if short_ttl { SHORT_TTL } else { 600_000 },
            ..BrowserSessionSpec::default()
        };
        let mut session = BrowserSession::new(name, spec);
        session.metadata.namespace = Some(if is_guest { GUESTS } else { NAMESPACE }.into());
        session.metadata.uid = Some(self.new_uid(name));
        session.metadata.generation = Some(1);
        session.metadata.creation_timestamp = Some(Time(self.now().wall));
        self.store_session(session);
    }

    /// The user changes the idle timeout.
    pub fn edit(&mut self, name: &str) {
        let Some(session) = self.sessions.get(name) else { return };
        let mut session = BrowserSession::clone(session);
        let generation = session.metadata.generation.unwrap() + 1;
        session.metadata.generation = Some(generation);
        session.spec.idle_timeout_seconds = Some(i32::try_from(generation).unwrap() * 60);
        self.store_session(session);
    }

    pub fn delete(&mut self, name: &str) {
        if let Some(session) = self.sessions.remove(name) {
            self.version += 1;
            self.publish(Kind::Sessions, Event::Sessions(Change::Deleted(session)));
        }
    }

    pub(super) fn delete_by_uid(&mut self, name: &str, uid: &str) -> Result<(), WriteFailure> {
        let there = self.sessions.get(name).ok_or(WriteFailure::Gone)?;
        if there.metadata.uid.as_deref() != Some(uid) {
            return Err(WriteFailure::Conflict);
        }
        self.delete(name);
        Ok(())
    }

    fn store_session(&mut self, mut session: BrowserSession) -> Arc<BrowserSession> {
        session.metadata.resource_version = Some(self.next_version().to_string());
        let session = Arc::new(session);
        self.sessions.insert(session.metadata.name.clone().unwrap(), session.clone());
        self.publish(Kind::Sessions, Event::Sessions(Change::Applied(session.clone())));
        session
    }

    pub(super) fn patch_session(
        &mut self,
        decided_on: &BrowserSession,
        status: BrowserSessionStatus,
    ) -> Result<Arc<BrowserSession>, WriteFailure> {
        let name = decided_on.metadata.name.as_ref().unwrap();
        let current = self.sessions.get(name).ok_or(WriteFailure::Gone)?;
        let unchanged = current.metadata.resource_version == decided_on.metadata.resource_version;
        if !unchanged && self.mutation != Mutation::NoPrecondition {
            return Err(WriteFailure::Conflict);
        }
        let mut patched = BrowserSession::clone(current);
        let uid = patched.metadata.uid.clone().unwrap();
        if let Some(runner) = &status.runner {
            let runners = self.published.entry(uid.clone()).or_default();
            runners.insert(runner.uid.clone());
            if runners.len() > 1 {
                self.violations.push(format!("{uid} was published on {runners:?}"));
            }
        }
        patched.status = Some(status);
        Ok(self.store_session(patched))
    }

    // The pool

    pub fn create_pool(&mut self) {
        if self.pool.is_some() {
            return;
        }
        let spec = WorkerPoolSpec {
            replicas: Some(REPLICAS),
            slots_per_runner: self.slots,
            allowed_namespaces: AllowedNamespaces { from: NamespacesFrom::All, selector: None },
            ..WorkerPoolSpec::default()
        };
        let mut pool = WorkerPool::new(POOL, spec);
        pool.metadata.namespace = Some(NAMESPACE.into());
        pool.metadata.uid = Some(self.new_uid("pool"));
        pool.metadata.generation = Some(1);
        self.store_pool(pool);
    }

    pub fn edit_pool(&mut self, edit: PoolEdit) {
        let Some(pool) = &self.pool else { return };
        let mut pool = WorkerPool::clone(pool);
        let generation = pool.metadata.generation.unwrap() + 1;
        pool.metadata.generation = Some(generation);
        let spec = &mut pool.spec;
        match edit {
            PoolEdit::Replicas(replicas) => (spec.replicas, spec.autoscaling) = (Some(replicas), None),
            PoolEdit::AnotherShape => {
                let env = EnvVar { name: "SHAPE".into(), value: Some(generation.to_string()), ..EnvVar::default() };
                spec.template.env = vec![env];
            }
            PoolEdit::FirstShape => spec.template.env.clear(),
            PoolEdit::Autoscale { min, buffer } => {
                spec.replicas = None;
                spec.autoscaling = Some(Autoscaling {
                    min_replicas: min,
                    max_replicas: REPLICAS,
                    buffer_slots: buffer,
                    scale_down_delay_seconds: SCALE_DOWN_DELAY,
                });
            }
            PoolEdit::MaxSessions(most) => spec.limits.max_sessions = most,
        }
        self.store_pool(pool);
    }

    /// The pool disappears once it has no finalizer.
    pub fn delete_pool(&mut self) {
        let Some(pool) = self.pool.as_deref().filter(|pool| pool.metadata.deletion_timestamp.is_none()) else { return };
        let mut pool = pool.clone();
        pool.metadata.deletion_timestamp = Some(Time(self.now().wall));
        self.store_pool(pool);
    }

    fn store_pool(&mut self, mut pool: WorkerPool) -> Arc<WorkerPool> {
        pool.metadata.resource_version = Some(self.next_version().to_string());
        let pool = Arc::new(pool);
        let held = pool.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        if pool.metadata.deletion_timestamp.is_some() && !held {
            self.pool = None;
            self.publish(Kind::Pools, Event::Pools(Change::Deleted(pool.clone())));
        } else {
            self.pool = Some(pool.clone());
            self.publish(Kind::Pools, Event::Pools(Change::Applied(pool.clone())));
        }
        pool
    }

    pub(super) fn patch_pool(
        &mut self,
        decided_on: &WorkerPool,
        change: impl FnOnce(&mut WorkerPool),
    ) -> Result<Option<Arc<WorkerPool>>, WriteFailure> {
        let current = self.pool.as_deref().ok_or(WriteFailure::Gone)?;
        if current.metadata.resource_version != decided_on.metadata.resource_version {
            return Err(WriteFailure::Conflict);
        }
        let mut patched = current.clone();
        change(&mut patched);
        Ok(Some(self.store_pool(patched)))
    }

    /// The garbage collector deletes the pods of deleted pools.
    pub fn collect_garbage(&mut self) {
        let owner = self.pool.as_ref().and_then(|pool| pool.metadata.uid.clone());
        let orphans = self.runners.iter().filter(|runner| Some(&runner.pod.pool.1) != owner.as_ref());
        let orphans: Vec<_> = orphans.map(|runner| runner.pod.uid.clone()).collect();
        for uid in orphans {
            let _ = self.delete_pod(&uid);
        }
    }

    // Nodes

    pub fn cordon(&mut self, node: usize, cordoned: bool) {
        let at = node % self.nodes.len();
        self.nodes[at].cordoned = cordoned;
        self.publish(Kind::Nodes, Event::Nodes(Change::Applied(self.nodes[at].clone())));
    }

    // Pods

    pub(super) fn create_pod(&mut self, mut pod: Pod) {
        let name = pod.metadata.name.clone().unwrap();
        if self.runners.iter().any(|runner| runner.pod.key.name == name) {
            return;
        }
        pod.metadata.uid = Some(self.new_uid("pod"));
        pod.metadata.creation_timestamp = Some(Time(self.now().wall));
        let seen = serde_json::from_value(serde_json::to_value(pod).unwrap()).unwrap();
        let mut pod = RunnerPod::read(&seen).expect("the operator can read the pods that it creates");
        // The scheduler assigns pods to the schedulable nodes in turn.
        let open: Vec<_> = self.nodes.iter().filter(|node| !node.cordoned).collect();
        pod.node = (!open.is_empty()).then(|| open[self.runners.len() % open.len()].name.clone());
        let same_shape =
            self.runners.iter().filter(|other| other.pod.pool == pod.pool && other.pod.revision == pod.revision);
        let same_shape = same_shape.filter(|other| !other.draining).count() + 1;
        if same_shape > usize::try_from(2 * REPLICAS).unwrap() {
            self.violations.push(format!("{same_shape} pods of one shape for {REPLICAS} replicas"));
        }
        let boot_id = self.new_uid("boot");
        self.runners.push(Runner::new(pod, boot_id, u32::try_from(self.slots).unwrap(), self.epoch));
        self.publish_pod(self.runners.len() - 1);
    }

    fn publish_pod(&mut self, at: usize) {
        self.runners[at].pod.version = self.next_version();
        self.publish(Kind::Pods, Event::Pods(Change::Applied(self.runners[at].pod.clone())));
    }

    /// The kubelet starts the container. An unscheduled pod is assigned to a schedulable node first, if there is one.
    pub fn start(&mut self, at: usize) {
        let open = self.nodes.iter().find(|node| !node.cordoned).map(|node| node.name.clone());
        let pod = &mut self.runners[at].pod;
        pod.node = pod.node.take().or(open);
        if pod.phase != PodPhase::Pending(None) || pod.node.is_none() {
            return;
        }
        pod.phase = PodPhase::Running;
        pod.address = Some("10.0.0.1".parse().unwrap());
        self.publish_pod(at);
    }

    /// The container exits and is not restarted. The pod remains until it is deleted.
    pub fn exit_container(&mut self, at: usize) {
        let runner = &mut self.runners[at];
        if runner.pod.phase != PodPhase::Running {
            return;
        }
        runner.die();
        runner.pod.phase =
            PodPhase::Terminated { message: "the container exited with code 1 (Error)".into(), out_of_memory: false };
        self.publish_pod(at);
    }

    /// A node drain evicts the pod, or a user deletes it.
    pub fn evict(&mut self, at: usize) {
        let uid = self.runners[at].pod.uid.clone();
        let _ = self.delete_pod(&uid);
    }

    /// A deleted pod drains, and disappears after its last session has ended.
    pub(super) fn delete_pod(&mut self, uid: &str) -> Result<(), WriteFailure> {
        let wall = self.now().wall;
        let at = self.runners.iter().position(|runner| runner.pod.uid == uid).ok_or(WriteFailure::Gone)?;
        let runner = &mut self.runners[at];
        runner.drain();
        runner.pod.deletion_deadline.get_or_insert(wall + SignedDuration::from_secs(615));
        self.publish_pod(at);
        Ok(())
    }

    /// The pod disappears with its process.
    pub fn kill_pod(&mut self, at: usize) {
        let runner = self.runners.remove(at);
        self.version += 1;
        self.publish(Kind::Pods, Event::Pods(Change::Deleted(runner.pod)));
    }
}
