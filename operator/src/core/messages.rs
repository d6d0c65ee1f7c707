//! The events that the core receives, and the effects that it returns. Between the two there is no IO.

use crate::core::{
    clock::{Interval, Mono},
    ids::{Key, Uid},
    runner::{pod_read::RunnerPod, report::Report},
};
use camofleet_crds::v1alpha1::{BrowserSession, BrowserSessionStatus, StartTier, WorkerPool, WorkerPoolStatus};
use camofleet_runner_api::{BindAnswer, BindRequest};
pub use camofleet_runtime::watch::Change;
use k8s_openapi::api::core::v1::Pod;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

/// Something that happened outside.
#[derive(Clone, Debug)]
pub enum Event {
    /// A watch's news of sessions.
    Sessions(Change<Arc<BrowserSession>>),
    /// A watch's news of pools.
    Pools(Change<Arc<WorkerPool>>),
    /// A watch's news of runner pods.
    Pods(Change<RunnerPod>),
    /// A watch's news of nodes.
    Nodes(Change<Node>),
    /// A watch's news of namespaces.
    Namespaces(Change<Namespace>),
    /// The public keys that runners are to trust, as the annotation has them.
    Keys(String),
    /// This process became the leader.
    Leads,
    /// This process is no longer the leader.
    Follows,
    /// A runner reported its state.
    Runner {
        /// UID of its pod.
        pod: Uid,
        /// The state.
        report: Report,
    },
    /// A runner does not answer, or its answers are implausible.
    Silent {
        /// UID of its pod.
        pod: Uid,
    },
    /// A runner's answer to [`Effect::Bind`].
    BindAnswered {
        /// UID of the session.
        session: Uid,
        /// UID of the runner's pod.
        pod: Uid,
        /// What it answered.
        answer: Result<BindAnswer, BindFailure>,
    },
    /// [`Effect::End`] was answered, or given up. It is repeated after a pause for as long as the runner lists the
    /// session.
    EndAnswered {
        /// UID of the session.
        session: Uid,
        /// UID of the runner's pod.
        pod: Uid,
    },
    /// The API server's answer to [`Effect::PatchSession`].
    SessionPatched {
        /// The session as it was when the write was decided.
        session: Arc<BrowserSession>,
        /// The new object.
        answer: Result<Arc<BrowserSession>, WriteFailure>,
    },
    /// The API server's answer to [`Effect::ReadSession`].
    SessionRead {
        /// The name that was read.
        key: Key,
        /// UID of the session that was looked for.
        session: Uid,
        /// The object of that name; none when there is none.
        answer: Result<Option<Arc<BrowserSession>>, ReadFailure>,
    },
    /// The API server's answer to [`Effect::ReadPod`].
    PodRead {
        /// UID of the session.
        session: Uid,
        /// UID of the pod that was looked for.
        pod: Uid,
        /// Whether it is still there.
        answer: Result<bool, ReadFailure>,
    },
    /// The API server's answer to [`Effect::DeleteSession`].
    SessionDeleted {
        /// UID of the session.
        session: Uid,
        /// Whether it is gone now.
        answer: Result<(), WriteFailure>,
    },
    /// The API server's answer to [`Effect::CreatePod`].
    PodCreated {
        /// The pool.
        pool: Key,
        /// Name of the pod.
        name: String,
        /// Whether it is there now.
        answer: Result<(), WriteFailure>,
    },
    /// The API server's answer to [`Effect::DeletePod`].
    PodDeleted {
        /// UID of the pod.
        pod: Uid,
        /// Whether it will go.
        answer: Result<(), WriteFailure>,
    },
    /// The API server's answer to [`Effect::AnnotatePod`].
    PodAnnotated {
        /// UID of the pod.
        pod: Uid,
        /// The keys that were sent. Others may be published by now.
        keys: String,
        /// Accepted by the API server, or not. The pod in its answer is handed over first, like a watch event.
        answer: Result<(), WriteFailure>,
    },
    /// The API server's answer to [`Effect::ProtectPool`].
    PoolProtected {
        /// The pool, as it was when the effect was decided on: by now there may be another of its name.
        pool: Arc<WorkerPool>,
        /// Whether its runners are protected now. Refused: a budget of that name is somebody else's.
        answer: Result<(), WriteFailure>,
    },
    /// The API server's answer to another effect on a pool.
    PoolPatched {
        /// The pool, as above.
        pool: Arc<WorkerPool>,
        /// The new object, when it is still there.
        answer: Result<Option<Arc<WorkerPool>>, WriteFailure>,
    },
}

/// What of a node matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Whether its kubelet says that it is well.
    pub ready: bool,
    /// Whether it was cordoned.
    pub cordoned: bool,
    /// Whole CPUs that pods may use.
    pub cpus: usize,
}

/// What of a namespace matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels, by which pools may be for it.
    pub labels: BTreeMap<String, String>,
}

/// Why a bind did not happen, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindFailure {
    /// The runner has no room: the session is not there.
    Refused,
    /// The runner will never take this session; the words say why.
    Invalid(String),
    /// Nobody knows whether it happened.
    Unknown(String),
}

/// Why a write did not happen, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteFailure {
    /// The object has changed since.
    Conflict,
    /// The object is gone.
    Gone,
    /// The API server will not have it; the words say why.
    Refused(String),
    /// It may work later.
    Transient(String),
}

/// Why an uncached read gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// The API server will not answer it (400, 403): asking again is no use.
    Refused,
    /// It may work later.
    Transient,
}

/// Something to be done outside. Each is safe to do twice.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Follow a runner's events, for as long as not told otherwise.
    Follow {
        /// UID of its pod.
        pod: Uid,
        /// Address of its pod.
        address: IpAddr,
        /// Slots of its pod, which bound what it can have to report.
        slots: u32,
    },
    /// Follow it no longer.
    Unfollow {
        /// UID of its pod.
        pod: Uid,
    },
    /// Have a runner take a session, or take over its new time-outs.
    Bind {
        /// UID of the session.
        session: Uid,
        /// UID of the runner's pod.
        pod: Uid,
        /// Address of the runner's pod.
        address: IpAddr,
        /// What the session asks for.
        request: BindRequest,
        /// It is on its way to Ready, rather than given new time-outs.
        starts: bool,
    },
    /// Have a runner end a session, or forget one that ended.
    End {
        /// UID of the session.
        session: Uid,
        /// UID of the runner's pod.
        pod: Uid,
        /// Address of the runner's pod.
        address: IpAddr,
    },
    /// Write a session's status, unless it changed since.
    PatchSession {
        /// The session as it was when this was decided.
        session: Arc<BrowserSession>,
        /// The whole status.
        status: Box<BrowserSessionStatus>,
        /// False: it can wait behind others (`Queued`).
        urgent: bool,
    },
    /// Read a session past every cache, once.
    ReadSession {
        /// Which.
        key: Key,
        /// Its UID.
        session: Uid,
    },
    /// Read the pod that a session is published on, past every cache, once.
    ReadPod {
        /// Which.
        key: Key,
        /// Its UID.
        pod: Uid,
        /// UID of the session.
        session: Uid,
    },
    /// Delete a session.
    DeleteSession {
        /// Which.
        key: Key,
        /// Its UID: another of that name stays.
        session: Uid,
    },
    /// Create a runner pod.
    CreatePod {
        /// For which pool.
        pool: Key,
        /// The pod.
        pod: Box<Pod>,
    },
    /// Delete a pod. It drains.
    DeletePod {
        /// Which.
        key: Key,
        /// Its UID.
        pod: Uid,
        /// Why, for logs.
        why: &'static str,
    },
    /// Give a pod the current public keys.
    AnnotatePod {
        /// Which.
        key: Key,
        /// Its UID.
        pod: Uid,
        /// The annotation's new value.
        keys: String,
    },
    /// Write a pool's status, unless it changed since.
    PatchPool {
        /// The pool as it was when this was decided.
        pool: Arc<WorkerPool>,
        /// The whole status.
        status: Box<WorkerPoolStatus>,
    },
    /// Set or take off the finalizer of a pool, unless it changed since.
    FinalizePool {
        /// The pool as it was when this was decided.
        pool: Arc<WorkerPool>,
        /// All finalizers that it is to have.
        finalizers: Vec<String>,
    },
    /// Have a disruption budget that forbids the eviction of the pool's runners, or none where they may be evicted.
    ProtectPool {
        /// Which.
        pool: Arc<WorkerPool>,
    },
    /// Tell people what happened to a session. Never waited for.
    PublishEvent {
        /// The session.
        session: Arc<BrowserSession>,
        /// False: something is wrong.
        normal: bool,
        /// One word.
        reason: String,
        /// A sentence.
        note: String,
    },
    /// Count and measure what happened to a session.
    Observe(Observation),
    /// Measure nothing of that pool any more: it is gone.
    Forget {
        /// Which.
        pool: Key,
    },
}

/// What happened to a session, or to a write, for those who count and measure.
#[derive(Clone, Debug)]
pub enum Observation {
    /// A slot was chosen for it.
    Assigned {
        /// UID of the session.
        session: Uid,
        /// The slot's pool.
        pool: Key,
        /// The session's priority.
        priority: i32,
        /// From its first sight until now, where that was by this process and before anybody had decided about it.
        waited: Option<Interval>,
    },
    /// Its runner has it.
    Bound {
        /// The time since the choice.
        took: Duration,
    },
    /// Its status says Ready for the first time.
    Ready {
        /// The session, with that status.
        session: Arc<BrowserSession>,
        /// Its pool, unless that is gone.
        pool: Option<Key>,
        /// How it was started.
        tier: StartTier,
        /// From its first sight until now, as above.
        started: Option<Interval>,
    },
    /// It is over.
    Ended {
        /// The session, as it was last seen.
        session: Arc<BrowserSession>,
        /// Why: a reason of `Finished`, or that it was deleted before. Always a constant of the operator's.
        reason: String,
        /// From its first sight until now, as above, where it never was Ready.
        started: Option<Interval>,
    },
    /// The write of a status was accepted, and some fields are not as they were sent: the CRDs are of an older version,
    /// or a webhook changes them. The fields are compared with the answer to the same write, so another writer of the
    /// status cannot cause this.
    Pruned {
        /// Kind of the object.
        kind: &'static str,
        /// Which object.
        object: Key,
        /// Paths of the fields, such as `status.observedGeneration`. At least one.
        fields: Vec<String>,
    },
    /// The write of an object's metadata was accepted, and it is not as it was sent: a webhook changes it, or a user
    /// does at the same time.
    Reverted {
        /// Kind of the object.
        kind: &'static str,
        /// Which object.
        object: Key,
        /// Path of the field.
        field: String,
    },
}

/// A moment that the core wants to be woken at.
pub type Wake = Option<Mono>;
