//! Who gets which slot.

use super::{
    Core, Effect, Key, Phase, Subject, Uid,
    runners::Room,
    sessions::{Pending, Session, Stage},
    status::Wait,
};
use camofleet_crds::{
    conditions::session as reasons,
    v1alpha1::{Display, EngineName},
};
use std::collections::BTreeMap;

/// The runners of a pool that have room, as they are while slots are given out.
type OpenRunners = BTreeMap<Uid, Room>;

impl Core {
    /// Gives free slots to those who wait, in their order. One that cannot be placed does not block the others.
    pub(super) fn choose(&mut self) {
        if !self.may_choose() || self.queue.is_empty() {
            return;
        }
        let mut open = self.open_runners();
        if open.is_empty() {
            return;
        }
        let mut chosen = Vec::new();
        for uid in self.queue.values() {
            let session = &self.sessions[uid];
            if let Some((pool, runner)) = self.best_place(session, &open) {
                let room =
                    open.get_mut(&pool).and_then(|runners| runners.get_mut(&runner)).expect("it was just found there");
                room.take(session.object.display_in(&self.pools[&pool].object));
                if room.free == 0 {
                    open.get_mut(&pool).expect("it was just found there").remove(&runner);
                    open.retain(|_, runners| !runners.is_empty());
                }
                chosen.push((uid.clone(), runner));
                if open.is_empty() {
                    break;
                }
            }
        }
        for (uid, runner) in chosen {
            if let Some(seen) = self.sessions[&uid].seen {
                self.effects.push(Effect::Observe { phase: Phase::Queued, took: self.now.mono.since(seen) });
            }
            let since = self.now.mono;
            self.set_stage(&uid, Stage::Binding { runner, since, call: Pending::Idle });
        }
    }

    fn open_runners(&self) -> BTreeMap<Key, OpenRunners> {
        let mut open = BTreeMap::<Key, OpenRunners>::new();
        for (uid, runner) in &self.runners {
            let Some(pool) = self.pool_of(runner).filter(|pool| !pool.is_deleted()) else { continue };
            if self.is_cordoned(runner) {
                continue;
            }
            let displays = runner
                .sessions
                .iter()
                .filter_map(|uid| Some((uid.clone(), self.sessions.get(uid)?.object.display_in(&pool.object))));
            if let Some(room) = runner.room(&displays.collect()) {
                open.entry(runner.pod.pool.0.clone()).or_default().insert(uid.clone(), room);
            }
        }
        open
    }

    /// The best slot for a session: in the pool with most hot browsers of its kind, on a runner that has one, of the current
    /// revision, and, to leave others empty, with as little room as will do.
    fn best_place(&self, session: &Session, open: &BTreeMap<Key, OpenRunners>) -> Option<(Key, Uid)> {
        let key = session.key();
        let named = session
            .object
            .spec
            .pool_ref
            .as_ref()
            .map(|pool| Key { namespace: key.namespace.clone(), name: pool.name.clone() });
        let pools = open.iter().filter(|(pool, _)| match &named {
            Some(named) => *pool == named,
            None => pool.namespace == key.namespace,
        });
        let serving = pools.filter_map(|(pool, runners)| {
            let display = session.object.display_in(&self.pools[pool].object);
            let able = runners.iter().filter(|(uid, _)| self.engine_fits(session.object.spec.engine, uid));
            let (hot, best) = able.fold((0, None), |(hot, best), (uid, room)| {
                let rank = self.rank(uid, room, display);
                let better = best.as_ref().is_none_or(|(former, _)| rank > *former);
                (hot + room.hot.of(display), if better { Some((rank, uid)) } else { best })
            });
            best.map(|(_, runner)| (hot, pool, runner))
        });
        // Of equals the first by name.
        let best = serving.reduce(|best, other| if other.0 > best.0 { other } else { best });
        best.map(|(_, pool, runner)| (pool.clone(), runner.clone()))
    }

    fn rank(&self, runner: &Uid, room: &Room, display: Display) -> (bool, bool, std::cmp::Reverse<u32>) {
        let runner = &self.runners[runner];
        let current = self.pool_of(runner).is_some_and(|pool| pool.revision == runner.pod.revision);
        (room.hot.of(display) > 0, current, std::cmp::Reverse(room.free))
    }

    fn engine_fits(&self, wished: Option<EngineName>, runner: &Uid) -> bool {
        let Some(wished) = wished else { return true };
        self.runners[runner].state.as_ref().and_then(|state| state.engine).is_some_and(|engine| engine == wished)
    }

    /// Why a session has no slot.
    pub(super) fn why_it_waits(&self, session: &Session) -> Wait {
        let key = session.key();
        let unserved = |message| Wait { reason: reasons::NO_MATCHING_POOL, message };
        let full = |message| Wait { reason: reasons::NO_CAPACITY, message };
        let engine = session.object.spec.engine;
        match &session.object.spec.pool_ref {
            Some(named) => {
                let name = &named.name;
                match self.pools.get(&Key { namespace: key.namespace.clone(), name: name.clone() }) {
                    None => unserved(format!(
                        "there is no WorkerPool {name} in namespace {}: create it, or name another",
                        key.namespace
                    )),
                    Some(pool) if pool.is_deleted() => {
                        unserved(format!("WorkerPool {name} is being deleted: name another"))
                    }
                    Some(pool) if !self.pool_may_serve(pool, engine) => unserved(format!(
                        "WorkerPool {name} does not run {}: name another pool, or leave `engine` out",
                        engine.map_or("it", engine_word)
                    )),
                    Some(pool) if pool.object.spec.desired_replicas() == 0 => {
                        full(format!("WorkerPool {name} has no runners: raise its `replicas`"))
                    }
                    Some(_) => full(format!("every slot of WorkerPool {name} is taken or not ready yet")),
                }
            }
            None => {
                let mut here = self.pools.iter().filter(|(pool, _)| pool.namespace == key.namespace);
                if here.any(|(_, pool)| !pool.is_deleted() && self.pool_may_serve(pool, engine)) {
                    full(format!(
                        "every slot that would do, of the pools of namespace {}, is taken or not ready yet",
                        key.namespace
                    ))
                } else {
                    unserved(format!("no WorkerPool of namespace {} can serve this session: create one", key.namespace))
                }
            }
        }
    }

    fn pool_may_serve(&self, pool: &super::pools::Pool, wished: Option<EngineName>) -> bool {
        let Some(wished) = wished else { return true };
        let mut known = self.runners_of(pool).filter_map(|runner| runner.state.as_ref()?.engine).peekable();
        // What `Auto` found is known from the first runner that spoke.
        if known.peek().is_some() {
            known.any(|engine| engine == wished)
        } else {
            wished.is_served_by(pool.object.spec.engine)
        }
    }

    /// Puts a session into a stage, with everything that follows from being in it.
    pub(super) fn set_stage(&mut self, uid: &Uid, stage: Stage) {
        let Some(session) = self.sessions.get_mut(uid) else { return };
        let left = session.runner().cloned();
        session.stage = stage;
        let entered = session.runner().cloned();
        let (place, waits) = (session.queue_key(), matches!(session.stage, Stage::Waiting));
        if waits {
            self.queue.insert(place, uid.clone());
            self.dirty.insert(Subject::Queue);
        } else {
            self.queue.remove(&place);
        }
        if left != entered {
            for (runner, here) in [(left, false), (entered, true)] {
                let Some(runner) = runner else { continue };
                let Some(runner) = self.runners.get_mut(&runner) else { continue };
                if here {
                    runner.sessions.insert(uid.clone());
                } else {
                    runner.sessions.remove(uid);
                }
                self.dirty.insert(Subject::Runner(runner.pod.uid.clone()));
                self.dirty.insert(Subject::Pool(runner.pod.pool.0.clone()));
            }
        }
        self.dirty.insert(Subject::Session(uid.clone()));
    }
}

fn engine_word(engine: EngineName) -> &'static str {
    match engine {
        EngineName::Camoufox => "Camoufox",
        EngineName::Firefox => "Firefox",
    }
}
