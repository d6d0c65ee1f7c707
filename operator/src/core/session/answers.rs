//! Handles answers of runners and of the API server about sessions.

use crate::core::{
    coordinator::Coordinator,
    ids::{Key, Uid, version},
    messages::{BindFailure, Effect, EventType, Observation, ReadFailure, WriteFailure},
    retry::RetryState,
    runner::{
        report::{self, ReportVersion},
        state::Runner,
    },
    session::state::{Bound, SessionEnd, SessionReport, Stage},
    status_write::observe_pruned,
    step_context::ReconcileKey,
};
use camofleet_crds::{
    conditions::{self, FINISHED, READY, SCHEDULED, session as reasons},
    v1alpha1::{BrowserSession, SessionState, StartTier},
};
use camofleet_runner_api::{BindResponse, SessionPhase};
use std::{sync::Arc, time::Duration};

/// Pause before the next attempt to look up an orphan whose runner has used up its lookups.
const LOOKUP_RETRY: Duration = Duration::from_secs(5);

impl Coordinator {
    pub(in crate::core) fn bind_answered(&mut self, uid: &Uid, pod: &Uid, answer: Result<BindResponse, BindFailure>) {
        if self.term.is_none() {
            return;
        }
        if !self.sessions.contains(uid) {
            // The session was deleted while the call was in flight. The runner may have taken it.
            self.send_end(pod, uid);
            return;
        }
        let answer = answer.map(report::truncated_answer);
        // A restarted runner process has lost the sessions of its former run.
        let boot_id = self.runners.get(pod).and_then(|runner| runner.report()).map(|state| &state.boot_id);
        let answer = match (answer, boot_id) {
            (Ok(answer), Some(boot_id)) if answer.boot_id != *boot_id => {
                Err(BindFailure::Unknown("the runner process restarted".to_owned()))
            }
            (answer, _) => answer,
        };
        let (generation, stage) = (self.sessions[uid].generation(), self.sessions[uid].stage().clone());
        match (stage, answer) {
            (Stage::Binding { runner, .. }, Ok(answer)) if runner == *pod => {
                let listed_since = ReportVersion { boot_id: answer.boot_id.clone(), generation: answer.generation };
                self.set_bound(pod, uid, SessionReport::answered(&answer), listed_since);
                self.finish_if_ended(uid, &answer);
            }
            (Stage::Binding { runner, .. }, Err(BindFailure::NoFreeSlot)) if runner == *pod => {
                if let Some(runner) = self.runners.get_mut(pod) {
                    runner.mark_slots_unknown();
                }
                self.set_stage(uid, Stage::Waiting);
            }
            (Stage::Binding { runner, .. }, Err(BindFailure::Invalid(message))) if runner == *pod => {
                self.set_stage(uid, Stage::Finishing(SessionEnd { reason: reasons::LAUNCH_FAILED, message }));
            }
            (Stage::Binding { runner, .. }, Err(BindFailure::Unknown(_))) if runner == *pod => self.call_failed(uid),
            // The call sent new timeouts for a session that the runner already has.
            (Stage::Bound(bound), Ok(answer)) if bound.runner == *pod => {
                // A report may have brought a later phase already.
                let report = bound.report.clone().unwrap_or_else(|| SessionReport::answered(&answer));
                let bound =
                    Bound { report: Some(report), sent_generation: generation, call: RetryState::Idle, ..bound };
                self.set_stage(uid, Stage::Bound(bound));
                self.finish_if_ended(uid, &answer);
            }
            (Stage::Bound(bound), Err(_)) if bound.runner == *pod => self.call_failed(uid),
            // The bind was abandoned in the meantime. The runner's next report shows whether it has the session.
            (Stage::Waiting | Stage::Binding { .. } | Stage::Bound(_), Ok(_)) => {}
            (Stage::Finishing(_) | Stage::Finished { .. }, _)
            | (Stage::Waiting | Stage::Binding { .. } | Stage::Bound(_), Err(_)) => {}
        }
    }

    fn finish_if_ended(&mut self, uid: &Uid, answer: &BindResponse) {
        if answer.session.phase == SessionPhase::Ended {
            self.set_stage(uid, Stage::Finishing(SessionEnd::reported(answer.session.end.as_ref())));
        }
    }

    pub(in crate::core) fn session_patched(
        &mut self,
        decided_on: &BrowserSession,
        answer: Result<Arc<BrowserSession>, WriteFailure>,
    ) {
        let Some(uid) = &decided_on.metadata.uid else { return };
        if let Some(next) = self.sessions.finish_write(uid) {
            self.context.enqueue(ReconcileKey::Session(next));
        }
        let Some(session) = self.sessions.get_mut(uid) else { return };
        match answer {
            Ok(object) => {
                let fields = session.write_accepted(uid, object.status.as_ref(), self.context.monotonic());
                self.context.send_all(observe_pruned("BrowserSession", session.key(), fields));
                // The watch may have delivered this version or a later one already.
                if version(object.as_ref()) >= version(session.object().as_ref()) {
                    self.replace_object(uid, object.clone());
                }
                self.announce_changes(uid, decided_on, &object);
                self.adopt_published_stage(uid);
                self.end_duplicates(uid);
                let known = matches!(self.sessions[uid].stage(), Stage::Finished { .. });
                if object.state() == SessionState::Finished && !known {
                    self.set_stage(uid, Stage::Finished { at: self.context.monotonic(), delete: RetryState::Idle });
                    self.end_wherever_listed(uid);
                }
            }
            // Another client changed or deleted the object. Read it before deciding anything else.
            Err(WriteFailure::Conflict | WriteFailure::Gone) => {
                let key = session.key();
                self.context.send(Effect::ReadSession { key, session: uid.clone() });
            }
            Err(failure @ (WriteFailure::Rejected(_) | WriteFailure::Transient(_))) => {
                session.write_failed(uid, &failure, self.context.monotonic());
            }
        }
        self.context.enqueue(ReconcileKey::Session(uid.clone()));
    }

    /// Handles the answer to an uncached read, which follows a conflict or concerns an orphan.
    pub(in crate::core) fn session_read(
        &mut self,
        key: &Key,
        uid: &Uid,
        answer: Result<Option<Arc<BrowserSession>>, ReadFailure>,
    ) {
        let answer = answer.map(|found| found.filter(|found| found.metadata.uid.as_ref() == Some(uid)));
        match self.sessions.get(uid) {
            // The session became known during the read of the name that a runner reported. The runner may have reported
            // a wrong name, so the answer can be about another session.
            Some(session) if session.key() != *key => {}
            Some(_) => self.known_session_read(uid, answer),
            None => self.orphan_read(uid, &answer),
        }
    }

    fn known_session_read(&mut self, uid: &Uid, answer: Result<Option<Arc<BrowserSession>>, ReadFailure>) {
        let Some(session) = self.sessions.get_mut(uid) else { return };
        match answer {
            Ok(Some(object)) => {
                session.write_settled();
                self.session_applied(object);
            }
            Ok(None) => return self.session_gone(uid),
            // Repeat the write. It meets the same conflict unless the watch delivers the newer object first.
            Err(ReadFailure::Rejected | ReadFailure::Transient) => {
                session.write_failed(uid, &WriteFailure::Conflict, self.context.monotonic());
            }
        }
        self.context.enqueue(ReconcileKey::Session(uid.clone()));
    }

    fn orphan_read(&mut self, uid: &Uid, answer: &Result<Option<Arc<BrowserSession>>, ReadFailure>) {
        if !self.orphans.contains(uid) {
            return;
        }
        match answer {
            // Only the watch adds sessions. This answer may arrive before a list that is older than the object, or
            // after the deletion of the object.
            Ok(Some(_)) | Err(ReadFailure::Transient) => self.orphans.lookup_failed(uid, self.context.monotonic()),
            // The operator cannot find out whether the session exists, so it leaves the session alone.
            Err(ReadFailure::Rejected) => self.orphans.lookup_rejected(uid),
            Ok(None) => {
                self.orphans.remove(uid);
                self.tombstones.insert(uid, self.context.monotonic());
                self.end_wherever_listed(uid);
            }
        }
        self.context.enqueue(ReconcileKey::Orphan(uid.clone()));
    }

    pub(in crate::core) fn pod_read(&mut self, uid: &Uid, pod: &Uid, answer: Result<bool, ReadFailure>) {
        let known = self.runners.contains(pod);
        let Some(session) = self.sessions.get_mut(uid) else { return };
        if !matches!(session.stage(), Stage::Bound(bound) if bound.runner == *pod) {
            return;
        }
        if known {
            session.call_settled();
        } else {
            // Repeat the read until the watch delivers the pod or the pod is gone.
            session.call_failed(uid, self.context.monotonic());
        }
        if answer == Ok(false) && !known {
            let message = "the runner's pod was deleted while no operator was running".to_owned();
            self.set_stage(uid, Stage::Finishing(SessionEnd { reason: reasons::RUNNER_LOST, message }));
        }
        self.context.enqueue(ReconcileKey::Session(uid.clone()));
    }

    pub(in crate::core) fn session_deleted(&mut self, uid: &Uid, answer: Result<(), WriteFailure>) {
        let Some(session) = self.sessions.get(uid) else { return };
        match answer {
            // The watch reports when the object is gone.
            Ok(()) | Err(WriteFailure::Gone) => {}
            Err(WriteFailure::Conflict | WriteFailure::Rejected(_) | WriteFailure::Transient(_)) => {
                if matches!(session.stage(), Stage::Finished { .. }) {
                    self.call_failed(uid);
                }
            }
        }
    }

    /// Publishes Kubernetes events and observations about the conditions that a write has changed.
    fn announce_changes(&mut self, uid: &Uid, former: &BrowserSession, object: &Arc<BrowserSession>) {
        let conditions_of = |object: &BrowserSession| {
            object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default()
        };
        let (before, after) = (conditions_of(former), conditions_of(object));
        let became = |type_| conditions::is_true(&after, type_) && !conditions::is_true(&before, type_);
        for type_ in [SCHEDULED, READY, FINISHED] {
            // A hot session becomes Scheduled and Ready in one write. One event is enough.
            let is_new_event = became(type_) && !(type_ == SCHEDULED && became(READY));
            if let Some(condition) = conditions::get(&after, type_).filter(|_| is_new_event) {
                let is_failure = type_ == FINISHED && conditions::is_true(&after, conditions::STALLED);
                self.context.send(Effect::PublishEvent {
                    session: object.clone(),
                    type_: if is_failure { EventType::Warning } else { EventType::Normal },
                    // The event's reason names what happened: Scheduled, Ready, or why the session finished.
                    reason: if type_ == FINISHED { condition.reason.clone() } else { type_.to_owned() },
                    note: if condition.message.is_empty() {
                        condition.reason.clone()
                    } else {
                        condition.message.clone()
                    },
                });
            }
        }
        let session = &self.sessions[uid];
        let started = session.since_seen(self.context.now());
        let became_ready = conditions::is_true(&after, READY) && former.state() != SessionState::Ready;
        if let (true, Some(status)) = (became_ready, &object.status) {
            let pool = status.pool.as_ref().map(|name| {
                let namespace = status.pool_namespace.as_ref().or(object.metadata.namespace.as_ref());
                Key { namespace: namespace.cloned().unwrap_or_default(), name: name.clone() }
            });
            self.context.send(Effect::Observe(Observation::Ready {
                session: object.clone(),
                pool: pool.filter(|key| self.pools.contains_key(key)),
                tier: status.start_tier.unwrap_or(StartTier::Cold),
                started,
            }));
        }
        // Compare the written status and not the stage: the watch may have changed the stage before this answer came.
        if let Some(finished) = conditions::get(&after, FINISHED).filter(|_| became(FINISHED)) {
            let started = started.filter(|_| !session.was_ready());
            let (session, reason) = (object.clone(), finished.reason.clone());
            self.context.send(Effect::Observe(Observation::Ended { session, reason, started }));
        }
    }

    /// Looks up an orphan at the API server if the lookup is due and its runner has a lookup left.
    pub(in crate::core) fn look_up_orphan(&mut self, uid: &Uid) {
        let now = self.context.monotonic();
        let Some((runner, due)) = self.orphans.due(uid) else { return };
        let take_lookup = |runner: &mut Runner| runner.take_lookup(now);
        let next = if due > now {
            due
        } else if self.runners.get_mut(runner).is_some_and(take_lookup) {
            if let Some(key) = self.orphans.begin_lookup(uid) {
                self.context.send(Effect::ReadSession { key, session: uid.clone() });
            }
            return;
        } else {
            now.after(LOOKUP_RETRY)
        };
        self.context.set_timer(ReconcileKey::Orphan(uid.clone()), Some(next));
    }
}
