//! A simulated fleet: a leading core, an API server that accepts its writes, and runners that obey its calls.

use crate::support::installation;
use camofleet_crds::v1alpha1::{
    BrowserSession, BrowserSessionSpec, BrowserSessionStatus, Display, Engine, PoolRef, StartTier, WorkerPool,
    WorkerPoolSpec, WorkerPoolStatus,
};
use camofleet_operator::core::{
    Change, Coordinator, Effect, Event, FleetStats, Key, Monotonic, Namespace, Node, Now, Observation, Report,
    WriteFailure,
    runner::pod_build::revision,
    runner::pod_read::{PendingReason, PodPhase, RunnerPod},
};
use camofleet_runner_api::{BindResponse, BrowserCounts, RunnerState, Session, SessionPhase, StartPage};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use std::{collections::BTreeMap, iter, net::IpAddr, sync::Arc};

/// Rounds of effects and answers in one step after which the core is assumed to loop endlessly.
const MAX_ROUNDS: usize = 10_000;

/// A session that was created at the given second.
pub fn session(namespace: &str, uid: &str, second: i64, spec: BrowserSessionSpec) -> BrowserSession {
    let mut session = BrowserSession::new(uid, spec);
    session.metadata.namespace = Some(namespace.into());
    session.metadata.uid = Some(uid.into());
    session.metadata.generation = Some(1);
    session.metadata.resource_version = Some("1".into());
    session.metadata.creation_timestamp = Some(Time(Fleet::start() + SignedDuration::from_secs(second)));
    session
}

/// The spec of a session that names a pool.
pub fn on_pool(namespace: &str, pool: &str) -> BrowserSessionSpec {
    let pool = PoolRef { name: pool.into(), namespace: Some(namespace.into()) };
    BrowserSessionSpec { pool_ref: Some(pool), ..BrowserSessionSpec::default() }
}

pub struct Fleet {
    core: Coordinator,
    millis: i64,
    version: u64,
    pools: BTreeMap<Key, WorkerPool>,
    runners: BTreeMap<String, RunnerState>,
    pods: BTreeMap<String, RunnerPod>,
    uids: u32,
    /// Deleted pods, and whether they had a session then.
    pub removed: Vec<(String, bool)>,
    /// The stored sessions.
    pub sessions: BTreeMap<String, BrowserSession>,
    /// Kubernetes events: UID of the session and reason.
    pub events: Vec<(String, String)>,
    /// Most writes of `Queued` that were started in one step.
    pub most_queued_writes: usize,
    /// Fewest runners after any step that were warm or had a session, and were not deleted.
    pub fewest_available: usize,
    /// New canaries do not become warm.
    pub canaries_fail: bool,
    /// Deleted pods without a session. They are gone after the next pause.
    terminating: Vec<String>,
    /// New pods other than canaries do not become warm.
    pub non_canaries_stay_cold: bool,
    /// The API server rejects canaries.
    pub canaries_rejected: bool,
    /// The canaries that were created.
    pub canaries: Vec<String>,
    /// Sessions and their pods, in the order of the bind calls.
    pub bound: Vec<(String, String)>,
    /// The watch delivers writes of sessions before the answers.
    pub watch_is_faster: bool,
    pub observed: Vec<Observation>,
    /// Pools whose metrics were deleted.
    pub forgotten: Vec<Key>,
    /// The API server drops `status.observedGeneration`, like one with older CRDs. A webhook removes annotations of
    /// pods and finalizers of pools.
    pub prunes: bool,
    pub writes: Writes,
}

/// Numbers of writes: statuses of sessions and pools, finalizers of pools, annotations of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    pub sessions: usize,
    pub pools: usize,
    pub finalizers: usize,
    pub annotations: usize,
}

impl Fleet {
    fn start() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// A leader without any objects.
    pub fn new() -> Self {
        let mut fleet = Self {
            core: Coordinator::new(installation()),
            millis: 60_000,
            version: 10,
            pools: BTreeMap::new(),
            runners: BTreeMap::new(),
            pods: BTreeMap::new(),
            uids: 0,
            removed: Vec::new(),
            sessions: BTreeMap::new(),
            events: Vec::new(),
            most_queued_writes: 0,
            fewest_available: usize::MAX,
            canaries_fail: false,
            terminating: Vec::new(),
            non_canaries_stay_cold: false,
            canaries_rejected: false,
            canaries: Vec::new(),
            bound: Vec::new(),
            watch_is_faster: false,
            observed: Vec::new(),
            forgotten: Vec::new(),
            prunes: false,
            writes: Writes::default(),
        };
        fleet.change_leader();
        fleet
    }

    /// Creates a pool whose runners exist already, each with one slot and a hot browser.
    pub fn pool(&mut self, namespace: &str, name: &str, runners: u32, spec: WorkerPoolSpec) {
        let replicas = spec.autoscaling.is_none().then_some(i32::try_from(runners).unwrap());
        let mut pool = WorkerPool::new(name, WorkerPoolSpec { replicas, ..spec });
        pool.metadata.namespace = Some(namespace.into());
        pool.metadata.uid = Some(format!("{namespace}/{name}"));
        pool.metadata.generation = Some(1);
        pool.metadata.resource_version = Some("1".into());
        pool.metadata.finalizers = Some(vec!["camofleet.dev/drain".into()]);
        self.pools.insert(Key::of(&pool), pool.clone());
        let mut events = vec![Event::Pools(Change::Applied(Arc::new(pool.clone())))];
        for ordinal in 0..runners {
            let pod = self.runner(&pool, ordinal);
            self.pods.insert(pod.uid.clone(), pod.clone());
            events.push(Event::Pods(Change::Applied(pod)));
        }
        self.step(events);
        let of_pool = self.runners.iter().filter(|(pod, _)| pod.starts_with(&format!("{namespace}/{name}/")));
        let reports = of_pool.map(|(pod, state)| reported(pod, state));
        self.step(reports.collect::<Vec<_>>());
    }

    fn runner(&mut self, pool: &WorkerPool, ordinal: u32) -> RunnerPod {
        let (key, uid) = (Key::of(pool), pool.metadata.uid.clone().unwrap());
        // The first pod of an ordinal is named after it.
        let mut pod = format!("{uid}/{ordinal}");
        if self.runners.contains_key(&pod) || self.removed.iter().any(|(removed, _)| *removed == pod) {
            self.uids += 1;
            pod = format!("{pod}-{}", self.uids);
        }
        self.runners.insert(pod.clone(), state(Vec::new(), 1));
        let address: [u8; 4] = [10, 0, 0, u8::try_from(ordinal).unwrap()];
        RunnerPod {
            uid: pod,
            key: Key { namespace: key.namespace.clone(), name: format!("{}-{ordinal}", key.name) },
            pool: (key, uid),
            ordinal,
            revision: revision(pool, &installation()),
            slots: 1,
            keys: "{}".into(),
            node: None,
            address: Some(IpAddr::from(address)),
            version: 2,
            created: self.now().wall,
            deletion_deadline: None,
            phase: PodPhase::Running,
        }
    }

    /// Edits the spec of a pool.
    pub fn edit(&mut self, namespace: &str, name: &str, edit: impl FnOnce(&mut WorkerPoolSpec)) {
        let key = Key { namespace: namespace.into(), name: name.into() };
        self.version += 1;
        let pool = self.pools.get_mut(&key).unwrap();
        edit(&mut pool.spec);
        pool.metadata.resource_version = Some(self.version.to_string());
        let pool = Arc::new(pool.clone());
        self.step([Event::Pools(Change::Applied(pool))]);
    }

    pub fn publish_keys(&mut self, keys: &str) {
        self.step([Event::Keys(keys.into())]);
    }

    /// Publishes second keys before the API server has answered the writes of the first ones.
    pub fn publish_keys_twice(&mut self, first: &str, second: &str) {
        let effects = self.core.step([Event::Keys(first.into())], self.now());
        let answers = effects.into_iter().flat_map(|effect| self.apply(effect));
        let events: Vec<_> = iter::once(Event::Keys(second.into())).chain(answers).collect();
        self.step(events);
    }

    /// Removes the pool's finalizers, like a user.
    pub fn remove_finalizers(&mut self, namespace: &str, name: &str) {
        let key = Key { namespace: namespace.into(), name: name.into() };
        self.version += 1;
        let pool = self.pools.get_mut(&key).unwrap();
        pool.metadata.finalizers = None;
        pool.metadata.resource_version = Some(self.version.to_string());
        let pool = Arc::new(pool.clone());
        self.step([Event::Pools(Change::Applied(pool))]);
    }

    pub fn label(&mut self, namespace: &str, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        self.step([Event::Namespaces(Change::Applied(Namespace { name: namespace.into(), labels }))]);
    }

    /// Creates sessions in one step.
    pub fn create(&mut self, sessions: impl IntoIterator<Item = BrowserSession>) {
        let mut events = Vec::new();
        for session in sessions {
            self.sessions.insert(session.metadata.uid.clone().unwrap(), session.clone());
            events.push(Event::Sessions(Change::Applied(Arc::new(session))));
        }
        self.step(events);
    }

    /// Edits the spec of a session.
    pub fn edit_session(&mut self, uid: &str, edit: impl FnOnce(&mut BrowserSessionSpec)) {
        self.version += 1;
        let session = self.sessions.get_mut(uid).unwrap();
        edit(&mut session.spec);
        session.metadata.generation = session.metadata.generation.map(|generation| generation + 1);
        session.metadata.resource_version = Some(self.version.to_string());
        let session = Arc::new(session.clone());
        self.step([Event::Sessions(Change::Applied(session))]);
    }

    /// Deletes a session. Its runner has a hot browser again.
    pub fn delete(&mut self, uid: &str) {
        let session = self.sessions.remove(uid).unwrap();
        self.step([Event::Sessions(Change::Deleted(Arc::new(session)))]);
        if let Some((pod, generation)) = self.holding(uid) {
            let state = state(Vec::new(), generation + 1);
            self.runners.insert(pod.clone(), state.clone());
            self.step([reported(&pod, &state)]);
        }
    }

    /// Deletes a session. Its runner takes no more sessions.
    pub fn delete_and_spend(&mut self, uid: &str) {
        let (pod, generation) = self.holding(uid).unwrap();
        let state = RunnerState {
            spent: true,
            free: 0,
            hot: BrowserCounts::default(),
            warm: false,
            ..state(Vec::new(), generation + 1)
        };
        self.runners.insert(pod.clone(), state.clone());
        let session = self.sessions.remove(uid).unwrap();
        self.step([Event::Sessions(Change::Deleted(Arc::new(session))), reported(&pod, &state)]);
    }

    /// A runner reports a Ready session, whether it was bound there or not.
    pub fn report_session(&mut self, pod: &str, uid: &str) {
        let generation = self.runners[pod].generation + 1;
        let state = state(vec![ready_session("own", uid, uid, Display::Headless)], generation);
        self.runners.insert(pod.to_owned(), state.clone());
        self.step([reported(pod, &state)]);
    }

    fn holding(&self, uid: &str) -> Option<(String, u64)> {
        let mut holding = self.runners.iter().filter(|(_, state)| state.session(uid).is_some());
        holding.next().map(|(pod, state)| (pod.clone(), state.generation))
    }

    /// The pool's runners lose their hot browsers.
    pub fn make_cold(&mut self, namespace: &str, name: &str) {
        self.set_warm(namespace, name, false);
    }

    /// The pool's runners lose their hot browsers and cannot launch others.
    pub fn break_browsers(&mut self, namespace: &str, name: &str) {
        let prefix = format!("{namespace}/{name}/");
        for state in self.runners.iter_mut().filter(|(pod, _)| pod.starts_with(&prefix)).map(|(_, state)| state) {
            state.launch_error = Some("no such browser".into());
        }
        self.set_warm(namespace, name, false);
    }

    /// The pool's runners have hot browsers again.
    pub fn make_warm(&mut self, namespace: &str, name: &str) {
        self.set_warm(namespace, name, true);
    }

    fn set_warm(&mut self, namespace: &str, name: &str, warm: bool) {
        let prefix = format!("{namespace}/{name}/");
        let of_pool = self.runners.iter_mut().filter(|(pod, _)| pod.starts_with(&prefix));
        let mut reports = Vec::new();
        for (pod, state) in of_pool {
            state.generation += 1;
            (state.warm, state.hot) = (warm, BrowserCounts { headless: u32::from(warm), headful: 0 });
            reports.push(reported(pod, state));
        }
        self.step(reports);
    }

    /// Advances the time, and steps the core at each of its timers.
    pub fn advance(&mut self, millis: i64) {
        let end = self.millis + millis;
        while let Some(Monotonic(at)) = self.core.next_timer().filter(|at| at.0 <= end) {
            // A pod that is deleted in this step is gone after the next pause.
            let terminating = std::mem::take(&mut self.terminating);
            self.millis = self.millis.max(at);
            self.step([]);
            let since = std::mem::replace(&mut self.terminating, terminating);
            self.remove_terminated_pods();
            self.terminating = since;
        }
        self.millis = end;
        self.step([]);
        self.remove_terminated_pods();
    }

    /// The sessions in the order of their bind calls.
    pub fn bind_order(&self) -> Vec<&str> {
        self.bound.iter().map(|(session, _)| session.as_str()).collect()
    }

    pub fn pod_of(&self, uid: &str) -> Option<&str> {
        self.bound.iter().find(|(session, _)| session == uid).map(|(_, pod)| pod.as_str())
    }

    pub fn status(&self, uid: &str) -> BrowserSessionStatus {
        self.sessions[uid].status.clone().unwrap_or_default()
    }

    /// Reason and message of `Ready`.
    pub fn ready_reason(&self, uid: &str) -> (String, String) {
        let status = self.status(uid);
        let ready = camofleet_crds::conditions::get(&status.conditions, "Ready").cloned();
        ready.map(|ready| (ready.reason, ready.message)).unwrap_or_default()
    }

    /// Removes the deleted pods that had no session.
    fn remove_terminated_pods(&mut self) {
        for pod in std::mem::take(&mut self.terminating) {
            self.runners.remove(&pod);
            let gone = self.pods.remove(&pod).unwrap();
            self.step([Event::Pods(Change::Deleted(gone))]);
        }
    }

    /// The last canary becomes warm.
    pub fn canary_recovers(&mut self) {
        let pod = self.canaries.last().unwrap().clone();
        let generation = self.runners[&pod].generation + 1;
        self.runners.insert(pod.clone(), state(Vec::new(), generation));
        self.step([reported(&pod, &self.runners[&pod])]);
    }

    /// The last canary fits on no node.
    pub fn canary_is_unschedulable(&mut self) {
        let uid = self.canaries.last().unwrap().clone();
        self.runners.remove(&uid);
        self.set_phase(&uid, PodPhase::Pending(Some(PendingReason::Unschedulable("0/3 nodes are available".into()))));
    }

    /// The container of a pod exits by itself.
    pub fn fail_pod(&mut self, uid: &str) {
        self.set_phase(
            uid,
            PodPhase::Terminated { message: "the container exited with code 1 (Error)".into(), out_of_memory: false },
        );
    }

    fn set_phase(&mut self, uid: &str, phase: PodPhase) {
        let pod = self.pods.get_mut(uid).unwrap();
        (pod.version, pod.phase) = (pod.version + 1, phase);
        let pod = pod.clone();
        self.step([Event::Pods(Change::Applied(pod))]);
    }

    /// Revisions of the pods that were not deleted, sorted.
    pub fn revisions(&self) -> Vec<&str> {
        let is_removed = |pod: &&RunnerPod| !self.removed.iter().any(|(uid, _)| *uid == pod.uid);
        let mut revisions: Vec<_> = self.pods.values().filter(is_removed).map(|pod| pod.revision.as_str()).collect();
        revisions.sort_unstable();
        revisions
    }

    pub fn pods(&self) -> impl Iterator<Item = &RunnerPod> {
        self.pods.values()
    }

    /// Number of existing pods.
    pub fn runners(&self) -> usize {
        self.pods.len()
    }

    pub fn pool_status(&self, namespace: &str, name: &str) -> WorkerPoolStatus {
        self.pools[&Key { namespace: namespace.into(), name: name.into() }].status.clone().unwrap_or_default()
    }

    /// Another operator becomes the leader, and knows only the stored objects.
    pub fn change_leader(&mut self) {
        self.core = Coordinator::new(installation());
        let sessions = self.sessions.values().cloned().map(Arc::new).collect();
        let pools = self.pools.values().cloned().map(Arc::new).collect();
        let pods = self.pods.values().cloned().collect();
        let reports = self.runners.iter().map(|(pod, state)| reported(pod, state));
        let node = Node { name: "node".into(), ready: true, cordoned: false, cpus: 64 };
        let mut events = vec![
            Event::Keys("{}".into()),
            Event::Nodes(Change::Listed(vec![node])),
            Event::Pools(Change::Listed(pools)),
            Event::Pods(Change::Listed(pods)),
            Event::Sessions(Change::Listed(sessions)),
            Event::BecameLeader,
        ];
        events.extend(reports);
        self.step(events);
    }

    pub fn queued(&self) -> usize {
        self.stats().unwrap().queues.iter().map(|queue| queue.sessions).sum()
    }

    pub fn stats(&self) -> Option<FleetStats> {
        self.core.stats(Monotonic(self.millis))
    }

    /// The core loses leadership.
    pub fn lose_leadership(&mut self) {
        self.step([Event::LostLeadership]);
    }

    pub fn remove_pool(&mut self, namespace: &str, name: &str) {
        let key = Key { namespace: namespace.into(), name: name.into() };
        let pool = self.pools.remove(&key).unwrap();
        self.step([Event::Pools(Change::Deleted(Arc::new(pool)))]);
    }

    fn now(&self) -> Now {
        Now { monotonic: Monotonic(self.millis), wall: Self::start() + SignedDuration::from_millis(self.millis) }
    }

    /// Steps the core and applies its effects until it returns none.
    fn step(&mut self, events: impl IntoIterator<Item = Event>) {
        let mut events: Vec<_> = events.into_iter().collect();
        for _ in 0..MAX_ROUNDS {
            let effects = self.core.step(events, self.now());
            let is_queued_write = |effect: &&Effect| matches!(effect, Effect::PatchSession { urgent: false, .. });
            self.most_queued_writes = self.most_queued_writes.max(effects.iter().filter(is_queued_write).count());
            events = effects.into_iter().flat_map(|effect| self.apply(effect)).collect();
            self.fewest_available = self.fewest_available.min(self.available());
            if events.is_empty() {
                return;
            }
        }
        panic!("the core does not settle: {events:?}");
    }

    fn available(&self) -> usize {
        let is_removed = |pod: &str| self.removed.iter().any(|(uid, _)| uid == pod);
        let is_available = |state: &RunnerState| state.warm || !state.sessions.is_empty();
        self.runners.iter().filter(|(pod, state)| is_available(state) && !is_removed(pod)).count()
    }

    fn apply(&mut self, effect: Effect) -> Vec<Event> {
        match effect {
            Effect::Bind { session: uid, pod, request, .. } => {
                let generation = self.runners[&pod].generation + 1;
                let session = ready_session(&request.namespace, &request.name, &uid, request.display);
                self.runners.insert(pod.clone(), state(vec![session.clone()], generation));
                self.bound.push((uid.clone(), pod.clone()));
                let state = &self.runners[&pod];
                let answer = BindResponse {
                    boot_id: state.boot_id.clone(),
                    generation,
                    engine: Engine::Firefox,
                    browser_version: None,
                    playwright_version: state.playwright_version.clone(),
                    session,
                };
                vec![Event::BindAnswered { session: uid, pod, answer: Ok(answer) }]
            }
            Effect::PatchSession { session, status, .. } => {
                self.version += 1;
                self.writes.sessions += 1;
                let mut patched = BrowserSession::clone(&session);
                patched.status = Some(*status);
                if let Some(status) = patched.status.as_mut().filter(|_| self.prunes) {
                    status.observed_generation = None;
                }
                patched.metadata.resource_version = Some(self.version.to_string());
                self.sessions.insert(patched.metadata.uid.clone().unwrap(), patched.clone());
                let patched = Arc::new(patched);
                let seen = self.watch_is_faster.then(|| Event::Sessions(Change::Applied(patched.clone())));
                seen.into_iter().chain([Event::SessionPatched { session, answer: Ok(patched) }]).collect()
            }
            Effect::CreatePod { pool, pod } => {
                let (name, labels) = (pod.metadata.name.unwrap(), pod.metadata.labels.unwrap());
                let ordinal = labels["camofleet.dev/ordinal"].parse().unwrap();
                let env = pod.spec.unwrap().containers.remove(0).env.unwrap();
                let is_canary = env.iter().any(|variable| variable.name == "RUNNER_PROVE");
                if is_canary && self.canaries_rejected {
                    let answer = Err(WriteFailure::Rejected("exceeded quota".into()));
                    return vec![Event::PodCreated { pool, name, answer }];
                }
                let made = RunnerPod {
                    key: Key { namespace: pool.namespace.clone(), name: name.clone() },
                    revision: labels["camofleet.dev/revision"].clone(),
                    ..self.runner(&self.pools[&pool].clone(), ordinal)
                };
                self.pods.insert(made.uid.clone(), made.clone());
                if is_canary {
                    self.canaries.push(made.uid.clone());
                }
                if if is_canary { self.canaries_fail } else { self.non_canaries_stay_cold } {
                    let state = self.runners.get_mut(&made.uid).unwrap();
                    // One slot has the browser that fails.
                    let slots = u32::try_from(self.pools[&pool].spec.slots_per_runner).unwrap();
                    (state.warm, state.hot) = (false, BrowserCounts { headless: slots - 1, headful: 0 });
                    state.launch_error = Some("no such browser".into());
                }
                let created = Event::PodCreated { pool, name, answer: Ok(()) };
                let reports = reported(&made.uid, &self.runners[&made.uid]);
                vec![created, Event::Pods(Change::Applied(made)), reports]
            }
            Effect::DeletePod { pod, .. } => {
                let has = |state: &RunnerState| state.sessions.iter().any(|it| self.sessions.contains_key(&it.uid));
                let serves = self.runners.get(&pod).is_some_and(has);
                self.removed.push((pod.clone(), serves));
                let deleted = Event::PodDeleted { pod: pod.clone(), answer: Ok(()) };
                if !serves {
                    self.terminating.push(pod);
                }
                vec![deleted]
            }
            Effect::PublishEvent { session, reason, .. } => {
                self.events.push((session.metadata.uid.clone().unwrap(), reason));
                Vec::new()
            }
            Effect::PatchPool { pool, status } => {
                self.version += 1;
                self.writes.pools += 1;
                let mut patched = WorkerPool::clone(&pool);
                patched.status = Some(*status);
                if let Some(status) = patched.status.as_mut().filter(|_| self.prunes) {
                    status.observed_generation = None;
                }
                patched.metadata.resource_version = Some(self.version.to_string());
                self.pools.insert(Key::of(&patched), patched.clone());
                vec![Event::PoolPatched { pool, answer: Ok(Some(Arc::new(patched))) }]
            }
            Effect::SetFinalizers { pool, finalizers } => {
                self.version += 1;
                self.writes.finalizers += 1;
                let mut patched = WorkerPool::clone(&pool);
                patched.metadata.finalizers = Some(if self.prunes { Vec::new() } else { finalizers });
                patched.metadata.resource_version = Some(self.version.to_string());
                self.pools.insert(Key::of(&patched), patched.clone());
                vec![Event::PoolPatched { pool, answer: Ok(Some(Arc::new(patched))) }]
            }
            Effect::AnnotatePod { pod, keys, .. } => {
                self.version += 1;
                self.writes.annotations += 1;
                let patched = self.pods.get_mut(&pod).unwrap();
                patched.version = self.version;
                if !self.prunes {
                    patched.keys.clone_from(&keys);
                }
                let applied = Event::Pods(Change::Applied(patched.clone()));
                vec![applied, Event::PodAnnotated { pod, keys, answer: Ok(()) }]
            }
            Effect::Observe(observation) => {
                self.observed.push(observation);
                Vec::new()
            }
            Effect::DeletePoolMetrics { pool } => {
                self.forgotten.push(pool);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}

fn ready_session(namespace: &str, name: &str, uid: &str, display: Display) -> Session {
    Session {
        uid: uid.into(),
        namespace: namespace.into(),
        name: name.into(),
        phase: SessionPhase::Ready,
        display,
        tier: StartTier::Hot,
        start_page: StartPage::None,
        clients: 0,
        end: None,
    }
}

/// The event of a runner's report.
fn reported(pod: &str, state: &RunnerState) -> Event {
    Event::RunnerReported { pod: pod.to_owned(), report: Report::new(state.clone(), state.slots).unwrap() }
}

/// The state of a runner with one slot.
fn state(sessions: Vec<Session>, generation: u64) -> RunnerState {
    let free = u32::from(sessions.is_empty());
    RunnerState {
        boot_id: "boot".into(),
        generation,
        engine: Some(Engine::Firefox),
        browser_version: None,
        playwright_version: "1.62".into(),
        draining: false,
        slots: 1,
        free,
        spent: false,
        hot: BrowserCounts { headless: free, headful: 0 },
        warm: free == 1,
        launch_error: None,
        sessions,
    }
}
