//! Admission: decides whether a pool accepts a session, and explains a rejection.

use crate::core::{
    coordinator::Coordinator,
    ids::Key,
    pool::state::Pool,
    scheduler::queue::Demand,
    session::{state::SessionEnd, status::WaitReason},
};
use camofleet_crds::{conditions::session as reasons, queue::CreationKey, v1alpha1::Engine};
use std::collections::BTreeSet;

/// Whether a session without a slot waits, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) enum WaitDecision {
    /// The session waits for this reason.
    Wait(WaitReason),
    /// The session ends, because waiting would not help.
    Reject(SessionEnd),
}

/// Why a pool does not accept a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum Rejection {
    /// The pool is being deleted.
    Deleted,
    /// `allowedNamespaces` excludes the session's namespace.
    Namespace,
    /// `limits.allowedTenants` does not list the tenant.
    Tenant,
    /// The pool does not run the engine.
    Engine(Engine),
    /// The priority is above `limits.maxPriority`.
    Priority { max: i32 },
    /// The lifetime is above `limits.maxLifetimeSeconds`.
    Lifetime { max: i32 },
}

impl Rejection {
    /// Explains the rejection for the status of a session that names the pool. The session waits until the pool is
    /// changed, or is rejected because it exceeds a limit of the pool.
    pub(in crate::core) fn into_wait_decision(self, demand: &Demand, pool: &Key) -> WaitDecision {
        let (name, namespace, tenant) = (&pool.name, &demand.namespace, &demand.tenant);
        match self {
            Self::Deleted => WaitDecision::Wait(WaitReason::new(
                reasons::NO_MATCHING_POOL,
                format!("WorkerPool {name} is being deleted; create the session with another `poolRef`"),
            )),
            Self::Namespace => WaitDecision::Wait(WaitReason::new(
                reasons::NOT_ALLOWED,
                format!(
                    "there is no WorkerPool {name} in namespace {} that allows sessions of namespace {namespace}; add \
                     the namespace to its `allowedNamespaces`, or create the session with another `poolRef`",
                    pool.namespace
                ),
            )),
            Self::Tenant => WaitDecision::Wait(WaitReason::new(
                reasons::NOT_ALLOWED,
                format!(
                    "`limits.allowedTenants` of WorkerPool {name} does not list tenant {tenant}; add it, or create \
                     the session without `tenant`"
                ),
            )),
            Self::Engine(engine) => WaitDecision::Wait(WaitReason::new(
                reasons::NO_MATCHING_POOL,
                format!(
                    "WorkerPool {name} does not run {engine:?}; create the session with another `poolRef` or \
                     without `engine`"
                ),
            )),
            Self::Priority { max } => WaitDecision::Reject(SessionEnd {
                reason: reasons::PRIORITY_TOO_HIGH,
                message: format!(
                    "priority {} is above {max}, `limits.maxPriority` of WorkerPool {name}; create the session with a \
                     lower priority",
                    demand.priority.0
                ),
            }),
            Self::Lifetime { max } => WaitDecision::Reject(SessionEnd {
                reason: reasons::LIFETIME_TOO_LONG,
                message: format!(
                    "maxLifetimeSeconds {} is above {max}, `limits.maxLifetimeSeconds` of WorkerPool {name}; create \
                     the session with a shorter lifetime",
                    demand.max_lifetime_seconds.unwrap_or_default()
                ),
            }),
        }
    }
}

impl Coordinator {
    /// Why the pool does not accept the demand. `None` if it does, regardless of free slots.
    pub(in crate::core) fn rejection(&self, pool: &Pool, demand: &Demand) -> Option<Rejection> {
        let limits = &pool.object().spec.limits;
        // Checked first, because sessions of other namespaces must not learn about the pool's state.
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
            return Some(Rejection::Priority { max: limits.max_priority });
        }
        let lifetime = demand.max_lifetime_seconds.unwrap_or_default();
        limits.max_lifetime_seconds.filter(|max| lifetime > *max).map(|max| Rejection::Lifetime { max })
    }

    /// Returns whether the demand may use the pool and the pool accepts it, regardless of free slots.
    pub(in crate::core) fn accepts(&self, key: &Key, pool: &Pool, demand: &Demand) -> bool {
        self.targets(demand, key) && self.rejection(pool, demand).is_none()
    }

    pub(in crate::core) fn targets(&self, demand: &Demand, key: &Key) -> bool {
        demand.targets(key, &self.installation.namespace)
    }

    /// The pools that accept the demand, regardless of free slots.
    pub(in crate::core) fn pools_for<'a>(&'a self, demand: &'a Demand) -> impl Iterator<Item = (&'a Key, &'a Pool)> {
        self.pools.iter().filter(|(key, pool)| self.accepts(key, pool, demand))
    }

    /// Number of waiting sessions that the pool accepts.
    pub(in crate::core) fn queued_for(&self, key: &Key) -> usize {
        self.pools.get(key).map_or(0, |pool| self.lanes_for(key, pool).map(BTreeSet::len).sum())
    }

    fn lanes_for<'a>(&'a self, key: &'a Key, pool: &'a Pool) -> impl Iterator<Item = &'a BTreeSet<CreationKey>> {
        let lanes = self.sessions.queue().lanes();
        let accepted = lanes.filter(move |(demand, _)| self.accepts(key, pool, demand));
        accepted.map(|(_, lane)| lane)
    }

    /// Rejects a session if the queue of every pool that accepts it is full. Sessions that were admitted or arrived
    /// earlier count.
    pub(in crate::core) fn queue_overflow(&self, demand: &Demand, creation: &CreationKey) -> Option<SessionEnd> {
        let mut full = None;
        for (key, pool) in self.pools_for(demand) {
            let max = usize::try_from(pool.object().spec.limits.max_queued?).unwrap_or_default();
            let counts = |other: &&CreationKey| *other < creation || self.sessions[other.uid()].is_admitted();
            let others = self.lanes_for(key, pool).flatten().filter(|other| *other != creation);
            if others.filter(counts).take(max).count() < max {
                return None;
            }
            full = Some((key, max));
        }
        full.map(|(key, max)| SessionEnd {
            reason: reasons::QUEUE_FULL,
            message: format!(
                "{max} sessions already wait for WorkerPool {}, which is its `limits.maxQueued`; create the session \
                 again later",
                key.name
            ),
        })
    }
}
