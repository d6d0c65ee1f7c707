//! The smoke test of a runner: a browser has to be launched and load a page before the runner counts as warm.

use crate::core::{config::DisplayKind, stack::StackId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SmokeTest(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A browser of that kind has yet to be launched for the test.
    Pending(DisplayKind),
    /// That browser is launching or loading the page.
    Running(DisplayKind, StackId),
    /// The test has passed, or the configuration does not require one.
    Passed,
}

impl SmokeTest {
    /// A test with a browser of that kind, or no test.
    pub(super) fn new(kind: Option<DisplayKind>) -> Self {
        Self(kind.map_or(State::Passed, State::Pending))
    }

    /// Returns the kind of browser to launch, if the test is pending.
    pub(super) fn pending_kind(&self) -> Option<DisplayKind> {
        match self.0 {
            State::Pending(kind) => Some(kind),
            State::Running(..) | State::Passed => None,
        }
    }

    /// Returns the browser that runs the test.
    pub(super) fn stack(&self) -> Option<StackId> {
        match self.0 {
            State::Running(_, stack) => Some(stack),
            State::Pending(_) | State::Passed => None,
        }
    }

    pub(super) fn has_passed(&self) -> bool {
        self.0 == State::Passed
    }

    pub(super) fn start(&mut self, stack: StackId) {
        if let State::Pending(kind) = self.0 {
            self.0 = State::Running(kind, stack);
        }
    }

    /// Makes a running test pending again, for another browser.
    pub(super) fn reset(&mut self) {
        if let State::Running(kind, _) = self.0 {
            self.0 = State::Pending(kind);
        }
    }

    pub(super) fn pass(&mut self) {
        self.0 = State::Passed;
    }
}
