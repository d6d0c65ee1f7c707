//! A world for the operator's core: an API server with resource versions and lagging watches, runners that fence epochs,
//! and operators that are elected, paused and restarted. It keeps the rules that real ones keep, and nothing else.

use camofleet_crds::v1alpha1::{
    BrowserSession, BrowserSessionSpec, EngineName, SessionState, WorkerPool, WorkerPoolSpec,
};
use camofleet_operator::core::{
    BindFailure, Change, Core, Effect, Input, Key, Mono, Node, Now, WriteFailure,
    pods::{Fate, Installation, RunnerPod},
};
use camofleet_runner_api::{
    BindAnswer, BindRequest, End, EndReason, Hot, RunnerState, Session, SessionPhase, StartPage, Tier,
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub const NAMESPACE: &str = "ns";
pub const POOL: &str = "pool";
pub const REPLICAS: i32 = 3;
/// Waiting ends within the settling time.
const QUEUE_TIMEOUT: i32 = 20;

/// A rule of the protocol that is broken on purpose, to see that the test notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// Statuses land whatever was written since they were decided on.
    NoPrecondition,
    /// An answer that was lost counts as a refusal: the slot is given back though the runner may have the session.
    LostMeansRefused,
    /// A new leader does not wait for what the runners have.
    NoRebuild,
    /// The deletion of a session is taken for that of another under its name.
    KeyedByName,
}

/// How a call fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Luck {
    Done,
    /// It arrived, and its answer did not.
    AnswerLost,
    /// It did not arrive.
    RequestLost,
}

pub struct Runner {
    pub pod: RunnerPod,
    boot_id: String,
    generation: u64,
    slots: u32,
    served: u32,
    warm: bool,
    reachable: bool,
    /// It was out of reach once: a new leader may not have learnt what it has.
    was_cut: bool,
    draining: bool,
    highest_epoch: u64,
    /// Of each session that came here: the epoch of the call that brought it, and whose term it was then.
    landed: BTreeMap<String, (u64, u64)>,
    pub sessions: Vec<Session>,
}

impl Runner {
    fn live(&self) -> u32 {
        u32::try_from(self.sessions.iter().filter(|session| session.phase != SessionPhase::Ended).count()).unwrap()
    }

    fn has_live(&self, session: &str) -> bool {
        self.sessions.iter().any(|there| there.uid == session && there.phase != SessionPhase::Ended)
    }

    fn free(&self) -> u32 {
        if self.draining { 0 } else { (self.slots - self.live()).min(self.slots.saturating_sub(self.served)) }
    }

    fn state(&self) -> RunnerState {
        let free = self.free();
        RunnerState {
            boot_id: self.boot_id.clone(),
            generation: self.generation,
            engine: Some(EngineName::Firefox),
            browser_version: Some("153".into()),
            playwright_version: "1.62".into(),
            draining: self.draining,
            slots: self.slots,
            free,
            spent: self.served >= self.slots,
            hot: Hot { headless: if self.warm { free } else { 0 }, headful: 0 },
            warm: self.warm,
            launch_error: None,
            sessions: self.sessions.clone(),
        }
    }

    fn end_session(&mut self, at: usize, reason: EndReason) {
        self.generation += 1;
        let session = &mut self.sessions[at];
        session.phase = SessionPhase::Ended;
        session.end = Some(End { reason, message: String::new() });
    }
}

/// One operator process.
pub struct Operator {
    core: Core,
    pub paused: bool,
    epoch: u64,
    /// How much of the API server's log it was told.
    told: usize,
    inbox: Vec<Input>,
    /// Calls under way, each with the epoch that it was made in.
    pub calls: Vec<(Effect, u64)>,
    follows: BTreeSet<String>,
    /// Pods that it was told of.
    pods: BTreeSet<String>,
}

pub struct World {
    pub sabotage: Sabotage,
    version: u64,
    uids: u64,
    pub mono: i64,
    sessions: BTreeMap<String, Arc<BrowserSession>>,
    pool: Arc<WorkerPool>,
    log: Vec<Input>,
    pub runners: Vec<Runner>,
    pub operators: Vec<Operator>,
    epoch: u64,
    leader: Option<usize>,
    /// Every runner that was ever published for a session.
    published: BTreeMap<String, BTreeSet<String>>,
    /// What must never happen and did.
    pub broken: Vec<String>,
}

fn node() -> Node {
    Node { name: "node".into(), ready: true, cordoned: false, cpus: 2 }
}

impl World {
    pub fn new(sabotage: Sabotage, slots: i32) -> Self {
        let spec = WorkerPoolSpec { replicas: Some(REPLICAS), slots_per_runner: slots, ..WorkerPoolSpec::default() };
        let mut pool = WorkerPool::new(POOL, spec);
        pool.metadata.namespace = Some(NAMESPACE.into());
        pool.metadata.uid = Some("pool-uid".into());
        pool.metadata.resource_version = Some("1".into());
        pool.metadata.generation = Some(1);
        let mut world = Self {
            sabotage,
            version: 1,
            uids: 0,
            mono: 1_000_000,
            sessions: BTreeMap::new(),
            pool: Arc::new(pool),
            log: Vec::new(),
            runners: Vec::new(),
            operators: Vec::new(),
            epoch: 1,
            leader: None,
            published: BTreeMap::new(),
            broken: Vec::new(),
        };
        for _ in 0..2 {
            let operator = world.fresh_operator();
            world.operators.push(operator);
        }
        world.elect(0);
        world
    }

    fn fresh_operator(&self) -> Operator {
        let installation = Installation { runner_image: "image".into(), public_url: "http://gateway".into() };
        Operator {
            core: Core::new(installation),
            paused: false,
            epoch: 0,
            told: self.log.len(),
            inbox: vec![
                Input::Sessions(Change::All(self.sessions.values().cloned().collect())),
                Input::Pools(Change::All(vec![self.pool.clone()])),
                Input::Pods(Change::All(self.runners.iter().map(|runner| runner.pod.clone()).collect())),
                Input::Nodes(Change::All(vec![node()])),
                Input::Keys("{}".into()),
            ],
            calls: Vec::new(),
            follows: BTreeSet::new(),
            pods: self.runners.iter().map(|runner| runner.pod.uid.clone()).collect(),
        }
    }

    pub fn now(&self) -> Now {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        Now { mono: Mono(self.mono), wall: start + SignedDuration::from_millis(self.mono) }
    }

    fn new_uid(&mut self, kind: &str) -> String {
        self.uids += 1;
        format!("{kind}-{}", self.uids)
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    // Users

    pub fn create(&mut self, name: &str) {
        if self.sessions.contains_key(name) {
            return;
        }
        let spec = BrowserSessionSpec {
            queue_timeout_seconds: QUEUE_TIMEOUT,
            ttl_seconds_after_finished: 600_000,
            ..BrowserSessionSpec::default()
        };
        let mut session = BrowserSession::new(name, spec);
        session.metadata.namespace = Some(NAMESPACE.into());
        session.metadata.uid = Some(self.new_uid(name));
        session.metadata.resource_version = Some(self.next_version());
        session.metadata.generation = Some(1);
        session.metadata.creation_timestamp = Some(Time(self.now().wall));
        self.put_session(session);
    }

    pub fn delete(&mut self, name: &str) {
        if let Some(session) = self.sessions.remove(name) {
            self.version += 1;
            self.log.push(Input::Sessions(Change::Gone(session)));
        }
    }

    fn put_session(&mut self, session: BrowserSession) {
        let session = Arc::new(session);
        self.sessions.insert(session.metadata.name.clone().unwrap(), session.clone());
        self.log.push(Input::Sessions(Change::Applied(session)));
    }

    // Operators

    pub fn elect(&mut self, index: usize) {
        if self.leader == Some(index) || self.operators[index].paused {
            return;
        }
        if let Some(former) = self.leader {
            // One that is paused learns of it when it wakes.
            self.operators[former].inbox.push(Input::Follows);
        }
        self.version += 1;
        self.epoch = self.version;
        self.leader = Some(index);
        let operator = &mut self.operators[index];
        operator.epoch = self.epoch;
        operator.inbox.push(Input::Leads);
    }

    pub fn restart(&mut self, index: usize) {
        self.operators[index] = self.fresh_operator();
        if self.leader == Some(index) {
            // It takes its own lease back, in a new term.
            self.leader = None;
            self.elect(index);
        }
    }

    pub fn tell_watch(&mut self, index: usize, many: usize) {
        let operator = &mut self.operators[index];
        let until = (operator.told + many).min(self.log.len());
        for input in &self.log[operator.told..until] {
            if let Input::Pods(Change::Applied(pod)) = input {
                operator.pods.insert(pod.uid.clone());
            }
            let input = match (self.sabotage, input) {
                (Sabotage::KeyedByName, Input::Sessions(Change::Gone(gone))) => {
                    // The deletion hits whatever stands under the name now.
                    let now = self.sessions.get(gone.metadata.name.as_ref().unwrap()).unwrap_or(gone);
                    Input::Sessions(Change::Gone(now.clone()))
                }
                _ => input.clone(),
            };
            operator.inbox.push(input);
        }
        operator.told = until;
    }

    pub fn step(&mut self, index: usize) {
        let now = self.now();
        let sabotage = self.sabotage;
        let runners: Vec<String> = self.runners.iter().map(|runner| runner.pod.uid.clone()).collect();
        let operator = &mut self.operators[index];
        if operator.paused {
            return;
        }
        let mut inputs = std::mem::take(&mut operator.inbox);
        if sabotage == Sabotage::NoRebuild && inputs.iter().any(|input| matches!(input, Input::Leads)) {
            inputs.extend(runners.into_iter().map(|pod| Input::Silent { pod }));
        }
        for effect in operator.core.step(inputs, now) {
            match effect {
                Effect::Follow { pod, .. } => {
                    operator.follows.insert(pod);
                }
                Effect::Unfollow { pod } => {
                    operator.follows.remove(&pod);
                }
                Effect::Tell { .. } | Effect::Observe { .. } | Effect::ProtectPool { .. } => {}
                effect => operator.calls.push((effect, operator.epoch)),
            }
        }
        if let Some(at) = operator.core.wake().filter(|at| *at <= now.mono) {
            self.broken.push(format!("it wants to be woken at {at:?}, and it is {:?}: it spins", now.mono));
        }
    }

    /// Carries out one of the calls that an operator has under way.
    pub fn carry_out(&mut self, index: usize, which: usize, luck: Luck) {
        let calls = &mut self.operators[index].calls;
        if calls.is_empty() {
            return;
        }
        let (effect, epoch) = calls.remove(which % calls.len());
        let answer =
            if luck == Luck::RequestLost { Self::lost(&effect) } else { Some(self.execute(effect.clone(), epoch)) };
        let answer = if luck == Luck::AnswerLost { Self::lost(&effect) } else { answer };
        match answer {
            Some(mut answer) => {
                if let (Sabotage::LostMeansRefused, Input::BindAnswered { answer, .. }) = (self.sabotage, &mut answer)
                    && matches!(answer, Err(BindFailure::Unknown(_)))
                {
                    *answer = Err(BindFailure::Refused);
                }
                self.operators[index].inbox.push(answer);
            }
            // The shell reads until it is answered.
            None => self.operators[index].calls.push((effect, epoch)),
        }
    }

    /// What the operator is told of a call whose answer, or itself, was lost.
    fn lost(effect: &Effect) -> Option<Input> {
        let transient = || WriteFailure::Transient("lost".into());
        Some(match effect.clone() {
            Effect::Bind { session, pod, .. } => {
                Input::BindAnswered { session, pod, answer: Err(BindFailure::Unknown("lost".into())) }
            }
            Effect::End { session, pod, .. } => Input::EndAnswered { session, pod },
            Effect::PatchSession { session, .. } => Input::SessionPatched { session, answer: Err(transient()) },
            Effect::DeleteSession { session, .. } => Input::SessionDeleted { session, answer: Err(transient()) },
            Effect::CreatePod { pool, pod } => {
                Input::PodCreated { pool, name: pod.metadata.name.unwrap(), answer: Err(transient()) }
            }
            Effect::DeletePod { pod, .. } => Input::PodDeleted { pod, answer: Err(transient()) },
            Effect::AnnotatePod { pod, .. } => Input::PodAnnotated { pod, answer: Err(transient()) },
            Effect::PatchPool { pool, .. } | Effect::FinalizePool { pool, .. } => {
                Input::PoolPatched { pool: Key::of(pool.as_ref()), answer: Err(transient()) }
            }
            Effect::ReadSession { .. } | Effect::ReadPod { .. } => return None,
            Effect::Follow { .. }
            | Effect::Unfollow { .. }
            | Effect::Tell { .. }
            | Effect::Observe { .. }
            | Effect::ProtectPool { .. } => {
                unreachable!("carried out at once")
            }
        })
    }

    fn execute(&mut self, effect: Effect, epoch: u64) -> Input {
        match effect {
            Effect::Bind { session, pod, request, .. } => {
                let answer = self.bind(&session, &pod, &request, epoch);
                Input::BindAnswered { session, pod, answer }
            }
            Effect::End { session, pod, .. } => {
                self.end(&session, &pod, epoch);
                Input::EndAnswered { session, pod }
            }
            Effect::PatchSession { session, status, .. } => {
                Input::SessionPatched { answer: self.patch_session(&session, *status), session }
            }
            Effect::ReadSession { key, session } => {
                Input::SessionRead { found: self.sessions.get(&key.name).cloned(), session }
            }
            Effect::ReadPod { pod, session, .. } => {
                let found = self.runners.iter().find(|runner| runner.pod.uid == pod).map(|runner| runner.pod.clone());
                Input::PodRead { session, pod, found }
            }
            Effect::DeleteSession { key, session } => {
                if self.sessions.get(&key.name).is_some_and(|there| there.metadata.uid.as_ref() == Some(&session)) {
                    self.delete(&key.name);
                }
                Input::SessionDeleted { session, answer: Ok(()) }
            }
            Effect::CreatePod { pool, pod } => {
                let name = pod.metadata.name.clone().unwrap();
                self.create_pod(*pod);
                Input::PodCreated { pool, name, answer: Ok(()) }
            }
            Effect::DeletePod { pod, .. } => {
                let there = self.runners.iter().any(|runner| runner.pod.uid == pod);
                self.delete_pod(&pod);
                Input::PodDeleted { pod, answer: if there { Ok(()) } else { Err(WriteFailure::Gone) } }
            }
            Effect::AnnotatePod { pod, .. } => Input::PodAnnotated { pod, answer: Ok(()) },
            Effect::PatchPool { pool, status } => {
                let key = Key::of(pool.as_ref());
                let mut wished = WorkerPool::clone(&pool);
                wished.status = Some(*status);
                Input::PoolPatched { pool: key, answer: self.put_pool(wished) }
            }
            Effect::FinalizePool { pool, finalizers } => {
                let key = Key::of(pool.as_ref());
                let mut wished = WorkerPool::clone(&pool);
                wished.metadata.finalizers = Some(finalizers);
                Input::PoolPatched { pool: key, answer: self.put_pool(wished) }
            }
            Effect::Follow { .. }
            | Effect::Unfollow { .. }
            | Effect::Tell { .. }
            | Effect::Observe { .. }
            | Effect::ProtectPool { .. } => {
                unreachable!("carried out at once")
            }
        }
    }

    // The API server

    fn patch_session(
        &mut self,
        decided_on: &BrowserSession,
        status: camofleet_crds::v1alpha1::BrowserSessionStatus,
    ) -> Result<Arc<BrowserSession>, WriteFailure> {
        let name = decided_on.metadata.name.as_ref().unwrap();
        let current = self.sessions.get(name).ok_or(WriteFailure::Gone)?;
        let unchanged = current.metadata.resource_version == decided_on.metadata.resource_version;
        if !unchanged && self.sabotage != Sabotage::NoPrecondition {
            return Err(WriteFailure::Conflict);
        }
        let mut patched = BrowserSession::clone(current);
        patched.metadata.resource_version = Some(self.next_version());
        let uid = patched.metadata.uid.clone().unwrap();
        if let Some(runner) = &status.runner {
            let runners = self.published.entry(uid.clone()).or_default();
            runners.insert(runner.uid.clone());
            if runners.len() > 1 {
                self.broken.push(format!("{uid} was published on {runners:?}"));
            }
        }
        patched.status = Some(status);
        self.put_session(patched.clone());
        Ok(Arc::new(patched))
    }

    fn put_pool(&mut self, mut wished: WorkerPool) -> Result<Option<Arc<WorkerPool>>, WriteFailure> {
        if wished.metadata.resource_version != self.pool.metadata.resource_version {
            return Err(WriteFailure::Conflict);
        }
        wished.metadata.resource_version = Some(self.next_version());
        self.pool = Arc::new(wished);
        self.log.push(Input::Pools(Change::Applied(self.pool.clone())));
        Ok(Some(self.pool.clone()))
    }

    fn create_pod(&mut self, mut pod: k8s_openapi::api::core::v1::Pod) {
        let name = pod.metadata.name.clone().unwrap();
        if self.runners.iter().any(|runner| runner.pod.key.name == name) {
            return;
        }
        pod.metadata.uid = Some(self.new_uid("pod"));
        pod.metadata.creation_timestamp = Some(Time(self.now().wall));
        let mut pod = RunnerPod::read(&pod).expect("what the operator makes, it can read");
        pod.fate = Fate::Running;
        pod.address = Some("10.0.0.1".parse().unwrap());
        let slots = u32::try_from(self.pool.spec.slots_per_runner).unwrap();
        let boot_id = self.new_uid("boot");
        self.runners.push(Runner {
            pod: pod.clone(),
            boot_id,
            generation: 1,
            slots,
            served: 0,
            warm: false,
            reachable: true,
            was_cut: false,
            draining: false,
            highest_epoch: 0,
            landed: BTreeMap::new(),
            sessions: Vec::new(),
        });
        self.log.push(Input::Pods(Change::Applied(pod)));
        if self.runners.len() > usize::try_from(2 * REPLICAS).unwrap() {
            self.broken.push(format!("{} pods for {REPLICAS} replicas", self.runners.len()));
        }
    }

    /// A deleted pod drains; one without sessions is gone at once.
    fn delete_pod(&mut self, uid: &str) {
        let wall = self.now().wall;
        let Some(at) = self.runners.iter().position(|runner| runner.pod.uid == uid) else { return };
        let runner = &mut self.runners[at];
        runner.draining = true;
        runner.generation += 1;
        runner.pod.killed_at = Some(wall + SignedDuration::from_secs(615));
        if runner.sessions.is_empty() {
            self.kill_pod(at);
        } else {
            let pod = runner.pod.clone();
            self.log.push(Input::Pods(Change::Applied(pod)));
        }
    }

    /// A pod is gone, with its process.
    pub fn kill_pod(&mut self, at: usize) {
        let runner = self.runners.remove(at);
        self.log.push(Input::Pods(Change::Gone(runner.pod)));
    }

    // Runners

    /// Runners that have the session, as the leader of that epoch could have known: it was told of the pod, the pod was
    /// never out of reach, and the session came there before the term began or by this leader itself. (What a former
    /// leader's call brings there later is found when the runner lists it, and ended.)
    fn elsewhere(&self, session: &str, pod: &str, epoch: u64) -> Vec<String> {
        let binder = self.operators.iter().find(|operator| operator.epoch == epoch);
        let knows = |uid: &str| binder.is_some_and(|binder| binder.pods.contains(uid));
        let had_before = |runner: &Runner| {
            let (by, during) = runner.landed.get(session).copied().unwrap_or_default();
            by == epoch || during < epoch
        };
        let others =
            self.runners.iter().filter(|other| other.pod.uid != pod && !other.was_cut && other.has_live(session));
        others.filter(|other| knows(&other.pod.uid) && had_before(other)).map(|other| other.pod.uid.clone()).collect()
    }

    fn bind(&mut self, session: &str, pod: &str, request: &BindRequest, epoch: u64) -> Result<BindAnswer, BindFailure> {
        let others = self.elsewhere(session, pod, epoch);
        let lost = || BindFailure::Unknown("not reached".into());
        let runner =
            self.runners.iter_mut().find(|runner| runner.pod.uid == pod && runner.reachable).ok_or_else(lost)?;
        if epoch < runner.highest_epoch {
            return Err(BindFailure::Unknown("stale epoch".into()));
        }
        runner.highest_epoch = epoch;
        if !runner.sessions.iter().any(|there| there.uid == session) {
            if runner.free() == 0 {
                return Err(BindFailure::Refused);
            }
            if !others.is_empty() {
                self.broken.push(format!("{session} was given to {pod}, and {others:?} has it and could be asked"));
            }
            runner.generation += 1;
            runner.served += 1;
            runner.landed.insert(session.to_owned(), (epoch, self.epoch));
            runner.sessions.push(Session {
                uid: session.into(),
                namespace: request.namespace.clone(),
                name: request.name.clone(),
                phase: if runner.warm { SessionPhase::Ready } else { SessionPhase::Starting },
                display: request.display,
                tier: if runner.warm { Tier::Hot } else { Tier::Cold },
                start_page: StartPage::None,
                clients: 0,
                end: None,
            });
        }
        let state = runner.state();
        Ok(BindAnswer {
            boot_id: state.boot_id.clone(),
            generation: state.generation,
            engine: EngineName::Firefox,
            browser_version: state.browser_version.clone(),
            playwright_version: state.playwright_version.clone(),
            session: state.session(session).unwrap().clone(),
        })
    }

    fn end(&mut self, session: &str, pod: &str, epoch: u64) {
        let Some(runner) = self.runners.iter_mut().find(|runner| runner.pod.uid == pod && runner.reachable) else {
            return;
        };
        if epoch < runner.highest_epoch {
            return;
        }
        runner.highest_epoch = epoch;
        let Some(at) = runner.sessions.iter().position(|there| there.uid == session) else { return };
        let live = runner.sessions[at].phase != SessionPhase::Ended;
        let uses = |object: &&Arc<BrowserSession>| {
            object.metadata.uid.as_deref() == Some(session)
                && object.status.as_ref().is_some_and(|status| {
                    status.state != SessionState::Finished
                        && status.runner.as_ref().is_some_and(|runner| runner.uid == pod)
                })
        };
        if live && self.sessions.values().find(uses).is_some() {
            self.broken.push(format!("{session}, which its user was told runs on {pod}, was ended there"));
        }
        runner.generation += 1;
        runner.sessions.remove(at);
    }

    /// A runner's event stream brings its state to an operator that follows it, or is found broken.
    pub fn tell_runner(&mut self, at: usize, index: usize) {
        let operator = &mut self.operators[index];
        let runner = &mut self.runners[at];
        let pod = runner.pod.uid.clone();
        if operator.paused || !operator.follows.contains(&pod) {
            return;
        }
        if runner.reachable {
            if operator.epoch < runner.highest_epoch {
                return;
            }
            runner.highest_epoch = operator.epoch;
            operator.inbox.push(Input::Runner { pod, state: runner.state() });
        } else {
            operator.inbox.push(Input::Silent { pod });
        }
    }

    /// Its network is cut, or mended.
    pub fn cut(&mut self, at: usize, reachable: bool) {
        let runner = &mut self.runners[at];
        runner.reachable = reachable;
        runner.was_cut |= !reachable;
    }

    /// Its browsers are launched: the hot ones, and those that sessions wait for.
    pub fn warm(&mut self, at: usize) {
        let runner = &mut self.runners[at];
        runner.generation += 1;
        runner.warm = true;
        for session in runner.sessions.iter_mut().filter(|session| session.phase == SessionPhase::Starting) {
            session.phase = SessionPhase::Ready;
        }
    }

    /// A session of it ends by itself.
    pub fn end_by_itself(&mut self, at: usize) {
        let runner = &mut self.runners[at];
        if let Some(at) = runner.sessions.iter().position(|session| session.phase != SessionPhase::Ended) {
            runner.end_session(at, EndReason::IdleTimeout);
        }
    }

    /// Its process starts anew in the same pod, which no kubelet does with `restartPolicy: Never`.
    pub fn reboot(&mut self, at: usize) {
        let boot_id = self.new_uid("boot");
        let runner = &mut self.runners[at];
        (runner.boot_id, runner.generation, runner.served, runner.warm) = (boot_id, 1, 0, false);
        runner.sessions.clear();
    }

    // The end

    /// Lets everything come to rest with one operator and no failures.
    pub fn settle(&mut self) {
        for runner in &mut self.runners {
            runner.reachable = true;
        }
        let leader = self.leader.unwrap_or(0);
        self.operators[1 - leader].calls.clear();
        self.operators[1 - leader].inbox.clear();
        self.operators[1 - leader].paused = true;
        self.operators[leader].paused = false;
        for _ in 0..90 {
            self.tell_watch(leader, usize::MAX / 2);
            for at in 0..self.runners.len() {
                self.warm(at);
                self.tell_runner(at, leader);
            }
            // As long as one thing leads to another.
            for _ in 0..20 {
                self.step(leader);
                while !self.operators[leader].calls.is_empty() {
                    self.carry_out(leader, 0, Luck::Done);
                }
                self.tell_watch(leader, usize::MAX / 2);
            }
            let drained: Vec<_> = (0..self.runners.len())
                .filter(|at| self.runners[*at].draining && self.runners[*at].sessions.is_empty())
                .collect();
            for at in drained.into_iter().rev() {
                self.kill_pod(at);
            }
            self.mono += 1000;
        }
    }

    /// What must hold when everything has come to rest.
    pub fn check_rest(&mut self) {
        let mut wrong = Vec::new();
        for session in self.sessions.values() {
            let uid = session.metadata.uid.as_deref().unwrap();
            let status = session.status.clone().unwrap_or_default();
            match status.state {
                SessionState::Finished => {}
                SessionState::Ready => {
                    let told = status.runner.map(|runner| runner.uid).unwrap_or_default();
                    let has = self.runners.iter().any(|runner| {
                        runner.pod.uid == told
                            && runner
                                .sessions
                                .iter()
                                .any(|there| there.uid == uid && there.phase == SessionPhase::Ready)
                    });
                    if !has {
                        wrong.push(format!("{uid} is Ready on {told}, which does not have it"));
                    }
                }
                state => wrong.push(format!("{uid} came to rest as {state:?}")),
            }
        }
        for runner in &self.runners {
            for there in &runner.sessions {
                let object = self.sessions.values().find(|session| session.metadata.uid.as_ref() == Some(&there.uid));
                let status = object.and_then(|session| session.status.clone()).unwrap_or_default();
                let is_its = status.runner.as_ref().is_some_and(|told| told.uid == runner.pod.uid);
                if there.phase == SessionPhase::Ended || status.state == SessionState::Finished || !is_its {
                    wrong.push(format!("{} was left on {} ({:?})", there.uid, runner.pod.uid, there.phase));
                }
            }
        }
        // One that drains keeps its place until it is gone, and one too many with a session drains.
        let replicas = usize::try_from(REPLICAS).unwrap();
        let staying = self.runners.iter().filter(|runner| !runner.draining).count();
        if staying > replicas || self.runners.len() < replicas {
            wrong.push(format!("{} runners, {staying} of them to stay, for {replicas} replicas", self.runners.len()));
        }
        self.broken.extend(wrong);
    }
}
