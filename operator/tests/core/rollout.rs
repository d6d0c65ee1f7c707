//! Rollouts: a canary tests the update shape, and no session or slot is lost.

use super::fleet::{Fleet, on_pool, session};
use camofleet_crds::{
    conditions::{self, READY, STALLED, pool as reasons},
    v1alpha1::{Autoscaling, BrowserSession, Rollout, RunnerTemplate, SessionState, WorkerPoolSpec},
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Runners without a limit on `sessionsPerRunner`, one slot each.
fn reusable(max_unavailable: i32) -> WorkerPoolSpec {
    let rollout = Rollout { max_unavailable: IntOrString::Int(max_unavailable), ..Rollout::default() };
    WorkerPoolSpec { sessions_per_runner: Some(0), rollout, ..WorkerPoolSpec::default() }
}

fn change_image(spec: &mut WorkerPoolSpec) {
    spec.template.image = Some("another".into());
}

fn sessions(from: usize, to: usize) -> Vec<BrowserSession> {
    (from..to).map(|i| session("own", &format!("s{i:02}"), 1, on_pool("own", "pool"))).collect()
}

/// Reason of `Stalled`, if it is true.
fn stalled(fleet: &Fleet) -> Option<String> {
    let status = fleet.pool_status("own", "pool");
    conditions::get(&status.conditions, STALLED).filter(|it| it.status == "True").map(|it| it.reason.clone())
}

fn pool_revisions(fleet: &Fleet) -> (Option<String>, Option<String>) {
    let status = fleet.pool_status("own", "pool");
    (status.revision, status.current_revision.map(|current| current.revision))
}

#[test]
fn replaces_runners_after_the_canary_is_warm() {
    for (max_unavailable, fewest) in [(0, 4), (1, 3), (2, 2), (9, 1)] {
        let mut fleet = Fleet::new();
        fleet.pool("own", "pool", 4, reusable(max_unavailable));
        fleet.advance(2_000);
        assert_eq!(fleet.canaries.len(), 0, "the first shape needs no canary");
        let (previous, current) = pool_revisions(&fleet);
        assert_eq!(previous, current);
        // The canary becomes warm. The other new runners become warm later.
        (fleet.non_canaries_stay_cold, fleet.fewest_available) = (true, usize::MAX);
        fleet.edit("own", "pool", change_image);
        fleet.advance(10_000);
        let (update, current) = pool_revisions(&fleet);
        assert!(update != previous && update == current);
        assert_eq!(fleet.fewest_available, fewest, "maxUnavailable {max_unavailable}");
        fleet.non_canaries_stay_cold = false;
        fleet.make_warm("own", "pool");
        fleet.advance(10_000);
        fleet.make_warm("own", "pool");
        fleet.advance(10_000);
        assert_eq!(fleet.revisions(), vec![update.as_deref().unwrap(); 4]);
        assert_eq!((fleet.canaries.len(), fleet.removed.len(), stalled(&fleet)), (1, 4, None));
        assert_eq!(fleet.fewest_available, fewest, "maxUnavailable {max_unavailable}");
    }
}

#[test]
fn a_failed_canary_stops_the_rollout() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 3, WorkerPoolSpec { sessions_per_runner: None, ..reusable(1) });
    fleet.advance(2_000);
    let (previous, _) = pool_revisions(&fleet);
    fleet.canaries_fail = true;
    fleet.edit("own", "pool", change_image);
    fleet.advance(2_000);
    assert_eq!((fleet.canaries.len(), fleet.removed.len()), (1, 0));
    assert_eq!(stalled(&fleet).as_deref(), Some(reasons::CANARY_FAILED));
    let status = fleet.pool_status("own", "pool");
    assert!(conditions::is_true(&status.conditions, conditions::READY), "runners of the current revision serve");
    let ready = conditions::get(&status.conditions, conditions::READY).unwrap();
    assert_eq!(ready.reason, reasons::CANARY_FAILED, "`kubectl get -o wide` shows this reason: {}", ready.message);
    assert_eq!((status.replicas, status.ready_replicas, status.updated_replicas, status.slots.total), (4, 3, 1, 3));

    // Spent runners are replaced by runners of the current revision, also by a new leader.
    for (round, uid) in ["s00", "s01", "s02", "s03"].into_iter().enumerate() {
        if round == 2 {
            fleet.change_leader();
        }
        fleet.create(sessions(round, round + 1));
        assert_eq!(fleet.status(uid).state, SessionState::Ready);
        assert!(!fleet.canaries.iter().any(|canary| fleet.pod_of(uid) == Some(canary)), "a canary got a session");
        fleet.delete_and_spend(uid);
        fleet.advance(10_000);
        let revisions = fleet.revisions();
        assert_eq!(revisions.iter().filter(|revision| Some(**revision) == previous.as_deref()).count(), 3);
        assert_eq!(revisions.len(), 4);
    }
    assert_eq!((stalled(&fleet).as_deref(), pool_revisions(&fleet).1), (Some(reasons::CANARY_FAILED), previous));

    fleet.canary_recovers();
    fleet.advance(10_000);
    let (update, current) = pool_revisions(&fleet);
    assert_eq!((fleet.revisions(), current), (vec![update.as_deref().unwrap(); 3], update.clone()));
    assert_eq!(stalled(&fleet), None);
}

#[test]
fn a_canary_that_loads_no_page_fails_although_other_browsers_are_hot() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 2, WorkerPoolSpec { slots_per_runner: 2, ..reusable(2) });
    fleet.advance(2_000);
    fleet.canaries_fail = true;
    fleet.edit("own", "pool", change_image);
    fleet.advance(2_000);
    assert_eq!((fleet.canaries.len(), fleet.removed.len()), (1, 0));
    assert_eq!(stalled(&fleet).as_deref(), Some(reasons::CANARY_FAILED));
}

/// Sets the template to what remains of one that is too large.
fn too_large(spec: &mut WorkerPoolSpec) {
    spec.template = RunnerTemplate { oversized_bytes: Some(1_400_000), ..RunnerTemplate::default() };
}

#[test]
fn keeps_the_current_shape_when_the_template_is_too_large() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 2, reusable(1));
    fleet.advance(2_000);
    let (previous, _) = pool_revisions(&fleet);
    fleet.edit("own", "pool", too_large);
    fleet.advance(30_000);
    assert_eq!((stalled(&fleet).as_deref(), fleet.removed.len()), (Some(reasons::TEMPLATE_TOO_LARGE), 0));
    let conditions = fleet.pool_status("own", "pool").conditions;
    let message = &conditions::get(&conditions, STALLED).unwrap().message;
    assert!(message.contains("spec.template has 1400000 bytes") && message.contains("at most 32768"), "{message}");
    assert_eq!(conditions::get(&conditions, READY).unwrap().status, "True");
    // A failed runner is replaced by one of the current revision, also by a new leader.
    fleet.change_leader();
    fleet.fail_pod("own/pool/0");
    fleet.advance(30_000);
    assert_eq!((fleet.revisions(), fleet.canaries.len()), (vec![previous.as_deref().unwrap(); 2], 0));
    // Other fields of the spec still apply.
    fleet.edit("own", "pool", |spec| spec.replicas = Some(3));
    fleet.advance(30_000);
    assert_eq!(fleet.revisions(), vec![previous.as_deref().unwrap(); 3]);
    fleet.edit("own", "pool", |spec| spec.template = RunnerTemplate::default());
    fleet.advance(30_000);
    assert_eq!((pool_revisions(&fleet), stalled(&fleet)), ((previous.clone(), previous), None));
}

#[test]
fn creates_no_runner_when_the_first_template_is_too_large() {
    let mut fleet = Fleet::new();
    let mut spec = reusable(1);
    too_large(&mut spec);
    fleet.pool("own", "pool", 0, spec);
    fleet.advance(2_000);
    assert_eq!(
        stalled(&fleet).as_deref(),
        Some(reasons::TEMPLATE_TOO_LARGE),
        "the rejection is published before any runner is needed"
    );
    fleet.edit("own", "pool", |spec| spec.replicas = Some(2));
    fleet.advance(700_000);
    assert_eq!((fleet.runners(), stalled(&fleet).as_deref()), (0, Some(reasons::TEMPLATE_TOO_LARGE)));
    fleet.edit("own", "pool", |spec| spec.template = RunnerTemplate::default());
    fleet.advance(30_000);
    assert_eq!((fleet.runners(), stalled(&fleet)), (2, None));
}

#[test]
fn reverting_a_failed_change_replaces_no_runner() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 3, reusable(1));
    fleet.advance(2_000);
    fleet.canaries_fail = true;
    fleet.edit("own", "pool", change_image);
    fleet.advance(2_000);
    fleet.edit("own", "pool", |spec| spec.template.image = None);
    fleet.advance(10_000);
    let canaries: Vec<_> = fleet.canaries.iter().map(|canary| (canary.clone(), false)).collect();
    assert_eq!((fleet.removed.clone(), fleet.runners()), (canaries, 3));
    assert_eq!(stalled(&fleet), None);
    assert_eq!(pool_revisions(&fleet).0, pool_revisions(&fleet).1);
}

/// The canary becomes warm, and the other new runners do not.
#[test]
fn reverting_during_a_rollout_needs_no_canary() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 4, reusable(1));
    fleet.advance(2_000);
    let (previous, _) = pool_revisions(&fleet);
    (fleet.non_canaries_stay_cold, fleet.fewest_available) = (true, usize::MAX);
    fleet.edit("own", "pool", change_image);
    fleet.advance(2_000);
    assert_eq!((fleet.removed.len(), fleet.fewest_available), (2, 3), "at most maxUnavailable runners are missing");
    assert_eq!(stalled(&fleet).as_deref(), Some(reasons::BROWSERS_FAILING));
    fleet.non_canaries_stay_cold = false;
    fleet.edit("own", "pool", |spec| spec.template.image = None);
    fleet.advance(10_000);
    assert_eq!((pool_revisions(&fleet), fleet.canaries.len()), ((previous.clone(), previous.clone()), 1));
    assert_eq!((fleet.revisions(), fleet.fewest_available), (vec![previous.as_deref().unwrap(); 4], 3));
}

/// All runners of the previous shape drain when the change is reverted. Draining can take a day.
#[test]
fn creates_the_canary_while_other_runners_drain() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 2, reusable(0));
    fleet.create(sessions(0, 2));
    fleet.advance(2_000);
    let (previous, _) = pool_revisions(&fleet);
    fleet.edit("own", "pool", change_image);
    fleet.advance(2_000);
    assert_eq!(fleet.removed.len(), 2);
    fleet.edit("own", "pool", |spec| spec.template.image = None);
    fleet.advance(10_000);
    assert_eq!((pool_revisions(&fleet), fleet.canaries.len()), ((previous.clone(), previous), 2));
}

#[test]
fn drains_busy_runners_after_idle_ones() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 4, reusable(0));
    fleet.create(sessions(0, 2));
    fleet.advance(2_000);
    fleet.edit("own", "pool", change_image);
    fleet.advance(2_000);
    let had_session: Vec<_> = fleet.removed.iter().map(|(_, had_session)| *had_session).collect();
    assert_eq!(had_session, [false, false, true, true]);
    assert!(
        ["s00", "s01"].iter().all(|uid| fleet.status(uid).state == SessionState::Ready),
        "sessions run until the drain deadline"
    );
}

#[test]
fn an_unschedulable_canary_displaces_an_idle_runner() {
    for (max_unavailable, removed) in [(0, 0), (1, 1)] {
        let mut fleet = Fleet::new();
        fleet.pool("own", "pool", 3, reusable(max_unavailable));
        fleet.create(sessions(0, 1));
        fleet.advance(2_000);
        fleet.canaries_fail = true;
        fleet.edit("own", "pool", change_image);
        fleet.canary_is_unschedulable();
        fleet.advance(10_000);
        let had_session: Vec<_> = fleet.removed.iter().map(|(_, had_session)| *had_session).collect();
        assert_eq!(had_session, vec![false; removed], "maxUnavailable {max_unavailable}");
        assert_eq!(stalled(&fleet).as_deref(), Some(reasons::CANARY_FAILED));
    }
}

#[test]
fn creates_no_canary_while_the_pool_is_scaled_to_zero() {
    let autoscaling = Autoscaling { min_replicas: 0, max_replicas: 3, buffer_slots: 0, scale_down_delay_seconds: 60 };
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, WorkerPoolSpec { autoscaling: Some(autoscaling), ..reusable(1) });
    fleet.create(sessions(0, 1));
    fleet.delete("s00");
    fleet.advance(70_000);
    assert_eq!(fleet.runners(), 0);
    let (previous, _) = pool_revisions(&fleet);
    fleet.canaries_fail = true;
    fleet.edit("own", "pool", change_image);
    fleet.advance(70_000);
    assert_eq!((fleet.runners(), fleet.canaries.len(), stalled(&fleet)), (0, 0, None));
    fleet.create(sessions(1, 2));
    fleet.advance(2_000);
    assert_eq!((fleet.status("s01").state, fleet.canaries.len()), (SessionState::Ready, 1));
    assert!(fleet.pods().any(|pod| Some(&pod.revision) == previous.as_ref()), "runners of the current revision serve");
    fleet.delete("s01");
    for _ in 0..9 {
        fleet.advance(70_000);
    }
    assert_eq!((fleet.runners(), fleet.canaries.len()), (0, 1), "the canary is removed with the last runner");
}

/// All runners were warm once and can no longer launch browsers. The change repairs them.
#[test]
fn replaces_broken_runners_regardless_of_max_unavailable() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 3, reusable(0));
    fleet.advance(2_000);
    fleet.break_browsers("own", "pool");
    fleet.edit("own", "pool", change_image);
    fleet.advance(10_000);
    let (update, _) = pool_revisions(&fleet);
    assert_eq!((fleet.revisions(), stalled(&fleet)), (vec![update.as_deref().unwrap(); 3], None));
}

#[test]
fn a_canary_rejected_by_a_quota_displaces_an_idle_runner() {
    for (max_unavailable, removed) in [(0, 0), (1, 1)] {
        let mut fleet = Fleet::new();
        fleet.pool("own", "pool", 3, reusable(max_unavailable));
        fleet.advance(2_000);
        fleet.canaries_rejected = true;
        fleet.edit("own", "pool", change_image);
        fleet.advance(60_000);
        assert_eq!((fleet.removed.len(), fleet.runners()), (removed, 3 - removed), "maxUnavailable {max_unavailable}");
        assert_eq!(stalled(&fleet).as_deref(), Some(reasons::CANARY_FAILED));
    }
}

/// Otherwise each new canary would displace another runner.
#[test]
fn a_failed_canary_displaces_no_second_runner() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 3, reusable(1));
    fleet.advance(2_000);
    fleet.canaries_fail = true;
    fleet.edit("own", "pool", change_image);
    fleet.canary_is_unschedulable();
    fleet.advance(2_000);
    let canary = fleet.canaries[0].clone();
    let of_previous_shape =
        |fleet: &Fleet| fleet.removed.iter().filter(|(pod, _)| !fleet.canaries.contains(pod)).count();
    assert_eq!(of_previous_shape(&fleet), 1);
    fleet.fail_pod(&canary);
    fleet.advance(10_000);
    assert_eq!(fleet.canaries.len(), 2);
    fleet.canary_is_unschedulable();
    fleet.advance(60_000);
    assert_eq!(of_previous_shape(&fleet), 1);
}

#[test]
fn an_early_exit_after_warm_up_counts_as_a_failure() {
    for (uptime, created_at_once) in [(10_000, 0), (40_000, 1)] {
        let mut fleet = Fleet::new();
        fleet.pool("own", "pool", 1, reusable(1));
        fleet.advance(uptime);
        fleet.fail_pod("own/pool/0");
        assert_eq!(fleet.revisions().len(), created_at_once, "after {uptime} ms");
        fleet.advance(2_000);
        assert_eq!(fleet.revisions().len(), 1, "after a pause");
    }
}
