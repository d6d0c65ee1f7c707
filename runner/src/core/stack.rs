//! The stacks of a runner. A stack is one browser with its Playwright server and, when it is headful, its display.
//!
//! A stack is launched, may wait as a hot browser, serves at most one session, and is stopped. It occupies capacity
//! until all its processes and files are gone:
//!
//! ```text
//! Launching ──► Running ──► Stopping ──► (gone)
//!     └──────────────────────▲
//! ```

use crate::core::config::DisplayKind;
use camofleet_runner_api::{BrowserCounts, EndReason};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A hot browser is bound only if it has answered a ping within this time. Longer means two unanswered pings.
pub(super) const RESPONSIVE_WINDOW: Duration = Duration::from_secs(11);
/// A hot browser that has not answered for this long is replaced.
pub(super) const UNRESPONSIVE_TIMEOUT: Duration = Duration::from_secs(21);
/// Longest launch, and longest load of the smoke test's page. Playwright's `launchServer` has no timeout of its own:
/// it checks its option `timeout` but does not apply it. A node without free CPU time can take more than a minute
/// to launch a browser. The operator considers a runner overdue after 120 s.
pub(super) const LAUNCH_TIMEOUT: Duration = Duration::from_secs(90);

/// Identifies a stack within one run of a runner. Ids are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId(u64);

impl StackId {
    /// Returns the number of the launch, counted from 0.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Purpose of a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A future session.
    Prewarm,
    SmokeTest,
    /// The session to which the stack is assigned.
    Session,
}

#[derive(Clone, Debug)]
struct Stack {
    kind: DisplayKind,
    purpose: Purpose,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Launching { since: Instant },
    Running { since: Instant, last_pong: Instant, last_ping: Instant },
    Stopping,
}

impl Stack {
    fn is_launching(&self) -> bool {
        match self.state {
            State::Launching { .. } => true,
            State::Running { .. } | State::Stopping => false,
        }
    }

    fn is_running(&self) -> bool {
        match self.state {
            State::Running { .. } => true,
            State::Launching { .. } | State::Stopping => false,
        }
    }

    fn is_stopping(&self) -> bool {
        match self.state {
            State::Stopping => true,
            State::Launching { .. } | State::Running { .. } => false,
        }
    }

    fn last_pong(&self) -> Option<Instant> {
        match self.state {
            State::Running { last_pong, .. } => Some(last_pong),
            State::Launching { .. } | State::Stopping => None,
        }
    }

    fn is_responsive(&self, now: Instant) -> bool {
        self.last_pong().is_some_and(|last_pong| now < last_pong + RESPONSIVE_WINDOW)
    }

    /// Returns when the stack times out, and during which operation.
    fn timeout(&self) -> Option<(Instant, TimedOutOperation)> {
        match (&self.state, self.purpose) {
            (State::Launching { since }, _) => Some((*since + LAUNCH_TIMEOUT, TimedOutOperation::Launch)),
            (State::Running { since, .. }, Purpose::SmokeTest) => {
                Some((*since + LAUNCH_TIMEOUT, TimedOutOperation::Page))
            }
            (State::Running { last_pong, .. }, Purpose::Prewarm) => {
                Some((*last_pong + UNRESPONSIVE_TIMEOUT, TimedOutOperation::Pong))
            }
            (State::Running { .. }, Purpose::Session) | (State::Stopping, _) => None,
        }
    }

    /// Returns when a hot browser has to be pinged, and when it stops being responsive. The latter changes the
    /// published state, so it is a deadline too.
    fn hot_deadlines(&self) -> [Option<Instant>; 2] {
        match (&self.state, self.purpose) {
            (State::Running { last_pong, last_ping, .. }, Purpose::Prewarm) => {
                [Some(*last_ping + PING_INTERVAL), Some(*last_pong + RESPONSIVE_WINDOW)]
            }
            (State::Running { .. }, Purpose::SmokeTest | Purpose::Session)
            | (State::Launching { .. } | State::Stopping, _) => [None, None],
        }
    }
}

/// The operation during which a stack timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimedOutOperation {
    Launch,
    /// The page of the smoke test.
    Page,
    /// The answer to a ping.
    Pong,
}

#[derive(Debug, Default)]
pub(super) struct Stacks {
    stacks: BTreeMap<StackId, Stack>,
    next: u64,
}

impl Stacks {
    pub(super) fn launch(&mut self, kind: DisplayKind, purpose: Purpose, now: Instant) -> StackId {
        let id = StackId(self.next);
        self.next += 1;
        self.stacks.insert(id, Stack { kind, purpose, state: State::Launching { since: now } });
        id
    }

    /// Marks a launched browser as running. Returns false when the stack is already stopping.
    pub(super) fn launched(&mut self, id: StackId, now: Instant) -> bool {
        let launched = self.stacks.get_mut(&id).filter(|stack| stack.is_launching());
        if let Some(stack) = launched {
            stack.state = State::Running { since: now, last_pong: now, last_ping: now };
            return true;
        }
        false
    }

    /// Reserves a stack for one session. The reservation is permanent.
    pub(super) fn assign(&mut self, id: StackId) {
        if let Some(stack) = self.stacks.get_mut(&id) {
            stack.purpose = Purpose::Session;
        }
    }

    pub(super) fn ping_answered(&mut self, id: StackId, now: Instant) {
        if let Some(Stack { state: State::Running { last_pong, .. }, .. }) = self.stacks.get_mut(&id) {
            *last_pong = now;
        }
    }

    /// Marks a failed stack as stopping. Returns the reason for its session's end, or `None` when the stack was
    /// already stopping.
    pub(super) fn failed(&mut self, id: StackId) -> Option<EndReason> {
        let stack = self.stacks.get_mut(&id)?;
        let reason = match stack.state {
            State::Launching { .. } => EndReason::LaunchFailed,
            State::Running { .. } => EndReason::BrowserCrashed,
            State::Stopping => return None,
        };
        stack.state = State::Stopping;
        Some(reason)
    }

    /// Marks a stack as stopping. Returns false when it already was.
    pub(super) fn stop(&mut self, id: StackId) -> bool {
        let alive = self.stacks.get_mut(&id).filter(|stack| !stack.is_stopping());
        if let Some(stack) = alive {
            stack.state = State::Stopping;
            return true;
        }
        false
    }

    pub(super) fn remove(&mut self, id: StackId) {
        self.stacks.remove(&id);
    }

    /// Returns the hot browsers whose ping is due, and schedules their next one.
    pub(super) fn take_due_pings(&mut self, now: Instant) -> Vec<StackId> {
        let mut due = Vec::new();
        for (id, stack) in &mut self.stacks {
            if let Stack { purpose: Purpose::Prewarm, state: State::Running { last_ping, .. }, .. } = stack
                && *last_ping + PING_INTERVAL <= now
            {
                *last_ping = now;
                due.push(*id);
            }
        }
        due
    }

    /// Returns the stacks that have timed out, and during which operation.
    pub(super) fn timed_out(&self, now: Instant) -> Vec<(StackId, TimedOutOperation)> {
        let timed_out = |(id, stack): (&StackId, &Stack)| {
            let (at, operation) = stack.timeout()?;
            (at <= now).then_some((*id, operation))
        };
        self.stacks.iter().filter_map(timed_out).collect()
    }

    /// Returns the times at which [`Stacks::timed_out`], [`Stacks::take_due_pings`] or [`Stacks::hot`] change without
    /// an event.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let timeouts = self.stacks.values().filter_map(|stack| stack.timeout().map(|(at, _)| at));
        timeouts.chain(self.stacks.values().flat_map(Stack::hot_deadlines).flatten())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.stacks.len()
    }

    pub(super) fn count_launching(&self) -> usize {
        self.stacks.values().filter(|stack| stack.is_launching()).count()
    }

    pub(super) fn is_running(&self, id: StackId) -> bool {
        self.stacks.get(&id).is_some_and(Stack::is_running)
    }

    /// Returns the start time of each running browser.
    pub(super) fn running_since(&self) -> impl Iterator<Item = Instant> {
        self.stacks.values().filter_map(|stack| match stack.state {
            State::Running { since, .. } => Some(since),
            State::Launching { .. } | State::Stopping => None,
        })
    }

    /// The launching and running stacks that have no session.
    fn unassigned(&self) -> impl Iterator<Item = (StackId, &Stack)> {
        let unassigned = |stack: &Stack| stack.purpose == Purpose::Prewarm && !stack.is_stopping();
        self.stacks.iter().filter(move |(_, stack)| unassigned(stack)).map(|(id, stack)| (*id, stack))
    }

    pub(super) fn count_unassigned(&self) -> usize {
        self.unassigned().count()
    }

    pub(super) fn count_unassigned_of(&self, kind: DisplayKind) -> u32 {
        count(self.unassigned().filter(|(_, stack)| stack.kind == kind))
    }

    /// Whether all unassigned stacks are running and responsive.
    pub(super) fn all_responsive(&self, now: Instant) -> bool {
        self.unassigned().all(|(_, stack)| stack.is_responsive(now))
    }

    /// Number of browsers of each kind that can be bound now.
    pub(super) fn hot(&self, now: Instant) -> BrowserCounts {
        let responsive =
            |kind| count(self.unassigned().filter(|(_, stack)| stack.kind == kind && stack.is_responsive(now)));
        BrowserCounts { headless: responsive(DisplayKind::Headless), headful: responsive(DisplayKind::Headful) }
    }

    /// Returns the hot browser of that kind with the most recent answer to a ping.
    pub(super) fn pick_hot(&self, kind: DisplayKind, now: Instant) -> Option<StackId> {
        let hot = self.unassigned().filter(|(_, stack)| stack.kind == kind && stack.is_responsive(now));
        hot.max_by_key(|(_, stack)| stack.last_pong()).map(|(id, _)| id)
    }

    /// Returns the oldest prewarm of that kind that is still launching.
    pub(super) fn oldest_launching(&self, kind: DisplayKind) -> Option<StackId> {
        self.unassigned().find(|(_, stack)| stack.kind == kind && stack.is_launching()).map(|(id, _)| id)
    }

    /// Returns the newest prewarm that is still launching.
    pub(super) fn newest_launching(&self) -> Option<StackId> {
        self.unassigned().filter(|(_, stack)| stack.is_launching()).map(|(id, _)| id).max()
    }

    /// Returns the unassigned stack to stop first: an unresponsive one, otherwise one of the kind that exceeds its
    /// configured number most.
    pub(super) fn least_useful(&self, prewarm: BrowserCounts, now: Instant) -> Option<StackId> {
        let surplus = |kind: DisplayKind| i64::from(self.count_unassigned_of(kind)) - i64::from(kind.count_in(prewarm));
        let worst = self.unassigned().max_by_key(|(_, stack)| {
            let serves = stack.is_launching() || stack.is_responsive(now);
            (!serves, surplus(stack.kind))
        });
        worst.map(|(id, _)| id)
    }

    pub(super) fn running_unassigned(&self) -> impl Iterator<Item = StackId> {
        self.unassigned().filter(|(_, stack)| stack.is_running()).map(|(id, _)| id)
    }
}

fn count<T>(stacks: impl Iterator<Item = T>) -> u32 {
    u32::try_from(stacks.count()).unwrap_or(u32::MAX)
}
