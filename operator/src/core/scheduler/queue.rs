//! Who waits, in lanes.

use crate::core::ids::{Key, Uid};
use camofleet_crds::{
    queue::Arrival,
    v1alpha1::{BrowserSession, EngineName},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// All of a session that decides which pools and which runners would do, and when it is its turn besides its arrival.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::core) struct Demand {
    pub(in crate::core) priority: Reverse<i32>,
    pub(in crate::core) namespace: String,
    /// On whose account it runs.
    pub(in crate::core) tenant: String,
    /// The pool that it names.
    pub(in crate::core) pool: Option<Key>,
    pub(in crate::core) engine: Option<EngineName>,
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

    /// Whether it would go to that pool, as far as the session is asked. One that names none targets those of its own namespace and of
    /// the installation's: of others nobody asked for their runners, and whoever makes pools for all could draw all sessions to himself.
    pub(in crate::core) fn targets(&self, pool: &Key, installation: &str) -> bool {
        match &self.pool {
            Some(named) => named == pool,
            None => pool.namespace == self.namespace || pool.namespace == installation,
        }
    }
}

/// Sessions without a slot. Those that ask for the same wait in one lane, in the order of their arrival: where its first
/// cannot be placed, none of it can. So a step costs what there are lanes, however many wait.
#[derive(Debug, Default)]
pub(in crate::core) struct Queue {
    lanes: BTreeMap<Demand, BTreeSet<Arrival>>,
}

impl Queue {
    pub(in crate::core) fn insert(&mut self, session: &BrowserSession) {
        self.lanes.entry(Demand::of(session)).or_default().insert(Arrival::of(session));
    }

    pub(in crate::core) fn remove(&mut self, session: &BrowserSession) {
        let demand = Demand::of(session);
        if let Some(lane) = self.lanes.get_mut(&demand) {
            lane.remove(&Arrival::of(session));
            if lane.is_empty() {
                self.lanes.remove(&demand);
            }
        }
    }

    pub(in crate::core) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(in crate::core) fn lanes(&self) -> impl Iterator<Item = (&Demand, &BTreeSet<Arrival>)> {
        self.lanes.iter()
    }

    /// Everyone in the lanes that a rule picks.
    pub(in crate::core) fn waiting(&self, picked: impl Fn(&Demand) -> bool) -> Vec<Uid> {
        let lanes = self.lanes.iter().filter(|(demand, _)| picked(demand));
        lanes.flat_map(|(_, lane)| lane).map(|arrival| arrival.uid().to_owned()).collect()
    }
}
