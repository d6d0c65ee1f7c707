//! Diagnoses why a pool's runners do not become warm. Each chain of named checks returns the reason and message of the
//! first check that applies.

use crate::core::{
    clock::Now,
    pool::{shapes::ReasonMessage, state::Pool},
    runner::{
        pod_read::{self, PodPhase},
        state::Runner,
    },
};
use camofleet_crds::conditions::pool as reasons;
use std::time::Duration;

/// Time without a runner that becomes warm after which a pool that is short of runners is `Stalled`, like a
/// Deployment's `progressDeadlineSeconds`.
pub(in crate::core) const PROGRESS_DEADLINE: Duration = Duration::from_secs(600);

/// A pool and the runners that a check inspects.
struct Inspection<'a> {
    pool: &'a Pool,
    runners: Vec<&'a Runner>,
    now: Now,
}

type Check = fn(&Inspection) -> Option<ReasonMessage>;

/// Checks of the current shape.
const CURRENT_SHAPE: [Check; 5] = [
    no_shape_is_accepted,
    pods_of_the_current_shape_fail,
    a_pod_does_not_start,
    browsers_do_not_launch,
    no_runner_becomes_warm,
];

/// Checks of an update shape that is being rolled out.
const CANARY: [Check; 4] = [canaries_fail, a_pod_does_not_start, the_canary_loads_no_page, the_canary_is_late];

/// The reason for `Stalled` when runners of the current shape do not become warm.
pub(in crate::core) fn stalled_reason(pool: &Pool, runners: &[&Runner], now: Now) -> Option<ReasonMessage> {
    let current = |runner: &&Runner| !pool.shapes.is_canary(&runner.pod().revision);
    let runners = runners.iter().copied().filter(current).collect();
    first(&CURRENT_SHAPE, &Inspection { pool, runners, now })
}

/// The reason for `Stalled` when the canary cannot be created or cannot load a page.
pub(in crate::core) fn canary_stalled_reason(pool: &Pool, runners: &[&Runner], now: Now) -> Option<ReasonMessage> {
    if let Some(rejection) = pool.shapes.rejection() {
        return Some(rejection);
    }
    let canary = |runner: &&Runner| pool.shapes.is_canary(&runner.pod().revision);
    let runners = runners.iter().copied().filter(canary).collect();
    let (_, message) = first(&CANARY, &Inspection { pool, runners, now })?;
    let message = format!(
        "the canary of the update revision does not become warm: {message}. Runners of the current revision continue \
         to serve. Correct the pool, or revert the change"
    );
    Some((reasons::CANARY_FAILED, message))
}

fn first(checks: &[Check], inspection: &Inspection) -> Option<ReasonMessage> {
    checks.iter().find_map(|check| check(inspection))
}

/// The pool has only a template that is too large.
fn no_shape_is_accepted(inspection: &Inspection) -> Option<ReasonMessage> {
    let shapes = &inspection.pool.shapes;
    shapes.rejection().filter(|_| shapes.has_no_valid_shape())
}

/// Pods of the current shape cannot be created, or exit before they have been warm for 30 s.
fn pods_of_the_current_shape_fail(inspection: &Inspection) -> Option<ReasonMessage> {
    let shapes = &inspection.pool.shapes;
    shapes.last_failure(&shapes.current_or_update().revision)
}

/// Canaries cannot be created, or exit before they have been warm for 30 s.
fn canaries_fail(inspection: &Inspection) -> Option<ReasonMessage> {
    let shapes = &inspection.pool.shapes;
    shapes.last_failure(&shapes.update().revision).filter(|_| shapes.is_rolling_out())
}

/// A pod's image cannot be pulled, or the pod fits on no node.
fn a_pod_does_not_start(inspection: &Inspection) -> Option<ReasonMessage> {
    inspection.runners.iter().find_map(|runner| match &runner.pod().phase {
        PodPhase::Pending(Some(pod_read::PendingReason::Image(message))) => Some((
            reasons::IMAGE_ERROR,
            format!("pod {}: {message}; correct template.image or template.imagePullSecrets", runner.pod().key.name),
        )),
        PodPhase::Pending(Some(pod_read::PendingReason::Unschedulable(message))) => Some((
            reasons::UNSCHEDULABLE,
            format!(
                "pod {}: {message}; add nodes, or change the template's resources, nodeSelector or tolerations",
                runner.pod().key.name
            ),
        )),
        // The controller that set the gate removes it.
        PodPhase::Pending(Some(pod_read::PendingReason::Gated) | None)
        | PodPhase::Running
        | PodPhase::Terminated { .. } => None,
    })
}

/// A runner reports a launch error and has no hot browser left.
fn browsers_do_not_launch(inspection: &Inspection) -> Option<ReasonMessage> {
    inspection.runners.iter().filter_map(|runner| runner.report()).find_map(|report| {
        let error = report.launch_error.as_ref().filter(|_| report.hot.headless + report.hot.headful == 0)?;
        Some((reasons::BROWSERS_FAILING, error.clone()))
    })
}

/// The canary reports that a browser cannot be launched, or cannot load a page. Its hot browsers do not count, because
/// a canary that is not warm has loaded a page in none of them.
fn the_canary_loads_no_page(inspection: &Inspection) -> Option<ReasonMessage> {
    let error = inspection.runners.iter().find_map(|canary| canary.report()?.launch_error.clone())?;
    Some((reasons::BROWSERS_FAILING, error))
}

/// The pool is short of runners, and none has become warm for [`PROGRESS_DEADLINE`].
fn no_runner_becomes_warm(inspection: &Inspection) -> Option<ReasonMessage> {
    inspection
        .pool
        .short_of_runners_since()
        .filter(|since| since.after(PROGRESS_DEADLINE) <= inspection.now.monotonic)?;
    let message = "no runner has become warm for 10 minutes; read the pods' events and logs";
    Some((reasons::NO_PROGRESS, message.to_owned()))
}

/// A canary has not loaded a page for [`PROGRESS_DEADLINE`].
fn the_canary_is_late(inspection: &Inspection) -> Option<ReasonMessage> {
    let is_late = |canary: &&&Runner| canary.created().after(PROGRESS_DEADLINE) <= inspection.now.monotonic;
    let late = inspection.runners.iter().find(is_late)?;
    let message = format!("pod {} has not loaded a page for 10 minutes; read its events and logs", late.pod().key.name);
    Some((reasons::NO_PROGRESS, message))
}
