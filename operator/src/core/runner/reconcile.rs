//! Reconciles runners: tracks their pods and reports, ends the sessions of lost runners, deletes pods and annotates
//! them with the public keys.

use crate::core::{
    clock::Monotonic,
    coordinator::Coordinator,
    ids::{Key, Uid},
    messages::{Change, Effect, Node, Observation, WriteFailure},
    pool::state::Pool,
    retry::RetryState,
    runner::{
        pod_read::{KEYS_ANNOTATION, PodPhase, RunnerPod},
        report::Report,
        state::{Connectivity, PUBLISH_UNREACHABLE_AFTER, Runner},
    },
    session::state::{Session, SessionEnd, Stage},
    step_context::ReconcileKey,
};
use camofleet_crds::conditions::{pool as reasons, session};
use std::time::Duration;

/// Time for which a runner is unreachable before its pod is deleted.
const DELETE_UNREACHABLE_AFTER: Duration = Duration::from_secs(300);

impl Coordinator {
    pub(in crate::core) fn pool_of(&self, runner: &Runner) -> Option<&Pool> {
        self.pools.get(&runner.pod().pool.0).filter(|pool| runner.pod().belongs_to(pool.object()))
    }

    pub(in crate::core) fn is_cordoned(&self, runner: &Runner) -> bool {
        runner.pod().node.as_ref().is_some_and(|node| self.cluster.is_cordoned(node))
    }

    pub(in crate::core) fn pod_applied(&mut self, pod: RunnerPod) {
        let (uid, pool) = (pod.uid.clone(), pod.pool.clone());
        // An answer that arrives after the watch event may contain an older version or a deleted pod.
        let known = self.runners.get(&uid).map(|runner| runner.pod().version);
        if self.tombstones.contains(&uid) || known.is_some_and(|known| pod.version < known) {
            return;
        }
        let its_pool = self.pools.get_mut(&pool.0).filter(|known| pod.belongs_to(known.object()));
        if its_pool.is_none() && known.is_none() {
            self.runners.keep_claimant(pod);
            return;
        }
        if let Some(pool) = its_pool {
            pool.ordinals.pod_seen(pod.ordinal, &pod.key.name, &uid);
        }
        match self.runners.get_mut(&uid) {
            Some(runner) => runner.replace_pod(pod, self.context.now()),
            None => {
                let mut runner = Runner::new(pod, self.context.now());
                if self.term.as_ref().is_some_and(|term| term.is_from_this_term(runner.pod())) {
                    runner.mark_sessions_known();
                }
                self.runners.insert(runner);
                let assigned = self.sessions.iter().filter(|session| session.runner() == Some(&uid));
                for session in assigned.map(|session| session.object().clone()).collect::<Vec<_>>() {
                    self.assign(&session, &uid);
                }
            }
        }
        self.context.enqueue(ReconcileKey::Runner(uid));
        self.context.enqueue(ReconcileKey::Pool(pool.0));
    }

    /// Adopts pods that arrived before the pool that they claim.
    pub(in crate::core) fn adopt_claimants(&mut self, key: &Key) {
        let Some(pool) = self.pools.get(key) else { return };
        for pod in self.runners.take_claimants(pool.object()) {
            self.pod_applied(pod);
        }
    }

    pub(in crate::core) fn pod_gone(&mut self, uid: &Uid) {
        self.runners.remove_claimant(uid);
        if !self.runners.contains(uid) {
            return;
        }
        self.tombstones.insert(uid, self.context.monotonic());
        let runner = &self.runners[uid];
        let end = end_of(runner).unwrap_or_else(|| SessionEnd {
            reason: session::RUNNER_LOST,
            message: format!("pod {} was deleted", runner.pod().key.name),
        });
        self.lose_sessions(uid, &end, &Stage::Waiting);
        self.forget_runner(uid);
    }

    fn forget_runner(&mut self, uid: &Uid) {
        let Some(runner) = self.runners.remove(uid) else { return };
        self.runner_accounted_for(uid);
        self.orphans.forget_runner(uid);
        self.context.clear_timer(&ReconcileKey::Runner(uid.clone()));
        self.context.clear_timer(&ReconcileKey::StaleSessions(uid.clone()));
        if self.term.is_some() {
            self.context.send(Effect::StopStreaming { pod: uid.clone() });
        }
        self.context.enqueue(ReconcileKey::Pool(runner.pod().pool.0.clone()));
    }

    /// Handles the loss of a runner process. Published sessions end with `end`. Unpublished ones move to the stage
    /// `unpublished`.
    fn lose_sessions(&mut self, pod: &Uid, end: &SessionEnd, unpublished: &Stage) {
        let Some(runner) = self.runners.get(pod) else { return };
        for uid in runner.sessions().clone() {
            let lost = self.sessions.get(&uid).is_some_and(Session::is_published);
            self.set_stage(&uid, if lost { Stage::Finishing(end.clone()) } else { unpublished.clone() });
        }
    }

    pub(in crate::core) fn runner_reported(&mut self, pod: &Uid, state: Report) {
        let Some(runner) = self.runners.get_mut(pod) else { return };
        if let Some(former) = runner.report() {
            if former.boot_id == state.boot_id && former.generation > state.generation {
                return;
            }
            if former.boot_id != state.boot_id {
                let message = format!("the runner process in pod {} restarted", runner.pod().key.name);
                // A call for the former process may still reach this one, so the session stays on this runner.
                let rebind =
                    Stage::Binding { runner: pod.clone(), since: self.context.monotonic(), call: RetryState::Idle };
                self.lose_sessions(pod, &SessionEnd { reason: session::RUNNER_LOST, message }, &rebind);
            }
        }
        let Some(runner) = self.runners.get_mut(pod) else { return };
        let change = runner.record_report(&state, self.context.monotonic());
        let key = runner.pod().pool.0.clone();
        let revision = runner.pod().revision.clone();
        if let Some(pool) = self.pools.get_mut(&key).filter(|pool| runner.pod().belongs_to(pool.object())) {
            if change.first_warm {
                pool.shapes.runner_became_warm(&revision);
            }
            if change.becomes_warm {
                pool.runner_became_warm(self.context.monotonic());
            }
            if pool.learn_engine(state.engine, &revision) {
                self.engine_known(&key);
            }
        }
        self.orphans.drop_unlisted(pod, &state);
        for entry in state.sessions() {
            self.session_listed(pod, &state, &entry.uid);
        }
        self.context.enqueue(ReconcileKey::StaleSessions(pod.clone()));
        self.lose_unlisted_sessions(pod, &state);
        self.runner_accounted_for(pod);
        if change.changed {
            self.context.enqueue(ReconcileKey::Runner(pod.clone()));
            self.context.enqueue(ReconcileKey::Pool(self.runners[pod].pod().pool.0.clone()));
            self.context.enqueue(ReconcileKey::Queue);
        }
    }

    /// Re-evaluates the waiting sessions that require an engine, because the engine of a pool became known.
    fn engine_known(&mut self, key: &Key) {
        self.admission_changed();
        let installation = &self.installation.namespace;
        let affected =
            self.sessions.queue().waiting(|demand| demand.engine.is_some() && demand.targets(key, installation));
        self.context.enqueue_all(affected.into_iter().map(ReconcileKey::Session));
    }

    /// Handles assigned sessions that the runner no longer lists. A published one ends as `RunnerLost`. An unpublished
    /// one waits for another slot, and the runner gets no session before its next report, because it may lose that one
    /// too.
    fn lose_unlisted_sessions(&mut self, pod: &Uid, state: &Report) {
        for uid in self.runners[pod].sessions().clone() {
            let Some(session) = self.sessions.get(&uid).filter(|_| state.session(&uid).is_none()) else { continue };
            match session.stage() {
                Stage::Bound(bound) if bound.must_be_listed_in(state) && session.is_published() => {
                    let message = format!("runner {} no longer lists the session", self.runners[pod].pod().key.name);
                    self.set_stage(&uid, Stage::Finishing(SessionEnd { reason: session::RUNNER_LOST, message }));
                }
                Stage::Bound(bound) if bound.must_be_listed_in(state) => {
                    if let Some(runner) = self.runners.get_mut(pod) {
                        runner.mark_slots_unknown();
                    }
                    self.set_stage(&uid, Stage::Waiting);
                }
                Stage::Waiting
                | Stage::Binding { .. }
                | Stage::Bound(_)
                | Stage::Finishing(_)
                | Stage::Finished { .. } => {}
            }
        }
    }

    pub(in crate::core) fn runner_unreachable(&mut self, pod: &Uid) {
        let Some(runner) = self.runners.get_mut(pod) else { return };
        runner.mark_unreachable(self.context.monotonic());
        self.runner_accounted_for(pod);
        self.context.enqueue(ReconcileKey::Runner(pod.clone()));
        self.context.enqueue(ReconcileKey::Pool(self.runners[pod].pod().pool.0.clone()));
    }

    pub(in crate::core) fn keys_changed(&mut self, keys: String) {
        if !self.cluster.keys_changed(keys) {
            return;
        }
        self.context.enqueue_all(self.runners.uids().cloned().map(ReconcileKey::Runner));
    }

    pub(in crate::core) fn node_changed(&mut self, change: Change<Node>) {
        if !self.cluster.node_changed(change) {
            return;
        }
        self.context.enqueue_all(self.pools.keys().cloned().map(ReconcileKey::Pool));
        self.context.enqueue(ReconcileKey::Queue);
    }

    pub(in crate::core) fn reconcile_runner(&mut self, uid: &Uid) {
        let Some(runner) = self.runners.get(uid) else { return };
        if let Some(end) = end_of(runner) {
            return self.runner_ended(uid, &end);
        }
        // The status of its sessions shows whether the runner is reachable.
        self.context.enqueue_all(runner.sessions().iter().cloned().map(ReconcileKey::Session));
        let unreachable_since = match *runner.connectivity() {
            Connectivity::Unreachable { since } => Some(since),
            Connectivity::Unknown | Connectivity::Up => None,
        };
        let mut timers: Vec<Monotonic> = Vec::new();
        if let Some(since) = unreachable_since {
            let delete_at = since.after(DELETE_UNREACHABLE_AFTER);
            if runner.is_stuck(self.context.now()) {
                // Its node does not respond either, so the kubelet will not confirm that the pod is gone.
                let message = format!("pod {} is stuck terminating and unreachable", runner.pod().key.name);
                self.lose_sessions(uid, &SessionEnd { reason: session::RUNNER_LOST, message }, &Stage::Waiting);
            } else if delete_at <= self.context.monotonic() && !runner.is_terminating() {
                self.delete_pod(uid, "runner is unreachable");
            }
            let stuck = self.runners[uid].stuck_from(self.context.now());
            timers.extend([since.after(PUBLISH_UNREACHABLE_AFTER), delete_at].into_iter().chain(stuck));
        }
        self.stream_reports(uid);
        self.annotate_runner(uid);
        let runner = &self.runners[uid];
        timers.extend(runner.write_retries());
        // Everything due now is done. An earlier time would only cause an idle step.
        let next = timers.into_iter().filter(|at| *at > self.context.monotonic()).min();
        self.context.set_timer(ReconcileKey::Runner(uid.clone()), next);
    }

    fn runner_ended(&mut self, uid: &Uid, end: &SessionEnd) {
        self.lose_sessions(uid, end, &Stage::Waiting);
        self.runner_accounted_for(uid);
        let now = self.context.monotonic();
        let Some(runner) = self.runners.get_mut(uid).filter(|runner| !runner.delete_sent()) else { return };
        let failed = runner.record_failure(now);
        let pod = runner.pod();
        let is_controller = |pool: &&mut Pool| pod.belongs_to(pool.object());
        if let Some(pool) = self.pools.get_mut(&pod.pool.0).filter(|pool| failed && is_controller(pool)) {
            pool.shapes.failed(&pod.revision, (reasons::RUNNERS_FAILING, end.message.clone()), now);
        }
        self.delete_pod(uid, "container terminated");
        let retry = self.runners[uid].deletion_retry_at().filter(|at| *at > now);
        self.context.set_timer(ReconcileKey::Runner(uid.clone()), retry);
    }

    fn stream_reports(&mut self, uid: &Uid) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        if let Some(address) = runner.begin_streaming() {
            let (key, slots) = (runner.pod().key.clone(), runner.pod().slots);
            self.context.send(Effect::StreamReports { pod: uid.clone(), key, address, slots });
        }
    }

    fn annotate_runner(&mut self, uid: &Uid) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        if let Some(keys) = runner.begin_annotation(self.cluster.keys(), self.context.monotonic()) {
            self.context.send(Effect::AnnotatePod { key: runner.pod().key.clone(), pod: uid.clone(), keys });
        }
    }

    /// Deletes a runner's pod. A runner with sessions drains: they run until they end or the drain deadline passes.
    pub(in crate::core) fn delete_pod(&mut self, uid: &Uid, reason: &'static str) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        if !runner.begin_deletion(self.context.monotonic()) {
            return;
        }
        self.context.send(Effect::DeletePod { key: runner.pod().key.clone(), pod: uid.clone(), reason });
    }

    pub(in crate::core) fn pod_deleted(&mut self, uid: &Uid, answer: Result<(), WriteFailure>) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        match answer {
            // The runner drains. The watch reports when the pod is gone.
            Ok(()) => {}
            Err(WriteFailure::Gone) => return self.pod_gone(uid),
            // A conflict means that the name belongs to another pod. The watch reports when this pod is gone.
            Err(WriteFailure::Conflict | WriteFailure::Rejected(_) | WriteFailure::Transient(_)) => {
                runner.deletion_failed(self.context.monotonic());
            }
        }
        self.context.enqueue(ReconcileKey::Pool(runner.pod().pool.0.clone()));
        self.context.enqueue(ReconcileKey::Runner(uid.clone()));
    }

    pub(in crate::core) fn pod_annotated(&mut self, uid: &Uid, sent: &str, answer: Result<(), WriteFailure>) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        // The pod of the answer was applied before this event. If it lacks the keys that were sent, a webhook removed
        // them, and writing them again at once would not end. Compare with the sent keys, because newer ones may be
        // published by now.
        let reverted = answer.is_ok() && runner.pod().keys != sent;
        if reverted {
            let field = format!("metadata.annotations.{KEYS_ANNOTATION}");
            let object = runner.pod().key.clone();
            self.context.send(Effect::Observe(Observation::Reverted { kind: "Pod", object, field }));
        }
        match answer {
            Ok(()) if reverted => runner.annotation_failed(self.context.monotonic()),
            Ok(()) | Err(WriteFailure::Gone | WriteFailure::Conflict) => runner.annotation_settled(),
            Err(WriteFailure::Rejected(_) | WriteFailure::Transient(_)) => {
                runner.annotation_failed(self.context.monotonic());
            }
        }
        self.context.enqueue(ReconcileKey::Runner(uid.clone()));
    }
}

/// The end of a runner's sessions if its container has terminated.
fn end_of(runner: &Runner) -> Option<SessionEnd> {
    let PodPhase::Terminated { message, out_of_memory } = &runner.pod().phase else { return None };
    let reason = if *out_of_memory { session::OUT_OF_MEMORY } else { session::RUNNER_LOST };
    Some(SessionEnd { reason, message: format!("pod {} terminated: {message}", runner.pod().key.name) })
}
