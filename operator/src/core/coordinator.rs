//! The operator's state machine: holds the state of a leader or follower, and routes each event to the module that
//! handles it.

use crate::core::{
    clock::{Monotonic, Now},
    cluster::Cluster,
    ids::{Key, Uid},
    messages::{Change, Effect, Event},
    orphans::Orphans,
    pool::{launch_budget::LaunchBudget, state::Pool},
    runner::{pod_build::Installation, pod_read::RunnerPod, state::Runners},
    session::state::Sessions,
    step_context::{ReconcileKey, StepContext},
    tombstones::Tombstones,
};
use camofleet_crds::v1alpha1::{BrowserSession, Slots, WorkerPool};
use k8s_openapi::jiff::SignedDuration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Time after the start of a term for which the assignment of slots waits for runners that have neither reported nor
/// become unreachable. All runners are called at the start of the term, so a runner that takes longer must not delay
/// the others.
const RUNNER_REPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest difference between the operator's clock and the times in objects. The clock is corrected from 3 s on, and
/// the times have whole seconds.
const CLOCK_MARGIN: SignedDuration = SignedDuration::from_secs(5);

/// Turns events into effects ([`Coordinator::step`]).
#[derive(Debug)]
pub struct Coordinator {
    pub(in crate::core) installation: Installation,
    /// `None` while this process is a follower.
    pub(in crate::core) term: Option<Term>,
    pub(in crate::core) sessions: Sessions,
    pub(in crate::core) tombstones: Tombstones,
    pub(in crate::core) pools: BTreeMap<Key, Pool>,
    pub(in crate::core) runners: Runners,
    pub(in crate::core) cluster: Cluster,
    pub(in crate::core) launches: LaunchBudget,
    pub(in crate::core) orphans: Orphans,
    pub(in crate::core) context: StepContext,
}

/// A term as the leader.
#[derive(Debug)]
pub(in crate::core) struct Term {
    /// Runners that existed at the start of the term and have neither reported nor become unreachable. Empty after
    /// [`RUNNER_REPORT_TIMEOUT`].
    awaited: BTreeSet<Uid>,
    since: Now,
}

impl Term {
    /// Returns whether the pod was created in this term, and therefore by this leader, because no write of a former
    /// leader takes effect after its term. Creation times come from the API server's clock and have whole seconds.
    pub(in crate::core) fn is_from_this_term(&self, pod: &RunnerPod) -> bool {
        pod.created.duration_since(self.since.wall) > CLOCK_MARGIN
    }
}

/// Waiting sessions and slots of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetStats {
    /// Waiting sessions, grouped by demand.
    pub queues: Vec<QueueStats>,
    /// The slots in the status of each pool.
    pub slots: Vec<(Key, Slots)>,
}

/// Waiting sessions of equal demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// The pool that they name, if it exists.
    pub pool: Option<Key>,
    /// Priority of the sessions.
    pub priority: i32,
    /// Number of sessions.
    pub sessions: usize,
    /// How long the first session has waited.
    pub longest_wait: Duration,
}

impl Coordinator {
    /// Creates a follower without any objects.
    pub fn new(installation: Installation) -> Self {
        Self {
            installation,
            term: None,
            sessions: Sessions::default(),
            tombstones: Tombstones::default(),
            pools: BTreeMap::new(),
            runners: Runners::default(),
            cluster: Cluster::default(),
            launches: LaunchBudget::default(),
            orphans: Orphans::default(),
            context: StepContext::default(),
        }
    }

    /// Handles events, reconciles everything that they affect and everything that is due, and returns the effects.
    pub fn step(&mut self, events: impl IntoIterator<Item = Event>, now: Now) -> Vec<Effect> {
        self.context.begin(now);
        for event in events {
            self.handle(event);
        }
        self.context.enqueue_due();
        if self.term.is_none() {
            self.context.drop_pending();
            return self.context.take_effects();
        }
        self.expire_awaited_runners();
        // Reconciling one key may enqueue others. They are reconciled in the same step.
        while let Some(key) = self.context.next() {
            match key {
                ReconcileKey::Queue => self.schedule(),
                ReconcileKey::Session(uid) => self.reconcile_session(&uid),
                ReconcileKey::Runner(uid) => self.reconcile_runner(&uid),
                ReconcileKey::Pool(key) => self.reconcile_pool(&key),
                ReconcileKey::Orphan(uid) => self.look_up_orphan(&uid),
                ReconcileKey::StaleSessions(pod) => self.end_stale_sessions(&pod),
            }
        }
        self.launch_runners();
        self.context.take_effects()
    }

    /// When [`Coordinator::step`] has to be called if no event arrives earlier.
    pub fn next_timer(&self) -> Option<Monotonic> {
        self.context.next_timer()
    }

    /// Waiting sessions and slots of the fleet. `None` for a follower.
    pub fn stats(&self, now: Monotonic) -> Option<FleetStats> {
        self.term.as_ref()?;
        let queues = self.sessions.queue().lanes().filter_map(|(demand, lane)| {
            let first = self.sessions.get(lane.first()?.uid())?;
            Some(QueueStats {
                pool: demand.pool.clone().filter(|named| self.pools.contains_key(named)),
                priority: demand.priority.0,
                sessions: lane.len(),
                longest_wait: now.since(first.created()),
            })
        });
        let published = |pool: &Pool| pool.object().status.as_ref().map(|status| status.slots);
        let slots = self.pools.iter().filter_map(|(key, pool)| Some((key.clone(), published(pool)?)));
        Some(FleetStats { queues: queues.collect(), slots: slots.collect() })
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Sessions(Change::Listed(all)) => self.replace_sessions(all),
            Event::Sessions(Change::Applied(session)) => self.session_applied(session),
            Event::Sessions(Change::Deleted(session)) => {
                self.session_gone(&session.metadata.uid.clone().unwrap_or_default());
            }
            Event::Pools(Change::Listed(all)) => self.replace_pools(all),
            Event::Pools(Change::Applied(pool)) => self.pool_applied(pool),
            Event::Pools(Change::Deleted(pool)) => self.pool_gone(&Key::of(pool.as_ref())),
            Event::Pods(Change::Listed(all)) => self.replace_pods(all),
            Event::Pods(Change::Applied(pod)) => self.pod_applied(pod),
            Event::Pods(Change::Deleted(pod)) => self.pod_gone(&pod.uid),
            Event::Nodes(change) => self.node_changed(change),
            Event::Namespaces(change) => self.namespace_changed(change),
            Event::Keys(keys) => self.keys_changed(keys),
            Event::BecameLeader => self.begin_term(),
            Event::LostLeadership => self.end_term(),
            Event::RunnerReported { pod, report } => self.runner_reported(&pod, report),
            Event::RunnerUnreachable { pod } => self.runner_unreachable(&pod),
            Event::BindAnswered { session, pod, answer } => self.bind_answered(&session, &pod, answer),
            Event::EndAnswered { session, pod } => self.end_answered(&session, &pod),
            Event::SessionPatched { session, answer } => self.session_patched(&session, answer),
            Event::SessionRead { key, session, answer } => self.session_read(&key, &session, answer),
            Event::PodRead { session, pod, answer } => self.pod_read(&session, &pod, answer),
            Event::SessionDeleted { session, answer } => self.session_deleted(&session, answer),
            Event::PodCreated { pool, name, answer } => self.pod_created(&pool, &name, answer),
            Event::PodDeleted { pod, answer } => self.pod_deleted(&pod, answer),
            Event::PodAnnotated { pod, keys, answer } => self.pod_annotated(&pod, &keys, answer),
            Event::DisruptionBudgetApplied { pool, answer } => self.disruption_budget_applied(&pool, answer),
            Event::PoolPatched { pool, answer } => self.pool_patched(&pool, answer),
        }
    }

    /// Starts a term: rebuilds the state from the objects, and waits for the runners to report.
    fn begin_term(&mut self) {
        let awaited =
            self.runners.iter().filter(|runner| runner.pod().address.is_some() && !runner.pod().is_terminated());
        let awaited = awaited.map(|runner| runner.pod().uid.clone()).collect();
        self.term = Some(Term { awaited, since: self.context.now() });
        self.context.set_timer(ReconcileKey::Queue, Some(self.context.monotonic().after(RUNNER_REPORT_TIMEOUT)));
        self.orphans.clear();
        self.runners.begin_term(self.context.now());
        for pool in self.pools.values_mut() {
            pool.begin_term();
        }
        for object in self.sessions.take_objects() {
            self.add_session(object);
        }
        self.context.enqueue_all(self.runners.uids().cloned().map(ReconcileKey::Runner));
        self.context.enqueue_all(self.pools.keys().cloned().map(ReconcileKey::Pool));
        self.context.enqueue(ReconcileKey::Queue);
    }

    /// Ends the term: drops all timers and stops the report streams of the runners.
    fn end_term(&mut self) {
        self.term = None;
        self.context.drop_timers();
        for uid in self.runners.uids() {
            self.context.send(Effect::StopStreaming { pod: uid.clone() });
        }
    }

    /// Returns whether slots may be assigned and runners removed. Before that, every runner that existed at the start
    /// of the term has to report or become unreachable, or [`RUNNER_REPORT_TIMEOUT`] has to pass.
    pub(in crate::core) fn may_schedule(&self) -> bool {
        self.term.as_ref().is_some_and(|term| term.awaited.is_empty())
    }

    /// Records that a runner has reported, become unreachable or disappeared, so scheduling does not wait for it.
    pub(in crate::core) fn runner_accounted_for(&mut self, pod: &Uid) {
        if let Some(term) = &mut self.term
            && term.awaited.remove(pod)
            && term.awaited.is_empty()
        {
            self.start_scheduling();
        }
    }

    /// Stops waiting for the reports of runners after [`RUNNER_REPORT_TIMEOUT`].
    fn expire_awaited_runners(&mut self) {
        if let Some(term) = &mut self.term
            && !term.awaited.is_empty()
            && term.since.monotonic.after(RUNNER_REPORT_TIMEOUT) <= self.context.monotonic()
        {
            term.awaited.clear();
            self.start_scheduling();
        }
    }

    /// Enqueues the queue, the waiting sessions and all pools, because [`Coordinator::may_schedule`] has become true.
    fn start_scheduling(&mut self) {
        self.context.enqueue(ReconcileKey::Queue);
        self.context.enqueue_all(self.sessions.queue().waiting(|_| true).into_iter().map(ReconcileKey::Session));
        self.context.enqueue_all(self.pools.keys().cloned().map(ReconcileKey::Pool));
    }

    fn replace_sessions(&mut self, all: Vec<Arc<BrowserSession>>) {
        let present: BTreeSet<_> = all.iter().filter_map(|session| session.metadata.uid.clone()).collect();
        let gone: Vec<_> = self.sessions.uids().filter(|uid| !present.contains(*uid)).cloned().collect();
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
        self.runners.retain_claimants(|uid| present.contains(uid));
        let gone: Vec<_> = self.runners.uids().filter(|uid| !present.contains(*uid)).cloned().collect();
        for uid in &gone {
            self.pod_gone(uid);
        }
        for pod in all {
            self.pod_applied(pod);
        }
    }
}
