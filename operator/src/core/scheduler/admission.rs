//! Who may use a pool, by its owner's word, and what it says to those who may not.

use crate::core::{
    coordinator::Core,
    ids::Key,
    pool::state::Pool,
    scheduler::queue::Demand,
    session::{state::Outcome, status::WaitReason},
};
use camofleet_crds::{conditions::session as reasons, queue::Arrival, v1alpha1::EngineName};
use std::collections::BTreeSet;

/// Why a pool does not take what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum Rejection {
    /// It is being deleted.
    Deleted,
    /// It is not for that namespace.
    Namespace,
    /// It does not know that tenant.
    Tenant,
    /// It does not run that engine.
    Engine(EngineName),
    /// Its limit of priorities.
    Priority { most: i32 },
    /// Its limit of lifetimes.
    Lifetime { most: i32 },
}

impl Rejection {
    /// What a session that named the pool is told: that it waits for somebody to change something, or, where it asks for
    /// more than the pool's limits give, that it is refused.
    pub(in crate::core) fn explain(self, demand: &Demand, pool: &Key) -> Result<WaitReason, Outcome> {
        let (name, namespace, tenant) = (&pool.name, &demand.namespace, &demand.tenant);
        match self {
            Self::Deleted => Ok(WaitReason::new(
                reasons::NO_MATCHING_POOL,
                format!("WorkerPool {name} is being deleted: name another"),
            )),
            Self::Namespace => Ok(WaitReason::new(
                reasons::NOT_ALLOWED,
                format!(
                    "there is no WorkerPool {name} in namespace {} that allows sessions of namespace {namespace}: have its \
                     `allowedNamespaces` name it, or name another pool",
                    pool.namespace
                ),
            )),
            Self::Tenant => Ok(WaitReason::new(
                reasons::NOT_ALLOWED,
                format!(
                    "tenant {tenant} is not among `limits.allowedTenants` of WorkerPool {name}: leave `tenant` out, or have it added"
                ),
            )),
            Self::Engine(engine) => Ok(WaitReason::new(
                reasons::NO_MATCHING_POOL,
                format!("WorkerPool {name} does not run {engine:?}: name another pool, or leave `engine` out"),
            )),
            Self::Priority { most } => Err(Outcome {
                reason: reasons::PRIORITY_TOO_HIGH,
                message: format!(
                    "priority {} is above {most}, `limits.maxPriority` of WorkerPool {name}: ask for less",
                    demand.priority.0
                ),
            }),
            Self::Lifetime { most } => Err(Outcome {
                reason: reasons::LIFETIME_TOO_LONG,
                message: format!(
                    "maxLifetimeSeconds {} is above {most}, the limit of WorkerPool {name}: ask for less",
                    demand.max_lifetime_seconds.unwrap_or_default()
                ),
            }),
        }
    }
}

impl Core {
    /// Why that pool does not take that; none: it will, once there is room.
    pub(in crate::core) fn rejection(&self, pool: &Pool, demand: &Demand) -> Option<Rejection> {
        let limits = &pool.object().spec.limits;
        // First: what becomes of it is nobody's business for whom it is not.
        if !pool.allows_namespace(&demand.namespace, self.cluster.namespaces()) {
            return Some(Rejection::Namespace);
        }
        if pool.is_deleted() {
            return Some(Rejection::Deleted);
        }
        if demand.tenant != demand.namespace && !limits.allowed_tenants.contains(&demand.tenant) {
            return Some(Rejection::Tenant);
        }
        if let Some(engine) = demand.engine.filter(|engine| !pool.may_run(*engine)) {
            return Some(Rejection::Engine(engine));
        }
        if demand.priority.0 > limits.max_priority {
            return Some(Rejection::Priority { most: limits.max_priority });
        }
        let asked = demand.max_lifetime_seconds.unwrap_or_default();
        limits.max_lifetime_seconds.filter(|most| asked > *most).map(|most| Rejection::Lifetime { most })
    }

    /// Whether the session would go there, and the pool would have it.
    pub(in crate::core) fn accepts(&self, key: &Key, pool: &Pool, demand: &Demand) -> bool {
        self.targets(demand, key) && self.rejection(pool, demand).is_none()
    }

    pub(in crate::core) fn targets(&self, demand: &Demand, key: &Key) -> bool {
        demand.targets(key, &self.installation.namespace)
    }

    /// The pools that would take what is asked for, once they have room.
    pub(in crate::core) fn pools_for<'a>(&'a self, demand: &'a Demand) -> impl Iterator<Item = (&'a Key, &'a Pool)> {
        self.pools.iter().filter(|(key, pool)| self.accepts(key, pool, demand))
    }

    /// How many wait who may be served by that pool.
    pub(in crate::core) fn queued_for(&self, key: &Key) -> usize {
        self.pools.get(key).map_or(0, |pool| self.lanes_for(key, pool).map(BTreeSet::len).sum())
    }

    fn lanes_for<'a>(&'a self, key: &'a Key, pool: &'a Pool) -> impl Iterator<Item = &'a BTreeSet<Arrival>> {
        let lanes = self.sessions.queue().lanes();
        let here = lanes.filter(move |(demand, _)| self.accepts(key, pool, demand));
        here.map(|(_, lane)| lane)
    }

    /// Whether as many wait already, or came before it, as the queues of all pools that would take it let: then the session is
    /// refused.
    pub(in crate::core) fn queue_overflow(&self, demand: &Demand, arrival: &Arrival) -> Option<Outcome> {
        let mut full = None;
        for (key, pool) in self.pools_for(demand) {
            let most = usize::try_from(pool.object().spec.limits.max_queued?).unwrap_or_default();
            let counts = |other: &&Arrival| *other < arrival || self.sessions[other.uid()].is_admitted();
            let others = self.lanes_for(key, pool).flatten().filter(|other| *other != arrival);
            if others.filter(counts).take(most).count() < most {
                return None;
            }
            full = Some((key, most));
        }
        full.map(|(key, most)| Outcome {
            reason: reasons::QUEUE_FULL,
            message: format!(
                "{most} sessions wait for WorkerPool {} already, which is its `limits.maxQueued`: try again later",
                key.name
            ),
        })
    }
}
