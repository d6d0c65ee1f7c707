//! What happens to a session.

use crate::core::{
    coordinator::{Core, Subject},
    ids::{Key, Uid, version},
    messages::{BindFailure, Effect, Observation, ReadFailure, WriteFailure},
    retry::Pending,
    runner::{
        report::{self, Listed, Report},
        state::{Link, Runner, SHOW_UNREACHABLE_AFTER},
    },
    scheduler::{admission::Objection, queue::Demand},
    session::{
        state::{Bound, Facts, Over, Session, Stage},
        status::{self, Place, Wait},
    },
    status_write::{StatusWrite, observe_pruned},
};
use camofleet_crds::{
    conditions::{self, FINISHED, READY, SCHEDULED, session as reasons},
    queue::Arrival,
    v1alpha1::{BrowserSession, SessionState, StartTier, WorkerPool, WorkerPoolSpec},
};
use camofleet_runner_api::{BindAnswer, RunnerState, SessionPhase};
use std::{sync::Arc, time::Duration};

/// An orphan whose runner has caused all the lookups that it may is tried again after this time.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(5);
/// So many writes of `Queued` are under way at once.
const SHOWN_AT_ONCE: usize = 8;
/// Why a session waits may change with what others do, of which nobody tells it: it is looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Why a session is over that was deleted before: a reason for those who count, since no status tells it.
const DELETED: &str = "Deleted";
/// So long it is remembered that a session or a pod was deleted.
const DELETED_MEMORY: Duration = Duration::from_secs(600);

impl Core {
    pub(in crate::core) fn session_applied(&mut self, object: Arc<BrowserSession>) {
        let Some(uid) = object.metadata.uid.clone() else { return };
        // What only waits for somebody's finalizer is not to be served any more.
        if object.metadata.deletion_timestamp.is_some() {
            return self.session_gone(&uid);
        }
        let Some(session) = self.sessions.get_mut(&uid) else {
            // An answer that was slower than the watch may tell of a session that is gone.
            if !self.deleted.contains_key(&uid) {
                self.add_session(object);
            }
            return;
        };
        if version(object.as_ref()) < version(session.object.as_ref()) {
            return;
        }
        session.write.object_changed();
        self.replace_object(&uid, object);
        self.yield_to_what_is_published(&uid);
        self.dirty.insert(Subject::Session(uid));
    }

    /// The object has changed. What it asks for may have, too, and with it where it waits.
    fn replace_object(&mut self, uid: &Uid, object: Arc<BrowserSession>) {
        let Some(session) = self.sessions.get_mut(uid) else { return };
        let former = std::mem::replace(&mut session.object, object.clone());
        if session.waits() && Demand::of(&former) != Demand::of(&object) {
            self.queue.remove(&former);
            self.queue.insert(&object);
            self.admission_changed();
        }
    }

    pub(in crate::core) fn add_session(&mut self, object: Arc<BrowserSession>) {
        let Some(uid) = object.metadata.uid.clone() else { return };
        let created =
            object.metadata.creation_timestamp.as_ref().map_or(self.now.mono, |time| self.now.mono_of(time.0));
        let seen = object.status.is_none().then_some(self.now);
        let stage = Session::published_stage(&object, self.now);
        let admitted = object.status.is_some();
        self.orphans.remove(&uid);
        let write = StatusWrite::default();
        let session = Session { object, stage: Stage::Waiting, created, seen, write, telling: false, admitted };
        self.sessions.insert(uid.clone(), session);
        self.set_stage(&uid, stage);
        // Its runner may have told of it before this object came.
        let listed: Vec<_> = self
            .runners
            .iter()
            .filter(|(_, runner)| runner.is_up())
            .filter_map(|(pod, runner)| {
                Some((pod.clone(), runner.state.as_ref().filter(|state| state.session(&uid).is_some())?.clone()))
            })
            .collect();
        for (pod, state) in listed {
            self.listed(&pod, &state, &uid);
            self.dirty.insert(Subject::Unwanted(pod));
        }
    }

    /// Another leader may have published something else than this one was about to: what is published holds.
    fn yield_to_what_is_published(&mut self, uid: &Uid) {
        let session = &self.sessions[uid];
        let published = Session::published_stage(&session.object, self.now);
        let yields = match (&published, &session.stage) {
            (Stage::Finished { .. }, Stage::Finished { .. }) => false,
            (Stage::Finished { .. }, _) => true,
            (Stage::Bound(told), Stage::Waiting | Stage::Binding { .. }) => session.runner() != Some(&told.runner),
            (Stage::Bound(told), Stage::Bound(own)) => told.runner != own.runner,
            (Stage::Bound(_), Stage::Over(_) | Stage::Finished { .. })
            | (Stage::Waiting | Stage::Binding { .. } | Stage::Over(_), _) => false,
        };
        if !yields {
            return;
        }
        let own = session.runner().cloned();
        self.set_stage(uid, published);
        if let Some(own) = own {
            self.end_copy(&own, uid);
        }
    }

    pub(in crate::core) fn session_gone(&mut self, uid: &Uid) {
        let Some(session) = self.sessions.remove(uid) else { return };
        self.observe_deletion(&session);
        if session.waits() {
            self.queue.remove(&session.object);
            self.demand_changed(&Demand::of(&session.object));
            self.to_show.remove(uid);
        }
        self.remember_deleted(uid);
        if let Some(pod) = session.runner() {
            self.book(&session.object, pod, false);
            self.end_on(pod, uid);
        }
        self.end_wherever_listed(uid);
        self.timers.set(Subject::Session(uid.clone()), None);
        self.dirty.insert(Subject::Queue);
    }

    /// One that was not over is by its deletion.
    fn observe_deletion(&mut self, session: &Session) {
        let reason = match &session.stage {
            Stage::Finished { .. } => return,
            Stage::Over(over) => over.reason,
            Stage::Waiting | Stage::Binding { .. } | Stage::Bound(_) => DELETED,
        };
        if self.term.is_some() {
            let started = session.since_seen(self.now).filter(|_| !session.was_ready());
            let (session, reason) = (session.object.clone(), reason.to_owned());
            self.effects.push(Effect::Observe(Observation::Ended { session, reason, started }));
        }
    }

    /// Remembers for a while that a session or a pod was deleted.
    pub(in crate::core) fn remember_deleted(&mut self, uid: &Uid) {
        self.deleted.retain(|_, at| self.now.mono.since(*at) < DELETED_MEMORY);
        self.deleted.insert(uid.clone(), self.now.mono);
    }

    /// Tells every runner that lists the session to end it, or to forget its end.
    fn end_wherever_listed(&mut self, uid: &Uid) {
        for pod in self.listing(uid) {
            self.end_on(&pod, uid);
        }
    }

    pub(in crate::core) fn end_on(&mut self, pod: &Uid, session: &Uid) {
        if self.term.is_none() {
            return;
        }
        let Some(address) =
            self.runners.get(pod).filter(|runner| !runner.pod.is_over()).and_then(|runner| runner.pod.address)
        else {
            return;
        };
        let runner = &self.runners[pod];
        let entry = runner.state.as_ref().and_then(|state| state.session(session));
        let ended = entry.is_some_and(|entry| entry.phase == SessionPhase::Ended);
        let most = RunnerState::max_sessions(runner.pod.slots);
        if self.ends.start(pod, session, ended, most, self.now.mono) {
            self.effects.push(Effect::End { session: session.clone(), pod: pod.clone(), address });
        }
    }

    pub(in crate::core) fn end_answered(&mut self, session: &Uid, pod: &Uid) {
        self.ends.answered(pod, session, self.now.mono);
        self.dirty.insert(Subject::Unwanted(pod.clone()));
    }

    /// Ends what a runner lists in its last report and should not have, as far as calls may be made now. The rest has its turn
    /// when one is answered or a pause is over.
    pub(in crate::core) fn end_unwanted(&mut self, pod: &Uid) {
        let Some(runner) = self.runners.get(pod) else { return };
        let lists = |uid: &Uid| runner.state.as_ref().is_some_and(|state| state.session(uid).is_some());
        self.ends.forget_unlisted(pod, lists, self.now.mono);
        let listed = runner.state.iter().flat_map(Report::sessions);
        let unwanted = listed.filter(|entry| self.is_unwanted(pod, entry)).map(|entry| entry.uid.clone());
        for uid in unwanted.collect::<Vec<_>>() {
            self.end_on(pod, &uid);
        }
        self.timers.set(Subject::Unwanted(pod.clone()), self.ends.wakes(pod, self.now.mono));
    }

    /// A runner must not keep a session that was deleted, has finished, or is published on another runner.
    fn is_unwanted(&self, pod: &Uid, entry: &Listed) -> bool {
        match self.sessions.get(&entry.uid) {
            None => self.deleted.contains_key(&entry.uid) && entry.phase != SessionPhase::Ending,
            Some(session) => match &session.stage {
                Stage::Binding { runner, .. } | Stage::Bound(Bound { runner, .. }) => {
                    runner != pod && session.is_published_elsewhere(pod)
                }
                Stage::Finished { .. } => entry.phase != SessionPhase::Ending,
                // The runner may forget a session that is over once its end is published.
                Stage::Over(_) | Stage::Waiting => false,
            },
        }
    }

    /// A runner has a copy of a session that is bound elsewhere: its leader died between the runner's answer and the
    /// status. It is ended once the status names another runner, and not before: the dead leader's own write may still be
    /// on its way, and until this one's has landed it may win.
    fn end_copy(&mut self, pod: &Uid, uid: &Uid) {
        if self.sessions[uid].is_published_elsewhere(pod) {
            self.end_on(pod, uid);
        }
    }

    /// Ends what other runners than the published one have of a session.
    fn end_copies(&mut self, uid: &Uid) {
        for pod in self.listing(uid) {
            self.end_copy(&pod, uid);
        }
    }

    fn listing(&self, uid: &Uid) -> Vec<Uid> {
        let lists = |runner: &Runner| runner.state.as_ref().is_some_and(|state| state.session(uid).is_some());
        self.runners.iter().filter(|(_, runner)| lists(runner)).map(|(pod, _)| pod.clone()).collect()
    }

    /// A runner lists this session.
    pub(in crate::core) fn listed(&mut self, pod: &Uid, state: &Report, uid: &Uid) {
        let Some(entry) = state.session(uid) else { return };
        let Some(session) = self.sessions.get(uid) else {
            let unknown = !self.deleted.contains_key(uid);
            if unknown && self.term.is_some() && self.orphans.insert(pod, entry, self.now.mono) {
                self.dirty.insert(Subject::Orphan(uid.clone()));
            }
            return;
        };
        match &session.stage {
            // It ended before anybody was told of it.
            Stage::Waiting if entry.phase == SessionPhase::Ended && self.may_be_on(pod, session) => {
                self.set_stage(uid, Stage::Over(Over::reported(entry.end.as_ref())));
            }
            Stage::Binding { runner, .. } if runner == pod && entry.phase == SessionPhase::Ended => {
                self.set_stage(uid, Stage::Over(Over::reported(entry.end.as_ref())));
            }
            Stage::Waiting if self.may_be_on(pod, session) => {
                self.runner_has(pod, uid, Facts::listed(entry, state), (&state.boot_id, state.generation));
            }
            // No leader gave it to that runner.
            Stage::Waiting => {}
            Stage::Binding { runner, .. } if runner == pod => {
                self.runner_has(pod, uid, Facts::listed(entry, state), (&state.boot_id, state.generation));
            }
            Stage::Bound(bound) if bound.runner == *pod => {
                if entry.phase == SessionPhase::Ended {
                    let over = Over::reported(entry.end.as_ref());
                    self.set_stage(uid, Stage::Over(over));
                } else {
                    let facts = Facts::listed(entry, state);
                    if bound.facts.as_ref() != Some(&facts) {
                        let bound = Bound { facts: Some(facts), ..bound.clone() };
                        self.set_stage(uid, Stage::Bound(bound));
                    }
                }
            }
            // What it should not have is ended by `end_unwanted`.
            Stage::Binding { .. } | Stage::Bound(_) | Stage::Over(_) | Stage::Finished { .. } => {}
        }
    }

    /// Whether a former leader may have given that session to that runner: what a runner lists is its own word.
    fn may_be_on(&self, pod: &Uid, session: &Session) -> bool {
        let Some(runner) = self.runners.get(pod) else { return false };
        let (key, demand) = (&runner.pod.pool.0, Demand::of(&session.object));
        // Once its pool is gone, it is not known which other namespaces it served.
        let Some(pool) = self.pool_of(runner) else {
            return key.namespace == demand.namespace && self.means(&demand, key);
        };
        let refused = matches!(self.objection(key, pool, &demand), Some(Objection::Namespace | Objection::Tenant));
        self.means(&demand, key) && !refused
    }

    fn runner_has(&mut self, pod: &Uid, uid: &Uid, facts: Facts, (boot_id, generation): (&str, u64)) {
        let session = &self.sessions[uid];
        let (since, sent_generation) = match &session.stage {
            Stage::Binding { since, .. } => (Some(*since), session.generation()),
            // Adopted: nobody knows which time-outs it was sent, so they are sent again.
            Stage::Waiting | Stage::Bound(_) | Stage::Over(_) | Stage::Finished { .. } => (None, 0),
        };
        if let Some(since) = since {
            self.effects.push(Effect::Observe(Observation::Bound { took: self.now.mono.since(since) }));
        }
        let listed_from = Some((boot_id.to_owned(), generation));
        let bound =
            Bound { runner: pod.clone(), facts: Some(facts), listed_from, sent_generation, call: Pending::Idle };
        self.set_stage(uid, Stage::Bound(bound));
    }

    pub(in crate::core) fn bind_answered(&mut self, uid: &Uid, pod: &Uid, answer: Result<BindAnswer, BindFailure>) {
        if self.term.is_none() {
            return;
        }
        if !self.sessions.contains_key(uid) {
            // Deleted while the call was under way: the runner may have it all the same.
            self.end_on(pod, uid);
            return;
        }
        let answer = answer.map(report::bounded);
        // What a former run of the runner took went with it.
        let boot_id = self.runners.get(pod).and_then(|runner| runner.state.as_ref()).map(|state| &state.boot_id);
        let answer = match (answer, boot_id) {
            (Ok(answer), Some(boot_id)) if answer.boot_id != *boot_id => {
                Err(BindFailure::Unknown("it was started anew".to_owned()))
            }
            (answer, _) => answer,
        };
        let (generation, stage) = (self.sessions[uid].generation(), self.sessions[uid].stage.clone());
        match (stage, answer) {
            (Stage::Binding { runner, .. }, Ok(answer)) if runner == *pod => {
                self.runner_has(pod, uid, Facts::answered(&answer), (&answer.boot_id, answer.generation));
                self.settle_if_ended(uid, &answer);
            }
            (Stage::Binding { runner, .. }, Err(BindFailure::Refused)) if runner == *pod => {
                if let Some(runner) = self.runners.get_mut(pod) {
                    runner.refused = true;
                }
                self.set_stage(uid, Stage::Waiting);
            }
            (Stage::Binding { runner, .. }, Err(BindFailure::Invalid(words))) if runner == *pod => {
                self.set_stage(uid, Stage::Over(Over { reason: reasons::LAUNCH_FAILED, message: words }));
            }
            (Stage::Binding { runner, since, call }, Err(BindFailure::Unknown(_))) if runner == *pod => {
                let call = call.failed(uid, self.now.mono);
                self.set_stage(uid, Stage::Binding { runner, since, call });
            }
            // A call that took new time-outs to a session that is there already.
            (Stage::Bound(bound), Ok(answer)) if bound.runner == *pod => {
                // Its list may have told of a later phase already.
                let facts = bound.facts.clone().unwrap_or_else(|| Facts::answered(&answer));
                let bound = Bound { facts: Some(facts), sent_generation: generation, call: Pending::Idle, ..bound };
                self.set_stage(uid, Stage::Bound(bound));
                self.settle_if_ended(uid, &answer);
            }
            (Stage::Bound(bound), Err(_)) if bound.runner == *pod => {
                let call = bound.call.failed(uid, self.now.mono);
                self.set_stage(uid, Stage::Bound(Bound { call, ..bound }));
            }
            // An answer to a call for something that was given up since: the runner's own list will tell.
            (Stage::Waiting | Stage::Binding { .. } | Stage::Bound(_), Ok(_)) => {}
            (Stage::Over(_) | Stage::Finished { .. }, _)
            | (Stage::Waiting | Stage::Binding { .. } | Stage::Bound(_), Err(_)) => {}
        }
    }

    fn settle_if_ended(&mut self, uid: &Uid, answer: &BindAnswer) {
        if answer.session.phase == SessionPhase::Ended {
            self.set_stage(uid, Stage::Over(Over::reported(answer.session.end.as_ref())));
        }
    }

    /// Everything that is due for a session.
    pub(in crate::core) fn look_at_session(&mut self, uid: &Uid) {
        if !self.sessions.contains_key(uid) {
            return;
        }
        self.call_for(uid);
        let wait = self.waited(uid);
        self.publish(uid, wait.as_ref());
        let alarm = self.alarm_of(uid);
        self.timers.set(Subject::Session(uid.clone()), alarm);
    }

    /// Makes the call that its stage wants: to the runner, or to have it deleted.
    fn call_for(&mut self, uid: &Uid) {
        let now = self.now.mono;
        let session = &self.sessions[uid];
        let generation = session.generation();
        match session.stage.clone() {
            Stage::Binding { runner, since, call } if call.may_start(now) => {
                if self.bind_on(&runner, uid, true) {
                    self.replace_stage(uid, Stage::Binding { runner, since, call: call.started() });
                }
            }
            Stage::Bound(bound)
                if bound.sent_generation != generation && bound.facts.is_some() && bound.call.may_start(now) =>
            {
                if self.bind_on(&bound.runner, uid, false) {
                    let call = bound.call.started();
                    self.replace_stage(uid, Stage::Bound(Bound { call, ..bound }));
                }
            }
            // Published by another leader, on a pod that is not known here: it was deleted meanwhile, or is seen any moment.
            Stage::Bound(bound) if !self.runners.contains_key(&bound.runner) && bound.call.may_start(now) => {
                let published = self.sessions[uid].object.status.as_ref().and_then(|status| status.runner.as_ref());
                let Some(name) = published.map(|runner| runner.name.clone()) else { return };
                let elsewhere = session.object.status.as_ref().and_then(|status| status.pool_namespace.clone());
                let key = Key { namespace: elsewhere.unwrap_or_else(|| session.key().namespace), name };
                self.effects.push(Effect::ReadPod { key, pod: bound.runner.clone(), session: uid.clone() });
                let call = bound.call.started();
                self.replace_stage(uid, Stage::Bound(Bound { call, ..bound }));
            }
            Stage::Finished { at, delete } if at.after(self.ttl(uid)) <= now && delete.may_start(now) => {
                let key = self.sessions[uid].key();
                self.effects.push(Effect::DeleteSession { key, session: uid.clone() });
                self.replace_stage(uid, Stage::Finished { at, delete: delete.started() });
            }
            Stage::Waiting | Stage::Binding { .. } | Stage::Bound(_) | Stage::Over(_) | Stage::Finished { .. } => {}
        }
    }

    /// For changes of a stage from which nothing follows for others.
    fn replace_stage(&mut self, uid: &Uid, stage: Stage) {
        if let Some(session) = self.sessions.get_mut(uid) {
            session.stage = stage;
        }
    }

    fn bind_on(&mut self, pod: &Uid, uid: &Uid, starts: bool) -> bool {
        let Some(runner) = self.runners.get(pod) else { return false };
        let Some(address) = runner.pod.address else { return false };
        let session = &self.sessions[uid];
        // A runner that outlives its pool drains. What was asked of it has to be found out, and what it has to be published,
        // all the same; the defaults went with the pool.
        let request = match self.pool_of(runner) {
            Some(pool) => session.request(&pool.object),
            None => session.request(&WorkerPool::new("", WorkerPoolSpec::default())),
        };
        self.effects.push(Effect::Bind { session: uid.clone(), pod: pod.clone(), address, request, starts });
        true
    }

    fn ttl(&self, uid: &Uid) -> Duration {
        seconds(self.sessions[uid].object.spec.ttl_seconds_after_finished)
    }

    /// Of one that waits: ends it when it is refused or has waited too long, or says why it waits once that is worth saying.
    fn waited(&mut self, uid: &Uid) -> Option<Wait> {
        let session = &self.sessions[uid];
        if !session.waits() || !self.may_choose() {
            return None;
        }
        match self.wait_of(session) {
            Ok(wait) => {
                // Whoever waits for somebody to change something is none of those who wait for a slot.
                let admitted = self.pools_for(&Demand::of(&session.object)).next().is_some();
                if let Some(session) = self.sessions.get_mut(uid) {
                    session.admitted |= admitted;
                }
                wait
            }
            Err(over) => {
                self.set_stage(uid, Stage::Over(over));
                None
            }
        }
    }

    fn wait_of(&self, session: &Session) -> Result<Option<Wait>, Over> {
        let wait = self.why_it_waits(session)?;
        let one_too_many = || self.is_one_too_many(&Demand::of(&session.object), &Arrival::of(&session.object));
        if let Some(over) = (!session.admitted).then(one_too_many).flatten() {
            return Err(over);
        }
        let waited = self.now.mono.since(session.created);
        let limit = seconds(session.object.spec.queue_timeout_seconds);
        if waited >= limit {
            let message = format!("no slot within {} s: {}", limit.as_secs(), wait.message);
            return Err(Over { reason: reasons::QUEUE_TIMEOUT, message });
        }
        Ok((self.now.mono >= session.shown_from()).then_some(wait))
    }

    fn alarm_of(&self, uid: &Uid) -> Option<crate::core::Mono> {
        let session = &self.sessions[uid];
        let stage = match &session.stage {
            Stage::Waiting => {
                let limit = seconds(session.object.spec.queue_timeout_seconds);
                let (show, end) = (session.shown_from(), session.created.after(limit));
                let again = if show > self.now.mono { show } else { self.now.mono.after(LOOK_AGAIN) };
                // Nobody is timed out before slots may be given out: `heard_of` looks again then.
                self.may_choose().then_some(again.min(end))
            }
            Stage::Binding { call, .. } => call.wakes(),
            Stage::Bound(bound) => bound.call.wakes(),
            Stage::Over(_) => None,
            Stage::Finished { at, delete } => match delete {
                Pending::Idle => Some(at.after(self.ttl(uid))),
                Pending::InFlight { .. } | Pending::Pause { .. } | Pending::Refused => delete.wakes(),
            },
        };
        // All that was due has been done: what is not later than now wakes for nothing, and must not hide what is.
        stage.into_iter().chain(session.write.wakes()).filter(|at| *at > self.now.mono).min()
    }

    /// Writes its status, if that is not what it should be.
    fn publish(&mut self, uid: &Uid, wait: Option<&Wait>) {
        let session = &self.sessions[uid];
        if session.write.rests(self.now.mono) {
            return;
        }
        let place = session.runner().and_then(|runner| self.runners.get(runner)).map(|runner| Place {
            pool: &runner.pod.pool.0,
            runner: &runner.pod.key,
            address: runner.pod.address,
            reachable: match runner.link {
                Link::Up | Link::Unknown => true,
                Link::Silent { since } => self.now.mono.since(since) < SHOW_UNREACHABLE_AFTER,
            },
            spec: self.pool_of(runner).map(|pool| pool.object.as_ref()),
        });
        let wished = status::of_session(session, place.as_ref(), wait, &self.installation.public_url, self.now);
        let stored = session.object.status.as_ref();
        let Some(wished) = wished.filter(|wished| session.write.is_due(stored, wished, self.now.mono)) else { return };
        let (urgent, telling) = (wished.state != SessionState::Queued, wished.runner.is_some());
        if !urgent {
            // More would only wait in a line, and those of them that get a slot meanwhile with them.
            if self.showing.len() >= SHOWN_AT_ONCE {
                self.to_show.insert(uid.clone());
                return;
            }
            self.showing.insert(uid.clone());
        }
        let object = session.object.clone();
        if let Some(session) = self.sessions.get_mut(uid) {
            session.write.begin(wished.clone());
            session.telling = telling;
        }
        self.effects.push(Effect::PatchSession { session: object, status: Box::new(wished), urgent });
    }

    pub(in crate::core) fn session_patched(
        &mut self,
        decided_on: &BrowserSession,
        answer: Result<Arc<BrowserSession>, WriteFailure>,
    ) {
        let Some(uid) = &decided_on.metadata.uid else { return };
        if self.showing.remove(uid)
            && let Some(next) = self.to_show.pop_first()
        {
            self.dirty.insert(Subject::Session(next));
        }
        let Some(session) = self.sessions.get_mut(uid) else { return };
        match answer {
            Ok(object) => {
                session.telling = false;
                let fields = session.write.landed(object.status.as_ref(), uid, self.now.mono);
                self.effects.extend(observe_pruned("BrowserSession", session.key(), fields));
                // The watch may have been faster, with this change or with a later one.
                if version(object.as_ref()) >= version(session.object.as_ref()) {
                    self.replace_object(uid, object.clone());
                }
                self.tell_what_changed(uid, decided_on, &object);
                self.yield_to_what_is_published(uid);
                self.end_copies(uid);
                let known = matches!(self.sessions[uid].stage, Stage::Finished { .. });
                if object.state() == SessionState::Finished && !known {
                    self.set_stage(uid, Stage::Finished { at: self.now.mono, delete: Pending::Idle });
                    self.end_wherever_listed(uid);
                }
            }
            // Somebody was faster: what they wrote has to be seen before anything is decided.
            Err(WriteFailure::Conflict | WriteFailure::Gone) => {
                let key = session.key();
                self.effects.push(Effect::ReadSession { key, session: uid.clone() });
            }
            Err(failure @ (WriteFailure::Refused(_) | WriteFailure::Transient(_))) => {
                session.write.failed(&failure, uid, self.now.mono);
            }
        }
        self.dirty.insert(Subject::Session(uid.clone()));
    }

    /// An uncached read came back: after a conflict, or about an orphan.
    pub(in crate::core) fn session_read(
        &mut self,
        key: &Key,
        uid: &Uid,
        answer: Result<Option<Arc<BrowserSession>>, ReadFailure>,
    ) {
        let answer = answer.map(|found| found.filter(|found| found.metadata.uid.as_ref() == Some(uid)));
        match self.sessions.get(uid) {
            // The session became known while it was read under the name that a runner gave it. That name proves nothing.
            Some(session) if session.key() != *key => {}
            Some(_) => self.known_session_read(uid, answer),
            None => self.orphan_read(uid, &answer),
        }
    }

    fn known_session_read(&mut self, uid: &Uid, answer: Result<Option<Arc<BrowserSession>>, ReadFailure>) {
        let Some(session) = self.sessions.get_mut(uid) else { return };
        match answer {
            Ok(Some(object)) => {
                (session.write, session.telling) = (StatusWrite::default(), false);
                self.session_applied(object);
            }
            Ok(None) => return self.session_gone(uid),
            // The write that met a conflict is tried again, and meets the same one if nothing was learnt meanwhile.
            Err(ReadFailure::Refused | ReadFailure::Transient) => {
                session.write.failed(&WriteFailure::Conflict, uid, self.now.mono);
            }
        }
        self.dirty.insert(Subject::Session(uid.clone()));
    }

    fn orphan_read(&mut self, uid: &Uid, answer: &Result<Option<Arc<BrowserSession>>, ReadFailure>) {
        let Some(orphan) = self.orphans.get_mut(uid) else { return };
        match answer {
            // That something is there is learnt from the watch alone: an answer may come before a list that is older than
            // the object, and after its deletion.
            Ok(Some(_)) | Err(ReadFailure::Transient) => orphan.lookup = orphan.lookup.failed(uid, self.now.mono),
            // Whether there is such a session cannot be found out, so it is left alone.
            Err(ReadFailure::Refused) => orphan.lookup = Pending::Refused,
            Ok(None) => {
                self.orphans.remove(uid);
                self.remember_deleted(uid);
                self.end_wherever_listed(uid);
            }
        }
        self.dirty.insert(Subject::Orphan(uid.clone()));
    }

    pub(in crate::core) fn pod_read(&mut self, uid: &Uid, pod: &Uid, answer: Result<bool, ReadFailure>) {
        let known = self.runners.contains_key(pod);
        let Some(session) = self.sessions.get_mut(uid) else { return };
        let Stage::Bound(bound) = &mut session.stage else { return };
        if bound.runner != *pod {
            return;
        }
        // One that is there and not known yet is asked for again, until the watch brings it or it is gone.
        bound.call = if known { Pending::Idle } else { bound.call.failed(uid, self.now.mono) };
        if answer == Ok(false) && !known {
            let message = "its pod was deleted while no operator looked".to_owned();
            self.set_stage(uid, Stage::Over(Over { reason: reasons::RUNNER_LOST, message }));
        }
        self.dirty.insert(Subject::Session(uid.clone()));
    }

    pub(in crate::core) fn session_deleted(&mut self, uid: &Uid, answer: Result<(), WriteFailure>) {
        let Some(session) = self.sessions.get_mut(uid) else { return };
        let Stage::Finished { at, delete } = session.stage else { return };
        let delete = match answer {
            // The watch tells when it is gone.
            Ok(()) | Err(WriteFailure::Gone) => return,
            Err(WriteFailure::Conflict | WriteFailure::Refused(_) | WriteFailure::Transient(_)) => {
                delete.failed(uid, self.now.mono)
            }
        };
        session.stage = Stage::Finished { at, delete };
        self.dirty.insert(Subject::Session(uid.clone()));
    }

    /// Asks the API server about an orphan, when that is due and its runner may cause one more read.
    pub(in crate::core) fn look_up_orphan(&mut self, uid: &Uid) {
        let now = self.now.mono;
        let Some(orphan) = self.orphans.get_mut(uid) else { return };
        let Some(due) = orphan.due() else { return };
        let may_look_up = |runner: &mut Runner| runner.may_look_up(now);
        let next = if due > now {
            due
        } else if self.runners.get_mut(&orphan.runner).is_some_and(may_look_up) {
            orphan.lookup = orphan.lookup.started();
            self.effects.push(Effect::ReadSession { key: orphan.key.clone(), session: uid.clone() });
            return;
        } else {
            now.after(LOOK_UP_AGAIN)
        };
        self.timers.set(Subject::Orphan(uid.clone()), Some(next));
    }

    /// Events for people, and measures, of what a write made known.
    fn tell_what_changed(&mut self, uid: &Uid, former: &BrowserSession, object: &Arc<BrowserSession>) {
        let conditions_of = |object: &BrowserSession| {
            object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default()
        };
        let (before, after) = (conditions_of(former), conditions_of(object));
        let became = |type_| conditions::is_true(&after, type_) && !conditions::is_true(&before, type_);
        for type_ in [SCHEDULED, READY, FINISHED] {
            // A hot session is both at once, and one event says so.
            let is_news = became(type_) && !(type_ == SCHEDULED && became(READY));
            if let Some(condition) = conditions::get(&after, type_).filter(|_| is_news) {
                let fails = type_ == FINISHED && conditions::is_true(&after, conditions::STALLED);
                self.effects.push(Effect::Tell {
                    session: object.clone(),
                    normal: !fails,
                    // A reason of an event says what happened: Scheduled, Ready, or why it finished.
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
        let started = session.since_seen(self.now);
        let became_ready = conditions::is_true(&after, READY) && former.state() != SessionState::Ready;
        if let (true, Some(status)) = (became_ready, &object.status) {
            let pool = status.pool.as_ref().map(|name| {
                let namespace = status.pool_namespace.as_ref().or(object.metadata.namespace.as_ref());
                Key { namespace: namespace.cloned().unwrap_or_default(), name: name.clone() }
            });
            self.effects.push(Effect::Observe(Observation::Ready {
                session: object.clone(),
                pool: pool.filter(|key| self.pools.contains_key(key)),
                tier: status.start_tier.unwrap_or(StartTier::Cold),
                started,
            }));
        }
        // The watch may have been faster than this answer: what was published says it, and not the stage.
        if let Some(finished) = conditions::get(&after, FINISHED).filter(|_| became(FINISHED)) {
            let started = started.filter(|_| !session.was_ready());
            let (session, reason) = (object.clone(), finished.reason.clone());
            self.effects.push(Effect::Observe(Observation::Ended { session, reason, started }));
        }
    }
}

fn seconds(seconds: i32) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}
