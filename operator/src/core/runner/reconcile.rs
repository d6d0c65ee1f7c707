//! What happens to a runner.

use crate::core::{
    clock::Mono,
    coordinator::Core,
    ids::{Key, Uid},
    messages::{Change, Effect, Node, Observation, WriteFailure},
    outbox::Subject,
    pool::state::Pool,
    retry::RetryState,
    runner::{
        pod_read::{KEYS_ANNOTATION, PodPhase, RunnerPod},
        report::Report,
        state::{Link, PUBLISH_UNREACHABLE_AFTER, Runner},
    },
    session::state::{Outcome, Session, Stage},
};
use camofleet_crds::conditions::{pool as reasons, session};
use std::time::Duration;

/// A runner that was silent for so long is deleted.
const DELETE_UNREACHABLE_AFTER: Duration = Duration::from_secs(300);

impl Core {
    pub(in crate::core) fn pool_of(&self, runner: &Runner) -> Option<&Pool> {
        self.pools.get(&runner.pod().pool.0).filter(|pool| runner.pod().belongs_to(pool.object()))
    }

    pub(in crate::core) fn is_cordoned(&self, runner: &Runner) -> bool {
        runner.pod().node.as_ref().is_some_and(|node| self.cluster.is_cordoned(node))
    }

    pub(in crate::core) fn pod_applied(&mut self, pod: RunnerPod) {
        let (uid, pool) = (pod.uid.clone(), pod.pool.clone());
        // An answer may be slower than the watch, and tell of a past or of what is gone.
        let known = self.runners.get(&uid).map(|runner| runner.pod().version);
        if self.tombstones.contains(&uid) || known.is_some_and(|known| pod.version < known) {
            return;
        }
        let its_pool = self.pools.get_mut(&pool.0).filter(|known| pod.belongs_to(known.object()));
        if its_pool.is_none() && known.is_none() {
            self.runners.claim(pod);
            return;
        }
        if let Some(pool) = its_pool {
            pool.places.pod_seen(pod.ordinal, &pod.key.name, &uid);
        }
        match self.runners.get_mut(&uid) {
            Some(runner) => runner.replace_pod(pod, self.outbox.now()),
            None => {
                let mut runner = Runner::new(pod, self.outbox.now());
                if self.term.as_ref().is_some_and(|term| term.has_created(runner.pod())) {
                    runner.mark_sessions_known();
                }
                self.runners.insert(runner);
                let here = self.sessions.iter().filter(|session| session.runner() == Some(&uid));
                for session in here.map(|session| session.object().clone()).collect::<Vec<_>>() {
                    self.assign(&session, &uid);
                }
            }
        }
        self.outbox.enqueue(Subject::Runner(uid));
        self.outbox.enqueue(Subject::Pool(pool.0));
    }

    /// Takes pods for runners that came before the pool that they claim.
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
        self.tombstones.insert(uid, self.outbox.mono());
        let runner = &self.runners[uid];
        let outcome = end_of(runner).unwrap_or_else(|| Outcome {
            reason: session::RUNNER_LOST,
            message: format!("pod {} was deleted", runner.pod().key.name),
        });
        self.lose_sessions(uid, &outcome, &Stage::Waiting);
        self.forget_runner(uid);
    }

    fn forget_runner(&mut self, uid: &Uid) {
        let Some(runner) = self.runners.remove(uid) else { return };
        self.stop_awaiting(uid);
        self.orphans.forget_runner(uid);
        self.outbox.requeue_at(Subject::Runner(uid.clone()), None);
        self.outbox.requeue_at(Subject::Unwanted(uid.clone()), None);
        if self.term.is_some() {
            self.outbox.send(Effect::Unfollow { pod: uid.clone() });
        }
        self.outbox.enqueue(Subject::Pool(runner.pod().pool.0.clone()));
    }

    /// The runner's process is no more: what users were told of is over, what they were not told of goes to another stage.
    fn lose_sessions(&mut self, pod: &Uid, outcome: &Outcome, unpublished: &Stage) {
        let Some(runner) = self.runners.get(pod) else { return };
        for uid in runner.sessions().clone() {
            let lost = self.sessions.get(&uid).is_some_and(Session::is_published);
            self.set_stage(&uid, if lost { Stage::Ended(outcome.clone()) } else { unpublished.clone() });
        }
    }

    pub(in crate::core) fn runner_reported(&mut self, pod: &Uid, state: Report) {
        let Some(runner) = self.runners.get_mut(pod) else { return };
        if let Some(former) = runner.report() {
            if former.boot_id == state.boot_id && former.generation > state.generation {
                return;
            }
            if former.boot_id != state.boot_id {
                let message = format!("the runner process in pod {} was started anew", runner.pod().key.name);
                // What was asked of the former process may still reach this one: it is asked again there.
                let asked = Stage::Binding { runner: pod.clone(), since: self.outbox.mono(), call: RetryState::Idle };
                self.lose_sessions(pod, &Outcome { reason: session::RUNNER_LOST, message }, &asked);
            }
        }
        let Some(runner) = self.runners.get_mut(pod) else { return };
        let change = runner.record_report(&state, self.outbox.mono());
        let key = runner.pod().pool.0.clone();
        let revision = runner.pod().revision.clone();
        if let Some(pool) = self.pools.get_mut(&key).filter(|pool| runner.pod().belongs_to(pool.object())) {
            if change.first_warm {
                pool.shapes.came_up(&revision);
            }
            if change.becomes_warm {
                pool.progressed(self.outbox.mono());
            }
            if pool.learn_engine(state.engine, &revision) {
                self.engine_known(&key);
            }
        }
        self.orphans.keep_listed(pod, &state);
        for entry in state.sessions() {
            self.session_listed(pod, &state, &entry.uid);
        }
        self.outbox.enqueue(Subject::Unwanted(pod.clone()));
        self.lose_unlisted_sessions(pod, &state);
        self.stop_awaiting(pod);
        if change.changed {
            self.outbox.enqueue(Subject::Runner(pod.clone()));
            self.outbox.enqueue(Subject::Pool(self.runners[pod].pod().pool.0.clone()));
            self.outbox.enqueue(Subject::Queue);
        }
    }

    /// It became known which engine a pool has: those who want one are told, and other pools may be needed.
    fn engine_known(&mut self, key: &Key) {
        self.admission_changed();
        let installation = &self.installation.namespace;
        let asking =
            self.sessions.queue().waiting(|demand| demand.engine.is_some() && demand.targets(key, installation));
        self.outbox.enqueue_all(asking.into_iter().map(Subject::Session));
    }

    /// A session that the runner had and does not list any more is over, though nobody can say why; one of which users were
    /// not told waits for another slot, and the runner is given none before it tells more: it may forget that one, too.
    fn lose_unlisted_sessions(&mut self, pod: &Uid, state: &Report) {
        for uid in self.runners[pod].sessions().clone() {
            let Some(session) = self.sessions.get(&uid).filter(|_| state.session(&uid).is_none()) else { continue };
            match session.stage() {
                Stage::Bound(bound) if bound.is_missed_by(state) && session.is_published() => {
                    let message = format!("runner {} does not have it any more", self.runners[pod].pod().key.name);
                    self.set_stage(&uid, Stage::Ended(Outcome { reason: session::RUNNER_LOST, message }));
                }
                Stage::Bound(bound) if bound.is_missed_by(state) => {
                    if let Some(runner) = self.runners.get_mut(pod) {
                        runner.mark_refused();
                    }
                    self.set_stage(&uid, Stage::Waiting);
                }
                Stage::Waiting | Stage::Binding { .. } | Stage::Bound(_) | Stage::Ended(_) | Stage::Finished { .. } => {
                }
            }
        }
    }

    pub(in crate::core) fn runner_silent(&mut self, pod: &Uid) {
        let Some(runner) = self.runners.get_mut(pod) else { return };
        runner.mark_silent(self.outbox.mono());
        self.stop_awaiting(pod);
        self.outbox.enqueue(Subject::Runner(pod.clone()));
        self.outbox.enqueue(Subject::Pool(self.runners[pod].pod().pool.0.clone()));
    }

    pub(in crate::core) fn keys_changed(&mut self, keys: String) {
        if !self.cluster.keys_changed(keys) {
            return;
        }
        self.outbox.enqueue_all(self.runners.uids().cloned().map(Subject::Runner));
    }

    pub(in crate::core) fn node_changed(&mut self, change: Change<Node>) {
        if !self.cluster.node_changed(change) {
            return;
        }
        self.outbox.enqueue_all(self.pools.keys().cloned().map(Subject::Pool));
        self.outbox.enqueue(Subject::Queue);
    }

    pub(in crate::core) fn reconcile_runner(&mut self, uid: &Uid) {
        let Some(runner) = self.runners.get(uid) else { return };
        if let Some(outcome) = end_of(runner) {
            return self.runner_ended(uid, &outcome);
        }
        // Users of its sessions are told when it stops answering, and when it answers again.
        self.outbox.enqueue_all(runner.sessions().iter().cloned().map(Subject::Session));
        let silent_since = match *runner.link() {
            Link::Silent { since } => Some(since),
            Link::Unknown | Link::Up => None,
        };
        let mut timers: Vec<Mono> = Vec::new();
        if let Some(since) = silent_since {
            let gone = since.after(DELETE_UNREACHABLE_AFTER);
            if runner.is_stuck(self.outbox.now()) {
                // Its node does not answer either, and nobody will ever say that the pod is gone.
                let message = format!("pod {} should be gone and does not answer", runner.pod().key.name);
                self.lose_sessions(uid, &Outcome { reason: session::RUNNER_LOST, message }, &Stage::Waiting);
            } else if gone <= self.outbox.mono() && !runner.is_terminating() {
                self.delete_pod(uid, "it does not answer");
            }
            let stuck = self.runners[uid].stuck_from(self.outbox.now());
            timers.extend([since.after(PUBLISH_UNREACHABLE_AFTER), gone].into_iter().chain(stuck));
        }
        self.follow_runner(uid);
        self.annotate_runner(uid);
        let runner = &self.runners[uid];
        timers.extend(runner.write_retries());
        // All that was due has been done: what is not later than now wakes for nothing.
        let next = timers.into_iter().filter(|at| *at > self.outbox.mono()).min();
        self.outbox.requeue_at(Subject::Runner(uid.clone()), next);
    }

    fn runner_ended(&mut self, uid: &Uid, outcome: &Outcome) {
        self.lose_sessions(uid, outcome, &Stage::Waiting);
        self.stop_awaiting(uid);
        let now = self.outbox.mono();
        let Some(runner) = self.runners.get_mut(uid).filter(|runner| !runner.is_deleting()) else { return };
        let failed = runner.record_failure(now);
        let pod = runner.pod();
        let its = |pool: &&mut Pool| pod.belongs_to(pool.object());
        if let Some(pool) = self.pools.get_mut(&pod.pool.0).filter(|pool| failed && its(pool)) {
            pool.shapes.failed(&pod.revision, (reasons::RUNNERS_FAILING, outcome.message.clone()), now);
        }
        self.delete_pod(uid, "its container ended");
        let retry = self.runners[uid].deletion_retry_at().filter(|at| *at > now);
        self.outbox.requeue_at(Subject::Runner(uid.clone()), retry);
    }

    fn follow_runner(&mut self, uid: &Uid) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        if let Some(address) = runner.follow() {
            self.outbox.send(Effect::Follow { pod: uid.clone(), address, slots: runner.pod().slots });
        }
    }

    fn annotate_runner(&mut self, uid: &Uid) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        if let Some(keys) = runner.begin_annotation(self.cluster.keys(), self.outbox.mono()) {
            self.outbox.send(Effect::AnnotatePod { key: runner.pod().key.clone(), pod: uid.clone(), keys });
        }
    }

    /// Deletes a runner's pod. With sessions it drains: they live until they end or the drain deadline passes.
    pub(in crate::core) fn delete_pod(&mut self, uid: &Uid, why: &'static str) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        if !runner.begin_deletion(self.outbox.mono()) {
            return;
        }
        self.outbox.send(Effect::DeletePod { key: runner.pod().key.clone(), pod: uid.clone(), why });
    }

    pub(in crate::core) fn pod_deleted(&mut self, uid: &Uid, answer: Result<(), WriteFailure>) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        match answer {
            // It drains; the watch tells when it is gone.
            Ok(()) => {}
            Err(WriteFailure::Gone) => return self.pod_gone(uid),
            // Of a conflict, too: if another of its name stands there, the watch tells that this one is gone.
            Err(WriteFailure::Conflict | WriteFailure::Refused(_) | WriteFailure::Transient(_)) => {
                runner.deletion_failed(self.outbox.mono());
            }
        }
        self.outbox.enqueue(Subject::Pool(runner.pod().pool.0.clone()));
        self.outbox.enqueue(Subject::Runner(uid.clone()));
    }

    pub(in crate::core) fn pod_annotated(&mut self, uid: &Uid, sent: &str, answer: Result<(), WriteFailure>) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        // The answer's pod has been applied before: one without the keys would be annotated again and again. It is compared with what
        // was sent, because other keys may have been published meanwhile.
        let reverted = answer.is_ok() && runner.pod().keys != sent;
        if reverted {
            let field = format!("metadata.annotations.{KEYS_ANNOTATION}");
            let object = runner.pod().key.clone();
            self.outbox.send(Effect::Observe(Observation::Reverted { kind: "Pod", object, field }));
        }
        match answer {
            Ok(()) if reverted => runner.annotation_failed(self.outbox.mono()),
            Ok(()) | Err(WriteFailure::Gone | WriteFailure::Conflict) => runner.annotation_settled(),
            Err(WriteFailure::Refused(_) | WriteFailure::Transient(_)) => runner.annotation_failed(self.outbox.mono()),
        }
        self.outbox.enqueue(Subject::Runner(uid.clone()));
    }
}

/// What the end of a runner's container targets for its sessions.
fn end_of(runner: &Runner) -> Option<Outcome> {
    let PodPhase::Terminated { message, out_of_memory } = &runner.pod().phase else { return None };
    let reason = if *out_of_memory { session::OUT_OF_MEMORY } else { session::RUNNER_LOST };
    Some(Outcome { reason, message: format!("pod {} ended: {message}", runner.pod().key.name) })
}
