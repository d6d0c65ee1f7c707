//! As many runners as needed, and none with a session taken away.

use super::fleet::{Fleet, on, session};
use camofleet_crds::v1alpha1::{
    AllowedNamespaces, Autoscaling, BrowserSession, Limits, NamespacesFrom, SessionState, WorkerPoolSpec,
};

fn scaled(min: i32, max: i32, buffer: i32) -> WorkerPoolSpec {
    let autoscaling =
        Autoscaling { min_replicas: min, max_replicas: max, buffer_slots: buffer, scale_down_delay_seconds: 60 };
    WorkerPoolSpec { autoscaling: Some(autoscaling), sessions_per_runner: Some(0), ..WorkerPoolSpec::default() }
}

fn some(from: usize, to: usize) -> Vec<BrowserSession> {
    (from..to).map(|i| session("own", &format!("s{i:02}"), 1, on("own", "pool"))).collect()
}

#[test]
fn from_zero_and_back() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, scaled(0, 5, 0));
    fleet.pass(10_000);
    assert_eq!(fleet.runners(), 0);
    fleet.create(some(0, 1));
    assert_eq!(fleet.runners(), 1, "a session that waits has a runner started");
    assert_eq!(fleet.status("s00").state, SessionState::Ready);
    fleet.end("s00");
    fleet.pass(59_000);
    assert_eq!(fleet.runners(), 1, "not before the delay");
    fleet.pass(2_000);
    assert_eq!((fleet.runners(), fleet.pool_status("own", "pool").desired_replicas), (0, 0));
}

#[test]
fn a_label_that_comes_later_starts_a_runner() {
    let mut fleet = Fleet::new();
    let selector = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
        match_labels: Some([("team".to_owned(), "a".to_owned())].into()),
        match_expressions: None,
    };
    let allowed_namespaces = AllowedNamespaces { from: NamespacesFrom::Selector, selector: Some(selector) };
    fleet.pool("own", "pool", 0, WorkerPoolSpec { allowed_namespaces, ..scaled(0, 5, 0) });
    fleet.create([session("guest", "late", 1, on("own", "pool"))]);
    fleet.pass(2_000);
    assert_eq!(fleet.runners(), 0);
    fleet.label("guest", &[("team", "a")]);
    assert_eq!((fleet.runners(), fleet.status("late").state), (1, SessionState::Ready));
}

/// A runner that may serve one more session is no room for three.
#[test]
fn runners_that_can_take_no_more_are_not_counted_on() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, WorkerPoolSpec { sessions_per_runner: None, ..scaled(0, 9, 1) });
    fleet.create(some(0, 3));
    fleet.pass(2_000);
    assert_eq!(fleet.runners(), 4, "three that are full and one to spare");
    fleet.spend("s00");
    fleet.pass(2_000);
    assert_eq!((fleet.runners(), fleet.removed.len()), (4, 1), "what is spent was replaced");
    fleet.pass(60_000);
    assert_eq!(fleet.runners(), 3, "two that are full and one to spare");
}

#[test]
fn a_pool_under_churn_is_not_said_to_make_no_progress() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 1, WorkerPoolSpec { sessions_per_runner: Some(0), ..WorkerPoolSpec::default() });
    for round in 0..40 {
        fleet.cool("own", "pool");
        fleet.pass(20_000);
        fleet.warm("own", "pool");
        fleet.cool("own", "pool");
        let stalled = fleet.pool_status("own", "pool").conditions.into_iter().find(|it| it.type_ == "Stalled");
        assert_eq!(stalled.map(|it| it.status).as_deref(), Some("False"), "round {round}");
    }
    fleet.pass(700_000);
    let stalled = fleet.pool_status("own", "pool").conditions.into_iter().find(|it| it.type_ == "Stalled").unwrap();
    assert_eq!((stalled.status.as_str(), stalled.reason.as_str()), ("True", "NoProgress"));
}

#[test]
fn the_buffer_is_kept_ahead_of_demand_up_to_the_most() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, scaled(1, 6, 2));
    fleet.pass(2_000);
    assert_eq!(fleet.runners(), 2);
    fleet.create(some(0, 3));
    fleet.pass(2_000);
    assert_eq!(fleet.runners(), 5, "three that serve and two to spare");
    fleet.create(some(3, 9));
    fleet.pass(2_000);
    assert_eq!((fleet.runners(), fleet.queued()), (6, 3));
}

#[test]
fn scaling_down_takes_no_runner_with_a_session() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, scaled(0, 9, 0));
    fleet.create(some(0, 9));
    fleet.pass(2_000);
    assert_eq!(fleet.runners(), 9);
    for ended in [1, 2, 4, 5, 7] {
        fleet.end(&format!("s{ended:02}"));
    }
    fleet.pass(120_000);
    assert_eq!(fleet.runners(), 4);
    assert!(fleet.removed.iter().all(|(_, served)| !served), "{:?}", fleet.removed);
    assert!(["s00", "s03", "s06", "s08"].iter().all(|uid| fleet.status(uid).state == SessionState::Ready));
}

#[test]
fn a_lower_most_waits_for_the_sessions_too() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, scaled(0, 4, 0));
    fleet.create(some(0, 4));
    fleet.edit("own", "pool", |spec| spec.autoscaling = scaled(0, 1, 0).autoscaling);
    fleet.pass(300_000);
    assert_eq!((fleet.runners(), fleet.removed.len()), (4, 0));
    for ended in 0..4 {
        fleet.end(&format!("s{ended:02}"));
        fleet.pass(2_000);
    }
    assert_eq!(fleet.runners(), 1);
}

#[test]
fn no_runners_are_made_for_those_whom_a_limit_keeps_waiting() {
    let mut fleet = Fleet::new();
    let limits = Limits { max_sessions_per_tenant: Some(2), ..Limits::default() };
    fleet.pool("own", "pool", 0, WorkerPoolSpec { limits, ..scaled(0, 50, 0) });
    fleet.create(some(0, 40));
    fleet.pass(5_000);
    assert_eq!((fleet.runners(), fleet.queued()), (2, 38));
}

#[test]
fn one_pool_alone_grows_for_a_session_that_names_none() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "one", 0, scaled(0, 2, 0));
    fleet.pool("own", "two", 0, scaled(0, 2, 0));
    let any = |i: usize| session("own", &format!("s{i}"), 1, camofleet_crds::v1alpha1::BrowserSessionSpec::default());
    fleet.create([any(0)]);
    fleet.pass(2_000);
    assert_eq!(fleet.runners(), 1);
    fleet.create([any(1), any(2)]);
    fleet.pass(5_000);
    assert_eq!((fleet.runners(), fleet.queued()), (3, 0), "the next one, when the first has all it may");
}

#[test]
fn another_leader_takes_nothing_away_before_its_time() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, scaled(0, 9, 0));
    fleet.create(some(0, 5));
    fleet.pass(2_000);
    for ended in 0..5 {
        fleet.end(&format!("s{ended:02}"));
    }
    fleet.pass(30_000);
    fleet.another_leads();
    fleet.pass(59_000);
    assert_eq!(fleet.runners(), 5);
    fleet.pass(2_000);
    assert_eq!(fleet.runners(), 0);
}

#[test]
fn pods_are_made_so_fast_and_no_faster() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, WorkerPoolSpec { replicas: None, ..scaled(50, 50, 0) });
    assert_eq!(fleet.runners(), 20);
    fleet.pass(1_100);
    assert_eq!(fleet.runners(), 40);
    fleet.pass(1_100);
    assert_eq!(fleet.runners(), 50);
}

/// Pods take their time to go: that they are still there is no reason to remove more, nor to make new ones.
#[test]
fn scaling_down_stops_where_it_should() {
    for (least, buffer, rest) in [(3, 0, 3), (0, 3, 3), (1, 2, 2)] {
        let mut fleet = Fleet::new();
        fleet.pool("own", "pool", 0, scaled(least, 9, buffer));
        fleet.create(some(0, 6));
        fleet.pass(2_000);
        for i in 0..6 {
            fleet.end(&format!("s{i:02}"));
        }
        let before = fleet.runners();
        fleet.fewest_up = usize::MAX;
        fleet.pass(300_000);
        assert_eq!((fleet.runners(), fleet.removed.len()), (rest, before - rest), "least {least}, buffer {buffer}");
        assert_eq!(fleet.fewest_up, rest, "least {least}, buffer {buffer}");
    }
}
