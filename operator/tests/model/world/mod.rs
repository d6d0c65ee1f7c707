//! A simulated world around the operator's core: an API server with resourceVersions and lagging watches, runners that
//! fence off earlier epochs, and operators that are elected, paused and restarted. It guarantees only what the real
//! components guarantee.
//!
//! `api` is the API server with its other writers: users, the garbage collector, node drains and the kubelet. `runners`
//! are the processes in the pods. `operators` are the operator processes, their election and their calls. `checks` has
//! the invariants.

mod api;
mod checks;
mod operators;
mod runners;

use api::Kind;
use camofleet_crds::v1alpha1::{BrowserSession, WorkerPool};
use camofleet_operator::core::{Coordinator, Effect, Event, Monotonic, Node, Now};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
pub use runners::Connectivity;
use runners::Runner;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const NAMESPACE: &str = "ns";
/// Namespace of some of the sessions, which name the pool.
const GUESTS: &str = "guests";
const POOL: &str = "pool";
/// Highest number of replicas that the pool ever has.
pub const REPLICAS: i32 = 3;
/// `queueTimeoutSeconds` of all sessions, shorter than the time to settle.
const QUEUE_TIMEOUT: i32 = 20;
/// `ttlSecondsAfterFinished` of some sessions, shorter than the time to settle.
const SHORT_TTL: i32 = 5;
/// `scaleDownDelaySeconds` of the pool, shorter than the time to settle.
const SCALE_DOWN_DELAY: i32 = 15;

/// A rule of the protocol that is broken on purpose, to prove that the test detects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    None,
    /// Status patches ignore their resourceVersion.
    NoPrecondition,
    /// A lost response to a bind counts as `NoFreeSlot`, so the slot is freed although the runner can have the session.
    LostResponseMeansNoFreeSlot,
    /// A new leader does not wait for the reports of the runners.
    ScheduleBeforeReports,
    /// The deletion of a session also applies to a later session with its name.
    DeleteByName,
    /// A relist only adds sessions, and does not remove those that are missing from it.
    RelistsOnlyAdd,
    /// A new leader counts all slots of runners that have not reported to it as free.
    OfferUnreportedSlots,
    /// A new leader treats runners that have not reported to it as spent and without sessions.
    RemoveUnreportedRunners,
    /// A duplicate of a session is not ended on its runner.
    KeepDuplicates,
}

/// An edit of the pool by its owner.
#[derive(Clone, Copy, Debug)]
pub enum PoolEdit {
    Replicas(i32),
    AnotherShape,
    FirstShape,
    /// Autoscaling with at most [`REPLICAS`] runners.
    Autoscale {
        min: i32,
        buffer: i32,
    },
    MaxSessions(Option<i32>),
}

/// Which messages of a call are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The request and the response.
    Complete,
    /// Only the request.
    ResponseLost,
    /// Neither.
    RequestLost,
}

/// One operator process.
pub struct Operator {
    core: Coordinator,
    pub paused: bool,
    epoch: u64,
    /// Number of delivered watch events, by kind.
    delivered: [usize; Kind::ALL.len()],
    /// Undelivered lists of watches that have expired, by kind.
    lists: [Option<Event>; Kind::ALL.len()],
    inbox: Vec<Event>,
    /// Pending calls, each with the epoch in which it was made.
    calls: Vec<(Effect, u64)>,
    streamed: BTreeSet<String>,
    /// Pods whose address this operator has observed.
    pods: BTreeSet<String>,
    /// Pods whose address it had observed when its term began.
    pods_before_term: BTreeSet<String>,
    /// Pods whose runners have reported to it during its term.
    reported: BTreeSet<String>,
}

pub struct World {
    mutation: Mutation,
    version: u64,
    uids: u64,
    pub monotonic: i64,
    slots: i32,
    sessions: BTreeMap<String, Arc<BrowserSession>>,
    pool: Option<Arc<WorkerPool>>,
    nodes: Vec<Node>,
    /// All watch events of the API server, by kind.
    watch_events: [Vec<Event>; Kind::ALL.len()],
    pub runners: Vec<Runner>,
    pub operators: Vec<Operator>,
    epoch: u64,
    leader: Option<usize>,
    /// All runners that were ever published for a session, by UID of the session.
    published: BTreeMap<String, BTreeSet<String>>,
    /// Violated invariants.
    pub violations: Vec<String>,
}

impl World {
    pub fn new(mutation: Mutation, slots: i32) -> Self {
        let node = |name: &str| Node { name: name.into(), ready: true, cordoned: false, cpus: 1 };
        let mut world = Self {
            mutation,
            version: 1,
            uids: 0,
            monotonic: 1_000_000,
            slots,
            sessions: BTreeMap::new(),
            pool: None,
            nodes: vec![node("node-0"), node("node-1")],
            watch_events: Default::default(),
            runners: Vec::new(),
            operators: Vec::new(),
            epoch: 1,
            leader: None,
            published: BTreeMap::new(),
            violations: Vec::new(),
        };
        world.create_pool();
        for _ in 0..2 {
            let operator = world.fresh_operator();
            world.operators.push(operator);
        }
        world.elect(0);
        world
    }

    fn now(&self) -> Now {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        Now { monotonic: Monotonic(self.monotonic), wall: start + SignedDuration::from_millis(self.monotonic) }
    }

    fn new_uid(&mut self, kind: &str) -> String {
        self.uids += 1;
        format!("{kind}-{}", self.uids)
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}
