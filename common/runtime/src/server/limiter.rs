//! Limits the connections of a listener, and selects which one to shed for a new one.

use super::limits::Limits;
use crate::client_address::limit_key;
use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Minimum interval between log lines about connections that were closed because of the limits.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Current numbers of connections, and totals since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open connections, including upgraded ones.
    pub connections: usize,
    /// Unauthenticated connections, and unauthenticated requests in progress behind trusted proxies.
    pub unauthenticated: usize,
    /// Total of connections and requests that were shed for new ones.
    pub shed: u64,
    /// Total of new connections that were closed at once because none could be shed.
    pub refused: u64,
}

/// Counts the connections of one listener.
#[derive(Debug)]
pub(super) struct Limiter {
    pub(super) limits: Limits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    counts: Counts,
    next: u64,
    /// Unauthenticated connections.
    connections: SheddableSet,
    /// Unauthenticated requests in progress on connections of trusted proxies.
    requests: SheddableSet,
    /// Connections of trusted proxies without an authenticated request in progress.
    proxies: SheddableSet,
    /// Time of the last report, and the total of closed connections in it.
    reported: Option<(Instant, u64)>,
}

/// Connections or requests that can be shed. Their ids increase with time.
#[derive(Debug, Default)]
struct SheddableSet {
    entries: HashMap<u64, Entry>,
    /// Ids by address. None has those that are not limited per address.
    by_address: HashMap<Option<IpAddr>, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Entry {
    address: Option<IpAddr>,
    shed: CancellationToken,
}

/// A kind of entry that can be shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SheddableKind {
    /// An unauthenticated connection.
    Connection,
    /// An unauthenticated request on a connection of a trusted proxy.
    Request,
    /// A connection of a trusted proxy without an authenticated request in progress.
    Proxy,
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Limiter>);

/// Makes a connection or request sheddable until it is dropped.
#[derive(Debug)]
pub(super) struct SheddableGuard {
    limiter: Arc<Limiter>,
    kind: SheddableKind,
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

    /// Grants a permit for a new connection, for which it may shed another one. None if the limit is reached and no
    /// connection can be shed.
    pub(super) fn open(self: &Arc<Self>) -> Option<Permit> {
        let mut table = self.table();
        if table.counts.connections >= self.limits.connections && !table.shed_connection() {
            table.counts.refused += 1;
            return None;
        }
        table.counts.connections += 1;
        Some(Permit(Arc::clone(self)))
    }

    /// Makes a connection or request sheddable: `shed` is cancelled when it is shed. Sheds an older one if a limit is
    /// exceeded. `address` is None if no limit per address applies.
    pub(super) fn add_sheddable(
        self: &Arc<Self>,
        kind: SheddableKind,
        address: Option<IpAddr>,
        shed: CancellationToken,
    ) -> SheddableGuard {
        let address = address.map(limit_key);
        let mut table = self.table();
        let sheddable = table.sheddable(kind);
        let held = sheddable.by_address.get(&address).map_or(0, BTreeSet::len);
        let is_shed = if kind == SheddableKind::Proxy {
            false
        } else if address.is_some() && held >= self.limits.unauthenticated_per_address {
            sheddable.shed_oldest_of(address)
        } else {
            sheddable.entries.len() >= self.limits.unauthenticated && sheddable.shed_from_busiest()
        };
        table.counts.shed += u64::from(is_shed);
        let id = table.next;
        table.next += 1;
        let sheddable = table.sheddable(kind);
        sheddable.entries.insert(id, Entry { address, shed });
        sheddable.by_address.entry(address).or_default().insert(id);
        SheddableGuard { limiter: Arc::clone(self), kind, id }
    }

    /// Sheds a connection, if one can be shed.
    pub(super) fn shed(&self) {
        self.table().shed_connection();
    }

    /// Returns the counts if connections were closed since the last report and the interval has passed.
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
        Counts { unauthenticated: self.connections.entries.len() + self.requests.entries.len(), ..self.counts }
    }

    fn sheddable(&mut self, kind: SheddableKind) -> &mut SheddableSet {
        match kind {
            SheddableKind::Connection => &mut self.connections,
            SheddableKind::Request => &mut self.requests,
            SheddableKind::Proxy => &mut self.proxies,
        }
    }

    /// Sheds an unauthenticated connection, or else a proxy's connection. False if there is none.
    fn shed_connection(&mut self) -> bool {
        let is_shed = self.connections.shed_from_busiest() || self.proxies.shed_from_busiest();
        self.counts.shed += u64::from(is_shed);
        is_shed
    }
}

impl SheddableSet {
    /// Sheds the oldest entry of the address with most entries, or on a tie the oldest of all those. A client that
    /// opens many connections therefore loses its own before those of others. False if there is no entry.
    fn shed_from_busiest(&mut self) -> bool {
        let order = |(_, ids): &(&Option<IpAddr>, &BTreeSet<u64>)| (ids.len(), Reverse(ids.first().copied()));
        match self.by_address.iter().max_by_key(order).map(|(address, _)| *address) {
            Some(address) => self.shed_oldest_of(address),
            None => false,
        }
    }

    /// Sheds the oldest entry of an address. False if there is none.
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

impl Drop for SheddableGuard {
    fn drop(&mut self) {
        self.limiter.table().sheddable(self.kind).remove(self.id);
    }
}
