//! Holds what the operator knows, and routes each event to what decides about it.

use crate::core::{
    clock::{Mono, Now},
    ends::Ends,
    ids::{Key, Uid},
    messages::{Change, Effect, Input, Node, Wake},
    orphans::Orphans,
    pool::{launches::LaunchBudget, namespace_policy::Namespaces, state::Pool},
    runner::{pod_build::Installation, pod_read::RunnerPod, state::Runner},
    scheduler::queue::Queue,
    session::state::Session,
    timers::Timers,
};
use camofleet_crds::v1alpha1::{BrowserSession, Slots, WorkerPool};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

/// After the start of a term, how long slots are withheld because of runners that have neither reported nor failed to answer.
/// Each was asked at once, so one that has said nothing by then must not hold up the others.
const LONGEST_WAIT_FOR_RUNNERS: Duration = Duration::from_secs(30);

/// How far the operator's clock and the times in objects may be apart: it is corrected from 3 s on, and those have whole seconds.
const CLOCK_MARGIN: SignedDuration = SignedDuration::from_secs(5);

/// All that the operator knows, and what it makes of it.
#[derive(Debug)]
pub struct Core {
    pub(in crate::core) installation: Installation,
    /// Present while this process leads.
    pub(in crate::core) term: Option<Term>,
    pub(in crate::core) sessions: HashMap<Uid, Session>,
    /// Sessions and pods whose deletion was seen: what a runner still has of them is ended without asking, and what a slow
    /// answer says of them is not believed.
    pub(in crate::core) deleted: HashMap<Uid, Mono>,
    pub(in crate::core) pools: BTreeMap<Key, Pool>,
    /// Pods whose controller is a pool that is known, or was when they were first seen.
    pub(in crate::core) runners: BTreeMap<Uid, Runner>,
    /// Pods that claim to be runners of a pool that is not known. Nothing is decided by them.
    pub(in crate::core) claimants: BTreeMap<Uid, RunnerPod>,
    pub(in crate::core) nodes: BTreeMap<String, Node>,
    pub(in crate::core) namespaces: Namespaces,
    pub(in crate::core) keys: Option<String>,
    /// Sessions without a slot.
    pub(in crate::core) queue: Queue,
    /// Sessions whose `Queued` is being written, and those whose is still to be.
    pub(in crate::core) showing: BTreeSet<Uid>,
    pub(in crate::core) to_show: BTreeSet<Uid>,
    pub(in crate::core) launches: LaunchBudget,
    pub(in crate::core) ends: Ends,
    pub(in crate::core) orphans: Orphans,
    pub(in crate::core) timers: Timers<Subject>,
    pub(in crate::core) dirty: BTreeSet<Subject>,
    pub(in crate::core) effects: Vec<Effect>,
    pub(in crate::core) now: Now,
}

/// One time of leading.
#[derive(Debug)]
pub(in crate::core) struct Term {
    /// Runners that were there when it began and have neither spoken nor failed to. Empty after [`LONGEST_WAIT_FOR_RUNNERS`].
    awaited: BTreeSet<Uid>,
    since: Now,
}

impl Term {
    /// Whether the pod was created in this term, and so by this leader: nothing that a former one began lands after its term.
    /// Creation times have whole seconds, and are the API server's.
    pub(in crate::core) fn has_created(&self, pod: &RunnerPod) -> bool {
        pod.created.duration_since(self.since.wall) > CLOCK_MARGIN
    }
}

/// What the leader has to serve, and room for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Those who wait for a slot.
    pub waiting: Vec<Waiting>,
    /// The slots of each pool, as its status has them.
    pub slots: Vec<(Key, Slots)>,
}

/// Sessions that ask for the same and wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The pool that they name, if it is there.
    pub pool: Option<Key>,
    /// Their priority.
    pub priority: i32,
    /// How many they are.
    pub sessions: usize,
    /// How long the first of them has waited.
    pub longest: Duration,
}

/// Something that is looked at as a whole when anything about it changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::core) enum Subject {
    /// Whatever waits for a slot.
    Queue,
    Session(Uid),
    Runner(Uid),
    Pool(Key),
    /// A session that runners list and no object stands for.
    Orphan(Uid),
    /// Sessions that a runner lists and must not keep, by its pod.
    Unwanted(Uid),
}

impl Core {
    /// A follower that knows nothing yet.
    pub fn new(installation: Installation) -> Self {
        Self {
            installation,
            term: None,
            sessions: HashMap::new(),
            deleted: HashMap::new(),
            pools: BTreeMap::new(),
            runners: BTreeMap::new(),
            claimants: BTreeMap::new(),
            nodes: BTreeMap::new(),
            namespaces: Namespaces::new(),
            keys: None,
            queue: Queue::default(),
            showing: BTreeSet::new(),
            to_show: BTreeSet::new(),
            launches: LaunchBudget::default(),
            ends: Ends::default(),
            orphans: Orphans::default(),
            timers: Timers::default(),
            dirty: BTreeSet::new(),
            effects: Vec::new(),
            now: Now { mono: Mono::default(), wall: Timestamp::MIN },
        }
    }

    /// Takes in what happened and says what is to be done.
    pub fn step(&mut self, inputs: impl IntoIterator<Item = Input>, now: Now) -> Vec<Effect> {
        self.now = now;
        for input in inputs {
            self.take_in(input);
        }
        while let Some(subject) = self.timers.pop_due(now.mono) {
            self.dirty.insert(subject);
        }
        if self.term.is_none() {
            self.dirty.clear();
            return std::mem::take(&mut self.effects);
        }
        self.limit_the_wait_for_runners();
        // The queue comes first in the order of subjects: sessions are given slots before any is found to have waited too
        // long. What is touched by looking at one thing is looked at in the same step.
        while let Some(subject) = self.dirty.pop_first() {
            match subject {
                Subject::Queue => self.choose(),
                Subject::Session(uid) => self.look_at_session(&uid),
                Subject::Runner(uid) => self.look_at_runner(&uid),
                Subject::Pool(key) => self.look_at_pool(&key),
                Subject::Orphan(uid) => self.look_up_orphan(&uid),
                Subject::Unwanted(pod) => self.end_unwanted(&pod),
            }
        }
        self.launch_runners();
        std::mem::take(&mut self.effects)
    }

    /// When it wants to be stepped though nothing happened.
    pub fn wake(&self) -> Wake {
        self.timers.next()
    }

    /// How busy the fleet is, as its leader knows it; a follower does not.
    pub fn load(&self, now: Mono) -> Option<Load> {
        self.term.as_ref()?;
        let waiting = self.queue.lanes().filter_map(|(demand, lane)| {
            let first = self.sessions.get(lane.first()?.uid())?;
            Some(Waiting {
                pool: demand.pool.clone().filter(|named| self.pools.contains_key(named)),
                priority: demand.priority.0,
                sessions: lane.len(),
                longest: now.since(first.created),
            })
        });
        let published = |pool: &Pool| pool.object.status.as_ref().map(|status| status.slots);
        let slots = self.pools.iter().filter_map(|(key, pool)| Some((key.clone(), published(pool)?)));
        Some(Load { waiting: waiting.collect(), slots: slots.collect() })
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Sessions(Change::All(all)) => self.replace_sessions(all),
            Input::Sessions(Change::Applied(session)) => self.session_applied(session),
            Input::Sessions(Change::Gone(session)) => {
                self.session_gone(&session.metadata.uid.clone().unwrap_or_default());
            }
            Input::Pools(Change::All(all)) => self.replace_pools(all),
            Input::Pools(Change::Applied(pool)) => self.pool_applied(pool),
            Input::Pools(Change::Gone(pool)) => self.pool_gone(&Key::of(pool.as_ref())),
            Input::Pods(Change::All(all)) => self.replace_pods(all),
            Input::Pods(Change::Applied(pod)) => self.pod_applied(pod),
            Input::Pods(Change::Gone(pod)) => self.pod_gone(&pod.uid),
            Input::Nodes(change) => self.node_changed(change),
            Input::Namespaces(change) => self.namespace_changed(change),
            Input::Keys(keys) => self.keys_changed(keys),
            Input::Leads => self.lead(),
            Input::Follows => self.follow(),
            Input::Runner { pod, report } => self.runner_told(&pod, report),
            Input::Silent { pod } => self.runner_silent(&pod),
            Input::BindAnswered { session, pod, answer } => self.bind_answered(&session, &pod, answer),
            Input::EndAnswered { session, pod } => self.end_answered(&session, &pod),
            Input::SessionPatched { session, answer } => self.session_patched(&session, answer),
            Input::SessionRead { key, session, answer } => self.session_read(&key, &session, answer),
            Input::PodRead { session, pod, answer } => self.pod_read(&session, &pod, answer),
            Input::SessionDeleted { session, answer } => self.session_deleted(&session, answer),
            Input::PodCreated { pool, name, answer } => self.pod_created(&pool, &name, answer),
            Input::PodDeleted { pod, answer } => self.pod_deleted(&pod, answer),
            Input::PodAnnotated { pod, keys, answer } => self.pod_annotated(&pod, &keys, answer),
            Input::PoolProtected { pool, answer } => self.pool_protected(&pool, answer),
            Input::PoolPatched { pool, answer } => self.pool_patched(&pool, answer),
        }
    }

    /// Begins to lead: believes the objects, and waits for the runners.
    fn lead(&mut self) {
        let awaited = self.runners.values().filter(|runner| runner.pod.address.is_some() && !runner.pod.is_over());
        let awaited = awaited.map(|runner| runner.pod.uid.clone()).collect();
        self.term = Some(Term { awaited, since: self.now });
        self.timers.set(Subject::Queue, Some(self.now.mono.after(LONGEST_WAIT_FOR_RUNNERS)));
        self.ends.clear();
        self.orphans.clear();
        self.showing.clear();
        self.to_show.clear();
        for runner in self.runners.values_mut() {
            *runner = Runner::new(runner.pod.clone(), self.now);
        }
        for pool in self.pools.values_mut() {
            pool.begin_term();
        }
        self.queue.clear();
        for (_, session) in std::mem::take(&mut self.sessions) {
            self.add_session(session.object);
        }
        self.dirty.extend(self.runners.keys().cloned().map(Subject::Runner));
        self.dirty.extend(self.pools.keys().cloned().map(Subject::Pool));
        self.dirty.insert(Subject::Queue);
    }

    /// Leads no longer: whatever is under way elsewhere is somebody else's.
    fn follow(&mut self) {
        self.term = None;
        self.timers = Timers::default();
        for uid in self.runners.keys() {
            self.effects.push(Effect::Unfollow { pod: uid.clone() });
        }
    }

    /// Whether slots may be given out, and runners taken away: only once every runner that was there at the beginning of the term has
    /// reported what it has, has failed to answer, or has had [`LONGEST_WAIT_FOR_RUNNERS`] to do either.
    pub(in crate::core) fn may_choose(&self) -> bool {
        self.term.as_ref().is_some_and(|term| term.awaited.is_empty())
    }

    pub(in crate::core) fn heard_of(&mut self, pod: &Uid) {
        if let Some(term) = &mut self.term
            && term.awaited.remove(pod)
            && term.awaited.is_empty()
        {
            self.begin_to_choose();
        }
    }

    fn limit_the_wait_for_runners(&mut self) {
        if let Some(term) = &mut self.term
            && !term.awaited.is_empty()
            && term.since.mono.after(LONGEST_WAIT_FOR_RUNNERS) <= self.now.mono
        {
            term.awaited.clear();
            self.begin_to_choose();
        }
    }

    /// Sessions that waited for this may be served, or have waited too long.
    fn begin_to_choose(&mut self) {
        self.dirty.insert(Subject::Queue);
        self.dirty.extend(self.queue.waiting(|_| true).into_iter().map(Subject::Session));
        self.dirty.extend(self.pools.keys().cloned().map(Subject::Pool));
    }

    fn replace_sessions(&mut self, all: Vec<Arc<BrowserSession>>) {
        let present: BTreeSet<_> = all.iter().filter_map(|session| session.metadata.uid.clone()).collect();
        let gone: Vec<_> = self.sessions.keys().filter(|uid| !present.contains(*uid)).cloned().collect();
        for uid in &gone {
            self.session_gone(uid);
        }
        for session in all {
            self.session_applied(session);
        }
    }

    fn replace_pools(&mut self, all: Vec<Arc<WorkerPool>>) {
        let present: BTreeSet<_> = all.iter().map(|pool| Key::of(pool.as_ref())).collect();
        let gone: Vec<_> = self.pools.keys().filter(|key| !present.contains(*key)).cloned().collect();
        for key in &gone {
            self.pool_gone(key);
        }
        for pool in all {
            self.pool_applied(pool);
        }
    }

    fn replace_pods(&mut self, all: Vec<RunnerPod>) {
        let present: BTreeSet<_> = all.iter().map(|pod| pod.uid.clone()).collect();
        self.claimants.retain(|uid, _| present.contains(uid));
        let gone: Vec<_> = self.runners.keys().filter(|uid| !present.contains(*uid)).cloned().collect();
        for uid in &gone {
            self.pod_gone(uid);
        }
        for pod in all {
            self.pod_applied(pod);
        }
    }
}
