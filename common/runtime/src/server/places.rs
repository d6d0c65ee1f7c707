//! Counts connections, and decides which one is given up for a newcomer.

use super::Limits;
use crate::client_address::limited_as;
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
    /// Places without an accepted credential.
    pub anonymous: usize,
    /// Places that were given up for others.
    pub shed: u64,
    /// Connections that were closed at once, because there was no place to give up.
    pub refused: u64,
}

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) limits: Limits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    counts: Counts,
    next: u64,
    /// Places without an accepted credential, by numbers that grow.
    anonymous: HashMap<u64, Anonymous>,
    /// The same by what is limited as one client; None: of those that are not limited by address.
    by_address: HashMap<Option<IpAddr>, BTreeSet<u64>>,
    /// When counts were last reported, and which.
    reported: Option<(Instant, u64)>,
}

#[derive(Debug)]
struct Anonymous {
    /// What it is limited as, if by its address.
    address: Option<IpAddr>,
    shed: CancellationToken,
}

/// A connection that counts, until this is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Places>);

/// A place without an accepted credential, until this is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    places: Arc<Places>,
    id: u64,
    shed: CancellationToken,
}

impl Places {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, table: Mutex::default() }
    }

    pub(super) fn counts(&self) -> Counts {
        let table = self.table();
        Counts { anonymous: table.anonymous.len(), ..table.counts }
    }

    /// Counts a connection. None when all places are held by connections with an accepted credential.
    pub(super) fn open(self: &Arc<Self>) -> Option<Place> {
        let mut table = self.table();
        if table.counts.connections >= self.limits.connections && !table.shed_of_busiest() {
            table.counts.refused += 1;
            return None;
        }
        table.counts.connections += 1;
        Some(Place(Arc::clone(self)))
    }

    /// Counts a place without an accepted credential, and gives up an older one when there are too many. `address`: of the client,
    /// when it is limited.
    pub(super) fn enrol(self: &Arc<Self>, address: Option<IpAddr>) -> Ticket {
        let address = address.map(limited_as);
        let mut table = self.table();
        let held = table.by_address.get(&address).map_or(0, BTreeSet::len);
        if address.is_some() && held >= self.limits.anonymous_per_address {
            table.shed_of(address);
        } else if table.anonymous.len() >= self.limits.anonymous {
            table.shed_of_busiest();
        }
        let (id, shed) = (table.next, CancellationToken::new());
        table.next += 1;
        table.anonymous.insert(id, Anonymous { address, shed: shed.clone() });
        table.by_address.entry(address).or_default().insert(id);
        Ticket { places: Arc::clone(self), id, shed }
    }

    /// Gives up a place.
    pub(super) fn shed(&self) {
        self.table().shed_of_busiest();
    }

    /// What was closed, when it is time to report that.
    pub(super) fn to_report(&self) -> Option<Counts> {
        let mut table = self.table();
        let closed = table.counts.shed + table.counts.refused;
        let is_due = match table.reported {
            None => closed > 0,
            Some((at, reported)) => closed > reported && at.elapsed() >= REPORT_INTERVAL,
        };
        is_due.then(|| {
            table.reported = Some((Instant::now(), closed));
            Counts { anonymous: table.anonymous.len(), ..table.counts }
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Gives up the oldest place of the address that has most of them, of several such the one that has the oldest. So a client that
    /// opens many connections displaces its own before those of others. False when there is no place.
    fn shed_of_busiest(&mut self) -> bool {
        let order = |(_, ids): &(&Option<IpAddr>, &BTreeSet<u64>)| (ids.len(), Reverse(ids.first().copied()));
        match self.by_address.iter().max_by_key(order).map(|(address, _)| *address) {
            Some(address) => self.shed_of(address),
            None => false,
        }
    }

    /// Gives up the oldest place of an address. False when there is none.
    fn shed_of(&mut self, address: Option<IpAddr>) -> bool {
        let oldest = self.by_address.get(&address).and_then(|ids| ids.first()).copied();
        let Some(shed) = oldest.and_then(|id| self.remove(id)) else { return false };
        shed.cancel();
        self.counts.shed += 1;
        true
    }

    fn remove(&mut self, id: u64) -> Option<CancellationToken> {
        let Anonymous { address, shed } = self.anonymous.remove(&id)?;
        if let Some(ids) = self.by_address.get_mut(&address) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some(shed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.table().counts.connections -= 1;
    }
}

impl Ticket {
    /// Cancelled when the place is given up.
    pub(super) fn shed(&self) -> &CancellationToken {
        &self.shed
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.places.table().remove(self.id);
    }
}
