//! What those who count and measure are told.

use super::fleet::{Fleet, on, session};
use camofleet_crds::{
    conditions::session as reasons,
    v1alpha1::{BrowserSessionSpec, Limits, PoolRef, StartTier, WorkerPoolSpec},
};
use camofleet_operator::core::{Interval, Key, Observation, Waiting};
use std::time::Duration;

fn key(name: &str) -> Key {
    Key { namespace: "own".into(), name: name.into() }
}

fn prioritized() -> WorkerPoolSpec {
    WorkerPoolSpec { limits: Limits { max_priority: 9, ..Limits::default() }, ..WorkerPoolSpec::default() }
}

#[test]
fn a_session_is_measured_from_its_first_sight() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 1, prioritized());
    fleet.create([session("own", "first", 1, on("own", "pool"))]);
    // The runner is taken until then.
    fleet.create([session("own", "second", 1, BrowserSessionSpec { priority: 5, ..on("own", "pool") })]);
    fleet.observed.clear();
    fleet.pass(2_000);
    fleet.end("first");
    let [ended, chosen, bound, ready] = fleet.observed.as_slice() else { panic!("{:#?}", fleet.observed) };
    // It was Ready, so its start has been told.
    let Observation::Ended { reason, started: None, .. } = ended else { panic!("{ended:?}") };
    assert_eq!(reason, "Deleted");
    let Observation::Assigned { session, pool, priority, waited: Some(waited) } = chosen else { panic!("{chosen:?}") };
    assert_eq!((session.as_str(), pool, *priority), ("second", &key("pool"), 5));
    assert_eq!(waited.length(), Duration::from_secs(2));
    assert!(matches!(bound, Observation::Bound { took: Duration::ZERO }), "{bound:?}");
    let Observation::Ready { pool, tier, started: Some(started), .. } = ready else { panic!("{ready:?}") };
    assert_eq!((pool, *tier), (&Some(key("pool")), StartTier::Hot));
    assert_eq!(started.length(), Duration::from_secs(2));
    let wall = |interval: &Interval| interval.to.wall.duration_since(interval.from.wall).as_secs();
    assert_eq!((wall(waited), wall(started)), (2, 2));
}

#[test]
fn one_that_never_was_ready_ends_with_its_start() {
    ends_with_its_start(false);
}

#[test]
fn it_does_so_when_the_watch_is_faster_than_the_answer() {
    ends_with_its_start(true);
}

fn ends_with_its_start(watch_is_faster: bool) {
    let mut fleet = Fleet::new();
    fleet.watch_is_faster = watch_is_faster;
    fleet.pool("own", "pool", 1, prioritized());
    fleet.create([session("own", "greedy", 1, BrowserSessionSpec { priority: 10, ..on("own", "pool") })]);
    let [Observation::Ended { session, reason, started: Some(_) }] = fleet.observed.as_slice() else {
        panic!("{:#?}", fleet.observed)
    };
    assert_eq!((session.metadata.name.as_deref(), reason.as_str()), (Some("greedy"), reasons::PRIORITY_TOO_HIGH));
    // Its object goes with its TTL, and it is over but once.
    fleet.end("greedy");
    assert_eq!(fleet.observed.len(), 1);
}

#[test]
fn of_those_who_wait_is_told_for_which_pool_and_how_long() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, prioritized());
    let nowhere =
        BrowserSessionSpec { pool_ref: Some(PoolRef { name: "none".into(), namespace: None }), ..on("own", "pool") };
    fleet.create([
        session("own", "late", 50, on("own", "pool")),
        session("own", "early", 20, on("own", "pool")),
        session("own", "soon", 55, BrowserSessionSpec { priority: 5, ..on("own", "pool") }),
        session("own", "lost", 58, nowhere),
    ]);
    // It is a minute after the beginning.
    let waiting = |pool: Option<Key>, priority, sessions, longest| Waiting {
        pool,
        priority,
        sessions,
        longest: Duration::from_secs(longest),
    };
    let mut told = fleet.load().unwrap().waiting;
    told.sort_by_key(|waiting| (waiting.pool.clone(), waiting.priority));
    assert_eq!(
        told,
        [waiting(None, 0, 1, 2), waiting(Some(key("pool")), 0, 2, 40), waiting(Some(key("pool")), 5, 1, 5)]
    );
}

#[test]
fn nothing_is_told_of_a_pool_that_is_gone() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "a", 1, prioritized());
    fleet.pool("own", "b", 1, prioritized());
    fleet.remove_pool("own", "a");
    assert_eq!(fleet.forgotten, [key("a")]);
    assert!(fleet.load().unwrap().slots.iter().all(|(pool, _)| *pool != key("a")));
    // A follower may have led before, and tells still what it counted then.
    fleet.follow();
    fleet.remove_pool("own", "b");
    assert_eq!(fleet.forgotten, [key("a"), key("b")]);
}
