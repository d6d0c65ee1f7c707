//! The actions that a session allows in each of its phases.

use camofleet_runner_api::SessionPhase;

/// An action of a caller on a listed session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A repeated `PUT`, which updates the timeouts.
    Bind,
    /// `DELETE`.
    End,
    /// Reset the idle time.
    Touch,
    /// Connect to the Playwright server.
    Connect,
    /// Connect to the display.
    View,
}

/// Whether, and with what effect, a phase allows an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    Allowed,
    /// The call succeeds without an effect.
    NoChange,
    /// The call fails.
    Rejected(WrongPhase),
}

/// Why a phase does not allow an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WrongPhase {
    Starting,
    /// Also a session that is being torn down.
    Ended,
}

pub(super) fn permission(phase: SessionPhase, action: Action) -> Permission {
    use Action::{Bind, Connect, End, Touch, View};
    use SessionPhase::{Ended, Ending, Ready, Starting};
    match (phase, action) {
        // A new leader, or one that lost the response, repeats the call, and the timeouts may have changed since.
        (Starting | Ready, Bind) => Permission::Allowed,
        (Ending | Ended, Bind) => Permission::NoChange,
        // After a DELETE no caller reads how the session ended, so it leaves the list without an acknowledgement.
        (Starting | Ready | Ending, End) => Permission::Allowed,
        // The acknowledgement.
        (Ended, End) => Permission::Allowed,
        (Ready, Touch) => Permission::Allowed,
        // The idle time of a starting session has not begun.
        (Starting, Touch) => Permission::NoChange,
        (Ending | Ended, Touch) => Permission::Rejected(WrongPhase::Ended),
        (Starting, Connect | View) => Permission::Rejected(WrongPhase::Starting),
        (Ready, Connect | View) => Permission::Allowed,
        (Ending | Ended, Connect | View) => Permission::Rejected(WrongPhase::Ended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_actions_that_the_phase_does_not_allow() {
        use SessionPhase::{Ended, Ending, Ready, Starting};
        let phases_rejecting = |action| {
            let rejects = |phase: &SessionPhase| matches!(permission(*phase, action), Permission::Rejected(_));
            [Starting, Ready, Ending, Ended].into_iter().filter(rejects).collect::<Vec<_>>()
        };
        assert_eq!(phases_rejecting(Action::Bind), []);
        assert_eq!(phases_rejecting(Action::End), []);
        assert_eq!(phases_rejecting(Action::Touch), [Ending, Ended]);
        assert_eq!(phases_rejecting(Action::Connect), [Starting, Ending, Ended]);
        assert_eq!(phases_rejecting(Action::View), [Starting, Ending, Ended]);
    }
}
