//! The shapes of a pool's pods: the update shape of its spec, the current shape, which is the latest with a runner that
//! became warm, and the failures of each.

use crate::core::{
    clock::Monotonic,
    runner::pod_build::{Installation, Shape},
};
use camofleet_crds::{conditions::pool as reasons, v1alpha1::WorkerPool};
use camofleet_runtime::backoff::ExponentialBackoff;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Pause after a failed pod, before any further pod of its shape is created. After it, all missing pods of the shape
/// are created, within the limits of the launch budget.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(300));

/// Reason and message of a condition.
pub(in crate::core) type ReasonMessage = (&'static str, String);

#[derive(Debug)]
pub(in crate::core) struct Shapes {
    /// The shape of the spec.
    update: Shape,
    /// The latest shape with a runner that became warm.
    current: Option<Shape>,
    /// Failures of pods of the two shapes since a runner of theirs last became warm, by revision.
    failures: HashMap<String, Failures>,
}

/// Consecutive failures of one shape.
#[derive(Debug)]
struct Failures {
    count: u32,
    pause_until: Monotonic,
    cause: ReasonMessage,
}

impl Shapes {
    pub(in crate::core) fn new(pool: &Arc<WorkerPool>, installation: &Installation) -> Self {
        Self { update: Shape::of(pool, installation), current: Shape::published(pool), failures: HashMap::new() }
    }

    /// Resets the shapes to the published one, which is all that a new leader knows.
    pub(in crate::core) fn begin_term(&mut self, pool: &WorkerPool) {
        self.failures.clear();
        self.current = Shape::published(pool);
    }

    /// The shape of the spec.
    pub(in crate::core) fn update(&self) -> &Shape {
        &self.update
    }

    /// The latest shape with a runner that became warm.
    pub(in crate::core) fn current(&self) -> Option<&Shape> {
        self.current.as_ref()
    }

    /// The shape of new runners, except for canaries: the current one, or the update shape before any runner was warm.
    pub(in crate::core) fn current_or_update(&self) -> &Shape {
        self.current.as_ref().unwrap_or(&self.update)
    }

    /// Returns whether the only known shape is rejected, so that no runner can be created.
    pub(in crate::core) fn has_no_valid_shape(&self) -> bool {
        self.current_or_update().rejection().is_some()
    }

    /// Returns whether there is a current shape and the update shape differs from it, so that it needs a canary.
    pub(in crate::core) fn is_rolling_out(&self) -> bool {
        self.update.revision != self.current_or_update().revision && self.update.rejection().is_none()
    }

    /// Why no runner is created in the update shape, for `Stalled`.
    pub(in crate::core) fn rejection(&self) -> Option<ReasonMessage> {
        self.update.rejection().map(|message| (reasons::TEMPLATE_TOO_LARGE, message))
    }

    /// Returns whether runners of the revision are canaries, which take no sessions.
    pub(in crate::core) fn is_canary(&self, revision: &str) -> bool {
        self.is_rolling_out() && self.update.revision == revision
    }

    /// Sets the shape of the spec. Returns whether the shape of new runners has changed.
    pub(in crate::core) fn set_update(&mut self, shape: Shape) -> bool {
        let changes = self.current.is_none() && self.update.revision != shape.revision;
        self.update = shape;
        let (update, current) = (self.update.revision.clone(), self.current_or_update().revision.clone());
        self.failures.retain(|revision, _| *revision == update || *revision == current);
        changes
    }

    /// Records that a pod of the revision failed or could not be created, and doubles the pause before any further pod
    /// of the revision is created.
    pub(in crate::core) fn failed(&mut self, revision: &str, cause: ReasonMessage, now: Monotonic) {
        if revision != self.update.revision && revision != self.current_or_update().revision {
            return;
        }
        let count = self.failures.get(revision).map_or(0, |failures| failures.count).saturating_add(1);
        let failures = Failures { count, pause_until: now.after(BACKOFF.after(count)), cause };
        self.failures.insert(revision.to_owned(), failures);
    }

    /// Records that a runner of the revision became warm. This clears the failures of the revision, and makes the
    /// update shape the current one.
    pub(in crate::core) fn runner_became_warm(&mut self, revision: &str) {
        self.failures.remove(revision);
        if revision == self.update.revision {
            self.current = Some(self.update.clone());
        }
    }

    pub(in crate::core) fn pause_until(&self, revision: &str) -> Option<Monotonic> {
        self.failures.get(revision).map(|failures| failures.pause_until)
    }

    /// Why the latest pod of the revision failed, if no runner has become warm since.
    pub(in crate::core) fn last_failure(&self, revision: &str) -> Option<ReasonMessage> {
        self.failures.get(revision).map(|failures| failures.cause.clone())
    }

    pub(in crate::core) fn pauses(&self) -> impl Iterator<Item = Monotonic> {
        self.failures.values().map(|failures| failures.pause_until)
    }

    /// Returns whether pods of the current shape fail, or of the update shape before any runner was warm.
    pub(in crate::core) fn is_failing(&self) -> bool {
        self.failures.contains_key(&self.current_or_update().revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::v1alpha1::WorkerPoolSpec;

    fn installation() -> Installation {
        Installation {
            runner_image: "runner:1".into(),
            public_url: "http://fleet".into(),
            namespace: "fleet".into(),
            runner_environment: Vec::new(),
        }
    }

    fn shape(slots: i32) -> Shape {
        let spec = WorkerPoolSpec { slots_per_runner: slots, ..WorkerPoolSpec::default() };
        Shape::of(&Arc::new(WorkerPool::new("p", spec)), &installation())
    }

    fn shapes() -> Shapes {
        Shapes { update: shape(1), current: None, failures: HashMap::new() }
    }

    #[test]
    fn a_new_shape_needs_a_canary() {
        let (first, second) = (shape(1).revision, shape(2).revision);
        let mut shapes = shapes();
        assert!(!shapes.is_rolling_out(), "the first shape needs no canary");
        assert!(shapes.set_update(shape(2)), "no runner of the first shape became warm");
        shapes.runner_became_warm(&second);
        assert!(!shapes.set_update(shape(1)) && shapes.is_rolling_out());
        assert_eq!(
            (shapes.current_or_update().revision.as_str(), shapes.is_canary(&first), shapes.is_canary(&second)),
            (&*second, true, false)
        );
        shapes.runner_became_warm(&first);
        assert!(!shapes.is_rolling_out());
        assert_eq!(shapes.current_or_update().revision, first);
    }

    #[test]
    fn backs_off_until_a_runner_becomes_warm() {
        let mut shapes = shapes();
        let revision = shape(1).revision;
        let failure = || (reasons::RUNNERS_FAILING, "exit code 1".to_owned());
        let mut pauses = Vec::new();
        for _ in 0..10 {
            shapes.failed(&revision, failure(), Monotonic(0));
            pauses.push(shapes.pause_until(&revision).unwrap().0 / 1000);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert!(shapes.is_failing());
        assert_eq!(shapes.last_failure(&revision), Some(failure()));
        shapes.failed("former", failure(), Monotonic(0));
        assert_eq!(
            (shapes.pauses().count(), shapes.last_failure("former")),
            (1, None),
            "failures of other shapes are not kept"
        );
        shapes.runner_became_warm(&revision);
        assert!(!shapes.is_failing() && shapes.pauses().next().is_none());
    }
}
