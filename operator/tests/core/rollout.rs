//! A new shape comes by way of one runner that tests it, and takes nobody's session or slot.

use super::fleet::{Fleet, on, session};
use camofleet_crds::{
    conditions::{self, READY, STALLED, pool as reasons},
    v1alpha1::{Autoscaling, BrowserSession, Rollout, RunnerTemplate, SessionState, WorkerPoolSpec},
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Runners that serve as many sessions as come, one at a time.
fn lasting(max_unavailable: i32) -> WorkerPoolSpec {
    let rollout = Rollout { max_unavailable: IntOrString::Int(max_unavailable), ..Rollout::default() };
    WorkerPoolSpec { sessions_per_runner: Some(0), rollout, ..WorkerPoolSpec::default() }
}

fn another_image(spec: &mut WorkerPoolSpec) {
    spec.template.image = Some("another".into());
}

fn some(from: usize, to: usize) -> Vec<BrowserSession> {
    (from..to).map(|i| session("own", &format!("s{i:02}"), 1, on("own", "pool"))).collect()
}

/// Reason of `Stalled`, while that is true.
fn stalled(fleet: &Fleet) -> Option<String> {
    let status = fleet.pool_status("own", "pool");
    conditions::get(&status.conditions, STALLED).filter(|it| it.status == "True").map(|it| it.reason.clone())
}

fn shapes(fleet: &Fleet) -> (Option<String>, Option<String>) {
    let status = fleet.pool_status("own", "pool");
    (status.revision, status.serving.map(|serving| serving.revision))
}

#[test]
fn the_others_follow_one_that_has_loaded_a_page() {
    for (max_unavailable, fewest) in [(0, 4), (1, 3), (2, 2), (9, 1)] {
        let mut fleet = Fleet::new();
        fleet.pool("own", "pool", 4, lasting(max_unavailable));
        fleet.pass(2_000);
        assert_eq!(fleet.canaries.len(), 0, "of a first shape there is nothing to lose");
        let (former, serving) = shapes(&fleet);
        assert_eq!(former, serving);
        // The canary is well, and those that follow take their time.
        (fleet.others_fail, fleet.fewest_up) = (true, usize::MAX);
        fleet.edit("own", "pool", another_image);
        fleet.pass(10_000);
        let (wished, serving) = shapes(&fleet);
        assert!(wished != former && wished == serving);
        assert_eq!(fleet.fewest_up, fewest, "maxUnavailable {max_unavailable}");
        fleet.others_fail = false;
        fleet.warm("own", "pool");
        fleet.pass(10_000);
        fleet.warm("own", "pool");
        fleet.pass(10_000);
        assert_eq!(fleet.revisions(), vec![wished.as_deref().unwrap(); 4]);
        assert_eq!((fleet.canaries.len(), fleet.removed.len(), stalled(&fleet)), (1, 4, None));
        assert_eq!(fleet.fewest_up, fewest, "maxUnavailable {max_unavailable}");
    }
}

#[test]
fn a_shape_that_fails_its_test_stops_there_and_the_former_serves() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 3, WorkerPoolSpec { sessions_per_runner: None, ..lasting(1) });
    fleet.pass(2_000);
    let (former, _) = shapes(&fleet);
    fleet.canaries_fail = true;
    fleet.edit("own", "pool", another_image);
    fleet.pass(2_000);
    assert_eq!((fleet.canaries.len(), fleet.removed.len()), (1, 0));
    assert_eq!(stalled(&fleet).as_deref(), Some(reasons::CANARY_FAILED));
    let status = fleet.pool_status("own", "pool");
    assert!(conditions::is_true(&status.conditions, conditions::READY), "it serves as before");
    let ready = conditions::get(&status.conditions, conditions::READY).unwrap();
    assert_eq!(ready.reason, reasons::CANARY_FAILED, "which `kubectl get -o wide` shows: {}", ready.message);
    assert_eq!((status.replicas, status.ready_replicas, status.updated_replicas, status.slots.total), (4, 3, 1, 3));

    // Runners that have served are replaced by their like, whoever leads.
    for (round, uid) in ["s00", "s01", "s02", "s03"].into_iter().enumerate() {
        if round == 2 {
            fleet.another_leads();
        }
        fleet.create(some(round, round + 1));
        assert_eq!(fleet.status(uid).state, SessionState::Ready);
        assert!(!fleet.canaries.iter().any(|canary| fleet.pod_of(uid) == Some(canary)), "a canary serves nobody");
        fleet.spend(uid);
        fleet.pass(10_000);
        let revisions = fleet.revisions();
        assert_eq!(revisions.iter().filter(|revision| Some(**revision) == former.as_deref()).count(), 3);
        assert_eq!(revisions.len(), 4);
    }
    assert_eq!((stalled(&fleet).as_deref(), shapes(&fleet).1), (Some(reasons::CANARY_FAILED), former));

    fleet.canary_recovers();
    fleet.pass(10_000);
    let (wished, serving) = shapes(&fleet);
    assert_eq!((fleet.revisions(), serving), (vec![wished.as_deref().unwrap(); 3], wished.clone()));
    assert_eq!(stalled(&fleet), None);
}

/// A pool as it is read when its template was too large to be kept.
fn too_large(spec: &mut WorkerPoolSpec) {
    spec.template = RunnerTemplate { too_large: Some(1_400_000), ..RunnerTemplate::default() };
}

#[test]
fn of_a_template_that_is_too_large_no_runner_is_made_and_the_former_shape_serves() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 2, lasting(1));
    fleet.pass(2_000);
    let (former, _) = shapes(&fleet);
    fleet.edit("own", "pool", too_large);
    fleet.pass(30_000);
    assert_eq!((stalled(&fleet).as_deref(), fleet.removed.len()), (Some(reasons::TEMPLATE_TOO_LARGE), 0));
    let conditions = fleet.pool_status("own", "pool").conditions;
    let message = &conditions::get(&conditions, STALLED).unwrap().message;
    assert!(message.contains("spec.template has 1400000 bytes") && message.contains("at most 32768"), "{message}");
    assert_eq!(conditions::get(&conditions, READY).unwrap().status, "True");
    // One that ends is replaced by its like, by another leader too.
    fleet.another_leads();
    fleet.die("own/pool/0");
    fleet.pass(30_000);
    assert_eq!((fleet.revisions(), fleet.canaries.len()), (vec![former.as_deref().unwrap(); 2], 0));
    // What it has sessions for is served, and what else the spec says counts.
    fleet.edit("own", "pool", |spec| spec.replicas = Some(3));
    fleet.pass(30_000);
    assert_eq!(fleet.revisions(), vec![former.as_deref().unwrap(); 3]);
    fleet.edit("own", "pool", |spec| spec.template = RunnerTemplate::default());
    fleet.pass(30_000);
    assert_eq!((shapes(&fleet), stalled(&fleet)), ((former.clone(), former), None));
}

#[test]
fn a_pool_whose_first_template_is_too_large_has_no_runner() {
    let mut fleet = Fleet::new();
    let mut spec = lasting(1);
    too_large(&mut spec);
    fleet.pool("own", "pool", 0, spec);
    fleet.pass(2_000);
    assert_eq!(
        stalled(&fleet).as_deref(),
        Some(reasons::TEMPLATE_TOO_LARGE),
        "the refusal is published before any runner is needed"
    );
    fleet.edit("own", "pool", |spec| spec.replicas = Some(2));
    fleet.pass(700_000);
    assert_eq!((fleet.runners(), stalled(&fleet).as_deref()), (0, Some(reasons::TEMPLATE_TOO_LARGE)));
    fleet.edit("own", "pool", |spec| spec.template = RunnerTemplate::default());
    fleet.pass(30_000);
    assert_eq!((fleet.runners(), stalled(&fleet)), (2, None));
}

#[test]
fn a_change_that_is_taken_back_leaves_all_as_it_was() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 3, lasting(1));
    fleet.pass(2_000);
    fleet.canaries_fail = true;
    fleet.edit("own", "pool", another_image);
    fleet.pass(2_000);
    fleet.edit("own", "pool", |spec| spec.template.image = None);
    fleet.pass(10_000);
    let canaries: Vec<_> = fleet.canaries.iter().map(|canary| (canary.clone(), false)).collect();
    assert_eq!((fleet.removed.clone(), fleet.runners()), (canaries, 3));
    assert_eq!(stalled(&fleet), None);
    assert_eq!(shapes(&fleet).0, shapes(&fleet).1);
}

/// The canary was well, and those that follow are not.
#[test]
fn a_change_that_is_taken_back_half_way_needs_no_test() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 4, lasting(1));
    fleet.pass(2_000);
    let (former, _) = shapes(&fleet);
    (fleet.others_fail, fleet.fewest_up) = (true, usize::MAX);
    fleet.edit("own", "pool", another_image);
    fleet.pass(2_000);
    assert_eq!((fleet.removed.len(), fleet.fewest_up), (2, 3), "no more than may be missing");
    assert_eq!(stalled(&fleet).as_deref(), Some(reasons::BROWSERS_FAILING));
    fleet.others_fail = false;
    fleet.edit("own", "pool", |spec| spec.template.image = None);
    fleet.pass(10_000);
    assert_eq!((shapes(&fleet), fleet.canaries.len()), ((former.clone(), former.clone()), 1));
    assert_eq!((fleet.revisions(), fleet.fewest_up), (vec![former.as_deref().unwrap(); 4], 3));
}

/// All of the former drain, for as long as a day, when the change is taken back.
#[test]
fn a_canary_does_not_wait_for_those_that_drain() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 2, lasting(0));
    fleet.create(some(0, 2));
    fleet.pass(2_000);
    let (former, _) = shapes(&fleet);
    fleet.edit("own", "pool", another_image);
    fleet.pass(2_000);
    assert_eq!(fleet.removed.len(), 2);
    fleet.edit("own", "pool", |spec| spec.template.image = None);
    fleet.pass(10_000);
    assert_eq!((shapes(&fleet), fleet.canaries.len()), ((former.clone(), former), 2));
}

#[test]
fn those_with_sessions_drain_when_no_idle_one_is_left() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 4, lasting(0));
    fleet.create(some(0, 2));
    fleet.pass(2_000);
    fleet.edit("own", "pool", another_image);
    fleet.pass(2_000);
    let served: Vec<_> = fleet.removed.iter().map(|(_, served)| *served).collect();
    assert_eq!(served, [false, false, true, true]);
    assert!(
        ["s00", "s01"].iter().all(|uid| fleet.status(uid).state == SessionState::Ready),
        "until the drain deadline"
    );
}

#[test]
fn where_no_node_has_room_for_a_canary_one_that_may_be_missing_makes_way() {
    for (max_unavailable, removed) in [(0, 0), (1, 1)] {
        let mut fleet = Fleet::new();
        fleet.pool("own", "pool", 3, lasting(max_unavailable));
        fleet.create(some(0, 1));
        fleet.pass(2_000);
        fleet.canaries_fail = true;
        fleet.edit("own", "pool", another_image);
        fleet.canary_has_no_room();
        fleet.pass(10_000);
        let served: Vec<_> = fleet.removed.iter().map(|(_, served)| *served).collect();
        assert_eq!(served, vec![false; removed], "maxUnavailable {max_unavailable}");
        assert_eq!(stalled(&fleet).as_deref(), Some(reasons::CANARY_FAILED));
    }
}

#[test]
fn a_pool_at_zero_stays_there_until_somebody_needs_it() {
    let autoscaling = Autoscaling { min_replicas: 0, max_replicas: 3, buffer_slots: 0, scale_down_delay_seconds: 60 };
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 0, WorkerPoolSpec { autoscaling: Some(autoscaling), ..lasting(1) });
    fleet.create(some(0, 1));
    fleet.end("s00");
    fleet.pass(70_000);
    assert_eq!(fleet.runners(), 0);
    let (former, _) = shapes(&fleet);
    fleet.canaries_fail = true;
    fleet.edit("own", "pool", another_image);
    fleet.pass(70_000);
    assert_eq!((fleet.runners(), fleet.canaries.len(), stalled(&fleet)), (0, 0, None));
    fleet.create(some(1, 2));
    fleet.pass(2_000);
    assert_eq!((fleet.status("s01").state, fleet.canaries.len()), (SessionState::Ready, 1));
    assert!(fleet.pods().any(|pod| Some(&pod.revision) == former.as_ref()), "what is known to work serves");
    fleet.end("s01");
    for _ in 0..9 {
        fleet.pass(70_000);
    }
    assert_eq!((fleet.runners(), fleet.canaries.len()), (0, 1), "and the canary goes with the last");
}

/// They were all well once, and it is the change that mends them.
#[test]
fn a_change_replaces_runners_that_launch_nothing_any_more() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 3, lasting(0));
    fleet.pass(2_000);
    fleet.break_browsers("own", "pool");
    fleet.edit("own", "pool", another_image);
    fleet.pass(10_000);
    let (wished, _) = shapes(&fleet);
    assert_eq!((fleet.revisions(), stalled(&fleet)), (vec![wished.as_deref().unwrap(); 3], None));
}

#[test]
fn where_a_quota_is_full_one_that_may_be_missing_makes_way() {
    for (max_unavailable, removed) in [(0, 0), (1, 1)] {
        let mut fleet = Fleet::new();
        fleet.pool("own", "pool", 3, lasting(max_unavailable));
        fleet.pass(2_000);
        fleet.canaries_refused = true;
        fleet.edit("own", "pool", another_image);
        fleet.pass(60_000);
        assert_eq!((fleet.removed.len(), fleet.runners()), (removed, 3 - removed), "maxUnavailable {max_unavailable}");
        assert_eq!(stalled(&fleet).as_deref(), Some(reasons::CANARY_FAILED));
    }
}

/// Each new one would have a runner make way.
#[test]
fn for_a_canary_that_had_room_and_ended_none_makes_way_again() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 3, lasting(1));
    fleet.pass(2_000);
    fleet.canaries_fail = true;
    fleet.edit("own", "pool", another_image);
    fleet.canary_has_no_room();
    fleet.pass(2_000);
    let canary = fleet.canaries[0].clone();
    let of_the_former = |fleet: &Fleet| fleet.removed.iter().filter(|(pod, _)| !fleet.canaries.contains(pod)).count();
    assert_eq!(of_the_former(&fleet), 1);
    fleet.die(&canary);
    fleet.pass(10_000);
    assert_eq!(fleet.canaries.len(), 2);
    fleet.canary_has_no_room();
    fleet.pass(60_000);
    assert_eq!(of_the_former(&fleet), 1);
}

#[test]
fn a_runner_that_ends_soon_after_it_was_warm_has_failed() {
    for (lived, made_at_once) in [(10_000, 0), (40_000, 1)] {
        let mut fleet = Fleet::new();
        fleet.pool("own", "pool", 1, lasting(1));
        fleet.pass(lived);
        fleet.die("own/pool/0");
        assert_eq!(fleet.revisions().len(), made_at_once, "after {lived} ms");
        fleet.pass(2_000);
        assert_eq!(fleet.revisions().len(), 1, "after a pause");
    }
}
