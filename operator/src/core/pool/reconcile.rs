//! What happens to a pool: its pods are kept at as many as wished, of the current shape, none launching in excess of the
//! CPUs, and none with a session made to go before its time.

use crate::core::{
    coordinator::{Core, Subject},
    ids::{Key, Uid, version},
    messages::{Change, Effect, Namespace, Observation, WriteFailure},
    pool::{
        diagnosis::PROGRESS_DEADLINE,
        launches::{Place, PoolLaunches},
        namespace_policy::Audience,
        rollout::{Rollout, outdated},
        scale::Need,
        state::{Creating, FINALIZER, Patch, Pool},
        status,
    },
    retry::Pending,
    runner::{
        pod_build::{self, Shape},
        state::Runner,
    },
    status_write::observe_pruned,
};
use camofleet_crds::{conditions::pool as reasons, v1alpha1::WorkerPool};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// A pool's status is written at most so often: it changes with every session.
const STATUS_PAUSE: Duration = Duration::from_secs(1);
/// The disruption budget is seen to again after so long, in case somebody took it away.
const PROTECT_AGAIN: Duration = Duration::from_secs(600);
/// Refusals in a row, after about 6 s, from which on a disruption budget is somebody else's for good: that of a former pool
/// of the same name is collected by then.
const BUDGET_PATIENCE: u32 = 5;
/// A pod that was made and is not seen for so long was lost on the way.
const CREATE_PATIENCE: Duration = Duration::from_secs(30);
/// A pool that is being deleted is let go so long after its drain deadline, whatever is left.
const FINALIZER_PATIENCE: Duration = Duration::from_secs(60);

impl Core {
    pub(in crate::core) fn pool_applied(&mut self, object: Arc<WorkerPool>) {
        let key = Key::of(object.as_ref());
        let known = self.pools.get_mut(&key).filter(|known| known.is(&object));
        match known {
            // An answer that was slower than the watch tells of a past.
            Some(pool) if version(object.as_ref()) < version(pool.object.as_ref()) => return,
            Some(pool) => {
                // Its pods' shape depends on the spec alone, and costs more to hash than to compare.
                let matters = pool.object.spec != object.spec
                    || pool.object.metadata.deletion_timestamp != object.metadata.deletion_timestamp;
                if matters {
                    pool.audience = Audience::of(&object);
                    if pool.disruption != Some(object.spec.disruption) {
                        pool.protected = None;
                    }
                    pool.wish(Shape::wished(&object, &self.installation));
                }
                pool.write.object_changed();
                if pool.finalization == Pending::Refused {
                    pool.finalization = Pending::Idle;
                }
                pool.object = object;
                // Its status is written every second while sessions come and go, and matters to nobody who waits.
                if !matters {
                    self.dirty.insert(Subject::Pool(key));
                    return;
                }
                self.trust_what_serves(&key);
            }
            None => {
                let mut pool = Pool::new(object, &self.installation);
                let here: Vec<_> = self.runners_of(&pool).flat_map(|runner| &runner.sessions).cloned().collect();
                for uid in here {
                    pool.count(self.sessions[&uid].object.tenant(), true);
                }
                self.pools.insert(key.clone(), pool);
                self.adopt_claimants(&key);
            }
        }
        self.pool_matters(&key);
    }

    /// A shape in which a runner is up needs no test: so it is when a change is taken back half-way.
    fn trust_what_serves(&mut self, key: &Key) {
        let pool = &self.pools[key];
        let wished = pool.wished.revision.clone();
        let serves =
            self.runners_of(pool).any(|runner| runner.pod.revision == wished && runner.is_warm() && !runner.goes());
        if let Some(pool) = self.pools.get_mut(key).filter(|_| serves) {
            pool.came_up(&wished);
        }
    }

    pub(in crate::core) fn pool_gone(&mut self, key: &Key) {
        if self.pools.remove(key).is_some() {
            self.timers.set(Subject::Pool(key.clone()), None);
            self.pool_matters(key);
            self.effects.push(Effect::Forget { pool: key.clone() });
        }
    }

    /// Those who wait for it may get slots now, or other words for why they do not.
    fn pool_matters(&mut self, key: &Key) {
        self.admission_changed();
        self.dirty.insert(Subject::Pool(key.clone()));
        let installation = &self.installation.namespace;
        let waiting = self.queue.waiting(|demand| demand.means(key, installation));
        self.dirty.extend(waiting.into_iter().map(Subject::Session));
    }

    pub(in crate::core) fn namespace_changed(&mut self, change: Change<Namespace>) {
        let changed = match change {
            Change::All(all) => {
                self.namespaces = all.into_iter().map(|namespace| (namespace.name, namespace.labels)).collect();
                None
            }
            Change::Applied(namespace) => {
                let former = self.namespaces.insert(namespace.name.clone(), namespace.labels.clone());
                if former.as_ref() == Some(&namespace.labels) {
                    return;
                }
                Some(namespace.name)
            }
            Change::Gone(namespace) => {
                self.namespaces.remove(&namespace.name);
                return;
            }
        };
        self.admission_changed();
        let waiting = self.queue.waiting(|demand| changed.as_ref().is_none_or(|name| *name == demand.namespace));
        self.dirty.extend(waiting.into_iter().map(Subject::Session));
    }

    /// Everything that is due for a pool, but for new pods: those are made over all pools ([`Core::launch_runners`]).
    pub(in crate::core) fn look_at_pool(&mut self, key: &Key) {
        let now = self.now.mono;
        let Some(pool) = self.pools.get_mut(key) else { return };
        pool.creating.retain(|_, creating| now.since(creating.since) < CREATE_PATIENCE);
        if pool.is_deleted() {
            self.let_pool_go(key);
        } else {
            self.finalize_and_protect(key);
            // Before every runner has said what it has, none is known to be idle.
            if self.may_choose() {
                self.take_stock(key);
                self.replace_and_remove(key);
            }
            self.find_missing(key);
        }
        self.publish_pool(key);
        let alarm = self.alarm_of_pool(key);
        self.timers.set(Subject::Pool(key.clone()), alarm);
    }

    /// How many runners it is to have, and whether it lacks some.
    fn take_stock(&mut self, key: &Key) {
        let now = self.now.mono;
        let pool = &self.pools[key];
        let need = pool.object.spec.autoscaling.map_or_else(Need::default, |_| self.need_of(key, pool));
        let serving = self.runners_of(pool).filter(|runner| runner.is_in_place()).count();
        let Some(pool) = self.pools.get_mut(key) else { return };
        pool.scale.follow(&pool.object.spec, need, now);
        pool.lacking = (serving < pool.desired()).then(|| pool.lacking.unwrap_or(now));
    }

    fn finalize_and_protect(&mut self, key: &Key) {
        let now = self.now.mono;
        let Some(pool) = self.pools.get_mut(key) else { return };
        let finalizers = pool.object.metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) && may_finalize(pool, now) {
            let finalizers = finalizers.into_iter().chain([FINALIZER.to_owned()]).collect();
            finalize(&mut self.effects, pool, finalizers);
        }
        if pool.protected.is_none_or(|at| at.after(PROTECT_AGAIN) <= now) && pool.protection.may_start(now) {
            pool.protection = pool.protection.started();
            pool.disruption = Some(pool.object.spec.disruption);
            self.effects.push(Effect::ProtectPool { pool: pool.object.clone() });
        }
    }

    pub(in crate::core) fn pool_protected(&mut self, protected: &WorkerPool, answer: Result<(), WriteFailure>) {
        let now = self.now.mono;
        let key = &Key::of(protected);
        let Some(pool) = self.pools.get_mut(key).filter(|pool| pool.is(protected)) else { return };
        match answer {
            Ok(()) => {
                // What was wished meanwhile is seen to next.
                pool.protected = (pool.disruption == Some(pool.object.spec.disruption)).then_some(now);
                (pool.protection, pool.unprotected) = (Pending::Idle, None);
            }
            Err(failure) => {
                pool.protection = pool.protection.failed(&key.name, now);
                if let WriteFailure::Refused(words) = failure
                    && pool.protection.failures() >= BUDGET_PATIENCE
                {
                    pool.unprotected = Some(words);
                }
            }
        }
        self.dirty.insert(Subject::Pool(key.clone()));
    }

    /// Removes the runners of a pool that is being deleted, and the finalizer when they are gone or have had their time.
    fn let_pool_go(&mut self, key: &Key) {
        let now = self.now;
        let pool = &self.pools[key];
        let runners: Vec<_> =
            self.runners_of(pool).map(|runner| (runner.pod.uid.clone(), runner.counts(now))).collect();
        for (uid, _) in &runners {
            self.remove(uid, "its pool is being deleted");
        }
        let Some(pool) = self.pools.get_mut(key) else { return };
        pool.missing.clear();
        let empty = !runners.iter().any(|(_, counts)| *counts) && pool.creating.is_empty();
        let overdue = deadline_of(&pool.object, now).is_some_and(|deadline| deadline <= now.mono);
        let finalizers = pool.object.metadata.finalizers.clone().unwrap_or_default();
        if (empty || overdue)
            && finalizers.iter().any(|finalizer| finalizer == FINALIZER)
            && may_finalize(pool, now.mono)
        {
            let finalizers = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
            finalize(&mut self.effects, pool, finalizers);
        }
    }

    /// Removes runners that have served their time, are on a node that is to be empty, are too many, or of an old shape. One that has
    /// not reported to this leader may have sessions, and is left alone.
    fn replace_and_remove(&mut self, key: &Key) {
        let now = self.now;
        let pool = &self.pools[key];
        let mut staying: Vec<&Runner> =
            self.runners_of(pool).filter(|runner| runner.counts(now) && !runner.goes()).collect();
        let mut leaving: Vec<(Uid, &'static str)> = Vec::new();
        staying.retain(|runner| {
            let spent = runner.is_up() && runner.is_idle() && runner.is_spent();
            let why = if runner.is_unheard() {
                return true;
            } else if spent {
                "it has served its sessions"
            } else if self.is_cordoned(runner) {
                "its node is cordoned"
            } else {
                return true;
            };
            leaving.push((runner.pod.uid.clone(), why));
            false
        });
        let rollout = Rollout::of(pool, self.runners_of(pool).filter(|runner| runner.counts(now)));
        // The canary is one more than the pool is to have.
        staying.retain(|runner| !rollout.tests || !pool.tests(&runner.pod.revision));
        // Too many: first those that are of least use, with a session last; and so that nodes become empty.
        let on_nodes = self.sessions_on_nodes();
        let neighbours = |runner: &Runner| runner.pod.node.as_ref().and_then(|node| on_nodes.get(node)).copied();
        staying.sort_by_key(|runner| {
            let current = runner.pod.revision == pool.makes().revision;
            (runner.used(), runner.is_warm(), current, neighbours(runner), Reverse(runner.pod.ordinal))
        });
        let room = rollout.places - usize::from(rollout.tests);
        let going: Vec<&Runner> = self.runners_of(pool).filter(|runner| runner.counts(now) && runner.goes()).collect();
        let draining = going.iter().filter(|runner| !runner.is_going_idle()).count();
        let surplus: Vec<Uid> = if pool.object.spec.autoscaling.is_some() || rollout.makes_way {
            // Those that go are among the desired, and nobody asked for those that serve to be given up.
            let excess = (staying.len() + draining).saturating_sub(room);
            staying.iter().filter(|runner| runner.is_idle()).take(excess).map(|runner| runner.pod.uid.clone()).collect()
        } else {
            let excess = staying.len().saturating_sub(room);
            let heard = staying.iter().filter(|runner| !runner.is_unheard());
            heard.take(excess).map(|runner| runner.pod.uid.clone()).collect()
        };
        staying.retain(|runner| !surplus.contains(&runner.pod.uid));
        leaving.extend(surplus.into_iter().map(|uid| (uid, "the pool has too many runners")));
        leaving.extend(outdated(pool, &staying, &going).into_iter().map(|uid| (uid, "the pool's shape has changed")));
        for (uid, why) in leaving {
            self.remove(&uid, why);
        }
    }

    /// Finds the places that have no pod. Every pod that is not terminal has one.
    fn find_missing(&mut self, key: &Key) {
        let now = self.now;
        let pool = &self.pools[key];
        let counted = || self.runners_of(pool).filter(|runner| runner.counts(now));
        let places = Rollout::of(pool, counted()).places;
        let lacks_canary = self.lacks_canary(pool);
        // Who follows on one that goes without a session does not wait for its end, but takes another place.
        let leaving = counted().filter(|runner| runner.is_going_idle()).count();
        let mut occupied: Vec<u32> = counted().map(|runner| runner.pod.ordinal).collect();
        let Some(pool) = self.pools.get_mut(key) else { return };
        occupied.extend(pool.creating.values().map(|creating| creating.ordinal));
        // The canary does not wait for those that drain.
        let wanted = (places + leaving).saturating_sub(occupied.len()).max(usize::from(lacks_canary));
        let wanted = if pool.makes_none() { 0 } else { wanted };
        let free: Vec<u32> = (0..).filter(|ordinal| !occupied.contains(ordinal)).take(wanted).collect();
        pool.missing.retain(|ordinal, _| free.contains(ordinal));
        for ordinal in free {
            pool.missing.entry(ordinal).or_insert(now.mono);
        }
    }

    fn lacks_canary(&self, pool: &Pool) -> bool {
        let stays = |runner: &Runner| runner.counts(self.now) && !runner.goes();
        let is_there = || self.runners_of(pool).any(|runner| stays(runner) && pool.tests(&runner.pod.revision));
        let is_coming = || pool.creating.values().any(|creating| pool.tests(&creating.revision));
        pool.is_testing() && pool.desired() > 0 && !is_there() && !is_coming()
    }

    /// Creates pods for places that lack one, as far as the launch budget allows.
    pub(in crate::core) fn launch_runners(&mut self) {
        let Some(keys) = self.keys.clone() else { return };
        let mut launches = self.launches_of_pools();
        if launches.values().all(|pool| pool.wanted.is_empty()) {
            for pool in self.pools.values_mut() {
                pool.waits = None;
            }
            return;
        }
        let now = self.now.mono;
        let cpus = self.nodes.values().filter(|node| node.ready && !node.cordoned).map(|node| node.cpus).sum();
        let granted = self.launches.grant(&mut launches, cpus, now);
        // Published by the next write of the pool's status.
        for (key, pool) in &mut self.pools {
            pool.waits = launches.get(key).and_then(|launches| launches.waits(cpus));
        }
        for (key, Place { ordinal, canary, .. }) in granted {
            let Some(pool) = self.pools.get_mut(&key) else { continue };
            let replaces = pool.last.get(&ordinal).map(String::as_str);
            let shape = if canary { &pool.wished } else { pool.makes() };
            let pod = pod_build::runner_pod(shape, &self.installation, ordinal, replaces, &keys, canary);
            let creating = Creating { ordinal, revision: shape.revision.clone(), since: now };
            pool.missing.remove(&ordinal);
            pool.creating.insert(pod.metadata.name.clone().unwrap_or_default(), creating);
            self.effects.push(Effect::CreatePod { pool: key.clone(), pod: Box::new(pod) });
            let alarm = self.alarm_of_pool(&key);
            self.timers.set(Subject::Pool(key), alarm);
        }
    }

    /// What each pool launches and wants to launch. Pools that do neither are left out.
    fn launches_of_pools(&self) -> BTreeMap<Key, PoolLaunches> {
        let wanting = self.pools.values().any(|pool| !pool.missing.is_empty());
        let mut launches = BTreeMap::new();
        if !wanting {
            return launches;
        }
        for (key, pool) in &self.pools {
            let wanted = self.wanted_places(pool);
            if !wanted.is_empty() || !pool.creating.is_empty() {
                let launching = pool.creating.len();
                launches.insert(key.clone(), PoolLaunches { wanted, launching, overdue: 0 });
            }
        }
        for runner in self.runners.values() {
            // A former pool's runner makes CPUs busy, but does not count against the new pool of its name.
            let overdue = runner.is_overdue(self.now) && self.pool_of(runner).is_some();
            let launching = runner.is_launching(self.now);
            if launching || overdue {
                let empty = || PoolLaunches { wanted: VecDeque::new(), launching: 0, overdue: 0 };
                let pool = launches.entry(runner.pod.pool.0.clone()).or_insert_with(empty);
                pool.launching += usize::from(launching);
                pool.overdue += usize::from(overdue);
            }
        }
        launches
    }

    /// The places of a pool that lack a pod and do not pause after a failure, those that have lacked it longest first.
    fn wanted_places(&self, pool: &Pool) -> VecDeque<Place> {
        let last = pool.missing.keys().next_back().copied();
        let canary = last.filter(|_| self.lacks_canary(pool));
        let mut wanted: Vec<_> = pool
            .missing
            .iter()
            .map(|(ordinal, since)| Place { since: *since, ordinal: *ordinal, canary: Some(*ordinal) == canary })
            .filter(|place| {
                let shape = if place.canary { &pool.wished } else { pool.makes() };
                pool.pause_until(&shape.revision).is_none_or(|until| until <= self.now.mono)
            })
            .collect();
        wanted.sort_unstable();
        wanted.into()
    }

    pub(in crate::core) fn pod_created(&mut self, key: &Key, name: &str, answer: Result<(), WriteFailure>) {
        let now = self.now.mono;
        let Some(pool) = self.pools.get_mut(key) else { return };
        if let Err(failure) = answer
            && let Some(creating) = pool.creating.remove(name)
        {
            let words = match failure {
                WriteFailure::Refused(words) | WriteFailure::Transient(words) => words,
                WriteFailure::Conflict | WriteFailure::Gone => "the namespace is going".to_owned(),
            };
            pool.failed(&creating.revision, (reasons::POD_REFUSED, words), now);
        }
        self.dirty.insert(Subject::Pool(key.clone()));
    }

    fn publish_pool(&mut self, key: &Key) {
        let now = self.now;
        let Some(pool) = self.pools.get(key) else { return };
        let due = pool.written.is_none_or(|at| at.after(STATUS_PAUSE) <= now.mono);
        if !due || pool.patch.is_some() || pool.write.rests(now.mono) {
            return;
        }
        let runners: Vec<&Runner> = self.runners_of(pool).filter(|runner| runner.counts(now)).collect();
        let wished = status::of_pool(pool, &runners, self.queued_for(key), &self.installation, now);
        if !pool.write.is_due(pool.object.status.as_ref(), &wished, now.mono) {
            return;
        }
        let object = pool.object.clone();
        if let Some(pool) = self.pools.get_mut(key) {
            pool.write.begin(wished.clone());
            (pool.patch, pool.written) = (Some(Patch::Status), Some(now.mono));
        }
        self.effects.push(Effect::PatchPool { pool: object, status: Box::new(wished) });
    }

    pub(in crate::core) fn pool_patched(
        &mut self,
        written: &WorkerPool,
        answer: Result<Option<Arc<WorkerPool>>, WriteFailure>,
    ) {
        let now = self.now.mono;
        let key = &Key::of(written);
        let Some(pool) = self.pools.get_mut(key).filter(|pool| pool.is(written)) else { return };
        let object = match &answer {
            Ok(object) => object.clone().filter(|object| pool.is(object)),
            Err(_) => None,
        };
        let mut fields = Vec::new();
        match (pool.patch.take(), answer) {
            (Some(Patch::Status), Ok(_)) => {
                let stored = object.as_ref().unwrap_or(&pool.object).status.as_ref();
                fields = pool.write.landed(stored, &key.name, now);
            }
            (Some(Patch::Finalizers(sent)), Ok(_)) => {
                let stored = object.as_ref().unwrap_or(&pool.object).metadata.finalizers.as_deref();
                pool.finalization = if stored.unwrap_or_default() == sent {
                    Pending::Idle
                } else {
                    let field = "metadata.finalizers".to_owned();
                    let reverted = Observation::Reverted { kind: "WorkerPool", object: key.clone(), field };
                    self.effects.push(Effect::Observe(reverted));
                    pool.finalization.failed(&key.name, now)
                };
            }
            // The watch brings what it conflicts with.
            (Some(Patch::Status), Err(failure)) => pool.write.failed(&failure, &key.name, now),
            (Some(Patch::Finalizers(_)), Err(WriteFailure::Refused(_))) => pool.finalization = Pending::Refused,
            (Some(Patch::Finalizers(_)), Err(_)) => pool.finalization = pool.finalization.failed(&key.name, now),
            // Of a write of an earlier term.
            (None, _) => {}
        }
        self.effects.extend(observe_pruned("WorkerPool", key.clone(), fields));
        if let Some(object) = object {
            self.pool_applied(object);
        }
        self.dirty.insert(Subject::Pool(key.clone()));
    }

    fn alarm_of_pool(&self, key: &Key) -> Option<crate::core::Mono> {
        let pool = self.pools.get(key)?;
        let now = self.now;
        let mut alarms = vec![pool.write.wakes(), pool.finalization.wakes(), pool.protection.wakes()];
        alarms.push(pool.protected.map(|at| at.after(PROTECT_AGAIN)));
        alarms.push(pool.written.map(|at| at.after(STATUS_PAUSE)));
        alarms.extend(pool.pauses().map(Some));
        alarms.extend(pool.creating.values().map(|creating| Some(creating.since.after(CREATE_PATIENCE))));
        alarms.push(deadline_of(&pool.object, now));
        alarms.push(pool.scale.wakes(&pool.object.spec));
        alarms.push(pool.lacking.map(|since| since.after(PROGRESS_DEADLINE)));
        alarms.extend(
            self.runners_of(pool)
                .filter(|runner| pool.tests(&runner.pod.revision))
                .map(|canary| Some(canary.created.after(PROGRESS_DEADLINE))),
        );
        // Others may have come up meanwhile, or launch for too long to hold these back; and one that is stuck is replaced.
        if !pool.missing.is_empty() || self.runners_of(pool).any(|runner| runner.pod.killed_at.is_some()) {
            alarms.push(Some(now.mono.after(Duration::from_secs(1))));
        }
        // All that was due has been done: what is not later than now wakes for nothing.
        alarms.into_iter().flatten().filter(|at| *at > now.mono).min()
    }
}

fn may_finalize(pool: &Pool, now: crate::core::Mono) -> bool {
    pool.patch.is_none() && pool.finalization.may_start(now)
}

fn finalize(effects: &mut Vec<Effect>, pool: &mut Pool, finalizers: Vec<String>) {
    pool.finalization = pool.finalization.started();
    pool.patch = Some(Patch::Finalizers(finalizers.clone()));
    effects.push(Effect::FinalizePool { pool: pool.object.clone(), finalizers });
}

/// When a pool that is being deleted is let go in any case.
fn deadline_of(pool: &WorkerPool, now: crate::core::Now) -> Option<crate::core::Mono> {
    let deleted = now.mono_of(pool.metadata.deletion_timestamp.as_ref()?.0);
    let drain = Duration::from_secs(u64::try_from(pool.spec.rollout.drain_timeout_seconds).unwrap_or_default());
    Some(deleted.after(drain).after(FINALIZER_PATIENCE))
}
