//! Who gets which slot.

use crate::core::{
    coordinator::Core,
    ids::{Key, Uid},
    messages::{Effect, Observation},
    pool::state::Pool,
    retry::RetryState,
    runner::state::Room,
    scheduler::{admission::Rejection, queue::Demand},
    session::{
        state::{Outcome, Session, Stage},
        status::WaitReason,
    },
};
use camofleet_crds::{
    conditions::session as reasons,
    queue::{Arrival, QueueRank},
    v1alpha1::{Display, EngineName, WorkerPool},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, btree_set},
    iter::Peekable,
};

/// A pool that has room, as it is while slots are given out.
struct Open<'a> {
    pool: &'a WorkerPool,
    runners: Vec<OpenRunner<'a>>,
    /// Sessions that it has.
    running: u32,
    /// Those of each tenant before slots were given out.
    had: &'a BTreeMap<String, u32>,
    /// What was added for each tenant.
    given: HashMap<&'a str, u32>,
}

struct OpenRunner<'a> {
    uid: &'a Uid,
    room: Room,
    engine: Option<EngineName>,
    /// It has the pool's current shape.
    current: bool,
    /// Sessions on its node.
    neighbours: usize,
}

impl<'a> Open<'a> {
    fn running_of(&self, tenant: &str) -> u32 {
        let given = self.given.get(tenant).copied().unwrap_or_default();
        self.had.get(tenant).copied().unwrap_or_default() + given
    }

    /// Whether a session like that could have a slot here now.
    fn has_room_for(&self, demand: &Demand) -> bool {
        limit_reached(self.pool, self.running, self.running_of(&demand.tenant), &demand.tenant).is_none()
            && self.runners.iter().any(|runner| runner.serves(demand.engine))
    }

    fn turn<'b>(&self, demand: &Demand, arrival: &'b Arrival) -> QueueRank<'b> {
        QueueRank::new(self.pool, demand.priority.0, &demand.tenant, self.running_of(&demand.tenant), arrival)
    }

    /// How well it suits: hot browsers of the right kind, then room.
    fn suits(&self, engine: Option<EngineName>, display: Display) -> (bool, u32) {
        let able = self.runners.iter().filter(|runner| runner.serves(engine));
        able.fold((false, 0), |(hot, free), runner| (hot || runner.room.hot.of(display) > 0, free + runner.room.free))
    }

    /// Takes the best slot: on a runner that has a hot browser, of the current shape, and, to leave others empty, with as
    /// little room as will do, on the node with most sessions.
    fn take(&mut self, demand: &'a Demand, display: Display) -> Option<&'a Uid> {
        let able = self.runners.iter_mut().enumerate().filter(|(_, runner)| runner.serves(demand.engine));
        let (at, best) = able.reduce(|best, other| {
            let rank = |runner: &OpenRunner| {
                (runner.room.hot.of(display) > 0, runner.current, Reverse(runner.room.free), runner.neighbours)
            };
            // Of equals the first.
            if rank(other.1) > rank(best.1) { other } else { best }
        })?;
        let uid = best.uid;
        best.room.take(display);
        if best.room.free == 0 {
            // The order of the others stays, so that two runs choose alike.
            self.runners.remove(at);
        }
        self.running += 1;
        *self.given.entry(&demand.tenant).or_default() += 1;
        Some(uid)
    }
}

impl OpenRunner<'_> {
    fn serves(&self, engine: Option<EngineName>) -> bool {
        engine.is_none() || engine == self.engine
    }
}

/// Those who ask for the same, and the pools that would take them.
struct Lane<'a> {
    demand: &'a Demand,
    waiting: Peekable<btree_set::Iter<'a, Arrival>>,
    pools: Vec<&'a Key>,
}

impl Core {
    /// Gives free slots to those who wait, each to whose turn it is. One that cannot be placed does not block the others.
    pub(in crate::core) fn schedule(&mut self) {
        if !self.may_schedule() || self.sessions.queue().is_empty() {
            return;
        }
        let chosen = self.assignments();
        for (uid, runner) in chosen {
            let (session, pool) = (&self.sessions[&uid], self.runners[&runner].pod().pool.0.clone());
            self.outbox.send(Effect::Observe(Observation::Assigned {
                session: uid.clone(),
                pool,
                priority: session.object().spec.priority,
                waited: session.since_seen(self.outbox.now()),
            }));
            let since = self.outbox.mono();
            if let Some(session) = self.sessions.get_mut(&uid) {
                // Whoever had a slot once may wait for another.
                session.admit();
            }
            self.set_stage(&uid, Stage::Binding { runner, since, call: RetryState::Idle });
        }
    }

    /// Sessions and the runners that they are to have.
    fn assignments(&self) -> Vec<(Uid, Uid)> {
        let mut open = self.open_pools();
        let lanes = self.sessions.queue().lanes().map(|(demand, waiting)| {
            let pools = self.pools_for(demand).map(|(key, _)| key).filter(|key| open.contains_key(key)).collect();
            Lane { demand, waiting: waiting.iter().peekable(), pools }
        });
        let mut lanes: Vec<_> = lanes.filter(|lane| !lane.pools.is_empty()).collect();
        let mut chosen = Vec::new();
        loop {
            // What has no room for one of a lane now has none for its others.
            for lane in &mut lanes {
                lane.pools.retain(|key| open.get(key).is_some_and(|open| open.has_room_for(lane.demand)));
            }
            lanes.retain_mut(|lane| !lane.pools.is_empty() && lane.waiting.peek().is_some());
            let turns = lanes.iter_mut().enumerate().filter_map(|(at, lane)| {
                let arrival = *lane.waiting.peek()?;
                let turn = lane.pools.iter().map(|key| open[key].turn(lane.demand, arrival)).min()?;
                Some((turn, at))
            });
            let Some((_, at)) = turns.min() else { return chosen };
            let Some(arrival) = lanes[at].waiting.peek().copied() else { return chosen };
            // Where others are before it, it does not take their slot, however well that suits.
            let (demand, pools) = (lanes[at].demand, lanes[at].pools.clone());
            let is_first = |key: &Key, others: &mut [Lane]| {
                let turn = open[key].turn(demand, arrival);
                !others.iter_mut().any(|lane| {
                    let here = lane.pools.contains(&key);
                    here && lane.waiting.peek().is_some_and(|other| open[key].turn(lane.demand, other) < turn)
                })
            };
            let first: Vec<_> = pools.into_iter().filter(|key| is_first(key, &mut lanes)).collect();
            let lane = &mut lanes[at];
            lane.waiting.next();
            let session = &self.sessions[arrival.uid()];
            let suits = |key: &Key| open[key].suits(lane.demand.engine, session.object().display_in(open[key].pool));
            // Of equals the first by name.
            let best = first.into_iter().reduce(|best, other| if suits(other) > suits(best) { other } else { best });
            let Some(pool) = best.and_then(|key| open.get_mut(key)) else { return chosen };
            let display = session.object().display_in(pool.pool);
            if let Some(runner) = pool.take(lane.demand, display) {
                chosen.push((arrival.uid().to_owned(), runner.clone()));
            }
        }
    }

    fn open_pools(&self) -> BTreeMap<&Key, Open<'_>> {
        let mut open = BTreeMap::<&Key, Open>::new();
        let on_nodes = self.runners.sessions_on_nodes();
        for runner in self.runners.iter() {
            let uid = &runner.pod().uid;
            let Some((key, pool)) = self.pools.get_key_value(&runner.pod().pool.0) else { continue };
            let closed = pool.is_deleted() || self.is_cordoned(runner) || pool.shapes.is_canary(&runner.pod().revision);
            if closed || !runner.pod().belongs_to(pool.object()) {
                continue;
            }
            let display_of =
                |uid: &Uid| self.sessions.get(uid).map(|session| session.object().display_in(pool.object()));
            let slots = u32::try_from(pool.object().spec.slots_per_runner).unwrap_or(1);
            let Some(room) = runner.room(slots, display_of) else { continue };
            let runner = OpenRunner {
                uid,
                room,
                engine: runner.report().and_then(|state| state.engine),
                current: pool.shapes.current().revision == runner.pod().revision,
                neighbours: runner.pod().node.as_ref().and_then(|node| on_nodes.get(node)).copied().unwrap_or_default(),
            };
            let open = open.entry(key).or_insert_with(|| Open {
                pool: pool.object(),
                runners: Vec::new(),
                running: pool.sessions(),
                had: pool.running(),
                given: HashMap::new(),
            });
            open.runners.push(runner);
        }
        open
    }

    /// What is due for a session without a slot: to be refused, to be told why it waits, or nothing yet.
    pub(in crate::core) fn wait_reason(&self, session: &Session) -> Result<WaitReason, Outcome> {
        let demand = Demand::of(session.object());
        let Some(key) = &demand.pool else { return Ok(self.no_pool_serves(&demand)) };
        let (name, at) = (&key.name, &key.namespace);
        let Some(pool) = self.pools.get(key) else {
            // Of other namespaces is not told which pools there are.
            return if *at == demand.namespace {
                let words = format!("there is no WorkerPool {name} in namespace {at}: create it, or name another");
                Ok(WaitReason::new(reasons::NO_MATCHING_POOL, words))
            } else {
                Rejection::Namespace.words_to(&demand, key)
            };
        };
        if let Some(objection) = self.rejection(pool, &demand) {
            return objection.words_to(&demand, key);
        }
        Ok(no_capacity_reason(pool, &demand))
    }

    fn no_pool_serves(&self, demand: &Demand) -> WaitReason {
        let namespace = &demand.namespace;
        let mut able = self.pools_for(demand);
        match (able.next(), able.next()) {
            (Some((_, pool)), None) => no_capacity_reason(pool, demand),
            (Some(_), Some(_)) => WaitReason::new(
                reasons::NO_CAPACITY,
                format!(
                    "every slot that would do, of the pools that namespace {namespace} may use, is taken or not ready yet"
                ),
            ),
            (None, _) => {
                // What the pools of its own namespace have against it can be helped here.
                let own = self.pools.iter().filter(|(key, _)| key.namespace == *namespace);
                let mut objections = own.filter_map(|(key, pool)| Some((self.rejection(pool, demand)?, key)));
                let words = objections.next().map(|(objection, key)| match objection.words_to(demand, key) {
                    Ok(wait) => wait.message,
                    Err(over) => over.message,
                });
                WaitReason::new(
                    reasons::NO_MATCHING_POOL,
                    format!(
                        "no WorkerPool that namespace {namespace} may use can serve this session: {}",
                        words.as_deref().unwrap_or("create one")
                    ),
                )
            }
        }
    }
}

fn no_capacity_reason(pool: &Pool, demand: &Demand) -> WaitReason {
    let name = pool.object().metadata.name.as_deref().unwrap_or_default();
    let tenant = &demand.tenant;
    let (running, of_tenant) = (pool.sessions(), pool.sessions_of(tenant));
    if let Some(wait) = limit_reached(pool.object(), running, of_tenant, tenant) {
        return wait;
    }
    let full = |message| WaitReason::new(reasons::NO_CAPACITY, message);
    if pool.object().spec.autoscaling.is_none() && pool.desired() == 0 {
        full(format!("WorkerPool {name} has no runners: raise its `replicas`"))
    } else {
        full(format!("every slot of WorkerPool {name} is taken or not ready yet"))
    }
}

/// The limit of the pool that keeps a session waiting when so many run, and so many of its tenant.
fn limit_reached(pool: &WorkerPool, running: u32, of_tenant: u32, tenant: &str) -> Option<WaitReason> {
    let limits = &pool.spec.limits;
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    let reached = |limit: Option<i32>, count: u32| limit.filter(|limit| i64::from(count) >= i64::from(*limit));
    if let Some(most) = reached(limits.max_sessions, running) {
        return Some(WaitReason::new(
            reasons::POOL_LIMIT_REACHED,
            format!("WorkerPool {name} has its {most} sessions (`limits.maxSessions`)"),
        ));
    }
    reached(limits.max_sessions_per_tenant, of_tenant).map(|most| {
        WaitReason::new(
            reasons::TENANT_LIMIT_REACHED,
            format!(
                "tenant {tenant} has its {most} sessions on WorkerPool {name} (`limits.maxSessionsPerTenant`): end one"
            ),
        )
    })
}
