//! Observations for metrics and traces, and the statistics of the fleet.

use super::fleet::{Fleet, on_pool, session};
use camofleet_crds::{
    conditions::session as reasons,
    v1alpha1::{BrowserSessionSpec, Limits, PoolRef, StartTier, WorkerPoolSpec},
};
use camofleet_operator::core::{Interval, Key, Observation, QueueStats};
use std::time::Duration;

fn key(name: &str) -> Key {
    Key { namespace: "own".into(), name: name.into() }
}

fn prioritized() -> WorkerPoolSpec {
    WorkerPoolSpec { limits: Limits { max_priority: 9, ..Limits::default() }, ..WorkerPoolSpec::default() }
}

#[test]
fn measures_wait_and_start_since_first_observed() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 1, prioritized());
    fleet.create([session("own", "first", 1, on_pool("own", "pool"))]);
    // The only slot is taken.
    fleet.create([session("own", "second", 1, BrowserSessionSpec { priority: 5, ..on_pool("own", "pool") })]);
    fleet.observed.clear();
    fleet.advance(2_000);
    fleet.delete("first");
    let [ended, chosen, bound, ready] = fleet.observed.as_slice() else { panic!("{:#?}", fleet.observed) };
    // The session was Ready, so its start was observed before.
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
fn observes_the_start_of_a_session_that_never_became_ready() {
    assert_start_is_observed(false);
}

#[test]
fn observes_the_start_when_the_watch_is_faster_than_the_answer() {
    assert_start_is_observed(true);
}

fn assert_start_is_observed(watch_is_faster: bool) {
    let mut fleet = Fleet::new();
    fleet.watch_is_faster = watch_is_faster;
    fleet.pool("own", "pool", 1, prioritized());
    fleet.create([session("own", "greedy", 1, BrowserSessionSpec { priority: 10, ..on_pool("own", "pool") })]);
    let [Observation::Ended { session, reason, started: Some(_) }] = fleet.observed.as_slice() else {
        panic!("{:#?}", fleet.observed)
    };
    assert_eq!((session.metadata.name.as_deref(), reason.as_str()), (Some("greedy"), reasons::PRIORITY_TOO_HIGH));
    // The later deletion is not observed as a second end.
    fleet.delete("greedy");
    assert_eq!(fleet.observed.len(), 1);
}

#[test]
fn groups_waiting_sessions_by_pool_and_priority() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, prioritized());
    let nowhere = BrowserSessionSpec {
        pool_ref: Some(PoolRef { name: "none".into(), namespace: None }),
        ..on_pool("own", "pool")
    };
    fleet.create([
        session("own", "late", 50, on_pool("own", "pool")),
        session("own", "early", 20, on_pool("own", "pool")),
        session("own", "soon", 55, BrowserSessionSpec { priority: 5, ..on_pool("own", "pool") }),
        session("own", "lost", 58, nowhere),
    ]);
    // The fleet's clock is at second 60.
    let queue = |pool: Option<Key>, priority, sessions, longest| QueueStats {
        pool,
        priority,
        sessions,
        longest_wait: Duration::from_secs(longest),
    };
    let mut queues = fleet.stats().unwrap().queues;
    queues.sort_by_key(|queue| (queue.pool.clone(), queue.priority));
    assert_eq!(queues, [queue(None, 0, 1, 2), queue(Some(key("pool")), 0, 2, 40), queue(Some(key("pool")), 5, 1, 5)]);
}

#[test]
fn forgets_the_metrics_of_a_deleted_pool() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "a", 1, prioritized());
    fleet.pool("own", "b", 1, prioritized());
    fleet.remove_pool("own", "a");
    assert_eq!(fleet.forgotten, [key("a")]);
    assert!(fleet.stats().unwrap().slots.iter().all(|(pool, _)| *pool != key("a")));
    // A follower that led before still has metrics of its pools.
    fleet.lose_leadership();
    fleet.remove_pool("own", "b");
    assert_eq!(fleet.forgotten, [key("a"), key("b")]);
}
