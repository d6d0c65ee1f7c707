//! One session: its phases, what each of them holds, and what may be asked in which.
//!
//! ```text
//!            PUT granted
//!                │
//!                ▼         a browser was there,
//!            Starting ───── or became ready ────► Ready
//!             │    │                                │
//!  no browser │    │ launch failed, lifetime,       │ browser died, idle, lifetime,
//!  taken yet  │    │ drained, DELETE                │ drained, DELETE
//!             │    ▼                                ▼
//!             │  Ending ◄───────────────────────────┘
//!             │    │ processes, sockets and files are gone
//!             ▼    ▼
//!             Ended ────► DELETE: leaves the list (at once, when it ended because of one)
//! ```

use crate::core::StackId;
use camofleet_runner_api::{BindRequest, End, SessionPhase, StartPage, Tier};
use std::time::{Duration, Instant};

/// A session, from the `PUT` that was granted until it leaves the list.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(super) request: BindRequest,
    pub(super) tier: Tier,
    pub(super) start_page: StartPage,
    pub(super) bound: Instant,
    pub(super) phase: Phase,
}

/// Where a session stands, with exactly what it has there.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Its browser is being launched, or waits for room to be.
    Starting { stack: Option<StackId> },
    /// Clients may connect.
    Ready { stack: StackId, active: Instant, clients: u32 },
    /// It is being taken down and still holds its slot.
    Ending { stack: StackId, end: End, acknowledged: bool },
    /// Nothing of it is left but this.
    Ended { end: End, at: Instant },
}

impl Session {
    /// The phase's name, as it is published.
    pub(crate) fn phase(&self) -> SessionPhase {
        match self.phase {
            Phase::Starting { .. } => SessionPhase::Starting,
            Phase::Ready { .. } => SessionPhase::Ready,
            Phase::Ending { .. } => SessionPhase::Ending,
            Phase::Ended { .. } => SessionPhase::Ended,
        }
    }

    /// The browser that it holds.
    pub(super) fn stack(&self) -> Option<StackId> {
        match self.phase {
            Phase::Starting { stack } => stack,
            Phase::Ready { stack, .. } | Phase::Ending { stack, .. } => Some(stack),
            Phase::Ended { .. } => None,
        }
    }

    /// Whether it holds a slot.
    pub(super) fn is_live(&self) -> bool {
        match self.phase {
            Phase::Starting { .. } | Phase::Ready { .. } | Phase::Ending { .. } => true,
            Phase::Ended { .. } => false,
        }
    }

    /// When it ends whatever happens. Nothing ends twice.
    pub(super) fn lifetime_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Starting { .. } | Phase::Ready { .. } => {
                Some(self.bound + Duration::from_secs(self.request.max_lifetime_seconds.into()))
            }
            Phase::Ending { .. } | Phase::Ended { .. } => None,
        }
    }

    /// When it ends unless there is activity. A session that starts is not idle.
    pub(super) fn idle_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ready { active, .. } => Some(active + Duration::from_secs(self.request.idle_timeout_seconds.into())),
            Phase::Starting { .. } | Phase::Ending { .. } | Phase::Ended { .. } => None,
        }
    }
}

/// What can be asked of a session that is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
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
pub(crate) enum Verdict {
    /// It is done.
    Do,
    /// It is so already: the answer is yes, and nothing changes.
    AlreadySo,
    /// It cannot be done: why, as the end of a sentence about the session.
    No(&'static str),
}

/// What may be asked in which phase.
pub(crate) fn verdict(phase: SessionPhase, question: Question) -> Verdict {
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
