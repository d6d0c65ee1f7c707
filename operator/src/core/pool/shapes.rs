//! The shapes of a pool's pods: the one that its spec asks for, the latest in which a runner came up, and what failed in each.

use crate::core::{
    clock::Mono,
    runner::pod_build::{Installation, Shape},
};
use camofleet_crds::{conditions::pool as reasons, v1alpha1::WorkerPool};
use camofleet_runtime::backoff::ExponentialBackoff;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// The pauses before the next pod of a shape whose pods fail.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(300));

/// What keeps runners from coming up: reason and message, for `Stalled`.
pub(in crate::core) type ReasonMessage = (&'static str, String);

#[derive(Debug)]
pub(in crate::core) struct Shapes {
    /// The shape that its spec asks for.
    update: Shape,
    /// The latest shape in which a runner came up.
    proven: Option<Shape>,
    /// How often in a row pods of the two shapes failed, by revision.
    failures: HashMap<String, Failures>,
}

/// Pods of one shape that failed in a row.
#[derive(Debug)]
struct Failures {
    count: u32,
    /// No pod is made before then.
    pause_until: Mono,
    cause: ReasonMessage,
}

impl Shapes {
    pub(in crate::core) fn new(pool: &Arc<WorkerPool>, installation: &Installation) -> Self {
        Self { update: Shape::of(pool, installation), proven: Shape::published(pool), failures: HashMap::new() }
    }

    /// Only what is published is known to a new leader.
    pub(in crate::core) fn begin_term(&mut self, pool: &WorkerPool) {
        self.failures.clear();
        self.proven = Shape::published(pool);
    }

    /// The shape that its spec asks for.
    pub(in crate::core) fn update(&self) -> &Shape {
        &self.update
    }

    /// The latest shape in which a runner came up.
    pub(in crate::core) fn proven(&self) -> Option<&Shape> {
        self.proven.as_ref()
    }

    /// The shape that runners are made in.
    pub(in crate::core) fn current(&self) -> &Shape {
        self.proven.as_ref().unwrap_or(&self.update)
    }

    /// The only known shape is refused, so no runner can be created.
    pub(in crate::core) fn has_no_valid_shape(&self) -> bool {
        self.current().refusal().is_some()
    }

    /// Whether the wished shape is new: before others follow, one runner of it, the canary, has to load a page.
    pub(in crate::core) fn is_rolling_out(&self) -> bool {
        self.update.revision != self.current().revision && self.update.refusal().is_none()
    }

    /// Why no runner is made in the wished shape, for `Stalled`.
    pub(in crate::core) fn refusal(&self) -> Option<ReasonMessage> {
        self.update.refusal().map(|message| (reasons::TEMPLATE_TOO_LARGE, message))
    }

    /// Whether runners of that revision are the new shape's first, which take no sessions yet.
    pub(in crate::core) fn is_canary(&self, revision: &str) -> bool {
        self.is_rolling_out() && self.update.revision == revision
    }

    /// The owner wishes another shape, or the same as before.
    ///
    /// False: the shape that runners are made in is the same.
    pub(in crate::core) fn set_update(&mut self, shape: Shape) -> bool {
        let changes = self.proven.is_none() && self.update.revision != shape.revision;
        self.update = shape;
        let (update, current) = (self.update.revision.clone(), self.current().revision.clone());
        self.failures.retain(|revision, _| *revision == update || *revision == current);
        changes
    }

    /// A pod of that shape failed, or could not be made: the next one waits twice as long.
    pub(in crate::core) fn failed(&mut self, revision: &str, cause: ReasonMessage, now: Mono) {
        if revision != self.update.revision && revision != self.current().revision {
            return;
        }
        let count = self.failures.get(revision).map_or(0, |failures| failures.count).saturating_add(1);
        let failures = Failures { count, pause_until: now.after(BACKOFF.after(count)), cause };
        self.failures.insert(revision.to_owned(), failures);
    }

    /// A runner of that shape came up: what failed before is over, and what was new is proven.
    pub(in crate::core) fn came_up(&mut self, revision: &str) {
        self.failures.remove(revision);
        if revision == self.update.revision {
            self.proven = Some(self.update.clone());
        }
    }

    /// Until when no pod of that shape is made.
    pub(in crate::core) fn pause_until(&self, revision: &str) -> Option<Mono> {
        self.failures.get(revision).map(|failures| failures.pause_until)
    }

    /// Why the latest pod of that shape failed, when none came up since.
    pub(in crate::core) fn last_failure(&self, revision: &str) -> Option<ReasonMessage> {
        self.failures.get(revision).map(|failures| failures.cause.clone())
    }

    /// When pods may be made again.
    pub(in crate::core) fn pauses(&self) -> impl Iterator<Item = Mono> {
        self.failures.values().map(|failures| failures.pause_until)
    }

    /// Whether the runners that it makes fail.
    pub(in crate::core) fn is_failing(&self) -> bool {
        self.failures.contains_key(&self.current().revision)
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
        Shapes { update: shape(1), proven: None, failures: HashMap::new() }
    }

    #[test]
    fn a_new_shape_needs_a_canary() {
        let (first, second) = (shape(1).revision, shape(2).revision);
        let mut shapes = shapes();
        assert!(!shapes.is_rolling_out(), "the only shape is not tested");
        assert!(shapes.set_update(shape(2)), "no runner came up in the first one");
        shapes.came_up(&second);
        assert!(!shapes.set_update(shape(1)) && shapes.is_rolling_out());
        assert_eq!(
            (shapes.current().revision.as_str(), shapes.is_canary(&first), shapes.is_canary(&second)),
            (&*second, true, false)
        );
        shapes.came_up(&first);
        assert!(!shapes.is_rolling_out());
        assert_eq!(shapes.current().revision, first);
    }

    #[test]
    fn backs_off_until_a_runner_comes_up() {
        let mut shapes = shapes();
        let revision = shape(1).revision;
        let trouble = || (reasons::RUNNERS_FAILING, "exit code 1".to_owned());
        let mut pauses = Vec::new();
        for _ in 0..10 {
            shapes.failed(&revision, trouble(), Mono(0));
            pauses.push(shapes.pause_until(&revision).unwrap().0 / 1000);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert!(shapes.is_failing());
        assert_eq!(shapes.last_failure(&revision), Some(trouble()));
        shapes.failed("former", trouble(), Mono(0));
        assert_eq!(
            (shapes.pauses().count(), shapes.last_failure("former")),
            (1, None),
            "of other shapes nothing is kept"
        );
        shapes.came_up(&revision);
        assert!(!shapes.is_failing() && shapes.pauses().next().is_none());
    }
}
