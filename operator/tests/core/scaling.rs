//! Autoscaling: enough runners for the demand, and no session lost.

use super::fleet::{Fleet, on_pool, session};
use camofleet_crds::v1alpha1::{
    AllowedNamespaces, Autoscaling, BrowserSession, Limits, NamespacesFrom, SessionState, WorkerPoolSpec,
};

fn autoscaled(min: i32, max: i32, buffer: i32) -> WorkerPoolSpec {
    let autoscaling =
        Autoscaling { min_replicas: min, max_replicas: max, buffer_slots: buffer, scale_down_delay_seconds: 60 };
    WorkerPoolSpec { autoscaling: Some(autoscaling), sessions_per_runner: Some(0), ..WorkerPoolSpec::default() }
}

fn sessions(from: usize, to: usize) -> Vec<BrowserSession> {
    (from..to).map(|i| session("own", &format!("s{i:02}"), 1, on_pool("own", "pool"))).collect()
}

#[test]
fn scales_from_zero_and_back() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, autoscaled(0, 5, 0));
    fleet.advance(10_000);
    assert_eq!(fleet.runners(), 0);
    fleet.create(sessions(0, 1));
    assert_eq!(fleet.runners(), 1, "a waiting session starts a runner");
    assert_eq!(fleet.status("s00").state, SessionState::Ready);
    fleet.delete("s00");
    fleet.advance(59_000);
    assert_eq!(fleet.runners(), 1, "scaled down before the delay");
    fleet.advance(2_000);
    assert_eq!((fleet.runners(), fleet.pool_status("own", "pool").desired_replicas), (0, 0));
}

#[test]
fn scales_up_when_a_namespace_label_grants_access() {
    let mut fleet = Fleet::new();
    let selector = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
        match_labels: Some([("team".to_owned(), "a".to_owned())].into()),
        match_expressions: None,
    };
    let allowed_namespaces = AllowedNamespaces { from: NamespacesFrom::Selector, selector: Some(selector) };
    fleet.pool("own", "pool", 0, WorkerPoolSpec { allowed_namespaces, ..autoscaled(0, 5, 0) });
    fleet.create([session("guest", "late", 1, on_pool("own", "pool"))]);
    fleet.advance(2_000);
    assert_eq!(fleet.runners(), 0);
    fleet.label("guest", &[("team", "a")]);
    assert_eq!((fleet.runners(), fleet.status("late").state), (1, SessionState::Ready));
}

/// Each runner serves one session only, so a spent runner is no capacity.
#[test]
fn does_not_count_spent_runners_as_capacity() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, WorkerPoolSpec { sessions_per_runner: None, ..autoscaled(0, 9, 1) });
    fleet.create(sessions(0, 3));
    fleet.advance(2_000);
    assert_eq!(fleet.runners(), 4, "three full runners and one for the buffer");
    fleet.delete_and_spend("s00");
    fleet.advance(2_000);
    assert_eq!((fleet.runners(), fleet.removed.len()), (4, 1), "the spent runner was replaced");
    fleet.advance(60_000);
    assert_eq!(fleet.runners(), 3, "two full runners and one for the buffer");
}

#[test]
fn runners_that_become_warm_again_are_progress() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 1, WorkerPoolSpec { sessions_per_runner: Some(0), ..WorkerPoolSpec::default() });
    for round in 0..40 {
        fleet.make_cold("own", "pool");
        fleet.advance(20_000);
        fleet.make_warm("own", "pool");
        fleet.make_cold("own", "pool");
        let stalled = fleet.pool_status("own", "pool").conditions.into_iter().find(|it| it.type_ == "Stalled");
        assert_eq!(stalled.map(|it| it.status).as_deref(), Some("False"), "round {round}");
    }
    fleet.advance(700_000);
    let stalled = fleet.pool_status("own", "pool").conditions.into_iter().find(|it| it.type_ == "Stalled").unwrap();
    assert_eq!((stalled.status.as_str(), stalled.reason.as_str()), ("True", "NoProgress"));
}

#[test]
fn keeps_buffer_slots_up_to_max_replicas() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, autoscaled(1, 6, 2));
    fleet.advance(2_000);
    assert_eq!(fleet.runners(), 2);
    fleet.create(sessions(0, 3));
    fleet.advance(2_000);
    assert_eq!(fleet.runners(), 5, "three full runners and two for the buffer");
    fleet.create(sessions(3, 9));
    fleet.advance(2_000);
    assert_eq!((fleet.runners(), fleet.queued()), (6, 3));
}

#[test]
fn scaling_down_removes_only_idle_runners() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, autoscaled(0, 9, 0));
    fleet.create(sessions(0, 9));
    fleet.advance(2_000);
    assert_eq!(fleet.runners(), 9);
    for ended in [1, 2, 4, 5, 7] {
        fleet.delete(&format!("s{ended:02}"));
    }
    fleet.advance(120_000);
    assert_eq!(fleet.runners(), 4);
    assert!(fleet.removed.iter().all(|(_, served)| !served), "{:?}", fleet.removed);
    assert!(["s00", "s03", "s06", "s08"].iter().all(|uid| fleet.status(uid).state == SessionState::Ready));
}

#[test]
fn lowering_max_replicas_waits_for_sessions_to_end() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, autoscaled(0, 4, 0));
    fleet.create(sessions(0, 4));
    fleet.edit("own", "pool", |spec| spec.autoscaling = autoscaled(0, 1, 0).autoscaling);
    fleet.advance(300_000);
    assert_eq!((fleet.runners(), fleet.removed.len()), (4, 0));
    for ended in 0..4 {
        fleet.delete(&format!("s{ended:02}"));
        fleet.advance(2_000);
    }
    assert_eq!(fleet.runners(), 1);
}

#[test]
fn creates_no_runner_for_a_session_held_back_by_a_limit() {
    let mut fleet = Fleet::new();
    let limits = Limits { max_sessions_per_tenant: Some(2), ..Limits::default() };
    fleet.pool("own", "pool", 0, WorkerPoolSpec { limits, ..autoscaled(0, 50, 0) });
    fleet.create(sessions(0, 40));
    fleet.advance(5_000);
    assert_eq!((fleet.runners(), fleet.queued()), (2, 38));
}

#[test]
fn only_one_pool_grows_for_a_session_that_names_none() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "one", 0, autoscaled(0, 2, 0));
    fleet.pool("own", "two", 0, autoscaled(0, 2, 0));
    let any = |i: usize| session("own", &format!("s{i}"), 1, camofleet_crds::v1alpha1::BrowserSessionSpec::default());
    fleet.create([any(0)]);
    fleet.advance(2_000);
    assert_eq!(fleet.runners(), 1);
    fleet.create([any(1), any(2)]);
    fleet.advance(5_000);
    assert_eq!((fleet.runners(), fleet.queued()), (3, 0), "the second pool grows once the first one is at its maximum");
}

#[test]
fn a_new_leader_waits_for_the_scale_down_delay() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, autoscaled(0, 9, 0));
    fleet.create(sessions(0, 5));
    fleet.advance(2_000);
    for ended in 0..5 {
        fleet.delete(&format!("s{ended:02}"));
    }
    fleet.advance(30_000);
    fleet.change_leader();
    fleet.advance(59_000);
    assert_eq!(fleet.runners(), 5);
    fleet.advance(2_000);
    assert_eq!(fleet.runners(), 0);
}

#[test]
fn creates_at_most_20_pods_a_second() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, WorkerPoolSpec { replicas: None, ..autoscaled(50, 50, 0) });
    assert_eq!(fleet.runners(), 20);
    fleet.advance(1_100);
    assert_eq!(fleet.runners(), 40);
    fleet.advance(1_100);
    assert_eq!(fleet.runners(), 50);
}

/// Terminating pods exist for a while. Meanwhile no others are removed or created.
#[test]
fn scaling_down_stops_at_the_target() {
    for (least, buffer, rest) in [(3, 0, 3), (0, 3, 3), (1, 2, 2)] {
        let mut fleet = Fleet::new();
        fleet.pool("own", "pool", 0, autoscaled(least, 9, buffer));
        fleet.create(sessions(0, 6));
        fleet.advance(2_000);
        for i in 0..6 {
            fleet.delete(&format!("s{i:02}"));
        }
        let before = fleet.runners();
        fleet.fewest_available = usize::MAX;
        fleet.advance(300_000);
        assert_eq!((fleet.runners(), fleet.removed.len()), (rest, before - rest), "least {least}, buffer {buffer}");
        assert_eq!(fleet.fewest_available, rest, "least {least}, buffer {buffer}");
    }
}
