//! Stacks: a browser each, with its Playwright server and, when it has one, its display.
//!
//! A stack is launched, may wait as a hot browser, serves one session at most, and is ended; it holds its slot until nothing of
//! it is left:
//!
//! ```text
//! Launching ──► Running ──► Stopping ──► (gone)
//!     └──────────────────────▲
//! ```

use crate::core::plan::Kind;
use camofleet_runner_api::{EndReason, Hot};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How often a hot browser is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A hot browser whose last answer is older is not handed out: two pings of it are open.
pub(super) const RESPONSIVE_WINDOW: Duration = Duration::from_secs(11);
/// A hot browser that has been silent for this long hangs, and is replaced.
pub(super) const UNRESPONSIVE_TIMEOUT: Duration = Duration::from_secs(21);
/// A launch that takes longer failed. Playwright gives up before and has better words; this is for when Node hangs. A page that is
/// loaded as a proof has as long.
pub(super) const LAUNCH_TIMEOUT: Duration = Duration::from_secs(75);

/// Names a stack within one run of a runner. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId(u64);

impl StackId {
    /// The place in the order of launches, from 0.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// What a browser was launched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Any session to come.
    Prewarm,
    /// To prove that browsers can load a page here.
    SmokeTest,
    /// One session.
    Session,
}

#[derive(Clone, Debug)]
struct Stack {
    kind: Kind,
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

    /// When it is overdue, and how.
    fn timeout(&self) -> Option<(Instant, Overdue)> {
        match (&self.state, self.purpose) {
            (State::Launching { since }, _) => Some((*since + LAUNCH_TIMEOUT, Overdue::Launch)),
            (State::Running { since, .. }, Purpose::SmokeTest) => Some((*since + LAUNCH_TIMEOUT, Overdue::Page)),
            (State::Running { last_pong, .. }, Purpose::Prewarm) => {
                Some((*last_pong + UNRESPONSIVE_TIMEOUT, Overdue::Pong))
            }
            (State::Running { .. }, Purpose::Session) | (State::Stopping, _) => None,
        }
    }

    /// When a hot browser is pinged next, and when it is no longer handed out: that is published, so that moment counts too.
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

/// What took a stack too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Its launch.
    Launch,
    /// The page that was to prove something.
    Page,
    /// An answer to a ping.
    Pong,
}

/// The stacks of a runner.
#[derive(Debug, Default)]
pub(super) struct Stacks {
    stacks: BTreeMap<StackId, Stack>,
    next: u64,
}

impl Stacks {
    pub(super) fn launch(&mut self, kind: Kind, purpose: Purpose, now: Instant) -> StackId {
        let id = StackId(self.next);
        self.next += 1;
        self.stacks.insert(id, Stack { kind, purpose, state: State::Launching { since: now } });
        id
    }

    /// A browser is ready. Returns whether it was awaited: it may be ending already.
    pub(super) fn launched(&mut self, id: StackId, now: Instant) -> bool {
        let launched = self.stacks.get_mut(&id).filter(|stack| stack.is_launching());
        if let Some(stack) = launched {
            stack.state = State::Running { since: now, last_pong: now, last_ping: now };
            return true;
        }
        false
    }

    /// Reserves a stack for one session, for good.
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

    /// A stack failed, and takes itself down. Returns what that means for its session; absent when it was ending anyway.
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

    /// Begins to end a stack. Returns whether that is new.
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

    /// The hot browsers that are to be pinged now.
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

    /// What is overdue by now.
    pub(super) fn overdue(&self, now: Instant) -> Vec<(StackId, Overdue)> {
        let overdue = |(id, stack): (&StackId, &Stack)| {
            let (at, what) = stack.timeout()?;
            (at <= now).then_some((*id, what))
        };
        self.stacks.iter().filter_map(overdue).collect()
    }

    /// The moments at which [`Stacks::overdue`], [`Stacks::take_due_pings`] or [`Stacks::hot`] change by time alone.
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

    /// Since when each browser runs that does.
    pub(super) fn running_since(&self) -> impl Iterator<Item = Instant> {
        self.stacks.values().filter_map(|stack| match stack.state {
            State::Running { since, .. } => Some(since),
            State::Launching { .. } | State::Stopping => None,
        })
    }

    /// Stacks that a session can still get.
    fn unassigned(&self) -> impl Iterator<Item = (StackId, &Stack)> {
        let unassigned = |stack: &Stack| stack.purpose == Purpose::Prewarm && !stack.is_stopping();
        self.stacks.iter().filter(move |(_, stack)| unassigned(stack)).map(|(id, stack)| (*id, stack))
    }

    pub(super) fn count_unassigned(&self) -> usize {
        self.unassigned().count()
    }

    /// How many of a kind a session can still get.
    pub(super) fn count_unassigned_of(&self, kind: Kind) -> u32 {
        count(self.unassigned().filter(|(_, stack)| stack.kind == kind))
    }

    /// Whether all that sessions can still get run and answer.
    pub(super) fn all_responsive(&self, now: Instant) -> bool {
        self.unassigned().all(|(_, stack)| stack.is_responsive(now))
    }

    /// How many sessions would get a browser at once.
    pub(super) fn hot(&self, now: Instant) -> Hot {
        let responsive =
            |kind| count(self.unassigned().filter(|(_, stack)| stack.kind == kind && stack.is_responsive(now)));
        Hot { headless: responsive(Kind::Headless), headful: responsive(Kind::Headful) }
    }

    /// The hot browser of that kind that last_pong last.
    pub(super) fn pick_hot(&self, kind: Kind, now: Instant) -> Option<StackId> {
        let hot = self.unassigned().filter(|(_, stack)| stack.kind == kind && stack.is_responsive(now));
        hot.max_by_key(|(_, stack)| stack.last_pong()).map(|(id, _)| id)
    }

    /// The oldest prewarm of that kind that is still being launched.
    pub(super) fn oldest_launching(&self, kind: Kind) -> Option<StackId> {
        self.unassigned().find(|(_, stack)| stack.kind == kind && stack.is_launching()).map(|(id, _)| id)
    }

    /// The youngest prewarm that is still being launched.
    pub(super) fn newest_launching(&self) -> Option<StackId> {
        self.unassigned().filter(|(_, stack)| stack.is_launching()).map(|(id, _)| id).max()
    }

    /// The one to give up first when there are too many to keep those: one that does not answer, then one of the kind that is
    /// furthest above what is to be kept.
    pub(super) fn least_useful(&self, prewarm: Hot, now: Instant) -> Option<StackId> {
        let surplus = |kind: Kind| i64::from(self.count_unassigned_of(kind)) - i64::from(kind.of(prewarm));
        let worst = self.unassigned().max_by_key(|(_, stack)| {
            let serves = stack.is_launching() || stack.is_responsive(now);
            (!serves, surplus(stack.kind))
        });
        worst.map(|(id, _)| id)
    }

    /// Browsers that run and that a session can still get.
    pub(super) fn running_unassigned(&self) -> impl Iterator<Item = StackId> {
        self.unassigned().filter(|(_, stack)| stack.is_running()).map(|(id, _)| id)
    }
}

fn count<T>(stacks: impl Iterator<Item = T>) -> u32 {
    u32::try_from(stacks.count()).unwrap_or(u32::MAX)
}
