//! The queue of waiting sessions, grouped into lanes of equal demand.

use crate::core::ids::{Key, Uid};
use camofleet_crds::{
    queue::CreationKey,
    v1alpha1::{BrowserSession, Engine},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// The properties of a session that decide which pools and runners can serve it, and its rank in the queue apart from
/// its creation order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::core) struct Demand {
    pub(in crate::core) priority: Reverse<i32>,
    pub(in crate::core) namespace: String,
    pub(in crate::core) tenant: String,
    /// The pool that the session names.
    pub(in crate::core) pool: Option<Key>,
    pub(in crate::core) engine: Option<Engine>,
    pub(in crate::core) max_lifetime_seconds: Option<i32>,
}

impl Demand {
    pub(in crate::core) fn of(session: &BrowserSession) -> Self {
        let namespace = session.metadata.namespace.clone().unwrap_or_default();
        let spec = &session.spec;
        Self {
            priority: Reverse(spec.priority),
            pool: spec.pool_ref.as_ref().map(|pool| Key {
                namespace: pool.namespace.clone().unwrap_or_else(|| namespace.clone()),
                name: pool.name.clone(),
            }),
            tenant: session.tenant().to_owned(),
            engine: spec.engine,
            max_lifetime_seconds: spec.max_lifetime_seconds,
            namespace,
        }
    }

    /// Returns whether the session may use the pool, as far as the session is concerned. A session that names no pool
    /// may use pools in its own and in the operator's namespace. Pools in other namespaces are excluded, because their
    /// owners could otherwise attract all sessions.
    pub(in crate::core) fn targets(&self, pool: &Key, installation: &str) -> bool {
        match &self.pool {
            Some(named) => named == pool,
            None => pool.namespace == self.namespace || pool.namespace == installation,
        }
    }
}

/// Sessions without a slot. Sessions of equal demand wait in one lane, in order of creation. If the first session of a
/// lane cannot be placed, no session of the lane can, so scheduling costs depend on the number of lanes and not of
/// sessions.
#[derive(Debug, Default)]
pub(in crate::core) struct Queue {
    lanes: BTreeMap<Demand, BTreeSet<CreationKey>>,
}

impl Queue {
    pub(in crate::core) fn insert(&mut self, session: &BrowserSession) {
        self.lanes.entry(Demand::of(session)).or_default().insert(CreationKey::of(session));
    }

    pub(in crate::core) fn remove(&mut self, session: &BrowserSession) {
        let demand = Demand::of(session);
        if let Some(lane) = self.lanes.get_mut(&demand) {
            lane.remove(&CreationKey::of(session));
            if lane.is_empty() {
                self.lanes.remove(&demand);
            }
        }
    }

    pub(in crate::core) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(in crate::core) fn lanes(&self) -> impl Iterator<Item = (&Demand, &BTreeSet<CreationKey>)> {
        self.lanes.iter()
    }

    /// UIDs of the sessions in the lanes for whose demand `matches` returns true.
    pub(in crate::core) fn waiting(&self, matches: impl Fn(&Demand) -> bool) -> Vec<Uid> {
        let lanes = self.lanes.iter().filter(|(demand, _)| matches(demand));
        lanes.flat_map(|(_, lane)| lane).map(|creation| creation.uid().to_owned()).collect()
    }
}
