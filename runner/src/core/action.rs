//! What a caller may do with a session in which of its phases.

use camofleet_runner_api::SessionPhase;

/// What a caller wants to do with a session that is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A repeated `PUT`, which takes over the time-outs.
    Bind,
    /// `DELETE`.
    End,
    /// Count as active.
    Touch,
    /// Connect to its Playwright server.
    Connect,
    /// Connect to its display.
    View,
}

/// Whether an action is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is carried out.
    Allowed,
    /// It succeeds, and nothing changes.
    NoChange,
    /// It is refused; the reason, as the end of a sentence about the session.
    Denied(&'static str),
}

/// Whether an action is possible in a phase.
pub(super) fn verdict(phase: SessionPhase, action: Action) -> Verdict {
    use Action::{Bind, Connect, End, Touch, View};
    use SessionPhase::{Ended, Ending, Ready, Starting};
    match (phase, action) {
        // A new leader, or one that lost the answer, repeats the call; the time-outs may have changed since.
        (Starting | Ready, Bind) => Verdict::Allowed,
        (Ending | Ended, Bind) => Verdict::NoChange,
        // After a DELETE no caller reads how it ended, so it leaves the list by itself.
        (Starting | Ready | Ending, End) => Verdict::Allowed,
        // The acknowledgement.
        (Ended, End) => Verdict::Allowed,
        (Ready, Touch) => Verdict::Allowed,
        // Its idle time has not begun.
        (Starting, Touch) => Verdict::NoChange,
        (Ending | Ended, Touch) => Verdict::Denied("has ended"),
        (Starting, Connect | View) => Verdict::Denied("is still starting: wait until it is Ready"),
        (Ready, Connect | View) => Verdict::Allowed,
        (Ending | Ended, Connect | View) => Verdict::Denied("has ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_actions_that_the_phase_does_not_allow() {
        use SessionPhase::{Ended, Ending, Ready, Starting};
        let phases_rejecting = |action| {
            let rejects = |phase: &SessionPhase| matches!(verdict(*phase, action), Verdict::Denied(_));
            [Starting, Ready, Ending, Ended].into_iter().filter(rejects).collect::<Vec<_>>()
        };
        assert_eq!(phases_rejecting(Action::Bind), []);
        assert_eq!(phases_rejecting(Action::End), []);
        assert_eq!(phases_rejecting(Action::Touch), [Ending, Ended]);
        assert_eq!(phases_rejecting(Action::Connect), [Starting, Ending, Ended]);
        assert_eq!(phases_rejecting(Action::View), [Starting, Ending, Ended]);
    }
}
