//! Reconciles sessions: tracks their objects and the reports of their runners, makes the calls that are due, and
//! publishes their status.

use crate::core::{
    coordinator::Coordinator,
    ids::{Key, Uid, version},
    messages::{Effect, Observation},
    pool::state::CountChange,
    retry::RetryState,
    runner::{
        report::{Report, ReportVersion},
        state::{Connectivity, PUBLISH_UNREACHABLE_AFTER},
    },
    scheduler::{
        admission::{Rejection, WaitDecision},
        queue::Demand,
    },
    session::{
        state::{Bound, Session, SessionEnd, SessionReport, Stage},
        status::{self, Placement, WaitReason},
    },
    step_context::ReconcileKey,
};
use camofleet_crds::{
    conditions::session as reasons,
    queue::CreationKey,
    v1alpha1::{BrowserSession, SessionState, WorkerPool, WorkerPoolSpec},
};
use camofleet_runner_api::SessionPhase;
use std::{sync::Arc, time::Duration};

/// Interval between evaluations of a waiting session. The reason why it waits can change without an event about it.
const REEVALUATION_INTERVAL: Duration = Duration::from_secs(30);
/// Reason in metrics for a session that was deleted before it finished. It appears in no status.
const DELETED: &str = "Deleted";

impl Coordinator {
    pub(in crate::core) fn session_applied(&mut self, object: Arc<BrowserSession>) {
        let Some(uid) = object.metadata.uid.clone() else { return };
        // A session that only waits for a finalizer is not served any longer.
        if object.metadata.deletion_timestamp.is_some() {
            return self.session_gone(&uid);
        }
        let Some(session) = self.sessions.get(&uid) else {
            // An answer that arrives after the watch event may contain a deleted session.
            if !self.tombstones.contains(&uid) {
                self.add_session(object);
            }
            return;
        };
        if version(object.as_ref()) < version(session.object().as_ref()) {
            return;
        }
        self.replace_object(&uid, object);
        self.adopt_published_stage(&uid);
        self.context.enqueue(ReconcileKey::Session(uid));
    }

    /// Stores a newer version of the object, and re-evaluates admission when its demand has changed.
    pub(in crate::core) fn replace_object(&mut self, uid: &Uid, object: Arc<BrowserSession>) {
        if self.sessions.replace_object(uid, object) {
            self.admission_changed();
        }
    }

    pub(in crate::core) fn add_session(&mut self, object: Arc<BrowserSession>) {
        let Some(uid) = object.metadata.uid.clone() else { return };
        let stage = Session::published_stage(&object, self.context.now());
        self.orphans.remove(&uid);
        self.sessions.add(&uid, object, self.context.now());
        self.set_stage(&uid, stage);
        // Its runner may have reported the session before this object arrived.
        let listing = self.runners.listing(&uid).filter(|runner| runner.is_up());
        let listed: Vec<_> =
            listing.filter_map(|runner| Some((runner.pod().uid.clone(), runner.report()?.clone()))).collect();
        for (pod, state) in listed {
            self.session_listed(&pod, &state, &uid);
            self.context.enqueue(ReconcileKey::StaleSessions(pod));
        }
    }

    /// Yields to the published status if another leader has published a different runner or the end of the session.
    pub(in crate::core) fn adopt_published_stage(&mut self, uid: &Uid) {
        let session = &self.sessions[uid];
        let published = Session::published_stage(session.object(), self.context.now());
        let yields = match (&published, session.stage()) {
            (Stage::Finished { .. }, Stage::Finished { .. }) => false,
            (Stage::Finished { .. }, _) => true,
            (Stage::Bound(published), Stage::Waiting | Stage::Binding { .. }) => {
                session.runner() != Some(&published.runner)
            }
            (Stage::Bound(published), Stage::Bound(own)) => published.runner != own.runner,
            (Stage::Bound(_), Stage::Finishing(_) | Stage::Finished { .. })
            | (Stage::Waiting | Stage::Binding { .. } | Stage::Finishing(_), _) => false,
        };
        if !yields {
            return;
        }
        let own = session.runner().cloned();
        self.set_stage(uid, published);
        if let Some(own) = own {
            self.end_duplicate(&own, uid);
        }
    }

    /// Moves a session to a stage, and updates the queue, the runners and the tenant's count accordingly.
    pub(in crate::core) fn set_stage(&mut self, uid: &Uid, stage: Stage) {
        let Some(change) = self.sessions.set_stage(uid, stage) else { return };
        if change.is_waiting {
            self.context.enqueue(ReconcileKey::Queue);
        }
        if change.is_waiting || change.was_waiting {
            self.enqueue_pools_for(&Demand::of(&change.object));
        }
        if change.runner_before != change.runner_after {
            if let Some(runner) = change.runner_before {
                self.unassign(&change.object, &runner);
            }
            if let Some(runner) = change.runner_after {
                self.assign(&change.object, &runner);
            }
        }
        self.context.enqueue(ReconcileKey::Session(uid.clone()));
    }

    /// Counts a session on a runner and for its tenant.
    pub(in crate::core) fn assign(&mut self, session: &BrowserSession, pod: &Uid) {
        let Some(uid) = &session.metadata.uid else { return };
        let Some(runner) = self.runners.get_mut(pod) else { return };
        let change = runner.assign(uid).then_some(CountChange::Added);
        self.count_for_tenant(session, pod, change);
    }

    /// Removes a session from a runner and from its tenant's count.
    pub(in crate::core) fn unassign(&mut self, session: &BrowserSession, pod: &Uid) {
        let Some(uid) = &session.metadata.uid else { return };
        let Some(runner) = self.runners.get_mut(pod) else { return };
        let change = runner.unassign(uid).then_some(CountChange::Removed);
        self.count_for_tenant(session, pod, change);
    }

    fn count_for_tenant(&mut self, session: &BrowserSession, pod: &Uid, change: Option<CountChange>) {
        let pod = self.runners[pod].pod();
        let key = &pod.pool.0;
        let pool = self.pools.get_mut(key).filter(|pool| pod.belongs_to(pool.object()));
        if let (Some(pool), Some(change)) = (pool, change) {
            pool.adjust_running(session.tenant(), change);
        }
        self.context.enqueue(ReconcileKey::Runner(pod.uid.clone()));
        self.context.enqueue(ReconcileKey::Pool(key.clone()));
    }

    pub(in crate::core) fn session_gone(&mut self, uid: &Uid) {
        let Some(session) = self.sessions.remove(uid) else { return };
        self.observe_deletion(&session);
        if session.is_waiting() {
            self.enqueue_pools_for(&Demand::of(session.object()));
        }
        self.tombstones.insert(uid, self.context.monotonic());
        if let Some(pod) = session.runner() {
            self.unassign(session.object(), pod);
            self.send_end(pod, uid);
        }
        self.end_wherever_listed(uid);
        self.context.clear_timer(&ReconcileKey::Session(uid.clone()));
        self.context.enqueue(ReconcileKey::Queue);
    }

    /// Observes the end of a session that was deleted before it finished.
    fn observe_deletion(&mut self, session: &Session) {
        let reason = match session.stage() {
            Stage::Finished { .. } => return,
            Stage::Finishing(end) => end.reason,
            Stage::Waiting | Stage::Binding { .. } | Stage::Bound(_) => DELETED,
        };
        if self.term.is_some() {
            let started = session.since_seen(self.context.now()).filter(|_| !session.was_ready());
            let (session, reason) = (session.object().clone(), reason.to_owned());
            self.context.send(Effect::Observe(Observation::Ended { session, reason, started }));
        }
    }

    /// Handles one session that a runner lists in its report.
    pub(in crate::core) fn session_listed(&mut self, pod: &Uid, state: &Report, uid: &Uid) {
        let Some(entry) = state.session(uid) else { return };
        let Some(session) = self.sessions.get(uid) else {
            let unknown = !self.tombstones.contains(uid);
            if unknown && self.term.is_some() && self.orphans.insert(pod, entry, self.context.monotonic()) {
                self.context.enqueue(ReconcileKey::Orphan(uid.clone()));
            }
            return;
        };
        match session.stage() {
            // The session ended before it was published.
            Stage::Waiting if entry.phase == SessionPhase::Ended && self.may_be_bound_to(pod, session) => {
                self.set_stage(uid, Stage::Finishing(SessionEnd::reported(entry.end.as_ref())));
            }
            Stage::Binding { runner, .. } if runner == pod && entry.phase == SessionPhase::Ended => {
                self.set_stage(uid, Stage::Finishing(SessionEnd::reported(entry.end.as_ref())));
            }
            Stage::Waiting if self.may_be_bound_to(pod, session) => {
                self.set_bound(pod, uid, SessionReport::listed(entry, state), state.version());
            }
            // No leader can have assigned the session to this runner.
            Stage::Waiting => {}
            Stage::Binding { runner, .. } if runner == pod => {
                self.set_bound(pod, uid, SessionReport::listed(entry, state), state.version());
            }
            Stage::Bound(bound) if bound.runner == *pod => {
                if entry.phase == SessionPhase::Ended {
                    let end = SessionEnd::reported(entry.end.as_ref());
                    self.set_stage(uid, Stage::Finishing(end));
                } else {
                    let report = SessionReport::listed(entry, state);
                    if bound.report.as_ref() != Some(&report) {
                        let bound = Bound { report: Some(report), ..bound.clone() };
                        self.set_stage(uid, Stage::Bound(bound));
                    }
                }
            }
            // `end_stale_sessions` ends sessions that the runner must not keep.
            Stage::Binding { .. } | Stage::Bound(_) | Stage::Finishing(_) | Stage::Finished { .. } => {}
        }
    }

    /// Returns whether a former leader may have assigned the session to this runner. A runner can list any session, so
    /// its report alone proves nothing.
    fn may_be_bound_to(&self, pod: &Uid, session: &Session) -> bool {
        let Some(runner) = self.runners.get(pod) else { return false };
        let (key, demand) = (&runner.pod().pool.0, Demand::of(session.object()));
        // Once its pool is deleted, the operator cannot tell which other namespaces it served.
        let Some(pool) = self.pool_of(runner) else {
            return key.namespace == demand.namespace && self.targets(&demand, key);
        };
        let is_excluded = matches!(self.rejection(pool, &demand), Some(Rejection::Namespace | Rejection::Tenant));
        self.targets(&demand, key) && !is_excluded
    }

    pub(in crate::core) fn set_bound(
        &mut self,
        pod: &Uid,
        uid: &Uid,
        report: SessionReport,
        listed_since: ReportVersion,
    ) {
        let session = &self.sessions[uid];
        let (since, sent_generation) = match session.stage() {
            Stage::Binding { since, .. } => (Some(*since), session.generation()),
            // The timeouts of an adopted session are unknown, so they are sent again.
            Stage::Waiting | Stage::Bound(_) | Stage::Finishing(_) | Stage::Finished { .. } => (None, 0),
        };
        if let Some(since) = since {
            self.context.send(Effect::Observe(Observation::Bound { took: self.context.monotonic().since(since) }));
        }
        let bound = Bound {
            runner: pod.clone(),
            report: Some(report),
            listed_since: Some(listed_since),
            sent_generation,
            call: RetryState::Idle,
        };
        self.set_stage(uid, Stage::Bound(bound));
    }

    /// Makes the due calls for a session, publishes its status and sets its next timer.
    pub(in crate::core) fn reconcile_session(&mut self, uid: &Uid) {
        if !self.sessions.contains(uid) {
            return;
        }
        self.start_due_call(uid);
        let wait = self.reconcile_waiting(uid);
        self.publish(uid, wait.as_ref());
        let timer = self.next_session_timer(uid);
        self.context.set_timer(ReconcileKey::Session(uid.clone()), timer);
    }

    /// Starts the call that the stage needs: to the runner, or the deletion of the object.
    fn start_due_call(&mut self, uid: &Uid) {
        let now = self.context.monotonic();
        let session = &self.sessions[uid];
        let generation = session.generation();
        match session.stage().clone() {
            Stage::Binding { runner, call, .. } if call.may_start(now) => {
                if self.send_bind(&runner, uid, true) {
                    self.call_started(uid);
                }
            }
            Stage::Bound(bound)
                if bound.sent_generation != generation && bound.report.is_some() && bound.call.may_start(now) =>
            {
                if self.send_bind(&bound.runner, uid, false) {
                    self.call_started(uid);
                }
            }
            // A former leader published a pod that this leader has not seen. It was deleted, or its watch event is
            // late.
            Stage::Bound(bound) if !self.runners.contains(&bound.runner) && bound.call.may_start(now) => {
                let published = session.object().status.as_ref().and_then(|status| status.runner.as_ref());
                let Some(name) = published.map(|runner| runner.name.clone()) else { return };
                let pool_namespace = session.object().status.as_ref().and_then(|status| status.pool_namespace.clone());
                let key = Key { namespace: pool_namespace.unwrap_or_else(|| session.key().namespace), name };
                self.context.send(Effect::ReadPod { key, pod: bound.runner, session: uid.clone() });
                self.call_started(uid);
            }
            Stage::Finished { at, delete } if at.after(self.ttl(uid)) <= now && delete.may_start(now) => {
                let key = session.key();
                self.context.send(Effect::DeleteSession { key, session: uid.clone() });
                self.call_started(uid);
            }
            Stage::Waiting | Stage::Binding { .. } | Stage::Bound(_) | Stage::Finishing(_) | Stage::Finished { .. } => {
            }
        }
    }

    fn call_started(&mut self, uid: &Uid) {
        if let Some(session) = self.sessions.get_mut(uid) {
            session.call_started();
        }
    }

    pub(in crate::core) fn call_failed(&mut self, uid: &Uid) {
        if let Some(session) = self.sessions.get_mut(uid) {
            session.call_failed(uid, self.context.monotonic());
        }
        self.context.enqueue(ReconcileKey::Session(uid.clone()));
    }

    fn send_bind(&mut self, pod: &Uid, uid: &Uid, is_new: bool) -> bool {
        let Some(runner) = self.runners.get(pod) else { return false };
        let Some(address) = runner.pod().address else { return false };
        let session = &self.sessions[uid];
        // A runner that outlives its pool drains. The bind is still completed and published. The defaults of the pool
        // are lost, so the built-in ones apply.
        let request = match self.pool_of(runner) {
            Some(pool) => session.request(pool.object()),
            None => session.request(&WorkerPool::new("", WorkerPoolSpec::default())),
        };
        let key = runner.pod().key.clone();
        self.context.send(Effect::Bind { session: uid.clone(), pod: pod.clone(), key, address, request, is_new });
        true
    }

    fn ttl(&self, uid: &Uid) -> Duration {
        seconds(self.sessions[uid].object().spec.ttl_seconds_after_finished)
    }

    /// Ends a waiting session that is rejected or has waited too long. Otherwise returns the reason for the wait, once
    /// it has to be published.
    fn reconcile_waiting(&mut self, uid: &Uid) -> Option<WaitReason> {
        let session = &self.sessions[uid];
        if !session.is_waiting() || !self.may_schedule() {
            return None;
        }
        match self.evaluate_wait(session) {
            Ok(wait) => {
                // A session that no pool accepts does not wait for a slot, so it is not admitted to a queue.
                let admitted = self.pools_for(&Demand::of(session.object())).next().is_some();
                if let Some(session) = self.sessions.get_mut(uid).filter(|_| admitted) {
                    session.admit();
                }
                wait
            }
            Err(end) => {
                self.set_stage(uid, Stage::Finishing(end));
                None
            }
        }
    }

    fn evaluate_wait(&self, session: &Session) -> Result<Option<WaitReason>, SessionEnd> {
        let wait = match self.wait_decision(session) {
            WaitDecision::Wait(wait) => wait,
            WaitDecision::Reject(end) => return Err(end),
        };
        let queue_overflow = || self.queue_overflow(&Demand::of(session.object()), &CreationKey::of(session.object()));
        if let Some(end) = (!session.is_admitted()).then(queue_overflow).flatten() {
            return Err(end);
        }
        let waited = self.context.monotonic().since(session.created());
        let limit = seconds(session.object().spec.queue_timeout_seconds);
        if waited >= limit {
            let message = format!("the session got no slot within {} s: {}", limit.as_secs(), wait.message);
            return Err(SessionEnd { reason: reasons::QUEUE_TIMEOUT, message });
        }
        Ok((self.context.monotonic() >= session.publish_queued_at()).then_some(wait))
    }

    fn next_session_timer(&self, uid: &Uid) -> Option<crate::core::Monotonic> {
        let session = &self.sessions[uid];
        let stage = match session.stage() {
            Stage::Waiting => {
                let limit = seconds(session.object().spec.queue_timeout_seconds);
                let (publish_at, timeout) = (session.publish_queued_at(), session.created().after(limit));
                let reevaluate_at = self.context.monotonic().after(REEVALUATION_INTERVAL);
                let next = if publish_at > self.context.monotonic() { publish_at } else { reevaluate_at };
                // No session times out before scheduling starts. `start_scheduling` enqueues the waiting sessions then.
                self.may_schedule().then_some(next.min(timeout))
            }
            Stage::Binding { call, .. } => call.retry_at(),
            Stage::Bound(bound) => bound.call.retry_at(),
            Stage::Finishing(_) => None,
            Stage::Finished { at, delete } => match delete {
                RetryState::Idle => Some(at.after(self.ttl(uid))),
                RetryState::InFlight { .. } | RetryState::Pause { .. } | RetryState::Rejected => delete.retry_at(),
            },
        };
        // Everything due now is done. An earlier time would only cause an idle step, and hide a later one.
        stage.into_iter().chain(session.write().retry_at()).filter(|at| *at > self.context.monotonic()).min()
    }

    /// Writes the status if it differs from the desired one.
    fn publish(&mut self, uid: &Uid, wait: Option<&WaitReason>) {
        let session = &self.sessions[uid];
        if session.write().is_blocked(self.context.monotonic()) {
            return;
        }
        let placement = session.runner().and_then(|runner| self.runners.get(runner)).map(|runner| Placement {
            pool: &runner.pod().pool.0,
            runner: &runner.pod().key,
            address: runner.pod().address,
            reachable: match *runner.connectivity() {
                Connectivity::Up | Connectivity::Unknown => true,
                Connectivity::Unreachable { since } => {
                    self.context.monotonic().since(since) < PUBLISH_UNREACHABLE_AFTER
                }
            },
            spec: self.pool_of(runner).map(|pool| pool.object().as_ref()),
        });
        let desired =
            status::of_session(session, placement.as_ref(), wait, &self.installation.public_url, self.context.now());
        let stored = session.object().status.as_ref();
        let Some(desired) = desired.filter(|desired| session.write().is_due(stored, desired, self.context.monotonic()))
        else {
            return;
        };
        let urgent = desired.state != SessionState::Queued;
        let object = session.object().clone();
        if !urgent && !self.sessions.begin_queued_write(uid) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(uid) {
            session.begin_write(desired.clone());
        }
        self.context.send(Effect::PatchSession { session: object, status: Box::new(desired), urgent });
    }
}

fn seconds(seconds: i32) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}
