//! Whether a browser can be launched here and load a page, as far as the runner has to prove that.

use crate::core::{plan::Kind, stack::StackId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A browser of that kind has to load a page.
    Owed(Kind),
    /// That browser tries.
    Tried(Kind, StackId),
    /// It can, or the plan does not ask.
    Given,
}

impl Proof {
    /// A proof by a browser of that kind; none is asked for without one.
    pub(super) fn new(kind: Option<Kind>) -> Self {
        Self(kind.map_or(State::Given, State::Owed))
    }

    /// The kind of browser that has to try, when none does.
    pub(super) fn owed(&self) -> Option<Kind> {
        match self.0 {
            State::Owed(kind) => Some(kind),
            State::Tried(..) | State::Given => None,
        }
    }

    /// The browser that tries.
    pub(super) fn tried_by(&self) -> Option<StackId> {
        match self.0 {
            State::Tried(_, stack) => Some(stack),
            State::Owed(_) | State::Given => None,
        }
    }

    pub(super) fn is_given(&self) -> bool {
        self.0 == State::Given
    }

    /// That browser begins to try.
    pub(super) fn begin(&mut self, stack: StackId) {
        if let State::Owed(kind) = self.0 {
            self.0 = State::Tried(kind, stack);
        }
    }

    /// The browser that tried has not succeeded: another one has to try.
    pub(super) fn retry(&mut self) {
        if let State::Tried(kind, _) = self.0 {
            self.0 = State::Owed(kind);
        }
    }

    /// The browser that tried has loaded the page.
    pub(super) fn succeed(&mut self) {
        self.0 = State::Given;
    }
}
