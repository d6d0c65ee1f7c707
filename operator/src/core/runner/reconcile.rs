//! What happens to a runner.

use crate::core::{
    clock::Mono,
    coordinator::{Core, Subject},
    ids::{Key, Uid},
    messages::{Change, Effect, Node, Observation, WriteFailure},
    pool::state::Pool,
    retry::Pending,
    runner::{
        pod_read::{Fate, KEYS_ANNOTATION, RunnerPod},
        report::Report,
        state::{Link, Runner, SHOW_UNREACHABLE_AFTER},
    },
    session::state::{Over, Session, Stage},
};
use camofleet_crds::conditions::{pool as reasons, session};
use std::time::Duration;

/// A runner that was silent for so long is deleted.
const UNREACHABLE: Duration = Duration::from_secs(300);
/// A runner that ends by itself so soon after its browsers were hot has failed as one has where they never were.
const LIVED: Duration = Duration::from_secs(30);

impl Core {
    pub(in crate::core) fn pool_of(&self, runner: &Runner) -> Option<&Pool> {
        self.pools.get(&runner.pod.pool.0).filter(|pool| runner.pod.belongs_to(&pool.object))
    }

    pub(in crate::core) fn runners_of<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = &'a Runner> {
        self.runners.values().filter(move |runner| runner.pod.belongs_to(&pool.object))
    }

    pub(in crate::core) fn is_cordoned(&self, runner: &Runner) -> bool {
        let node = runner.pod.node.as_ref().and_then(|node| self.nodes.get(node));
        node.is_some_and(|node| node.cordoned)
    }

    pub(in crate::core) fn pod_applied(&mut self, pod: RunnerPod) {
        let (uid, pool) = (pod.uid.clone(), pod.pool.clone());
        // An answer may be slower than the watch, and tell of a past or of what is gone.
        let known = self.runners.get(&uid).map(|runner| runner.pod.version);
        if self.deleted.contains_key(&uid) || known.is_some_and(|known| pod.version < known) {
            return;
        }
        let its_pool = self.pools.get_mut(&pool.0).filter(|known| pod.belongs_to(&known.object));
        if its_pool.is_none() && known.is_none() {
            self.claimants.insert(uid, pod);
            return;
        }
        if let Some(pool) = its_pool {
            pool.creating.remove(&pod.key.name);
            pool.missing.remove(&pod.ordinal);
            pool.last.insert(pod.ordinal, uid.clone());
        }
        match self.runners.get_mut(&uid) {
            Some(runner) => runner.replace_pod(pod, self.now),
            None => {
                let mut runner = Runner::new(pod, self.now);
                runner.accounted = self.term.as_ref().is_some_and(|term| term.has_created(&runner.pod));
                self.runners.insert(uid.clone(), runner);
                let here = self.sessions.values().filter(|session| session.runner() == Some(&uid));
                for session in here.map(|session| session.object.clone()).collect::<Vec<_>>() {
                    self.book(&session, &uid, true);
                }
            }
        }
        self.dirty.insert(Subject::Runner(uid));
        self.dirty.insert(Subject::Pool(pool.0));
    }

    /// Takes pods for runners that came before the pool that they claim.
    pub(in crate::core) fn adopt_claimants(&mut self, key: &Key) {
        let Some(pool) = self.pools.get(key) else { return };
        let its = self.claimants.values().filter(|pod| pod.belongs_to(&pool.object));
        let its: Vec<_> = its.map(|pod| pod.uid.clone()).collect();
        for uid in its {
            if let Some(pod) = self.claimants.remove(&uid) {
                self.pod_applied(pod);
            }
        }
    }

    pub(in crate::core) fn pod_gone(&mut self, uid: &Uid) {
        self.claimants.remove(uid);
        if !self.runners.contains_key(uid) {
            return;
        }
        self.remember_deleted(uid);
        let runner = &self.runners[uid];
        let over = end_of(runner).unwrap_or_else(|| Over {
            reason: session::RUNNER_LOST,
            message: format!("pod {} was deleted", runner.pod.key.name),
        });
        self.lose_sessions(uid, &over, &Stage::Waiting);
        self.forget_runner(uid);
    }

    fn forget_runner(&mut self, uid: &Uid) {
        let Some(runner) = self.runners.remove(uid) else { return };
        self.heard_of(uid);
        self.orphans.forget_runner(uid);
        self.ends.forget_runner(uid);
        self.timers.set(Subject::Runner(uid.clone()), None);
        self.timers.set(Subject::Unwanted(uid.clone()), None);
        if self.term.is_some() {
            self.effects.push(Effect::Unfollow { pod: uid.clone() });
        }
        self.dirty.insert(Subject::Pool(runner.pod.pool.0));
    }

    /// The runner's process is no more: what users were told of is over, what they were not told of goes to another stage.
    fn lose_sessions(&mut self, pod: &Uid, over: &Over, untold: &Stage) {
        let Some(runner) = self.runners.get(pod) else { return };
        for uid in runner.sessions.clone() {
            let lost = self.sessions.get(&uid).is_some_and(Session::is_published);
            self.set_stage(&uid, if lost { Stage::Over(over.clone()) } else { untold.clone() });
        }
    }

    pub(in crate::core) fn runner_told(&mut self, pod: &Uid, state: Report) {
        let Some(runner) = self.runners.get_mut(pod) else { return };
        if let Some(former) = &runner.state {
            if former.boot_id == state.boot_id && former.generation > state.generation {
                return;
            }
            if former.boot_id != state.boot_id {
                let message = format!("the runner process in pod {} was started anew", runner.pod.key.name);
                // What was asked of the former process may still reach this one: it is asked again there.
                let asked = Stage::Binding { runner: pod.clone(), since: self.now.mono, call: Pending::Idle };
                self.lose_sessions(pod, &Over { reason: session::RUNNER_LOST, message }, &asked);
            }
        }
        let Some(runner) = self.runners.get_mut(pod) else { return };
        let was_warm = runner.state.as_ref().is_some_and(|state| state.warm);
        // It says every 10 s that it is there: of a thousand runners that is a hundred times a second.
        let is_news =
            runner.state.as_ref() != Some(&state) || runner.link != Link::Up || runner.refused || !runner.accounted;
        runner.link = Link::Up;
        runner.refused = false;
        runner.accounted = true;
        runner.state = Some(state.clone());
        let first_warm = state.warm && !runner.was_warm;
        runner.was_warm |= state.warm;
        if first_warm {
            runner.warm_since = Some(self.now.mono);
        }
        if state.warm {
            runner.cold_since = None;
        } else if was_warm {
            runner.cold_since = Some(self.now.mono);
        }
        let key = runner.pod.pool.0.clone();
        let revision = runner.pod.revision.clone();
        if let Some(pool) = self.pools.get_mut(&key).filter(|pool| runner.pod.belongs_to(&pool.object)) {
            if first_warm {
                pool.came_up(&revision);
            }
            if state.warm && !was_warm {
                pool.lacking = pool.lacking.map(|_| self.now.mono);
            }
            if state.engine.is_some() && pool.engine != state.engine && pool.makes().revision == revision {
                pool.engine = state.engine;
                self.engine_known(&key);
            }
        }
        self.orphans.keep_listed(pod, &state);
        for entry in state.sessions() {
            self.listed(pod, &state, &entry.uid);
        }
        self.dirty.insert(Subject::Unwanted(pod.clone()));
        self.miss_the_unlisted(pod, &state);
        self.heard_of(pod);
        if is_news {
            self.dirty.insert(Subject::Runner(pod.clone()));
            self.dirty.insert(Subject::Pool(self.runners[pod].pod.pool.0.clone()));
            self.dirty.insert(Subject::Queue);
        }
    }

    /// It became known which engine a pool has: those who want one are told, and other pools may be needed.
    fn engine_known(&mut self, key: &Key) {
        self.admission_changed();
        let installation = &self.installation.namespace;
        let asking = self.queue.waiting(|demand| demand.engine.is_some() && demand.means(key, installation));
        self.dirty.extend(asking.into_iter().map(Subject::Session));
    }

    /// A session that the runner had and does not list any more is over, though nobody can say why; one of which users were
    /// not told waits for another slot, and the runner is given none before it tells more: it may forget that one, too.
    fn miss_the_unlisted(&mut self, pod: &Uid, state: &Report) {
        for uid in self.runners[pod].sessions.clone() {
            let Some(session) = self.sessions.get(&uid).filter(|_| state.session(&uid).is_none()) else { continue };
            match &session.stage {
                Stage::Bound(bound) if bound.is_missed_by(state) && session.is_published() => {
                    let message = format!("runner {} does not have it any more", self.runners[pod].pod.key.name);
                    self.set_stage(&uid, Stage::Over(Over { reason: session::RUNNER_LOST, message }));
                }
                Stage::Bound(bound) if bound.is_missed_by(state) => {
                    if let Some(runner) = self.runners.get_mut(pod) {
                        runner.refused = true;
                    }
                    self.set_stage(&uid, Stage::Waiting);
                }
                Stage::Waiting | Stage::Binding { .. } | Stage::Bound(_) | Stage::Over(_) | Stage::Finished { .. } => {}
            }
        }
    }

    pub(in crate::core) fn runner_silent(&mut self, pod: &Uid) {
        let Some(runner) = self.runners.get_mut(pod) else { return };
        if runner.link == Link::Up || runner.link == Link::Unknown {
            runner.link = Link::Silent { since: self.now.mono };
        }
        self.heard_of(pod);
        self.dirty.insert(Subject::Runner(pod.clone()));
        self.dirty.insert(Subject::Pool(self.runners[pod].pod.pool.0.clone()));
    }

    pub(in crate::core) fn keys_changed(&mut self, keys: String) {
        if self.keys.as_ref() == Some(&keys) {
            return;
        }
        self.keys = Some(keys);
        self.dirty.extend(self.runners.keys().cloned().map(Subject::Runner));
    }

    pub(in crate::core) fn node_changed(&mut self, change: Change<Node>) {
        match change {
            Change::All(all) => self.nodes = all.into_iter().map(|node| (node.name.clone(), node)).collect(),
            Change::Applied(node) => {
                if self.nodes.get(&node.name) == Some(&node) {
                    return;
                }
                self.nodes.insert(node.name.clone(), node);
            }
            Change::Gone(node) => {
                self.nodes.remove(&node.name);
            }
        }
        self.dirty.extend(self.pools.keys().cloned().map(Subject::Pool));
        self.dirty.insert(Subject::Queue);
    }

    pub(in crate::core) fn look_at_runner(&mut self, uid: &Uid) {
        let Some(runner) = self.runners.get(uid) else { return };
        if let Some(over) = end_of(runner) {
            return self.runner_ended(uid, &over);
        }
        // Users of its sessions are told when it stops answering, and when it answers again.
        self.dirty.extend(runner.sessions.iter().cloned().map(Subject::Session));
        let silent_since = match runner.link {
            Link::Silent { since } => Some(since),
            Link::Unknown | Link::Up => None,
        };
        let mut alarms: Vec<Mono> = Vec::new();
        if let Some(since) = silent_since {
            let gone = since.after(UNREACHABLE);
            if runner.is_stuck(self.now) {
                // Its node does not answer either, and nobody will ever say that the pod is gone.
                let message = format!("pod {} should be gone and does not answer", runner.pod.key.name);
                self.lose_sessions(uid, &Over { reason: session::RUNNER_LOST, message }, &Stage::Waiting);
            } else if gone <= self.now.mono && !runner.goes() {
                self.remove(uid, "it does not answer");
            }
            let stuck = self.runners[uid].stuck_from(self.now);
            alarms.extend([since.after(SHOW_UNREACHABLE_AFTER), gone].into_iter().chain(stuck));
        }
        self.follow_runner(uid);
        self.annotate_runner(uid);
        let runner = &self.runners[uid];
        alarms.extend([runner.annotation.wakes(), runner.removal.wakes()].into_iter().flatten());
        // All that was due has been done: what is not later than now wakes for nothing.
        let next = alarms.into_iter().filter(|at| *at > self.now.mono).min();
        self.timers.set(Subject::Runner(uid.clone()), next);
    }

    fn runner_ended(&mut self, uid: &Uid, over: &Over) {
        self.lose_sessions(uid, over, &Stage::Waiting);
        self.heard_of(uid);
        let runner = &self.runners[uid];
        if runner.leaving {
            return;
        }
        let (key, revision) = (runner.pod.pool.0.clone(), runner.pod.revision.clone());
        let hardly_lived = runner.warm_since.is_none_or(|since| self.now.mono.since(since) < LIVED);
        let failed = hardly_lived && runner.pod.killed_at.is_none() && !runner.mourned;
        let its = |pool: &&mut Pool| runner.pod.belongs_to(&pool.object);
        if let Some(pool) = self.pools.get_mut(&key).filter(|pool| failed && its(pool)) {
            pool.failed(&revision, (reasons::RUNNERS_FAILING, over.message.clone()), self.now.mono);
        }
        if let Some(runner) = self.runners.get_mut(uid) {
            runner.mourned = true;
        }
        self.remove(uid, "its container ended");
        let retry = self.runners[uid].removal.wakes().filter(|at| *at > self.now.mono);
        self.timers.set(Subject::Runner(uid.clone()), retry);
    }

    fn follow_runner(&mut self, uid: &Uid) {
        let Some(runner) = self.runners.get_mut(uid).filter(|runner| !runner.followed) else { return };
        let Some(address) = runner.pod.address else { return };
        runner.followed = true;
        self.effects.push(Effect::Follow { pod: uid.clone(), address, slots: runner.pod.slots });
    }

    fn annotate_runner(&mut self, uid: &Uid) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        if !runner.annotation.may_start(self.now.mono) || runner.goes() {
            return;
        }
        if let Some(keys) = runner.wanted_keys(self.keys.as_deref()) {
            runner.annotation = runner.annotation.started();
            self.effects.push(Effect::AnnotatePod { key: runner.pod.key.clone(), pod: uid.clone(), keys });
        }
    }

    /// Deletes a runner's pod. With sessions it drains: they live until they end or the drain deadline passes.
    pub(in crate::core) fn remove(&mut self, uid: &Uid, why: &'static str) {
        let now = self.now.mono;
        let removable = |runner: &&mut Runner| !runner.leaving && runner.removal.may_start(now);
        let Some(runner) = self.runners.get_mut(uid).filter(removable) else { return };
        runner.leaving = true;
        runner.removal = runner.removal.started();
        self.effects.push(Effect::DeletePod { key: runner.pod.key.clone(), pod: uid.clone(), why });
    }

    pub(in crate::core) fn pod_deleted(&mut self, uid: &Uid, answer: Result<(), WriteFailure>) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        match answer {
            // It drains; the watch tells when it is gone.
            Ok(()) => {}
            Err(WriteFailure::Gone) => return self.pod_gone(uid),
            // Of a conflict, too: if another of its name stands there, the watch tells that this one is gone.
            Err(WriteFailure::Conflict | WriteFailure::Refused(_) | WriteFailure::Transient(_)) => {
                runner.leaving = false;
                runner.removal = runner.removal.failed(uid, self.now.mono);
            }
        }
        self.dirty.insert(Subject::Pool(runner.pod.pool.0.clone()));
        self.dirty.insert(Subject::Runner(uid.clone()));
    }

    pub(in crate::core) fn pod_annotated(&mut self, uid: &Uid, sent: &str, answer: Result<(), WriteFailure>) {
        let Some(runner) = self.runners.get_mut(uid) else { return };
        // The answer's pod has been applied before: one without the keys would be annotated again and again. It is compared with what
        // was sent, because other keys may have been published meanwhile.
        let reverted = answer.is_ok() && runner.pod.keys != sent;
        if reverted {
            let field = format!("metadata.annotations.{KEYS_ANNOTATION}");
            let object = runner.pod.key.clone();
            self.effects.push(Effect::Observe(Observation::Reverted { kind: "Pod", object, field }));
        }
        runner.annotation = match answer {
            Ok(()) if reverted => runner.annotation.failed(uid, self.now.mono),
            Ok(()) | Err(WriteFailure::Gone | WriteFailure::Conflict) => Pending::Idle,
            Err(WriteFailure::Refused(_) | WriteFailure::Transient(_)) => runner.annotation.failed(uid, self.now.mono),
        };
        self.dirty.insert(Subject::Runner(uid.clone()));
    }
}

/// What the end of a runner's container means for its sessions.
fn end_of(runner: &Runner) -> Option<Over> {
    let Fate::Over { words, out_of_memory } = &runner.pod.fate else { return None };
    let reason = if *out_of_memory { session::OUT_OF_MEMORY } else { session::RUNNER_LOST };
    Some(Over { reason, message: format!("pod {} ended: {words}", runner.pod.key.name) })
}
