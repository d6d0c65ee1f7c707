//! Leader election with a Lease, whose holder identity is the name of the leader's pod. Every process measures time by
//! its own monotonic clock.
//!
//! The durations are client-go's defaults. A Lease is free 15 s after a process last observed it change. Its holder
//! stops leading 10 s after it began its last successful renewal. In the 5 s between, no process leads, so no clock of
//! another machine has to be trusted. All processes retry every 2 s.

use crate::core::Event;
use crate::io::clock::Clock;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, ResourceExt, api::ObjectMeta, api::PostParams};
use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::mpsc::UnboundedSender;

/// Name of the Lease in the release's namespace.
pub const NAME: &str = "camofleet-operator";
const LEASE_DURATION: Duration = Duration::from_secs(15);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// Whether this process leads. It is checked before each write.
#[derive(Clone, Debug, Default)]
pub(super) struct Leadership(Arc<Mutex<Option<Term>>>);

#[derive(Clone, Copy, Debug)]
struct Term {
    epoch: u64,
    until: Instant,
}

impl Leadership {
    /// Epoch of this process's term. `None` unless the process certainly leads now.
    pub(super) fn epoch(&self) -> Option<u64> {
        let term = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        term.filter(|term| Instant::now() < term.until).map(|term| term.epoch)
    }

    fn set(&self, term: Option<Term>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = term;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum LeaseAction {
    /// Acquire the Lease: it has no holder, an earlier process of this pod holds it, or it has expired.
    Take,
    Renew,
    /// Another process holds the Lease.
    Wait,
}

/// Last observed version of the Lease, and when it was first observed.
struct ObservedLease {
    version: Option<String>,
    at: Instant,
}

fn next_action(holder: Option<&str>, identity: &str, leads: bool, unchanged_for: Duration) -> LeaseAction {
    match holder {
        None | Some("") => LeaseAction::Take,
        Some(holder) if holder == identity => {
            if leads {
                LeaseAction::Renew
            } else {
                LeaseAction::Take
            }
        }
        Some(_) if unchanged_for > LEASE_DURATION => LeaseAction::Take,
        Some(_) => LeaseAction::Wait,
    }
}

/// Takes part in the election until `stop` completes, and then releases the Lease.
pub(super) async fn run(
    client: Client,
    namespace: &str,
    identity: &str,
    clock: Clock,
    leadership: Leadership,
    events: UnboundedSender<Event>,
    stop: impl Future<Output = ()>,
) {
    let mut election = Election {
        api: Api::namespaced(clock.corrected_by(client), namespace),
        identity: identity.to_owned(),
        clock,
        seen: ObservedLease { version: None, at: Instant::now() },
        term: None,
    };
    tokio::pin!(stop);
    let mut was_leader = false;
    loop {
        // An expired term has ended even if the next round acquires the Lease again, because calls were dropped
        // in between.
        was_leader = election.publish_leadership(was_leader, &leadership, &events);
        // A round must not hang past the end of the term.
        match tokio::time::timeout(RENEW_DEADLINE / 2, election.round()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not read or write Lease {NAME}"),
            Err(_) => tracing::warn!("timed out reading or writing Lease {NAME}"),
        }
        was_leader = election.publish_leadership(was_leader, &leadership, &events);
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = &mut stop => break,
        }
    }
    leadership.set(None);
    let _ = events.send(Event::LostLeadership);
    if election.term.is_some() {
        match tokio::time::timeout(RETRY, election.release()).await {
            Ok(Ok(())) => tracing::info!("released the Lease"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not release the Lease, so the next leader waits until it expires");
            }
            Err(_) => tracing::warn!("timed out releasing the Lease"),
        }
    }
}

struct Election {
    api: Api<Lease>,
    identity: String,
    clock: Clock,
    seen: ObservedLease,
    term: Option<Term>,
}

impl Election {
    /// Publishes whether this process leads, and sends the core an event if that differs from `was_leader`, the value
    /// that was published last. Returns the new value.
    fn publish_leadership(
        &mut self,
        was_leader: bool,
        leadership: &Leadership,
        events: &UnboundedSender<Event>,
    ) -> bool {
        self.term = self.term.filter(|term| Instant::now() < term.until);
        leadership.set(self.term);
        match (was_leader, self.term) {
            (false, Some(term)) => {
                tracing::info!(epoch = term.epoch, "became leader");
                let _ = events.send(Event::BecameLeader);
            }
            (true, None) => {
                tracing::warn!("lost leadership");
                let _ = events.send(Event::LostLeadership);
            }
            (true, Some(_)) | (false, None) => {}
        }
        self.term.is_some()
    }

    async fn round(&mut self) -> Result<(), kube::Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else { return self.create().await };
        if self.seen.version != lease.resource_version() {
            self.seen = ObservedLease { version: lease.resource_version(), at: Instant::now() };
        }
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        match next_action(holder, &self.identity, self.term.is_some(), self.seen.at.elapsed()) {
            LeaseAction::Wait => {
                self.term = None;
                Ok(())
            }
            action @ (LeaseAction::Take | LeaseAction::Renew) => self.write(lease, action == LeaseAction::Take).await,
        }
    }

    async fn create(&mut self) -> Result<(), kube::Error> {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec::default()),
        };
        match self.api.create(&PostParams::default(), &lease).await {
            Ok(lease) => self.write(lease, true).await,
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Acquires or renews the Lease. A conflict with another writer is not an error.
    async fn write(&mut self, mut lease: Lease, take: bool) -> Result<(), kube::Error> {
        let (started, now) = (Instant::now(), MicroTime(self.clock.now().wall));
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(LEASE_DURATION.as_secs()).ok();
        spec.renew_time = Some(now.clone());
        if take {
            spec.acquire_time = Some(now);
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
        }
        let written = match self.api.replace(NAME, &PostParams::default(), &lease).await {
            Ok(written) => written,
            Err(kube::Error::Api(status)) if status.is_conflict() => return Ok(()),
            Err(error) => return Err(error),
        };
        self.seen = ObservedLease { version: written.resource_version(), at: Instant::now() };
        let until = started + RENEW_DEADLINE;
        let epoch = match self.term {
            Some(term) if !take && started < term.until && Instant::now() < term.until => Some(term.epoch),
            // The term expired during the renewal. This process still holds the Lease, so the next round begins a new
            // term.
            Some(_) if !take => None,
            // resourceVersions increase with each write to the cluster, so a later term has a higher epoch.
            Some(_) | None => written.resource_version().and_then(|version| version.parse().ok()),
        };
        self.term = epoch.map(|epoch| Term { epoch, until });
        Ok(())
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let mut lease = self.api.get(NAME).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = Some(String::new());
            self.api.replace(NAME, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_free_lease_and_its_own_from_an_earlier_process() {
        assert_eq!(next_action(None, "a", false, Duration::ZERO), LeaseAction::Take);
        assert_eq!(next_action(Some(""), "a", false, Duration::ZERO), LeaseAction::Take);
        assert_eq!(next_action(Some("a"), "a", false, Duration::ZERO), LeaseAction::Take);
    }

    #[test]
    fn leaves_anothers_lease_until_it_expires() {
        assert_eq!(next_action(Some("b"), "a", false, LEASE_DURATION), LeaseAction::Wait);
        assert_eq!(next_action(Some("b"), "a", false, LEASE_DURATION + Duration::from_millis(1)), LeaseAction::Take);
    }

    #[test]
    fn renews_its_lease_and_yields_once_another_took_it() {
        assert_eq!(next_action(Some("a"), "a", true, Duration::ZERO), LeaseAction::Renew);
        assert_eq!(next_action(Some("b"), "a", true, Duration::ZERO), LeaseAction::Wait);
    }

    #[test]
    fn leadership_ends_at_the_renew_deadline() {
        let leadership = Leadership::default();
        leadership.set(Some(Term { epoch: 7, until: Instant::now() + RENEW_DEADLINE }));
        assert_eq!(leadership.epoch(), Some(7));
        leadership.set(Some(Term { epoch: 7, until: Instant::now() }));
        assert_eq!(leadership.epoch(), None);
    }
}
