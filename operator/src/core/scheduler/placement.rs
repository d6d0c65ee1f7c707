//! Assigns free slots to waiting sessions, and explains why the others wait.

use crate::core::{
    coordinator::Coordinator,
    ids::{Key, Uid},
    messages::{Effect, Observation},
    pool::state::Pool,
    retry::RetryState,
    runner::state::FreeSlots,
    scheduler::{
        admission::{Rejection, WaitDecision},
        queue::Demand,
    },
    session::{
        state::{Session, Stage},
        status::WaitReason,
    },
};
use camofleet_crds::{
    conditions::session as reasons,
    queue::{CreationKey, QueueRank},
    v1alpha1::{Display, Engine, WorkerPool},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, btree_set},
    iter::Peekable,
};

/// A pool with free slots, updated while slots are assigned.
struct CandidatePool<'a> {
    pool: &'a WorkerPool,
    runners: Vec<CandidateRunner<'a>>,
    /// Sessions on the pool, including those assigned now.
    running: u32,
    /// Sessions of each tenant before slots were assigned.
    running_before: &'a BTreeMap<String, u32>,
    /// Sessions of each tenant that were assigned now.
    assigned: HashMap<&'a str, u32>,
}

struct CandidateRunner<'a> {
    uid: &'a Uid,
    free: FreeSlots,
    engine: Option<Engine>,
    /// The runner has the pool's current shape.
    current: bool,
    sessions_on_node: usize,
}

impl<'a> CandidatePool<'a> {
    fn running_of(&self, tenant: &str) -> u32 {
        let assigned = self.assigned.get(tenant).copied().unwrap_or_default();
        self.running_before.get(tenant).copied().unwrap_or_default() + assigned
    }

    /// Returns whether a session with this demand can get a slot now.
    fn can_serve(&self, demand: &Demand) -> bool {
        limit_reached(self.pool, self.running, self.running_of(&demand.tenant), &demand.tenant).is_none()
            && self.runners.iter().any(|runner| runner.matches_engine(demand.engine))
    }

    fn rank<'b>(&self, demand: &Demand, creation: &'b CreationKey) -> QueueRank<'b> {
        QueueRank::new(self.pool, demand.priority.0, &demand.tenant, self.running_of(&demand.tenant), creation)
    }

    /// Preference for this pool among those that accept a session: a matching hot browser first, then the number of
    /// free slots.
    fn preference(&self, engine: Option<Engine>, display: Display) -> (bool, u32) {
        let candidates = self.runners.iter().filter(|runner| runner.matches_engine(engine));
        candidates
            .fold((false, 0), |(hot, free), runner| (hot || runner.free.hot.of(display) > 0, free + runner.free.count))
    }

    /// Takes the best slot. Runners rank by a matching hot browser, the current shape, fewest free slots and most
    /// sessions on the node. The last two keep other runners and nodes empty.
    fn take(&mut self, demand: &'a Demand, display: Display) -> Option<&'a Uid> {
        let candidates = self.runners.iter_mut().enumerate().filter(|(_, runner)| runner.matches_engine(demand.engine));
        let (at, best) = candidates.reduce(|best, other| {
            let rank = |runner: &CandidateRunner| {
                (runner.free.hot.of(display) > 0, runner.current, Reverse(runner.free.count), runner.sessions_on_node)
            };
            // Ties go to the first runner.
            if rank(other.1) > rank(best.1) { other } else { best }
        })?;
        let uid = best.uid;
        best.free.take(display);
        if best.free.count == 0 {
            // Keep the order, so that assignments are deterministic.
            self.runners.remove(at);
        }
        self.running += 1;
        *self.assigned.entry(&demand.tenant).or_default() += 1;
        Some(uid)
    }
}

impl CandidateRunner<'_> {
    fn matches_engine(&self, engine: Option<Engine>) -> bool {
        engine.is_none() || engine == self.engine
    }
}

/// Waiting sessions of equal demand, and the pools with free slots that accept them.
struct Lane<'a> {
    demand: &'a Demand,
    waiting: Peekable<btree_set::Iter<'a, CreationKey>>,
    pools: Vec<&'a Key>,
}

impl Coordinator {
    /// Assigns free slots to waiting sessions in order of their ranks. A session that cannot be placed does not block
    /// others.
    pub(in crate::core) fn schedule(&mut self) {
        if !self.may_schedule() || self.sessions.queue().is_empty() {
            return;
        }
        let assignments = self.assignments();
        for (uid, runner) in assignments {
            let (session, pool) = (&self.sessions[&uid], self.runners[&runner].pod().pool.0.clone());
            self.context.send(Effect::Observe(Observation::Assigned {
                session: uid.clone(),
                pool,
                priority: session.object().spec.priority,
                waited: session.since_seen(self.context.now()),
            }));
            let since = self.context.monotonic();
            if let Some(session) = self.sessions.get_mut(&uid) {
                // If the runner rejects the session, it may wait again even if the queue is full.
                session.admit();
            }
            self.set_stage(&uid, Stage::Binding { runner, since, call: RetryState::Idle });
        }
    }

    /// Returns sessions with their runners.
    fn assignments(&self) -> Vec<(Uid, Uid)> {
        let mut candidates = self.candidate_pools();
        let lanes = self.sessions.queue().lanes().map(|(demand, waiting)| {
            let pools = self.pools_for(demand).map(|(key, _)| key).filter(|key| candidates.contains_key(key)).collect();
            Lane { demand, waiting: waiting.iter().peekable(), pools }
        });
        let mut lanes: Vec<_> = lanes.filter(|lane| !lane.pools.is_empty()).collect();
        let mut assignments = Vec::new();
        loop {
            // A pool that cannot serve one session of a lane cannot serve the others of that lane.
            for lane in &mut lanes {
                lane.pools.retain(|key| candidates.get(key).is_some_and(|pool| pool.can_serve(lane.demand)));
            }
            lanes.retain_mut(|lane| !lane.pools.is_empty() && lane.waiting.peek().is_some());
            let ranks = lanes.iter_mut().enumerate().filter_map(|(at, lane)| {
                let creation = *lane.waiting.peek()?;
                let rank = lane.pools.iter().map(|key| candidates[key].rank(lane.demand, creation)).min()?;
                Some((rank, at))
            });
            let Some((_, at)) = ranks.min() else { return assignments };
            let Some(creation) = lanes[at].waiting.peek().copied() else { return assignments };
            // Skip pools where another session has a better rank in the queue, even if this session prefers them.
            let (demand, pools) = (lanes[at].demand, lanes[at].pools.clone());
            let is_first = |key: &Key, others: &mut [Lane]| {
                let rank = candidates[key].rank(demand, creation);
                !others.iter_mut().any(|lane| {
                    let competes = lane.pools.contains(&key);
                    competes && lane.waiting.peek().is_some_and(|other| candidates[key].rank(lane.demand, other) < rank)
                })
            };
            let first: Vec<_> = pools.into_iter().filter(|key| is_first(key, &mut lanes)).collect();
            let lane = &mut lanes[at];
            lane.waiting.next();
            let session = &self.sessions[creation.uid()];
            let preference = |key: &Key| {
                let candidate = &candidates[key];
                candidate.preference(lane.demand.engine, session.object().display_for(candidate.pool))
            };
            // Ties go to the first pool by name.
            let best =
                first.into_iter().reduce(|best, other| if preference(other) > preference(best) { other } else { best });
            let Some(pool) = best.and_then(|key| candidates.get_mut(key)) else { return assignments };
            let display = session.object().display_for(pool.pool);
            if let Some(runner) = pool.take(lane.demand, display) {
                assignments.push((creation.uid().to_owned(), runner.clone()));
            }
        }
    }

    fn candidate_pools(&self) -> BTreeMap<&Key, CandidatePool<'_>> {
        let mut candidates = BTreeMap::<&Key, CandidatePool>::new();
        let on_nodes = self.runners.sessions_on_nodes();
        for runner in self.runners.iter() {
            let uid = &runner.pod().uid;
            let Some((key, pool)) = self.pools.get_key_value(&runner.pod().pool.0) else { continue };
            let is_excluded =
                pool.is_deleted() || self.is_cordoned(runner) || pool.shapes.is_canary(&runner.pod().revision);
            if is_excluded || !runner.pod().belongs_to(pool.object()) {
                continue;
            }
            let display_of =
                |uid: &Uid| self.sessions.get(uid).map(|session| session.object().display_for(pool.object()));
            let slots = u32::try_from(pool.object().spec.slots_per_runner).unwrap_or(1);
            let Some(free) = runner.assignable_slots(slots, display_of) else { continue };
            let runner = CandidateRunner {
                uid,
                free,
                engine: runner.report().and_then(|state| state.engine),
                current: pool.shapes.current_or_update().revision == runner.pod().revision,
                sessions_on_node: runner
                    .pod()
                    .node
                    .as_ref()
                    .and_then(|node| on_nodes.get(node))
                    .copied()
                    .unwrap_or_default(),
            };
            let candidate = candidates.entry(key).or_insert_with(|| CandidatePool {
                pool: pool.object(),
                runners: Vec::new(),
                running: pool.sessions(),
                running_before: pool.running(),
                assigned: HashMap::new(),
            });
            candidate.runners.push(runner);
        }
        candidates
    }

    /// Decides whether a session without a slot waits, and explains why.
    pub(in crate::core) fn wait_decision(&self, session: &Session) -> WaitDecision {
        let demand = Demand::of(session.object());
        let Some(key) = &demand.pool else { return WaitDecision::Wait(self.no_pool_serves(&demand)) };
        let (name, namespace) = (&key.name, &key.namespace);
        let Some(pool) = self.pools.get(key) else {
            // The status must not reveal which pools exist in other namespaces.
            return if *namespace == demand.namespace {
                let message = format!(
                    "there is no WorkerPool {name} in namespace {namespace}; create it, or create the session with \
                     another `poolRef`"
                );
                WaitDecision::Wait(WaitReason::new(reasons::NO_MATCHING_POOL, message))
            } else {
                Rejection::Namespace.into_wait_decision(&demand, key)
            };
        };
        if let Some(rejection) = self.rejection(pool, &demand) {
            return rejection.into_wait_decision(&demand, key);
        }
        WaitDecision::Wait(no_capacity_reason(pool, &demand))
    }

    fn no_pool_serves(&self, demand: &Demand) -> WaitReason {
        let namespace = &demand.namespace;
        let mut candidates = self.pools_for(demand);
        match (candidates.next(), candidates.next()) {
            (Some((_, pool)), None) => no_capacity_reason(pool, demand),
            (Some(_), Some(_)) => WaitReason::new(
                reasons::NO_CAPACITY,
                format!(
                    "all suitable slots of the pools that namespace {namespace} may use are taken or not ready yet"
                ),
            ),
            (None, _) => {
                // Explain the rejection by a pool of the session's own namespace, where its user can change the pool.
                let own = self.pools.iter().filter(|(key, _)| key.namespace == *namespace);
                let mut rejections = own.filter_map(|(key, pool)| Some((self.rejection(pool, demand)?, key)));
                let message =
                    rejections.next().map(|(rejection, key)| match rejection.into_wait_decision(demand, key) {
                        WaitDecision::Wait(wait) => wait.message,
                        WaitDecision::Reject(end) => end.message,
                    });
                WaitReason::new(
                    reasons::NO_MATCHING_POOL,
                    format!(
                        "no WorkerPool that namespace {namespace} may use can serve this session: {}",
                        message.as_deref().unwrap_or("create one")
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
        full(format!("WorkerPool {name} has no runners; raise its `replicas`"))
    } else {
        full(format!("all slots of WorkerPool {name} are taken or not ready yet"))
    }
}

/// Returns the limit of the pool that holds a session back. `running` sessions run on the pool, `of_tenant` of the
/// session's tenant.
fn limit_reached(pool: &WorkerPool, running: u32, of_tenant: u32, tenant: &str) -> Option<WaitReason> {
    let limits = &pool.spec.limits;
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    let reached = |limit: Option<i32>, count: u32| limit.filter(|limit| i64::from(count) >= i64::from(*limit));
    if let Some(max) = reached(limits.max_sessions, running) {
        return Some(WaitReason::new(
            reasons::POOL_LIMIT_REACHED,
            format!(
                "WorkerPool {name} has {max} sessions, which is its `limits.maxSessions`; delete one, or \
                 wait until one ends"
            ),
        ));
    }
    reached(limits.max_sessions_per_tenant, of_tenant).map(|max| {
        WaitReason::new(
            reasons::TENANT_LIMIT_REACHED,
            format!(
                "tenant {tenant} has {max} sessions on WorkerPool {name}, which is its `limits.maxSessionsPerTenant`; \
                 delete one"
            ),
        )
    })
}
