//! A world for the operator's core: an API server with resource versions and watches that lag, runners that fence epochs,
//! and operators that are elected, paused and restarted. It keeps the rules that real ones keep, and nothing else.
//!
//! `api`: the API server, its users and the kubelet's word. `runners`: the processes in the pods. `operators`: who leads,
//! and how its calls fare. `checks`: what must hold.

mod api;
mod checks;
mod operators;
mod runners;

use api::Kind;
use camofleet_crds::v1alpha1::{BrowserSession, WorkerPool};
use camofleet_operator::core::{Core, Effect, Event, Mono, Node, Now};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
pub use runners::Connectivity;
use runners::Runner;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const NAMESPACE: &str = "ns";
/// Some sessions come from here.
const GUESTS: &str = "guests";
const POOL: &str = "pool";
/// The most replicas that a pool ever asks for.
pub const REPLICAS: i32 = 3;
/// Waiting ends within the settling time.
const QUEUE_TIMEOUT: i32 = 20;
/// So does the time after the end, for some sessions.
const SHORT_TTL: i32 = 5;
/// And that after which runners go that are not needed.
const SCALE_DOWN_DELAY: i32 = 15;

/// A rule of the protocol that is broken on purpose, to see that the test notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    None,
    /// Statuses land whatever was written since they were decided on.
    NoPrecondition,
    /// An answer that was lost counts as a refusal: the slot is given back though the runner may have the session.
    LostResponseMeansRefused,
    /// A new leader does not wait for what the runners have.
    ScheduleBeforeReports,
    /// The deletion of a session is taken for that of another under its name.
    DeleteByName,
    /// A list that is read again only adds: what is missing from it is not taken for gone.
    RelistsOnlyAdd,
    /// A new leader takes all slots of runners that have not reported to it for free.
    OfferUnreportedSlots,
    /// A new leader takes runners that have not reported to it for spent ones without sessions.
    RemoveUnreportedRunners,
    /// A runner that has an older bind of a session is not asked to end it.
    KeepBothBinds,
}

/// What its owner wants of the pool.
#[derive(Clone, Copy, Debug)]
pub enum PoolEdit {
    Replicas(i32),
    AnotherShape,
    FirstShape,
    /// As many runners as needed, up to [`REPLICAS`].
    Autoscale {
        min: i32,
        buffer: i32,
    },
    MaxSessions(Option<i32>),
}

/// How a call fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Complete,
    /// It arrived, and its answer did not.
    ResponseLost,
    /// It did not arrive.
    RequestLost,
}

/// One operator process.
pub struct Operator {
    core: Core,
    pub paused: bool,
    epoch: u64,
    /// How much of the API server's news of each kind it was told.
    delivered: [usize; Kind::ALL.len()],
    /// Lists that were read anew, since the watch had lost its place, and have not been told yet.
    lists: [Option<Event>; Kind::ALL.len()],
    inbox: Vec<Event>,
    /// Calls under way, each with the epoch that it was made in.
    calls: Vec<(Effect, u64)>,
    followed: BTreeSet<String>,
    /// Pods that it was told the address of.
    pods: BTreeSet<String>,
    /// Those of them that it was told before its term began.
    pods_before_term: BTreeSet<String>,
    /// Pods whose runners have reported to it in its term.
    reported: BTreeSet<String>,
}

pub struct World {
    mutation: Mutation,
    version: u64,
    uids: u64,
    pub mono: i64,
    slots: i32,
    sessions: BTreeMap<String, Arc<BrowserSession>>,
    pool: Option<Arc<WorkerPool>>,
    nodes: Vec<Node>,
    /// The API server's news, by kind.
    watch_events: [Vec<Event>; Kind::ALL.len()],
    pub runners: Vec<Runner>,
    pub operators: Vec<Operator>,
    epoch: u64,
    leader: Option<usize>,
    /// Every runner that was ever published for a session.
    published: BTreeMap<String, BTreeSet<String>>,
    /// What must never happen and did.
    pub violations: Vec<String>,
}

impl World {
    pub fn new(mutation: Mutation, slots: i32) -> Self {
        let node = |name: &str| Node { name: name.into(), ready: true, cordoned: false, cpus: 1 };
        let mut world = Self {
            mutation,
            version: 1,
            uids: 0,
            mono: 1_000_000,
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
        Now { mono: Mono(self.mono), wall: start + SignedDuration::from_millis(self.mono) }
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
