//! How a pool changes to another shape.

use crate::core::{
    ids::Uid,
    pool::state::Pool,
    runner::{
        pod_read::{self, Fate},
        state::Runner,
    },
};
use camofleet_crds::conditions::pool as reasons;

/// The progress of a pool towards the shape that its spec asks for.
pub(in crate::core) struct Rollout {
    /// Pods that it is to have now: one more than desired while runners of different shapes are there or to come.
    pub(in crate::core) places: usize,
    /// One of them tests a new shape.
    pub(in crate::core) has_canary: bool,
    /// No node has room for one more, and one may be missing: another gives its place to it.
    pub(in crate::core) makes_way: bool,
}

impl Rollout {
    pub(in crate::core) fn of<'a>(pool: &Pool, runners: impl Iterator<Item = &'a Runner>) -> Self {
        let (desired, current) = (pool.desired(), &pool.shapes.current().revision);
        let staying: Vec<_> = runners.filter(|runner| !runner.is_terminating()).collect();
        let has_canary = pool.shapes.is_rolling_out() && desired > 0;
        let changes = has_canary || desired > 0 && staying.iter().any(|runner| runner.pod().revision != *current);
        let has_no_room = |runner: &&Runner| {
            let unschedulable = matches!(runner.pod().fate, Fate::Pending(Some(pod_read::Trouble::Unschedulable(_))));
            unschedulable && pool.shapes.is_canary(&runner.pod().revision)
        };
        let may_miss = pool.object().spec.rollout.max_unavailable_of(desired) > 0;
        // A canary that ended had room on a node, and its successor would have room again.
        let makes_way = has_canary
            && may_miss
            && match pool.shapes.trouble(&pool.shapes.update().revision) {
                Some((reason, _)) => reason == reasons::POD_REFUSED,
                None => staying.iter().any(has_no_room),
            };
        Self { places: desired + usize::from(changes && !makes_way), has_canary, makes_way }
    }
}

/// Runners of an old shape that are to go now: idle ones first, and only while no more are missing than may be; then those
/// with sessions, which drain. None before the new shape is proven.
pub(in crate::core) fn outdated(pool: &Pool, staying: &[&Runner], going: &[&Runner]) -> Vec<Uid> {
    if pool.shapes.has_no_valid_shape() {
        return Vec::new();
    }
    let old = |runner: &&&Runner| runner.pod().revision != pool.shapes.current().revision && !runner.is_unheard();
    let (idle, busy): (Vec<&Runner>, Vec<&Runner>) = staying.iter().filter(old).partition(|runner| runner.is_idle());
    // Those that nobody would miss.
    let (mut leaving, up): (Vec<&Runner>, Vec<&Runner>) = idle.into_iter().partition(|runner| runner.is_useless());
    let in_place = staying.iter().chain(going).filter(|runner| runner.is_in_place()).count();
    let most = pool.object().spec.rollout.max_unavailable_of(pool.desired());
    let may_go = (in_place + most).saturating_sub(pool.desired());
    leaving.extend(up.iter().take(may_go));
    if up.len() <= may_go {
        // A runner of several slots that drains has its place, but takes none of the sessions that it has room for.
        let loses_nothing =
            |runner: &&Runner| runner.is_spent() || runner.report().is_some_and(|state| state.slots == 1);
        let lost = going.iter().filter(|runner| runner.is_in_place() && !loses_nothing(runner)).count();
        let (at_once, others): (Vec<&Runner>, Vec<&Runner>) = busy.into_iter().partition(loses_nothing);
        leaving.extend(at_once);
        leaving.extend(others.into_iter().take(may_go.saturating_sub(up.len() + lost)));
    }
    leaving.into_iter().map(|runner| runner.pod().uid.clone()).collect()
}
