//! Rolls a pool over to the update shape: one canary first, then the other runners within `maxUnavailable`.

use crate::core::{
    ids::Uid,
    pool::state::Pool,
    runner::{
        pod_read::{self, PodPhase},
        state::Runner,
    },
};
use camofleet_crds::conditions::pool as reasons;

/// Progress of a pool towards the shape of its spec.
pub(in crate::core) struct Rollout {
    /// Target number of pods: one more than desired while the shape changes.
    pub(in crate::core) target: usize,
    /// One of the pods is the canary of the update shape.
    pub(in crate::core) has_canary: bool,
    /// The canary does not fit on a node or in a quota, and `maxUnavailable` allows removing an idle runner to make
    /// room for it.
    pub(in crate::core) makes_room_for_canary: bool,
}

impl Rollout {
    pub(in crate::core) fn of<'a>(pool: &Pool, runners: impl Iterator<Item = &'a Runner>) -> Self {
        let (desired, current) = (pool.desired(), &pool.shapes.current_or_update().revision);
        let remaining: Vec<_> = runners.filter(|runner| !runner.is_terminating()).collect();
        let has_canary = pool.shapes.is_rolling_out() && desired > 0;
        let is_updating = has_canary || desired > 0 && remaining.iter().any(|runner| runner.pod().revision != *current);
        let has_no_room = |runner: &&Runner| {
            let unschedulable =
                matches!(runner.pod().phase, PodPhase::Pending(Some(pod_read::PendingReason::Unschedulable(_))));
            unschedulable && pool.shapes.is_canary(&runner.pod().revision)
        };
        let may_be_unavailable = pool.object().spec.rollout.max_unavailable_of(desired) > 0;
        // A canary that failed had room, and so will the next one.
        let makes_room_for_canary = has_canary
            && may_be_unavailable
            && match pool.shapes.last_failure(&pool.shapes.update().revision) {
                Some((reason, _)) => reason == reasons::POD_REFUSED,
                None => remaining.iter().any(has_no_room),
            };
        Self { target: desired + usize::from(is_updating && !makes_room_for_canary), has_canary, makes_room_for_canary }
    }
}

/// Returns the runners of an outdated shape to remove now, within `maxUnavailable`: idle ones first, then those with
/// sessions, which drain. Returns none before the canary is warm, because the current shape does not change until then.
pub(in crate::core) fn outdated(pool: &Pool, remaining: &[&Runner], terminating: &[&Runner]) -> Vec<Uid> {
    if pool.shapes.has_no_valid_shape() {
        return Vec::new();
    }
    let is_outdated = |runner: &&&Runner| {
        runner.pod().revision != pool.shapes.current_or_update().revision && !runner.may_have_unknown_sessions()
    };
    let (idle, busy): (Vec<&Runner>, Vec<&Runner>) =
        remaining.iter().filter(is_outdated).partition(|runner| runner.is_idle());
    // Removing broken runners does not reduce availability.
    let (mut leaving, up): (Vec<&Runner>, Vec<&Runner>) = idle.into_iter().partition(|runner| runner.is_broken());
    let available = remaining.iter().chain(terminating).filter(|runner| runner.counts_as_available()).count();
    let max_unavailable = pool.object().spec.rollout.max_unavailable_of(pool.desired());
    let removable = (available + max_unavailable).saturating_sub(pool.desired());
    leaving.extend(up.iter().take(removable));
    if up.len() <= removable {
        // A draining runner with several slots counts as available, but its free slots are lost.
        let loses_nothing =
            |runner: &&Runner| runner.is_spent() || runner.report().is_some_and(|state| state.slots == 1);
        let lost = terminating.iter().filter(|runner| runner.counts_as_available() && !loses_nothing(runner)).count();
        let (at_once, others): (Vec<&Runner>, Vec<&Runner>) = busy.into_iter().partition(loses_nothing);
        leaving.extend(at_once);
        leaving.extend(others.into_iter().take(removable.saturating_sub(up.len() + lost)));
    }
    leaving.into_iter().map(|runner| runner.pod().uid.clone()).collect()
}
