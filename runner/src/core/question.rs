//! What can be asked of a session, and in which of its phases.

use camofleet_runner_api::SessionPhase;

/// What can be asked of a session that is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
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

/// What follows from a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is done.
    Do,
    /// It is so already: the answer is yes, and nothing changes.
    AlreadySo,
    /// It cannot be done: why, as the end of a sentence about the session.
    No(&'static str),
}

/// What may be asked in which phase.
pub(super) fn verdict(phase: SessionPhase, question: Question) -> Verdict {
    use Question::{Bind, Connect, End, Touch, Watch};
    use SessionPhase::{Ended, Ending, Ready, Starting};
    match (phase, question) {
        // A new leader, or one that did not hear the answer, asks again; how long a session lasts may have changed since.
        (Starting | Ready, Bind) => Verdict::Do,
        (Ending | Ended, Bind) => Verdict::AlreadySo,
        // While it ends, a DELETE says that nobody will ask how it ended: it then leaves the list by itself.
        (Starting | Ready | Ending, End) => Verdict::Do,
        // The acknowledgement.
        (Ended, End) => Verdict::Do,
        (Ready, Touch) => Verdict::Do,
        // Its idle time does not run yet.
        (Starting, Touch) => Verdict::AlreadySo,
        (Ending | Ended, Touch) => Verdict::No("has ended"),
        (Starting, Connect | Watch) => Verdict::No("is still starting: wait until it is Ready"),
        (Ready, Connect | Watch) => Verdict::Do,
        (Ending | Ended, Connect | Watch) => Verdict::No("has ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_asked_depends_on_the_phase() {
        use SessionPhase::{Ended, Ending, Ready, Starting};
        let refused = |question| {
            let refuses = |phase: &SessionPhase| matches!(verdict(*phase, question), Verdict::No(_));
            [Starting, Ready, Ending, Ended].into_iter().filter(refuses).collect::<Vec<_>>()
        };
        assert_eq!(refused(Question::Bind), []);
        assert_eq!(refused(Question::End), []);
        assert_eq!(refused(Question::Touch), [Ending, Ended]);
        assert_eq!(refused(Question::Connect), [Starting, Ending, Ended]);
        assert_eq!(refused(Question::Watch), [Starting, Ending, Ended]);
    }
}
