//! Who waits, in lanes.

use super::io::{Key, Uid};
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
pub(super) struct Demand {
    pub(super) priority: Reverse<i32>,
    pub(super) namespace: String,
    /// On whose account it runs.
    pub(super) tenant: String,
    /// The pool that it names.
    pub(super) pool: Option<Key>,
    pub(super) engine: Option<EngineName>,
    pub(super) max_lifetime_seconds: Option<i32>,
}

impl Demand {
    pub(super) fn of(session: &BrowserSession) -> Self {
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

    /// Whether it would go to that pool, as far as the session is asked. One that names none means those of its own namespace and of
    /// the installation's: of others nobody asked for their runners, and whoever makes pools for all could draw all sessions to himself.
    pub(super) fn means(&self, pool: &Key, installation: &str) -> bool {
        match &self.pool {
            Some(named) => named == pool,
            None => pool.namespace == self.namespace || pool.namespace == installation,
        }
    }
}

/// Sessions without a slot. Those that ask for the same wait in one lane, in the order of their arrival: where its first
/// cannot be placed, none of it can. So a step costs what there are lanes, however many wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lanes: BTreeMap<Demand, BTreeSet<Arrival>>,
}

impl Queue {
    pub(super) fn insert(&mut self, session: &BrowserSession) {
        self.lanes.entry(Demand::of(session)).or_default().insert(Arrival::of(session));
    }

    pub(super) fn remove(&mut self, session: &BrowserSession) {
        let demand = Demand::of(session);
        if let Some(lane) = self.lanes.get_mut(&demand) {
            lane.remove(&Arrival::of(session));
            if lane.is_empty() {
                self.lanes.remove(&demand);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.lanes.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = (&Demand, &BTreeSet<Arrival>)> {
        self.lanes.iter()
    }

    /// Everyone in the lanes that a rule picks.
    pub(super) fn waiting(&self, picked: impl Fn(&Demand) -> bool) -> Vec<Uid> {
        let lanes = self.lanes.iter().filter(|(demand, _)| picked(demand));
        lanes.flat_map(|(_, lane)| lane).map(|arrival| arrival.uid().to_owned()).collect()
    }
}
