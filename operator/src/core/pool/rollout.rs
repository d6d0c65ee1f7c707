//! How a pool changes to another shape.

use crate::core::{
    ids::Uid,
    pool::state::Pool,
    runner::{
        pod_read::{self, PodPhase},
        state::Runner,
    },
};
use camofleet_crds::conditions::pool as reasons;

/// The progress of a pool towards the shape that its spec asks for.
pub(in crate::core) struct Rollout {
    /// Pods that it is to have now: one more than desired while runners of different shapes are there or to come.
    pub(in crate::core) target: usize,
    /// One of them tests a new shape.
    pub(in crate::core) has_canary: bool,
    /// No node has room for one more, and one may be missing: another gives its place to it.
    pub(in crate::core) displaces_runner: bool,
}

impl Rollout {
    pub(in crate::core) fn of<'a>(pool: &Pool, runners: impl Iterator<Item = &'a Runner>) -> Self {
        let (desired, current) = (pool.desired(), &pool.shapes.current().revision);
        let remaining: Vec<_> = runners.filter(|runner| !runner.is_terminating()).collect();
        let has_canary = pool.shapes.is_rolling_out() && desired > 0;
        let is_updating = has_canary || desired > 0 && remaining.iter().any(|runner| runner.pod().revision != *current);
        let has_no_room = |runner: &&Runner| {
            let unschedulable =
                matches!(runner.pod().phase, PodPhase::Pending(Some(pod_read::PendingReason::Unschedulable(_))));
            unschedulable && pool.shapes.is_canary(&runner.pod().revision)
        };
        let may_be_unavailable = pool.object().spec.rollout.max_unavailable_of(desired) > 0;
        // A canary that ended had room on a node, and its successor would have room again.
        let displaces_runner = has_canary
            && may_be_unavailable
            && match pool.shapes.last_failure(&pool.shapes.update().revision) {
                Some((reason, _)) => reason == reasons::POD_REFUSED,
                None => remaining.iter().any(has_no_room),
            };
        Self { target: desired + usize::from(is_updating && !displaces_runner), has_canary, displaces_runner }
    }
}

/// Runners of an old shape that are to go now: idle ones first, and only while no more are missing than may be; then those
/// with sessions, which drain. None before the new shape is proven.
pub(in crate::core) fn outdated(pool: &Pool, remaining: &[&Runner], terminating: &[&Runner]) -> Vec<Uid> {
    if pool.shapes.has_no_valid_shape() {
        return Vec::new();
    }
    let is_outdated = |runner: &&&Runner| {
        runner.pod().revision != pool.shapes.current().revision && !runner.may_have_unknown_sessions()
    };
    let (idle, busy): (Vec<&Runner>, Vec<&Runner>) =
        remaining.iter().filter(is_outdated).partition(|runner| runner.is_idle());
    // Those that nobody would miss.
    let (mut leaving, up): (Vec<&Runner>, Vec<&Runner>) = idle.into_iter().partition(|runner| runner.is_broken());
    let available = remaining.iter().chain(terminating).filter(|runner| runner.counts_as_available()).count();
    let max_unavailable = pool.object().spec.rollout.max_unavailable_of(pool.desired());
    let removable = (available + max_unavailable).saturating_sub(pool.desired());
    leaving.extend(up.iter().take(removable));
    if up.len() <= removable {
        // A runner of several slots that drains has its place, but takes none of the sessions that it has room for.
        let loses_nothing =
            |runner: &&Runner| runner.is_spent() || runner.report().is_some_and(|state| state.slots == 1);
        let lost = terminating.iter().filter(|runner| runner.counts_as_available() && !loses_nothing(runner)).count();
        let (at_once, others): (Vec<&Runner>, Vec<&Runner>) = busy.into_iter().partition(loses_nothing);
        leaving.extend(at_once);
        leaving.extend(others.into_iter().take(removable.saturating_sub(up.len() + lost)));
    }
    leaving.into_iter().map(|runner| runner.pod().uid.clone()).collect()
}
