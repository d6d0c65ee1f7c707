//! Attacks of hostile runners on the operator, and the sessions that they invent.

use camofleet_crds::v1alpha1::{Display, StartTier};
use camofleet_runner_api::{Session, SessionPhase, StartPage};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::net::TcpListener;

/// An attack of a runner on the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attack {
    /// Rejects every call with a body that never ends, at one byte per second.
    DrippingRejection,
    /// Starts its event stream and never finishes the first state, at one byte per second.
    DrippingState,
    /// Rejects every call with a body of [`HUGE_BODY`] bytes.
    HugeRejection,
    /// Reports a free slot, and answers a bind with a JSON string that never ends.
    EndlessAnswer,
    /// Sends states with [`HEAVY_SESSIONS`] sessions each, as fast as the operator reads.
    HeavyStates,
    /// Sends small, differing states as fast as the operator reads.
    ManyStates,
    /// Lists [`ORPHANS`] sessions that do not exist in each state, different ones every second.
    Orphans,
    /// Lists one session that does not exist for each slot, always the same ones.
    OrphansInSlots,
    /// The same, with names that change the meaning of a URL if they are inserted unchecked.
    BadNames,
    /// Redirects every call to another host.
    Redirect,
    /// Reports the largest numbers that the fields of a state can hold.
    HugeNumbers,
    /// Behaves normally but never becomes warm.
    NeverWarm,
}

/// Bytes in the body of [`Attack::HugeRejection`].
pub const HUGE_BODY: usize = 300_000_000;
/// Sessions in each state of [`Attack::HeavyStates`]: about 600 KB.
pub const HEAVY_SESSIONS: usize = 2500;
/// Sessions in each state of [`Attack::Orphans`]: close to 1 MiB.
pub const ORPHANS: usize = 4000;

/// Invalid object names. In a URL, the first would list objects and the second would address a subresource.
const BAD_NAMES: [&str; 5] = ["?x", "x/status", "../..", "%2e%2e", "UPPER"];

impl Attack {
    /// All attacks.
    pub const ALL: [Self; 12] = [
        Self::DrippingRejection,
        Self::DrippingState,
        Self::HugeRejection,
        Self::EndlessAnswer,
        Self::HeavyStates,
        Self::ManyStates,
        Self::Orphans,
        Self::OrphansInSlots,
        Self::BadNames,
        Self::Redirect,
        Self::HugeNumbers,
        Self::NeverWarm,
    ];

    /// Name of the pools whose runners carry out this attack.
    pub fn name(self) -> &'static str {
        match self {
            Self::DrippingRejection => "dripping-rejection",
            Self::DrippingState => "dripping-state",
            Self::HugeRejection => "huge-rejection",
            Self::EndlessAnswer => "endless-answer",
            Self::HeavyStates => "heavy-states",
            Self::ManyStates => "many-states",
            Self::Orphans => "orphans",
            Self::OrphansInSlots => "orphans-in-slots",
            Self::BadNames => "bad-names",
            Self::Redirect => "redirect",
            Self::HugeNumbers => "huge-numbers",
            Self::NeverWarm => "never-warm",
        }
    }

    /// The attack with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attack| attack.name() == name)
    }
}

/// A host that only redirects lead to. It counts the connections that arrive.
#[derive(Clone, Debug)]
pub(super) struct RedirectTarget {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl RedirectTarget {
    /// Starts listening in a loopback network. Must be called on the simulator's runtime.
    pub(super) async fn start(octet: u8) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::new(127, octet, 0, 2), 0)).await?;
        let (address, connections) = (listener.local_addr()?, Arc::<AtomicUsize>::default());
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self { address, connections })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Sessions that have no object.
pub(super) fn orphans(namespace: &str, count: usize, uid_prefix: &str) -> Vec<Session> {
    let uid = |index| format!("{uid_prefix}-{index:06}");
    (0..count).map(|index| session(uid(index), namespace, format!("orphan-{index}"))).collect()
}

/// The same with invalid names.
fn with_invalid_names(namespace: &str, count: usize, uid_prefix: &str) -> Vec<Session> {
    let named = orphans(namespace, count, uid_prefix).into_iter().zip(BAD_NAMES.into_iter().cycle());
    named.map(|(orphan, name)| Session { name: name.to_owned(), ..orphan }).collect()
}

/// Sessions that the attack reports in addition to those of the runner.
pub(super) fn extra_sessions(attack: Attack, namespace: &str, slots: u32, pod_uid: &str) -> Vec<Session> {
    let slots = usize::try_from(slots).unwrap_or(usize::MAX);
    match attack {
        Attack::OrphansInSlots => orphans(namespace, slots, pod_uid),
        Attack::BadNames => with_invalid_names(namespace, slots, pod_uid),
        Attack::DrippingRejection
        | Attack::DrippingState
        | Attack::HugeRejection
        | Attack::EndlessAnswer
        | Attack::HeavyStates
        | Attack::ManyStates
        | Attack::Orphans
        | Attack::Redirect
        | Attack::HugeNumbers
        | Attack::NeverWarm => Vec::new(),
    }
}

pub(super) fn session(uid: String, namespace: &str, name: String) -> Session {
    Session {
        uid,
        namespace: namespace.to_owned(),
        name,
        phase: SessionPhase::Ready,
        display: Display::Headless,
        tier: StartTier::Hot,
        start_page: StartPage::None,
        clients: 0,
        end: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_attacks_by_name() {
        assert!(Attack::ALL.into_iter().all(|attack| Attack::named(attack.name()) == Some(attack)));
        assert_eq!(Attack::named("hot"), None);
    }

    #[test]
    fn lists_as_many_distinct_orphans_as_slots() {
        let listed = |attack| extra_sessions(attack, "hostile", 7, "pod");
        let names = |attack| listed(attack).into_iter().map(|session| session.name).collect::<Vec<_>>();
        assert_eq!(names(Attack::OrphansInSlots)[6], "orphan-6");
        assert_eq!(names(Attack::BadNames)[5..], ["?x", "x/status"]);
        assert_eq!(listed(Attack::BadNames)[6].uid, "pod-000006");
        assert!(listed(Attack::NeverWarm).is_empty());
    }
}
