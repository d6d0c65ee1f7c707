//! The sessions of a runner, looked up by UID or by stack.

use crate::core::{config::DisplayKind, session::Session, stack::StackId};
use camofleet_runner_api::{BindRequest, End};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long a drained runner waits for the operator to acknowledge its ended sessions.
pub(super) const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(8);

/// All listed sessions, and the number of sessions ever accepted.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// In order of arrival, which is the order in which they get browsers.
    list: VecDeque<(String, Session)>,
    served: u32,
}

impl Sessions {
    pub(super) fn add(&mut self, uid: &str, session: Session) {
        self.served += 1;
        self.list.push_back((uid.to_owned(), session));
    }

    pub(super) fn set_timeouts(&mut self, uid: &str, request: &BindRequest) {
        if let Some(session) = self.get_mut(uid) {
            session.set_timeouts(request);
        }
    }

    /// Assigns a browser, which may still be launching.
    pub(super) fn assign(&mut self, uid: &str, stack: StackId) {
        if let Some(session) = self.get_mut(uid) {
            session.assign(stack);
        }
    }

    /// Marks the starting session of a ready browser as ready, and returns it, if there is one.
    pub(super) fn become_ready(&mut self, stack: StackId, now: Instant) -> Option<&Session> {
        let session = self.by_stack_mut(stack)?;
        session.become_ready(now).then_some(session)
    }

    pub(super) fn start_page_finished(&mut self, stack: StackId, error: Option<String>) {
        if let Some(session) = self.by_stack_mut(stack) {
            session.start_page_finished(error);
        }
    }

    pub(super) fn client_connected(&mut self, stack: StackId, now: Instant) {
        if let Some(session) = self.by_stack_mut(stack) {
            session.client_connected(now);
        }
    }

    pub(super) fn client_disconnected(&mut self, stack: StackId) {
        if let Some(session) = self.by_stack_mut(stack) {
            session.client_disconnected();
        }
    }

    pub(super) fn client_active(&mut self, stack: StackId, now: Instant) {
        if let Some(session) = self.by_stack_mut(stack) {
            session.touch(now);
        }
    }

    pub(super) fn touch(&mut self, uid: &str, now: Instant) {
        if let Some(session) = self.get_mut(uid) {
            session.touch(now);
        }
    }

    /// Ends the session of a failed stack. Returns whether the stack had one.
    pub(super) fn stack_failed(&mut self, stack: StackId, end: End) -> bool {
        let session = self.by_stack_mut(stack);
        let has_session = session.is_some();
        if let Some(session) = session {
            session.stack_failed(end);
        }
        has_session
    }

    /// Begins to end a session. Returns the stack to stop.
    pub(super) fn end(&mut self, uid: &str, end: End, now: Instant) -> Option<StackId> {
        self.get_mut(uid)?.end(end, now)
    }

    pub(super) fn stack_removed(&mut self, stack: StackId, now: Instant) {
        let index = self.list.iter().position(|(_, session)| session.stack() == Some(stack));
        if let Some(at) = index
            && self.list[at].1.stack_removed(now)
        {
            self.list.remove(at);
        }
    }

    /// Removes an ended session from the list, at once or when its stack is gone.
    pub(super) fn acknowledge(&mut self, uid: &str) {
        self.list.retain_mut(|(other, session)| other != uid || !session.acknowledge());
    }

    pub(super) fn get(&self, uid: &str) -> Option<&Session> {
        self.list.iter().find(|(other, _)| other == uid).map(|(_, session)| session)
    }

    /// In order of arrival.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Session)> {
        self.list.iter().map(|(uid, session)| (uid.as_str(), session))
    }

    /// Number of sessions ever accepted, including those no longer listed.
    pub(super) fn served(&self) -> u32 {
        self.served
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn has_live(&self) -> bool {
        self.list.iter().any(|(_, session)| session.is_live())
    }

    /// Number of sessions that occupy a slot.
    pub(super) fn count_live(&self) -> u32 {
        let live = self.list.iter().filter(|(_, session)| session.is_live()).count();
        u32::try_from(live).unwrap_or(u32::MAX)
    }

    /// Sessions without a browser, in order of arrival.
    pub(super) fn waiting(&self) -> Vec<(String, DisplayKind)> {
        let waiting = self.list.iter().filter(|(_, session)| session.is_waiting());
        waiting.map(|(uid, session)| (uid.clone(), session.kind())).collect()
    }

    pub(super) fn has_waiting(&self) -> bool {
        self.list.iter().any(|(_, session)| session.is_waiting())
    }

    /// When a draining runner stops waiting for acknowledgements; `None` while a session is live.
    pub(super) fn acknowledge_deadline(&self, draining_since: Instant) -> Option<Instant> {
        let ended = self.list.iter().map(|(_, session)| session.ended_at());
        let latest = ended.collect::<Option<Vec<_>>>()?.into_iter().max()?;
        Some(latest.max(draining_since) + ACKNOWLEDGE_TIMEOUT)
    }

    fn get_mut(&mut self, uid: &str) -> Option<&mut Session> {
        self.list.iter_mut().find(|(other, _)| other == uid).map(|(_, session)| session)
    }

    fn by_stack_mut(&mut self, stack: StackId) -> Option<&mut Session> {
        self.list.iter_mut().find(|(_, session)| session.stack() == Some(stack)).map(|(_, session)| session)
    }
}
