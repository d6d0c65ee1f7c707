//! Writes that the API server accepts but stores only in part.

use crate::fleet::{Fleet, Writes, on_pool, session};
use camofleet_crds::v1alpha1::{SessionState, WorkerPoolSpec};
use camofleet_operator::core::Observation;
use std::collections::BTreeSet;

/// Time in milliseconds in which a write with pauses of 0.2, 0.4, 0.8 … 30 s is repeated fewer than [`MAX_WRITES`]
/// times.
const TWO_MINUTES: i64 = 120_000;
const MAX_WRITES: usize = 16;

fn pruned(fleet: &Fleet) -> BTreeSet<(&str, &str)> {
    let observed = fleet.observed.iter().filter_map(|observation| match observation {
        Observation::Pruned { kind, fields, .. } => Some((*kind, fields.as_slice())),
        _ => None,
    });
    observed.flat_map(|(kind, fields)| fields.iter().map(move |field| (kind, field.as_str()))).collect()
}

fn reverted(fleet: &Fleet) -> BTreeSet<(&str, &str)> {
    let observed = fleet.observed.iter().filter_map(|observation| match observation {
        Observation::Reverted { kind, field, .. } => Some((*kind, field.as_str())),
        _ => None,
    });
    observed.collect()
}

fn since(fleet: &Fleet, before: Writes) -> Writes {
    let now = fleet.writes;
    Writes {
        sessions: now.sessions - before.sessions,
        pools: now.pools - before.pools,
        finalizers: now.finalizers - before.finalizers,
        annotations: now.annotations - before.annotations,
    }
}

#[test]
fn serves_a_session_whose_status_is_pruned_and_backs_off() {
    let mut fleet = Fleet::new();
    fleet.prunes = true;
    fleet.pool("own", "p", 1, WorkerPoolSpec::default());
    fleet.create([session("own", "served", 60, on_pool("own", "p")), session("own", "waits", 60, on_pool("own", "p"))]);
    assert_eq!(fleet.status("served").state, SessionState::Ready);
    fleet.advance(TWO_MINUTES);
    assert_eq!(fleet.status("waits").state, SessionState::Queued);
    assert!(fleet.writes.sessions > 2 && fleet.writes.sessions < 2 * MAX_WRITES, "{:?}", fleet.writes);
    let expected = [("BrowserSession", "status.observedGeneration"), ("WorkerPool", "status.observedGeneration")];
    assert_eq!(pruned(&fleet), expected.into());
    // A changed status is published at once, without waiting for the pause.
    let before = fleet.writes;
    fleet.delete("served");
    assert_eq!(fleet.status("waits").state, SessionState::Ready);
    assert_eq!(since(&fleet, before).sessions, 1);
    // Each session causes one event.
    let events = |reason: &str| fleet.events.iter().filter(|(_, event)| event == reason).count();
    assert_eq!((events("Ready"), events("Scheduled")), (2, 0));
    // With newer CRDs the next write stores the field, and no other write follows.
    fleet.prunes = false;
    fleet.advance(31_000);
    assert_eq!(fleet.status("waits").observed_generation, Some(1));
    let before = fleet.writes;
    fleet.advance(TWO_MINUTES);
    assert_eq!(since(&fleet, before), Writes::default());
}

#[test]
fn a_new_leader_backs_off_and_keeps_the_ready_time() {
    let mut fleet = Fleet::new();
    fleet.prunes = true;
    fleet.pool("own", "p", 1, WorkerPoolSpec::default());
    fleet.create([session("own", "served", 60, on_pool("own", "p"))]);
    fleet.advance(TWO_MINUTES);
    let (before, ready) = (fleet.writes, fleet.status("served").ready_time);
    fleet.change_leader();
    fleet.advance(TWO_MINUTES);
    assert!(since(&fleet, before).sessions < MAX_WRITES, "{:?}", since(&fleet, before));
    assert_eq!((fleet.status("served").state, fleet.status("served").ready_time), (SessionState::Ready, ready));
}

#[test]
fn backs_off_writes_of_a_pruned_pool_status() {
    let mut fleet = Fleet::new();
    fleet.prunes = true;
    fleet.pool("own", "p", 2, WorkerPoolSpec::default());
    fleet.advance(TWO_MINUTES);
    assert!(fleet.writes.pools > 2 && fleet.writes.pools < MAX_WRITES + 4, "{:?}", fleet.writes);
    // A changed status is published within a second.
    fleet.create([session("own", "s", 60, on_pool("own", "p"))]);
    fleet.advance(2000);
    assert_eq!(fleet.pool_status("own", "p").slots.used, 1);
    fleet.prunes = false;
    fleet.advance(31_000);
    assert_eq!(fleet.pool_status("own", "p").observed_generation, Some(1));
}

#[test]
fn backs_off_when_a_webhook_reverts_finalizers_and_annotations() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "p", 1, WorkerPoolSpec::default());
    fleet.advance(2000);
    fleet.prunes = true;
    let before = fleet.writes;
    fleet.publish_keys(r#"{"gateway":["another"]}"#);
    fleet.remove_finalizers("own", "p");
    fleet.create([session("own", "s", 60, on_pool("own", "p"))]);
    fleet.advance(TWO_MINUTES);
    let writes = since(&fleet, before);
    for (what, count) in [("finalizers", writes.finalizers), ("annotations", writes.annotations)] {
        assert!(count > 2 && count < MAX_WRITES, "{count} writes of {what}");
    }
    assert_eq!(fleet.pool_status("own", "p").slots.used, 1, "the status does not wait for the finalizer");
    let expected = [("WorkerPool", "metadata.finalizers"), ("Pod", "metadata.annotations.camofleet.dev/public-keys")];
    assert_eq!(reverted(&fleet), expected.into());
    fleet.prunes = false;
    fleet.advance(31_000);
    assert_eq!(fleet.pods().next().unwrap().keys, r#"{"gateway":["another"]}"#);
    let before = fleet.writes;
    fleet.advance(TWO_MINUTES);
    assert_eq!((since(&fleet, before).finalizers, since(&fleet, before).annotations), (0, 0));
}

#[test]
fn writes_keys_that_change_during_an_annotation_at_once() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "p", 1, WorkerPoolSpec::default());
    fleet.advance(2000);
    let before = fleet.writes;
    fleet.publish_keys_twice(r#"{"gateway":["first"]}"#, r#"{"gateway":["second"]}"#);
    assert_eq!(fleet.pods().next().unwrap().keys, r#"{"gateway":["second"]}"#);
    assert_eq!((since(&fleet, before).annotations, reverted(&fleet)), (2, BTreeSet::new()));
}

#[test]
fn keeps_the_last_key_of_an_issuer() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "p", 1, WorkerPoolSpec::default());
    let keys = |fleet: &Fleet| fleet.pods().next().unwrap().keys.clone();
    fleet.publish_keys(r#"{"operator":["a"],"gateway":["b"]}"#);
    assert_eq!(keys(&fleet), r#"{"operator":["a"],"gateway":["b"]}"#);
    fleet.publish_keys(r#"{"operator":["c"],"gateway":[]}"#);
    assert_eq!(keys(&fleet), r#"{"operator":["c"],"gateway":["b"]}"#);
    let before = fleet.writes;
    fleet.publish_keys(r#"{"operator":[],"gateway":[]}"#);
    fleet.advance(TWO_MINUTES);
    assert_eq!(since(&fleet, before).annotations, 0);
    fleet.publish_keys(r#"{"operator":["c"],"gateway":["d"]}"#);
    assert_eq!(keys(&fleet), r#"{"operator":["c"],"gateway":["d"]}"#);
}
