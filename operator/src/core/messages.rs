//! The events that the core receives, and the effects that it returns.

use crate::core::{
    clock::Interval,
    ids::{Key, Uid},
    runner::{pod_read::RunnerPod, report::Report},
};
use camofleet_crds::v1alpha1::{BrowserSession, BrowserSessionStatus, StartTier, WorkerPool, WorkerPoolStatus};
use camofleet_runner_api::{BindRequest, BindResponse};
pub use camofleet_runtime::watch::Change;
use k8s_openapi::api::core::v1::Pod;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

/// An event from the API server, a runner or the leader election.
#[derive(Clone, Debug)]
pub enum Event {
    /// Watch event of sessions.
    Sessions(Change<Arc<BrowserSession>>),
    /// Watch event of pools.
    Pools(Change<Arc<WorkerPool>>),
    /// Watch event of runner pods.
    Pods(Change<RunnerPod>),
    /// Watch event of nodes.
    Nodes(Change<Node>),
    /// Watch event of namespaces.
    Namespaces(Change<Namespace>),
    /// The public keys that runners have to trust, in the format of the pod annotation.
    Keys(String),
    /// This process became the leader.
    BecameLeader,
    /// This process is no longer the leader.
    LostLeadership,
    /// A runner reported its state.
    RunnerReported {
        /// UID of the runner's pod.
        pod: Uid,
        /// The validated state.
        report: Report,
    },
    /// A runner does not respond, or its report was rejected.
    RunnerUnreachable {
        /// UID of the runner's pod.
        pod: Uid,
    },
    /// A runner's answer to [`Effect::Bind`].
    BindAnswered {
        /// UID of the session.
        session: Uid,
        /// UID of the runner's pod.
        pod: Uid,
        /// The runner's answer.
        answer: Result<BindResponse, BindFailure>,
    },
    /// [`Effect::EndSession`] was answered or abandoned. The core repeats it after a pause while the runner lists the
    /// session.
    EndAnswered {
        /// UID of the session.
        session: Uid,
        /// UID of the runner's pod.
        pod: Uid,
    },
    /// The API server's answer to [`Effect::PatchSession`].
    SessionPatched {
        /// The version of the session on which the write was based.
        session: Arc<BrowserSession>,
        /// The stored object.
        answer: Result<Arc<BrowserSession>, WriteFailure>,
    },
    /// The API server's answer to [`Effect::ReadSession`].
    SessionRead {
        /// Key that was read.
        key: Key,
        /// UID of the requested session.
        session: Uid,
        /// The object with that key, if it exists. It may have another UID.
        answer: Result<Option<Arc<BrowserSession>>, ReadFailure>,
    },
    /// The API server's answer to [`Effect::ReadPod`].
    PodRead {
        /// UID of the session.
        session: Uid,
        /// UID of the requested pod.
        pod: Uid,
        /// Whether a pod with this UID exists.
        answer: Result<bool, ReadFailure>,
    },
    /// The API server's answer to [`Effect::DeleteSession`].
    SessionDeleted {
        /// UID of the session.
        session: Uid,
        /// Whether the deletion was accepted.
        answer: Result<(), WriteFailure>,
    },
    /// The API server's answer to [`Effect::CreatePod`].
    PodCreated {
        /// Key of the pool.
        pool: Key,
        /// Name of the pod.
        name: String,
        /// Whether the pod exists now.
        answer: Result<(), WriteFailure>,
    },
    /// The API server's answer to [`Effect::DeletePod`].
    PodDeleted {
        /// UID of the pod.
        pod: Uid,
        /// Whether the deletion was accepted.
        answer: Result<(), WriteFailure>,
    },
    /// The API server's answer to [`Effect::AnnotatePod`].
    PodAnnotated {
        /// UID of the pod.
        pod: Uid,
        /// The keys that were sent. Newer ones may be published by now.
        keys: String,
        /// Whether the write was accepted. The pod of the answer precedes this event as a watch event.
        answer: Result<(), WriteFailure>,
    },
    /// The API server's answer to [`Effect::ApplyDisruptionBudget`].
    DisruptionBudgetApplied {
        /// The pool at the time of the effect. Another pool may have its name by now.
        pool: Arc<WorkerPool>,
        /// Whether the budget is as desired. `Rejected` if a budget of that name has another owner.
        answer: Result<(), WriteFailure>,
    },
    /// The API server's answer to [`Effect::PatchPool`] or [`Effect::SetFinalizers`].
    PoolPatched {
        /// The pool at the time of the effect. Another pool may have its name by now.
        pool: Arc<WorkerPool>,
        /// The stored object. `None` if the pool is gone.
        answer: Result<Option<Arc<WorkerPool>>, WriteFailure>,
    },
}

/// The fields of a node that decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Whether the condition `Ready` is true.
    pub ready: bool,
    /// Whether the node is unschedulable.
    pub cordoned: bool,
    /// Allocatable CPUs, rounded down.
    pub cpus: usize,
}

/// The fields of a namespace that decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Name.
    pub name: String,
    /// Labels, which a pool's `allowedNamespaces` can select.
    pub labels: BTreeMap<String, String>,
}

/// Why a bind failed, or may have failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindFailure {
    /// The runner has no free slot or drains, and did not take the session.
    NoFreeSlot,
    /// The runner rejects the session permanently, with this message.
    Invalid(String),
    /// It is unknown whether the runner took the session.
    Unknown(String),
}

/// Why a write failed, or may have failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteFailure {
    /// The object has changed since it was read.
    Conflict,
    /// The object no longer exists.
    Gone,
    /// The API server rejected the write permanently, with this message.
    Rejected(String),
    /// The write may succeed later, or has succeeded without an answer.
    Transient(String),
}

/// Why an uncached read failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// The API server rejected the read (400, 403). Repeating it is useless.
    Rejected,
    /// The read may succeed later.
    Transient,
}

/// An action for the I/O layer. Every effect except [`Effect::Observe`] is safe to repeat.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Stream the reports of a runner until [`Effect::StopStreaming`].
    StreamReports {
        /// UID of the runner's pod.
        pod: Uid,
        /// Key of the runner's pod, for the log.
        key: Key,
        /// Address of the runner's pod.
        address: IpAddr,
        /// Slots of the runner's pod, which bound the size of its state.
        slots: u32,
    },
    /// Stop streaming a runner's reports.
    StopStreaming {
        /// UID of the runner's pod.
        pod: Uid,
    },
    /// Bind a session on a runner, or send new timeouts for a bound one.
    Bind {
        /// UID of the session.
        session: Uid,
        /// UID of the runner's pod.
        pod: Uid,
        /// Key of the runner's pod, for the log.
        key: Key,
        /// Address of the runner's pod.
        address: IpAddr,
        /// Body of the call.
        request: BindRequest,
        /// Whether the runner does not have the session yet. `false` if the call only sends new timeouts.
        is_new: bool,
    },
    /// End a session on a runner, or acknowledge the end of one.
    EndSession {
        /// UID of the session.
        session: Uid,
        /// UID of the runner's pod.
        pod: Uid,
        /// Key of the runner's pod, for the log.
        key: Key,
        /// Address of the runner's pod.
        address: IpAddr,
    },
    /// Write a session's status, unless the object has changed.
    PatchSession {
        /// The version of the session on which the write is based.
        session: Arc<BrowserSession>,
        /// The whole status.
        status: Box<BrowserSessionStatus>,
        /// Whether the write precedes writes that are not urgent (`Queued`).
        urgent: bool,
    },
    /// Read a session without a cache, once.
    ReadSession {
        /// Key of the session.
        key: Key,
        /// UID of the session.
        session: Uid,
    },
    /// Read the pod that a session's status names without a cache, once.
    ReadPod {
        /// Key of the pod.
        key: Key,
        /// UID of the pod.
        pod: Uid,
        /// UID of the session.
        session: Uid,
    },
    /// Delete a session.
    DeleteSession {
        /// Key of the session.
        key: Key,
        /// UID of the session. Another session of that name is not deleted.
        session: Uid,
    },
    /// Create a runner pod.
    CreatePod {
        /// Key of the pool.
        pool: Key,
        /// The pod.
        pod: Box<Pod>,
    },
    /// Delete a runner pod, which drains it.
    DeletePod {
        /// Key of the pod.
        key: Key,
        /// UID of the pod.
        pod: Uid,
        /// Reason for the deletion, for the log.
        reason: &'static str,
    },
    /// Write the current public keys to a pod's annotation.
    AnnotatePod {
        /// Key of the pod.
        key: Key,
        /// UID of the pod.
        pod: Uid,
        /// New value of the annotation.
        keys: String,
    },
    /// Write a pool's status, unless the object has changed.
    PatchPool {
        /// The version of the pool on which the write is based.
        pool: Arc<WorkerPool>,
        /// The whole status.
        status: Box<WorkerPoolStatus>,
    },
    /// Set a pool's finalizers, unless the object has changed.
    SetFinalizers {
        /// The version of the pool on which the write is based.
        pool: Arc<WorkerPool>,
        /// All finalizers.
        finalizers: Vec<String>,
    },
    /// Apply the PodDisruptionBudget of a pool, or delete it if the runners may be evicted.
    ApplyDisruptionBudget {
        /// The pool.
        pool: Arc<WorkerPool>,
    },
    /// Publish a Kubernetes event about a session. It has no answer.
    PublishEvent {
        /// The session.
        session: Arc<BrowserSession>,
        /// Type of the event.
        type_: EventType,
        /// Reason of the event.
        reason: String,
        /// Message of the event.
        note: String,
    },
    /// Record an observation in metrics, traces and logs. It has no answer, and counts twice if it is repeated.
    Observe(Observation),
    /// Delete the metrics of a deleted pool. It has no answer.
    DeletePoolMetrics {
        /// Key of the pool.
        pool: Key,
    },
}

/// Type of a Kubernetes event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// The event is expected.
    Normal,
    /// The event is a failure.
    Warning,
}

/// An observation about a session or a write, for metrics, traces and logs.
#[derive(Clone, Debug)]
pub enum Observation {
    /// A slot was assigned to a session.
    Assigned {
        /// UID of the session.
        session: Uid,
        /// Pool of the slot.
        pool: Key,
        /// Priority of the session.
        priority: i32,
        /// Time since this process first saw the session. `None` if the session had a status then.
        waited: Option<Interval>,
    },
    /// A runner confirmed that it took a session.
    Bound {
        /// Time since the assignment.
        took: Duration,
    },
    /// The status became Ready for the first time.
    Ready {
        /// The session with the new status.
        session: Arc<BrowserSession>,
        /// The session's pool, unless it is gone.
        pool: Option<Key>,
        /// Hot or cold start.
        tier: StartTier,
        /// Time since this process first saw the session. `None` if the session had a status then.
        started: Option<Interval>,
    },
    /// A session ended.
    Ended {
        /// The last known version of the session.
        session: Arc<BrowserSession>,
        /// The reason of `Finished`, or `Deleted`. The set of values is fixed, so it can be a metric label.
        reason: String,
        /// Time since this process first saw the session. `None` if it has been Ready, or had a status then.
        started: Option<Interval>,
    },
    /// The write of a status was accepted, but the API server pruned fields because the CRDs are older, or a webhook
    /// changed fields. The fields are compared with the answer to the same write, so other writers cannot cause this.
    Pruned {
        /// Kind of the object.
        kind: &'static str,
        /// Key of the object.
        object: Key,
        /// Paths of the fields, such as `status.observedGeneration`. At least one.
        fields: Vec<String>,
    },
    /// The write of an object's metadata was accepted but not stored as sent, because a webhook or a concurrent user
    /// changed it.
    Reverted {
        /// Kind of the object.
        kind: &'static str,
        /// Key of the object.
        object: Key,
        /// Path of the field.
        field: String,
    },
}
