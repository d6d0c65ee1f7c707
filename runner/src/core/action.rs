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
    Watch,
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
    use Action::{Bind, Connect, End, Touch, Watch};
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
        (Starting, Connect | Watch) => Verdict::Denied("is still starting: wait until it is Ready"),
        (Ready, Connect | Watch) => Verdict::Allowed,
        (Ending | Ended, Connect | Watch) => Verdict::Denied("has ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_asked_depends_on_the_phase() {
        use SessionPhase::{Ended, Ending, Ready, Starting};
        let refused = |action| {
            let refuses = |phase: &SessionPhase| matches!(verdict(*phase, action), Verdict::Denied(_));
            [Starting, Ready, Ending, Ended].into_iter().filter(refuses).collect::<Vec<_>>()
        };
        assert_eq!(refused(Action::Bind), []);
        assert_eq!(refused(Action::End), []);
        assert_eq!(refused(Action::Touch), [Ending, Ended]);
        assert_eq!(refused(Action::Connect), [Starting, Ending, Ended]);
        assert_eq!(refused(Action::Watch), [Starting, Ending, Ended]);
    }
}
