//! Counts connections, and decides which one is given up for a newcomer.

use super::Limits;
use crate::client_address::limit_key;
use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Connections that were closed because of the limits are logged this often at most.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// What is held now, and what was closed since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open connections, upgraded ones included.
    pub connections: usize,
    /// Connections, and requests behind trusted proxies, without an accepted credential.
    pub anonymous: usize,
    /// Limiter that were given up for others.
    pub shed: u64,
    /// Connections that were closed at once, because no other one could be given up.
    pub refused: u64,
}

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Limiter {
    pub(super) limits: Limits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    counts: Counts,
    next: u64,
    /// Connections without an accepted credential.
    connections: SheddableSet,
    /// Requests without an accepted credential on the connections of trusted proxies.
    requests: SheddableSet,
    /// Connections of trusted proxies on which no request with an accepted credential is being answered.
    proxies: SheddableSet,
    /// When counts were last reported, and which.
    reported: Option<(Instant, u64)>,
}

/// Connections or requests that can be given up, by increasing numbers.
#[derive(Debug, Default)]
struct SheddableSet {
    entries: HashMap<u64, Entry>,
    /// The same by what is limited as one client; None: of those that are not limited by address.
    by_address: HashMap<Option<IpAddr>, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Entry {
    /// What it is limited as, if by its address.
    address: Option<IpAddr>,
    shed: CancellationToken,
}

/// The subject of a [`Registration`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A connection without an accepted credential.
    Connection,
    /// A request without an accepted credential on a trusted proxy's connection.
    Request,
    /// A trusted proxy's connection on which no request with an accepted credential is being answered.
    Proxy,
}

/// A connection that counts, until this is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Limiter>);

/// A connection or request that can be given up for a newcomer, until this is dropped.
#[derive(Debug)]
pub(super) struct Registration {
    limiter: Arc<Limiter>,
    kind: Kind,
    id: u64,
}

impl Limiter {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, table: Mutex::default() }
    }

    pub(super) fn counts(&self) -> Counts {
        let table = self.table();
        table.counts()
    }

    /// Counts a connection. None when all of them have an accepted credential.
    pub(super) fn open(self: &Arc<Self>) -> Option<Permit> {
        let mut table = self.table();
        if table.counts.connections >= self.limits.connections && !table.shed_connection() {
            table.counts.refused += 1;
            return None;
        }
        table.counts.connections += 1;
        Some(Permit(Arc::clone(self)))
    }

    /// Registers what can be given up, by cancelling `shed`, and gives up an older one when there are too many. `address`: of the
    /// client, when it is limited.
    pub(super) fn register(
        self: &Arc<Self>,
        kind: Kind,
        address: Option<IpAddr>,
        shed: CancellationToken,
    ) -> Registration {
        let address = address.map(limit_key);
        let mut table = self.table();
        let sheddable = table.sheddable(kind);
        let held = sheddable.by_address.get(&address).map_or(0, BTreeSet::len);
        let is_shed = if kind == Kind::Proxy {
            false
        } else if address.is_some() && held >= self.limits.anonymous_per_address {
            sheddable.shed_oldest_of(address)
        } else {
            sheddable.entries.len() >= self.limits.anonymous && sheddable.shed_from_busiest()
        };
        table.counts.shed += u64::from(is_shed);
        let id = table.next;
        table.next += 1;
        let sheddable = table.sheddable(kind);
        sheddable.entries.insert(id, Entry { address, shed });
        sheddable.by_address.entry(address).or_default().insert(id);
        Registration { limiter: Arc::clone(self), kind, id }
    }

    /// Gives up a connection.
    pub(super) fn shed(&self) {
        self.table().shed_connection();
    }

    /// What was closed, when it is time to report that.
    pub(super) fn take_report(&self) -> Option<Counts> {
        let mut table = self.table();
        let closed = table.counts.shed + table.counts.refused;
        let is_due = match table.reported {
            None => closed > 0,
            Some((at, reported)) => closed > reported && at.elapsed() >= REPORT_INTERVAL,
        };
        is_due.then(|| {
            table.reported = Some((Instant::now(), closed));
            table.counts()
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn counts(&self) -> Counts {
        Counts { anonymous: self.connections.entries.len() + self.requests.entries.len(), ..self.counts }
    }

    fn sheddable(&mut self, kind: Kind) -> &mut SheddableSet {
        match kind {
            Kind::Connection => &mut self.connections,
            Kind::Request => &mut self.requests,
            Kind::Proxy => &mut self.proxies,
        }
    }

    /// Gives up a connection: one without an accepted credential, or else a proxy's that answers none. False when there is none.
    fn shed_connection(&mut self) -> bool {
        let is_shed = self.connections.shed_from_busiest() || self.proxies.shed_from_busiest();
        self.counts.shed += u64::from(is_shed);
        is_shed
    }
}

impl SheddableSet {
    /// Gives up the oldest entry of the address that has most of them, of several such the one that has the oldest. So a client that
    /// opens many connections displaces its own before those of others. False when there is none.
    fn shed_from_busiest(&mut self) -> bool {
        let order = |(_, ids): &(&Option<IpAddr>, &BTreeSet<u64>)| (ids.len(), Reverse(ids.first().copied()));
        match self.by_address.iter().max_by_key(order).map(|(address, _)| *address) {
            Some(address) => self.shed_oldest_of(address),
            None => false,
        }
    }

    /// Gives up the oldest entry of an address. False when there is none.
    fn shed_oldest_of(&mut self, address: Option<IpAddr>) -> bool {
        let oldest = self.by_address.get(&address).and_then(|ids| ids.first()).copied();
        let Some(shed) = oldest.and_then(|id| self.remove(id)) else { return false };
        shed.cancel();
        true
    }

    fn remove(&mut self, id: u64) -> Option<CancellationToken> {
        let Entry { address, shed } = self.entries.remove(&id)?;
        if let Some(ids) = self.by_address.get_mut(&address) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some(shed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.table().counts.connections -= 1;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.limiter.table().sheddable(self.kind).remove(self.id);
    }
}
