//! The lifecycle of a session, with the data that each phase holds.
//!
//! ```text
//!            PUT accepted
//!                │
//!                ▼          browser ready
//!            Starting ───────────────────────────► Ready
//!             │    │                                │
//!  no browser │    │ launch failed, lifetime,       │ browser crashed, idle, lifetime,
//!  assigned   │    │ drained, DELETE                │ drained, DELETE
//!             │    ▼                                ▼
//!             │  Ending ◄───────────────────────────┘
//!             │    │ processes, sockets and files are gone
//!             ▼    ▼
//!             Ended ────► DELETE: removed from the list (at once if a DELETE ended the session)
//! ```

use crate::core::{config::DisplayKind, stack::StackId};
use camofleet_crds::v1alpha1::{Display, StartTier, StartUrlWait};
use camofleet_runner_api::{self as api, BindRequest, End, EndReason, SessionPhase, StartPage};
use std::time::{Duration, Instant};

/// A session, from its accepted `PUT` until its removal from the list.
#[derive(Clone, Debug)]
pub(super) struct Session {
    request: BindRequest,
    tier: StartTier,
    start_page: StartPage,
    bound: Instant,
    phase: Phase,
}

#[derive(Clone, Debug)]
enum Phase {
    /// The browser is being launched, or the session waits for launch capacity.
    Starting { stack: Option<StackId> },
    /// Clients can connect.
    Ready { stack: StackId, active: Instant, clients: u32 },
    /// The stack is being torn down and still occupies the slot.
    Ending { stack: StackId, end: End, acknowledged: bool },
    /// The session waits for an acknowledgement.
    Ended { end: End, at: Instant },
}

impl Session {
    /// Creates an accepted session without a browser.
    pub(super) fn new(request: BindRequest, tier: StartTier, now: Instant) -> Self {
        let start_page = match (&request.start_url, request.start_url_wait) {
            (Some(_), StartUrlWait::DomContentLoaded | StartUrlWait::Load) => StartPage::Loading,
            (Some(_), StartUrlWait::None) | (None, _) => StartPage::None,
        };
        Self { request, tier, start_page, bound: now, phase: Phase::Starting { stack: None } }
    }

    pub(super) fn set_timeouts(&mut self, request: &BindRequest) {
        self.request.idle_timeout_seconds = request.idle_timeout_seconds;
        self.request.max_lifetime_seconds = request.max_lifetime_seconds;
    }

    /// Assigns a browser, which may still be launching.
    pub(super) fn assign(&mut self, stack: StackId) {
        self.phase = Phase::Starting { stack: Some(stack) };
    }

    /// Moves a starting session to `Ready`, once its browser is. Returns whether it was starting.
    pub(super) fn become_ready(&mut self, now: Instant) -> bool {
        let Phase::Starting { stack: Some(stack) } = self.phase else { return false };
        self.phase = Phase::Ready { stack, active: now, clients: 0 };
        true
    }

    /// How long the contexts of a lost client with a name are kept.
    pub(super) fn reconnect_grace(&self) -> Duration {
        Duration::from_secs(self.request.reconnect_grace_seconds.into())
    }

    /// Returns the start page, unless it was opened already, and the event at which it counts as loaded.
    pub(super) fn page_to_open(&self) -> Option<(String, StartUrlWait)> {
        match self.start_page {
            StartPage::Loading => Some((self.request.start_url.clone()?, self.request.start_url_wait)),
            StartPage::None | StartPage::Loaded | StartPage::Failed { .. } => None,
        }
    }

    pub(super) fn start_page_finished(&mut self, error: Option<String>) {
        self.start_page = error.map_or(StartPage::Loaded, |message| StartPage::Failed { message });
    }

    pub(super) fn client_connected(&mut self, now: Instant) {
        if let Phase::Ready { active, clients, .. } = &mut self.phase {
            *active = now;
            *clients += 1;
        }
    }

    pub(super) fn client_disconnected(&mut self) {
        if let Phase::Ready { clients, .. } = &mut self.phase {
            *clients = clients.saturating_sub(1);
        }
    }

    /// Resets the idle time. Only a ready session has one.
    pub(super) fn touch(&mut self, now: Instant) {
        if let Phase::Ready { active, .. } = &mut self.phase {
            *active = now;
        }
    }

    /// Moves the session to `Ending` because its stack has failed, which the driver tears down.
    pub(super) fn stack_failed(&mut self, end: End) {
        if let Phase::Starting { stack: Some(stack) } | Phase::Ready { stack, .. } = self.phase {
            self.phase = Phase::Ending { stack, end, acknowledged: false };
        }
    }

    /// Ends a live session. Returns the stack to stop; `None` when it has no stack or is already ending.
    pub(super) fn end(&mut self, end: End, now: Instant) -> Option<StackId> {
        match self.phase {
            Phase::Starting { stack: None } => {
                self.phase = Phase::Ended { end, at: now };
                None
            }
            Phase::Starting { stack: Some(stack) } | Phase::Ready { stack, .. } => {
                self.phase = Phase::Ending { stack, end, acknowledged: false };
                Some(stack)
            }
            Phase::Ending { .. } | Phase::Ended { .. } => None,
        }
    }

    /// Moves an ending session to `Ended`. Returns whether it can be removed from the list.
    pub(super) fn stack_removed(&mut self, now: Instant) -> bool {
        let Phase::Ending { end, acknowledged, .. } = &self.phase else { return false };
        let acknowledged = *acknowledged;
        self.phase = Phase::Ended { end: end.clone(), at: now };
        acknowledged
    }

    /// Records that the operator needs the end's details no longer. Returns whether the session can be removed from
    /// the list.
    pub(super) fn acknowledge(&mut self) -> bool {
        match &mut self.phase {
            Phase::Ending { acknowledged, .. } => {
                *acknowledged = true;
                false
            }
            Phase::Ended { .. } => true,
            Phase::Starting { .. } | Phase::Ready { .. } => false,
        }
    }

    pub(super) fn phase(&self) -> SessionPhase {
        match self.phase {
            Phase::Starting { .. } => SessionPhase::Starting,
            Phase::Ready { .. } => SessionPhase::Ready,
            Phase::Ending { .. } => SessionPhase::Ending,
            Phase::Ended { .. } => SessionPhase::Ended,
        }
    }

    pub(super) fn stack(&self) -> Option<StackId> {
        match self.phase {
            Phase::Starting { stack } => stack,
            Phase::Ready { stack, .. } | Phase::Ending { stack, .. } => Some(stack),
            Phase::Ended { .. } => None,
        }
    }

    /// Whether the session occupies a slot.
    pub(super) fn is_live(&self) -> bool {
        match self.phase {
            Phase::Starting { .. } | Phase::Ready { .. } | Phase::Ending { .. } => true,
            Phase::Ended { .. } => false,
        }
    }

    /// Whether the session waits for a browser.
    pub(super) fn is_waiting(&self) -> bool {
        match self.phase {
            Phase::Starting { stack: None } => true,
            Phase::Starting { stack: Some(_) } | Phase::Ready { .. } | Phase::Ending { .. } | Phase::Ended { .. } => {
                false
            }
        }
    }

    pub(super) fn display(&self) -> Display {
        self.request.display
    }

    pub(super) fn kind(&self) -> DisplayKind {
        self.request.display.into()
    }

    /// When the session ends regardless of activity; `None` when it is already ending.
    pub(super) fn lifetime_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Starting { .. } | Phase::Ready { .. } => {
                Some(self.bound + Duration::from_secs(self.request.max_lifetime_seconds.into()))
            }
            Phase::Ending { .. } | Phase::Ended { .. } => None,
        }
    }

    /// When the session ends unless there is activity; `None` unless it is ready.
    pub(super) fn idle_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ready { active, .. } => Some(active + Duration::from_secs(self.request.idle_timeout_seconds.into())),
            Phase::Starting { .. } | Phase::Ending { .. } | Phase::Ended { .. } => None,
        }
    }

    /// Returns the end of a session whose lifetime or idle time has run out.
    pub(super) fn timed_out(&self, now: Instant) -> Option<End> {
        let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if due(self.lifetime_deadline()) {
            let message = format!("the lifetime of {} s has passed", self.request.max_lifetime_seconds);
            Some(End { reason: EndReason::LifetimeExceeded, message })
        } else if due(self.idle_deadline()) {
            let message = format!("no activity for {} s", self.request.idle_timeout_seconds);
            Some(End { reason: EndReason::IdleTimeout, message })
        } else {
            None
        }
    }

    pub(super) fn ended_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ended { at, .. } => Some(at),
            Phase::Starting { .. } | Phase::Ready { .. } | Phase::Ending { .. } => None,
        }
    }

    /// Returns the session in its published form.
    pub(super) fn describe(&self, uid: &str) -> api::Session {
        let (clients, end) = match &self.phase {
            Phase::Starting { .. } => (0, None),
            Phase::Ready { clients, .. } => (*clients, None),
            Phase::Ending { end, .. } | Phase::Ended { end, .. } => (0, Some(end.clone())),
        };
        api::Session {
            uid: uid.to_owned(),
            namespace: self.request.namespace.clone(),
            name: self.request.name.clone(),
            phase: self.phase(),
            display: self.request.display,
            tier: self.tier,
            start_page: self.start_page.clone(),
            clients,
            end,
        }
    }

    /// Returns the session in its published form, with its idle time.
    pub(super) fn report(&self, uid: &str, now: Instant) -> api::SessionReport {
        let idle = match self.phase {
            Phase::Ready { active, .. } => Some(now.saturating_duration_since(active)),
            Phase::Starting { .. } | Phase::Ending { .. } | Phase::Ended { .. } => None,
        };
        let idle_milliseconds = idle.map(|idle| idle.as_millis().try_into().unwrap_or(u64::MAX));
        api::SessionReport { session: self.describe(uid), idle_milliseconds }
    }
}
