//! Whether a browser can be launched here and load a page, as far as the runner has to prove that.

use crate::core::{plan::Kind, stack::StackId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SmokeTest(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A browser of that kind has to load a page.
    Pending(Kind),
    /// That browser tries.
    Running(Kind, StackId),
    /// It can, or the plan does not ask.
    Passed,
}

impl SmokeTest {
    /// A proof by a browser of that kind; none is asked for without one.
    pub(super) fn new(kind: Option<Kind>) -> Self {
        Self(kind.map_or(State::Passed, State::Pending))
    }

    /// The kind of browser that has to try, when none does.
    pub(super) fn pending_kind(&self) -> Option<Kind> {
        match self.0 {
            State::Pending(kind) => Some(kind),
            State::Running(..) | State::Passed => None,
        }
    }

    /// The browser that tries.
    pub(super) fn stack(&self) -> Option<StackId> {
        match self.0 {
            State::Running(_, stack) => Some(stack),
            State::Pending(_) | State::Passed => None,
        }
    }

    pub(super) fn has_passed(&self) -> bool {
        self.0 == State::Passed
    }

    /// That browser begins to try.
    pub(super) fn start(&mut self, stack: StackId) {
        if let State::Pending(kind) = self.0 {
            self.0 = State::Running(kind, stack);
        }
    }

    /// The browser that tried has not succeeded: another one has to try.
    pub(super) fn reset(&mut self) {
        if let State::Running(kind, _) = self.0 {
            self.0 = State::Pending(kind);
        }
    }

    /// The browser that tried has loaded the page.
    pub(super) fn pass(&mut self) {
        self.0 = State::Passed;
    }
}
