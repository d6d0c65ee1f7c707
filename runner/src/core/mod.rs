//! What a runner decides: who gets which browser, what is launched and what is ended, and when. No clock, no process, no
//! socket: events go in with the time at which they are handled, effects come out, and the driver carries them out.
//!
//! A *stack* is one browser with its Playwright server and, when it has one, its display. It is launched, may wait as a hot
//! browser, serves one session at most, and is ended; it holds its room until nothing of it is left:
//!
//! ```text
//! Launching ──► Running ──► Ending ──► (gone)
//!     └──────────────────────▲
//! ```
//!
//! There are never more stacks than slots. A stack that no session holds is hot, or on the way there. More of those than
//! there are free slots are ended, so a session that no hot browser suits displaces one.

mod backoff;
mod scheduling;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use session::{Phase, Question, Session, Verdict, verdict};

use backoff::Backoff;
use camofleet_crds::v1alpha1::{Display, StartUrlWait};
use camofleet_runner_api::{self as api, BindRequest, End, EndReason, Hot, Refusal, RefusalReason, StartPage, Tier};
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// How often a hot browser is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A hot browser whose last answer is older is not handed out: two questions of it are open.
const FRESH: Duration = Duration::from_secs(11);
/// A hot browser that has been silent for so long hangs, and is replaced.
const HUNG: Duration = Duration::from_secs(21);
/// A launch that takes longer failed. Playwright gives up before and has better words; this is for when Node hangs.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(75);
/// What a browser is to load to prove that it can.
const PROOF_PAGE: &str = "data:text/html,<title>proof</title>";
/// How long a drained runner waits for the operator to read how its sessions ended.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(8);

/// Names a stack within one run of a runner. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StackId(pub(crate) u64);

/// Browsers are of one kind for all their life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Without a display.
    Headless,
    /// On a display, which may be watched.
    Headful,
}

impl From<Display> for Kind {
    fn from(display: Display) -> Self {
        match display {
            Display::Headless => Self::Headless,
            Display::Headful | Display::LiveView => Self::Headful,
        }
    }
}

/// What the runner was told to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Sessions at once.
    pub(crate) slots: u32,
    /// Sessions in all; 0: no limit.
    pub(crate) sessions: u32,
    /// Hot browsers to keep, together at most `slots`.
    pub(crate) prewarm: Hot,
    /// The kind of browser that is to load a page once, before the runner counts as warm.
    pub(crate) prove: Option<Kind>,
    /// Launches at once.
    pub(crate) launches: u32,
    /// How long live sessions may go on once the runner was told to go.
    pub(crate) drain_timeout: Duration,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A browser is ready.
    Launched { stack: StackId, version: String },
    /// A browser, its server or its display could not be launched or ended by itself. It takes itself down.
    Broke { stack: StackId, message: String },
    /// Nothing of a stack is left.
    Gone { stack: StackId },
    /// A browser answered a ping.
    Answered { stack: StackId },
    /// What became of the start page.
    StartPage { stack: StackId, error: Option<String> },
    /// A client connected to a session's Playwright server.
    Joined { stack: StackId },
    /// Such a client left.
    Left { stack: StackId },
    /// A client of a session sent something.
    Active { stack: StackId },
    /// The runner was told to go.
    Drain,
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Launch a browser. Answered by `Launched` or `Broke`.
    Launch { stack: StackId, kind: Kind },
    /// Open the start page. Answered by `StartPage`.
    Open { stack: StackId, url: String, wait: StartUrlWait },
    /// Ask a browser whether it lives. Answered by `Answered`.
    Ping { stack: StackId },
    /// Take a stack down. Answered by `Gone`.
    End { stack: StackId },
}

#[derive(Clone, Debug)]
struct Stack {
    kind: Kind,
    state: StackState,
}

impl Stack {
    fn is_launching(&self) -> bool {
        match self.state {
            StackState::Launching { .. } => true,
            StackState::Running { .. } | StackState::Ending => false,
        }
    }
}

#[derive(Clone, Debug)]
enum StackState {
    Launching { since: Instant },
    Running { since: Instant, answered: Instant, asked: Instant },
    Ending,
}

/// The state of a runner: one value, changed by one driver.
#[derive(Debug)]
pub(crate) struct Chart {
    plan: Plan,
    /// In order of arrival, which is the order in which they are served.
    sessions: VecDeque<(String, Session)>,
    stacks: BTreeMap<StackId, Stack>,
    next_stack: u64,
    served: u32,
    /// When the runner was told to go.
    told_to_go: Option<Instant>,
    browser_version: Option<String>,
    launch_error: Option<String>,
    backoff: Backoff,
    proof: Proof,
    effects: Vec<Effect>,
}

/// Whether a browser can be launched here and load a page, as far as that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// It is to be tried with a browser of that kind.
    Wanted(Kind),
    /// That browser tries.
    Tried(Kind, StackId),
    /// It can, or nobody asked.
    Given,
}

impl Chart {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan,
            sessions: VecDeque::new(),
            stacks: BTreeMap::new(),
            next_stack: 0,
            served: 0,
            told_to_go: None,
            browser_version: None,
            launch_error: None,
            backoff: Backoff::default(),
            proof: plan.prove.map_or(Proof::Given, Proof::Wanted),
            effects: Vec::new(),
        }
    }

    /// Takes in what happened.
    pub(crate) fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        self.see_what_lives(now);
        match event {
            Event::Launched { stack, version } => self.launched(stack, version, now),
            Event::Broke { stack, message } => self.broke(stack, &message, now),
            Event::Gone { stack } => self.gone(stack, now),
            Event::Answered { stack } => {
                if let Some(Stack { state: StackState::Running { answered, .. }, .. }) = self.stacks.get_mut(&stack) {
                    *answered = now;
                }
            }
            Event::StartPage { stack, error } => {
                if self.proves(stack) {
                    self.page_tried(stack, error, now);
                } else if let Some(session) = self.owner(stack) {
                    session.start_page = error.map_or(StartPage::Loaded, |message| StartPage::Failed { message });
                }
            }
            Event::Joined { stack } => self.on_client(stack, |active, clients| {
                *active = now;
                *clients += 1;
            }),
            Event::Left { stack } => self.on_client(stack, |_, clients| *clients = clients.saturating_sub(1)),
            Event::Active { stack } => self.on_client(stack, |active, _| *active = now),
            // Told twice, the first time counts.
            Event::Drain => self.told_to_go = self.told_to_go.or(Some(now)),
            Event::Tick => {}
        }
        self.settle(now)
    }

    /// Binds a session, or takes over the time-outs of one that is here. What it then is stands in [`Chart::session`].
    pub(crate) fn bind(&mut self, uid: &str, request: BindRequest, now: Instant) -> (Result<(), Refusal>, Vec<Effect>) {
        let answer = match self.find(uid).map(|session| (verdict(session.phase(), Question::Bind), session)) {
            None => self.grant(uid, request, now),
            Some((Verdict::Do, session)) => {
                session.request.idle_timeout_seconds = request.idle_timeout_seconds;
                session.request.max_lifetime_seconds = request.max_lifetime_seconds;
                Ok(())
            }
            Some((Verdict::AlreadySo, _)) => Ok(()),
            Some((Verdict::No(why), _)) => Err(wrong_phase(uid, why)),
        };
        (answer, self.settle(now))
    }

    /// Begins to end a session, or forgets one that ended.
    pub(crate) fn end(&mut self, uid: &str, now: Instant) -> (Result<(), Refusal>, Vec<Effect>) {
        self.see_what_lives(now);
        let answer = match self.allowed(uid, Question::End) {
            Ok(()) => {
                let end = End { reason: EndReason::Deleted, message: "the session was deleted".to_owned() };
                self.end_session(uid, end, now);
                self.acknowledge(uid);
                Ok(())
            }
            Err(refusal) => Err(refusal),
        };
        (answer, self.settle(now))
    }

    /// Counts a session as active.
    pub(crate) fn touch(&mut self, uid: &str, now: Instant) -> Result<(), Refusal> {
        self.allowed(uid, Question::Touch)?;
        if let Some(Session { phase: Phase::Ready { active, .. }, .. }) = self.find(uid) {
            *active = now;
        }
        Ok(())
    }

    /// The stack to connect to, and how the session is shown.
    pub(crate) fn door(&mut self, uid: &str, question: Question) -> Result<(StackId, Display), Refusal> {
        self.allowed(uid, question)?;
        let session = self.find(uid).and_then(|session| Some((session.stack()?, session.request.display)));
        Ok(session.expect("a session that may be connected to is ready, and so has a stack"))
    }

    /// The earliest time after `now` at which [`Event::Tick`] changes anything. What was due by `now` is done, or waits for
    /// something else than time.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let sessions =
            self.sessions.iter().flat_map(|(_, session)| [session.lifetime_deadline(), session.idle_deadline()]);
        let stacks = self.stacks.iter().flat_map(|(&id, stack)| match stack.state {
            StackState::Launching { since } => [Some(since + LAUNCH_TIMEOUT), None],
            StackState::Running { since, .. } if self.proves(id) => [Some(since + LAUNCH_TIMEOUT), None],
            StackState::Running { answered, asked, .. } if self.is_unowned(id) => {
                // Whether it may be handed out is published, so the moment at which that changes counts too.
                [Some((asked + PING_INTERVAL).min(answered + HUNG)), Some(answered + FRESH)]
            }
            StackState::Running { .. } | StackState::Ending => [None, None],
        });
        let runner = [
            self.backoff.until().filter(|_| self.wanted().is_some() || matches!(self.proof, Proof::Wanted(_))),
            self.drain_deadline().filter(|_| self.sessions.iter().any(|(_, session)| session.is_live())),
            self.quiet_deadline(),
        ];
        sessions.chain(stacks).chain(runner).flatten().filter(|deadline| *deadline > now).min()
    }

    /// Whether the runner was told to go and has nothing left to do.
    pub(crate) fn is_finished(&self, now: Instant) -> bool {
        self.told_to_go.is_some()
            && self.stacks.is_empty()
            && (self.sessions.is_empty() || self.quiet_deadline().is_some_and(|deadline| deadline <= now))
    }

    /// Whether it serves sessions, or is fit to. A runner whose prewarmed browsers fail would fail the session's too. One that
    /// is spent stays ready: that it takes no more is said by its state, and a pod that is about to go well is no alarm.
    pub(crate) fn is_ready(&self) -> bool {
        let serves = self.sessions.iter().any(|(_, session)| session.is_live());
        serves || (self.told_to_go.is_none() && !self.backoff.is_failing())
    }

    /// What is published of it. The runner's identity is not known here.
    pub(crate) fn describe(&self, now: Instant, state: &mut api::RunnerState) {
        state.draining = self.told_to_go.is_some();
        state.slots = self.plan.slots;
        state.free = self.free();
        state.spent = self.is_spent();
        state.hot = self.hot(now);
        state.warm = self.is_warm(now);
        state.browser_version.clone_from(&self.browser_version);
        state.launch_error.clone_from(&self.launch_error);
        state.sessions = self.sessions.iter().map(|(uid, session)| describe(uid, session)).collect();
    }

    /// A session as it is published.
    pub(crate) fn session(&self, uid: &str) -> Option<api::Session> {
        self.sessions.iter().find(|(other, _)| other == uid).map(|(uid, session)| describe(uid, session))
    }

    /// A session with how long it has been idle.
    pub(crate) fn report(&self, uid: &str, now: Instant) -> Result<api::SessionReport, Refusal> {
        let (_, session) = self.sessions.iter().find(|(other, _)| other == uid).ok_or_else(|| unknown(uid))?;
        let idle = match session.phase {
            Phase::Ready { active, .. } => Some(now.saturating_duration_since(active)),
            Phase::Starting { .. } | Phase::Ending { .. } | Phase::Ended { .. } => None,
        };
        let idle_milliseconds = idle.map(|idle| idle.as_millis().try_into().unwrap_or(u64::MAX));
        Ok(api::SessionReport { session: describe(uid, session), idle_milliseconds })
    }

    fn grant(&mut self, uid: &str, request: BindRequest, now: Instant) -> Result<(), Refusal> {
        let refuse = |reason, message: String| Err(Refusal { reason, message });
        if self.told_to_go.is_some() {
            return refuse(
                RefusalReason::Draining,
                "this runner was told to go and takes no session: choose another".into(),
            );
        }
        if self.is_spent() {
            let words = format!("this runner served {} sessions, as many as it may: choose another", self.served);
            return refuse(RefusalReason::NoFreeSlot, words);
        }
        if self.free() == 0 {
            let words = format!("all {} slots of this runner are taken: choose another", self.plan.slots);
            return refuse(RefusalReason::NoFreeSlot, words);
        }
        let hot = self.hot_stack(request.display.into(), now);
        let start_page = match (&request.start_url, request.start_url_wait) {
            (Some(_), StartUrlWait::DomContentLoaded | StartUrlWait::Load) => StartPage::Loading,
            (Some(_), StartUrlWait::None) | (None, _) => StartPage::None,
        };
        let tier = if hot.is_some() { Tier::Hot } else { Tier::Cold };
        let phase = Phase::Starting { stack: None };
        self.served += 1;
        self.sessions.push_back((uid.to_owned(), Session { request, tier, start_page, bound: now, phase }));
        if let Some(stack) = hot {
            self.give(uid, stack, now);
        }
        Ok(())
    }

    /// Gives a stack that nobody has to a session that has none.
    fn give(&mut self, uid: &str, stack: StackId, now: Instant) {
        let running = matches!(self.stacks.get(&stack), Some(Stack { state: StackState::Running { .. }, .. }));
        if let Some(session) = self.find(uid) {
            session.phase = Phase::Starting { stack: Some(stack) };
        }
        if running {
            self.become_ready(stack, now);
        }
    }

    fn become_ready(&mut self, stack: StackId, now: Instant) {
        let Some(session) = self.owner(stack) else { return };
        session.phase = Phase::Ready { stack, active: now, clients: 0 };
        if session.start_page == StartPage::Loading
            && let Some(url) = session.request.start_url.clone()
        {
            let wait = session.request.start_url_wait;
            self.effects.push(Effect::Open { stack, url, wait });
        }
    }

    fn launched(&mut self, id: StackId, version: String, now: Instant) {
        self.browser_version = Some(version);
        let Some(stack) = self.stacks.get_mut(&id) else { return };
        if let StackState::Launching { .. } = stack.state {
            stack.state = StackState::Running { since: now, answered: now, asked: now };
            self.launch_error = None;
            self.backoff.launched();
            if self.proves(id) {
                let page = PROOF_PAGE.to_owned();
                self.effects.push(Effect::Open { stack: id, url: page, wait: StartUrlWait::Load });
            }
            self.become_ready(id, now);
        }
    }

    fn broke(&mut self, id: StackId, message: &str, now: Instant) {
        let Some(stack) = self.stacks.get_mut(&id) else { return };
        let reason = match stack.state {
            StackState::Launching { .. } => EndReason::LaunchFailed,
            StackState::Running { .. } => EndReason::BrowserCrashed,
            StackState::Ending => return,
        };
        stack.state = StackState::Ending;
        if reason == EndReason::LaunchFailed || self.proves(id) {
            self.launch_error = Some(message.to_owned());
        }
        if let Proof::Tried(kind, _) = self.proof
            && self.proves(id)
        {
            self.proof = Proof::Wanted(kind);
        }
        if let Some(session) = self.owner(id) {
            let end = End { reason, message: message.to_owned() };
            session.phase = Phase::Ending { stack: id, end, acknowledged: false };
        } else {
            self.backoff.failed(now);
        }
    }

    fn proves(&self, id: StackId) -> bool {
        matches!(self.proof, Proof::Tried(_, stack) if stack == id)
    }

    /// The page that proves it was loaded, or was not. The browser has done its work either way.
    fn page_tried(&mut self, id: StackId, error: Option<String>, now: Instant) {
        match error {
            None => {
                self.proof = Proof::Given;
                self.end_stack(id);
            }
            Some(error) => {
                self.broke(id, &format!("the browser was launched and could not load a page: {error}"), now);
                self.effects.push(Effect::End { stack: id });
            }
        }
    }

    /// Before anything is taken down: a browser that has lived ends a row of failures, whatever becomes of it now.
    fn see_what_lives(&mut self, now: Instant) {
        for stack in self.stacks.values() {
            if let StackState::Running { since, .. } = stack.state {
                self.backoff.runs(since, now);
            }
        }
    }

    fn gone(&mut self, id: StackId, now: Instant) {
        // Its task always says first what broke, unless it was told to end. Should it not, nothing may hang on it.
        self.broke(id, "the browser's supervision ended", now);
        self.stacks.remove(&id);
        let owner = self.sessions.iter_mut().find(|(_, session)| session.stack() == Some(id));
        let Some((uid, Session { phase, .. })) = owner else { return };
        if let Phase::Ending { end, acknowledged, .. } = phase {
            let (uid, acknowledged) = (uid.clone(), *acknowledged);
            *phase = Phase::Ended { end: end.clone(), at: now };
            if acknowledged {
                self.acknowledge(&uid);
            }
        }
    }

    fn on_client(&mut self, stack: StackId, change: impl FnOnce(&mut Instant, &mut u32)) {
        if let Some(Session { phase: Phase::Ready { active, clients, .. }, .. }) = self.owner(stack) {
            change(active, clients);
        }
    }

    /// Takes a live session on its way to the end. One that ends or ended already goes on as it is.
    fn end_session(&mut self, uid: &str, end: End, now: Instant) {
        let Some(session) = self.find(uid) else { return };
        match session.phase {
            Phase::Starting { stack: None } => session.phase = Phase::Ended { end, at: now },
            Phase::Starting { stack: Some(stack) } | Phase::Ready { stack, .. } => {
                session.phase = Phase::Ending { stack, end, acknowledged: false };
                self.end_stack(stack);
            }
            Phase::Ending { .. } | Phase::Ended { .. } => {}
        }
    }

    /// Nobody will ask any more how this session, which is ending or ended, ended.
    fn acknowledge(&mut self, uid: &str) {
        let Some(session) = self.find(uid) else { return };
        match &mut session.phase {
            Phase::Ending { acknowledged, .. } => *acknowledged = true,
            Phase::Ended { .. } => self.sessions.retain(|(other, _)| other != uid),
            Phase::Starting { .. } | Phase::Ready { .. } => {}
        }
    }

    fn end_stack(&mut self, id: StackId) {
        if let Some(stack) = self.stacks.get_mut(&id)
            && !matches!(stack.state, StackState::Ending)
        {
            stack.state = StackState::Ending;
            self.effects.push(Effect::End { stack: id });
        }
    }

    fn allowed(&mut self, uid: &str, question: Question) -> Result<(), Refusal> {
        let session = self.find(uid).ok_or_else(|| unknown(uid))?;
        match verdict(session.phase(), question) {
            Verdict::Do | Verdict::AlreadySo => Ok(()),
            Verdict::No(why) => Err(wrong_phase(uid, why)),
        }
    }

    fn find(&mut self, uid: &str) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|(other, _)| other == uid).map(|(_, session)| session)
    }

    fn owner(&mut self, stack: StackId) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|(_, session)| session.stack() == Some(stack)).map(|(_, session)| session)
    }
}

fn unknown(uid: &str) -> Refusal {
    Refusal { reason: RefusalReason::UnknownSession, message: format!("no session {uid} on this runner") }
}

fn wrong_phase(uid: &str, why: &str) -> Refusal {
    Refusal { reason: RefusalReason::WrongPhase, message: format!("session {uid} {why}") }
}

fn describe(uid: &str, session: &Session) -> api::Session {
    let (clients, end) = match &session.phase {
        Phase::Starting { .. } => (0, None),
        Phase::Ready { clients, .. } => (*clients, None),
        Phase::Ending { end, .. } | Phase::Ended { end, .. } => (0, Some(end.clone())),
    };
    api::Session {
        uid: uid.to_owned(),
        namespace: session.request.namespace.clone(),
        name: session.request.name.clone(),
        phase: session.phase(),
        display: session.request.display,
        tier: session.tier,
        start_page: session.start_page.clone(),
        clients,
        end,
    }
}
