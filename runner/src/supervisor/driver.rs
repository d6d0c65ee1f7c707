//! The one task that owns the core: it handles events of browsers and calls of the API, in this order, carries out the effects, and
//! publishes the runner's state.

use crate::{
    config::BrowserSettings,
    core::{Action, Effect, Event, Machine, Plan, StackId, Term},
    supervisor::stack::{Command, Endpoints, Stack},
    traces::{Request, Starts},
};
use camofleet_crds::v1alpha1::Display;
use camofleet_runner_api::{BindAnswer, BindRequest, ErrorReason, ErrorResponse, RunnerState, SessionReport};
use std::{collections::HashMap, sync::Arc, time::Instant};
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot, watch,
};

/// What is known of the runner from outside.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) state: RunnerState,
    /// Whether it serves sessions, or would take one.
    pub(crate) ready: bool,
}

/// Access to a session that is ready.
pub(crate) struct Access {
    pub(crate) stack: StackId,
    pub(crate) display: Display,
    pub(crate) endpoints: Endpoints,
}

enum Ask {
    Bind { term: Term, uid: String, request: BindRequest, trace: Option<Request>, reply: Reply<BindAnswer> },
    End { term: Term, uid: String, reply: Reply<()> },
    Touch { uid: String, reply: Reply<()> },
    Report { uid: String, reply: Reply<SessionReport> },
    Enter { uid: String, once: Option<String>, action: Action, reply: Reply<Access> },
}

type Reply<T> = oneshot::Sender<Result<T, ErrorResponse>>;

/// The driver, as the API and the tunnels see it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Runner {
    asks: UnboundedSender<Ask>,
    reports: UnboundedSender<Event>,
    published: watch::Receiver<Published>,
}

impl Runner {
    /// Binds a session, or says what became of it.
    pub(crate) async fn bind(
        &self,
        term: Term,
        uid: String,
        request: BindRequest,
        trace: Option<Request>,
    ) -> Result<BindAnswer, ErrorResponse> {
        self.ask(|reply| Ask::Bind { term, uid, request, trace, reply }).await
    }

    /// Begins to end a session, or forgets one that ended.
    pub(crate) async fn end(&self, term: Term, uid: String) -> Result<(), ErrorResponse> {
        self.ask(|reply| Ask::End { term, uid, reply }).await
    }

    /// Counts a session as active.
    pub(crate) async fn touch(&self, uid: String) -> Result<(), ErrorResponse> {
        self.ask(|reply| Ask::Touch { uid, reply }).await
    }

    /// A session, with how long it has been idle.
    pub(crate) async fn report_on(&self, uid: String) -> Result<SessionReport, ErrorResponse> {
        self.ask(|reply| Ask::Report { uid, reply }).await
    }

    /// Access to a session for that action. `once`: the id of a token that is valid for one connection.
    pub(crate) async fn enter(
        &self,
        uid: String,
        once: Option<String>,
        action: Action,
    ) -> Result<Access, ErrorResponse> {
        self.ask(|reply| Ask::Enter { uid, once, action, reply }).await
    }

    /// Says what happened.
    pub(crate) fn report(&self, event: Event) {
        // A driver that is gone has ended everything.
        self.reports.send(event).ok();
    }

    /// What the runner is, now and after each change.
    pub(crate) fn published(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    async fn ask<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, ErrorResponse> {
        let gone = || ErrorResponse { reason: ErrorReason::Draining, message: "this runner has ended".to_owned() };
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Owns the core and the stacks.
pub(crate) struct Driver {
    machine: Machine,
    /// When the core last did what was due.
    settled: Instant,
    stacks: HashMap<StackId, Stack>,
    settings: Arc<BrowserSettings>,
    reports: (UnboundedSender<Event>, UnboundedReceiver<Event>),
    asks: UnboundedReceiver<Ask>,
    published: watch::Sender<Published>,
    starts: Starts,
}

impl Driver {
    /// A driver that has not begun, and the handle to it.
    pub(crate) fn new(plan: Plan, settings: BrowserSettings) -> (Self, Runner) {
        let state = RunnerState {
            boot_id: uuid::Uuid::new_v4().to_string(),
            engine: Some(settings.engine),
            playwright_version: settings.playwright_version.clone(),
            slots: plan.slots,
            ..RunnerState::default()
        };
        let reports = unbounded_channel();
        let (asks_in, asks) = unbounded_channel();
        let (publisher, published) = watch::channel(Published { state, ready: false });
        let runner = Runner { asks: asks_in, reports: reports.0.clone(), published };
        let driver = Self {
            machine: Machine::new(plan),
            settled: Instant::now(),
            stacks: HashMap::new(),
            settings: Arc::new(settings),
            reports,
            asks,
            published: publisher,
            starts: Starts::default(),
        };
        (driver, runner)
    }

    /// Runs until the runner was told to go and has nothing left to do.
    pub(crate) async fn run(mut self) {
        self.happens(Event::Tick);
        while !self.machine.is_finished(self.settled) {
            let deadline = self.machine.next_deadline(self.settled);
            tokio::select! {
                biased;
                Some(event) = self.reports.1.recv() => self.happens(event),
                Some(ask) = self.asks.recv() => self.answer(ask),
                () = sleep_until(deadline) => self.happens(Event::Tick),
            }
        }
    }

    fn happens(&mut self, event: Event) {
        self.settled = Instant::now();
        if let Event::Removed { stack } = event {
            self.stacks.remove(&stack);
        }
        let effects = self.machine.handle(event, self.settled);
        self.carry_out(effects);
    }

    fn answer(&mut self, ask: Ask) {
        self.settled = Instant::now();
        // Whoever asked may be gone: what was asked is done all the same.
        match ask {
            // A leader's term may have ended since its call was let in.
            Ask::Bind { term, uid, request, trace, reply } => {
                let answer = term.check().and_then(|()| self.bind(&uid, request));
                if let Some(trace) = trace {
                    trace.answered(&uid, answer.as_ref().err().map(|error| error.reason));
                    if let Ok(answer) = &answer {
                        self.starts.bound(&answer.session, trace);
                    }
                }
                reply.send(answer).ok();
            }
            Ask::End { term, uid, reply } => {
                reply.send(term.check().and_then(|()| self.end(&uid))).ok();
            }
            // These settle nothing, and what was due by now is not forgotten over them.
            Ask::Touch { uid, reply } => {
                let answer = self.machine.touch(&uid, self.settled);
                self.happens(Event::Tick);
                reply.send(answer).ok();
            }
            Ask::Report { uid, reply } => {
                self.happens(Event::Tick);
                reply.send(self.machine.report(&uid, self.settled)).ok();
            }
            Ask::Enter { uid, once, action, reply } => {
                self.happens(Event::Tick);
                reply.send(self.enter(&uid, once, action)).ok();
            }
        }
    }

    fn bind(&mut self, uid: &str, request: BindRequest) -> Result<BindAnswer, ErrorResponse> {
        self.reap_exited();
        let (answer, effects) = self.machine.bind(uid, request, self.settled);
        self.carry_out(effects);
        answer.map(|()| self.bind_answer(uid))
    }

    fn end(&mut self, uid: &str) -> Result<(), ErrorResponse> {
        let (answer, effects) = self.machine.end(uid, self.settled);
        self.carry_out(effects);
        answer
    }

    fn enter(&mut self, uid: &str, once: Option<String>, action: Action) -> Result<Access, ErrorResponse> {
        let (id, display) = self.machine.connect(uid, action)?;
        let stack = self.stacks.get_mut(&id).expect("a session that is ready has its stack");
        if once.is_some_and(|token| !stack.used_tokens.insert(token)) {
            let message = "the token was good for one connection, and was used before".to_owned();
            return Err(ErrorResponse { reason: ErrorReason::TokenUsed, message });
        }
        Ok(Access { stack: id, display, endpoints: stack.endpoints.clone() })
    }

    /// Reports browsers that exited since they were last heard of, so that none of them is handed out.
    fn reap_exited(&mut self) {
        let died = |id: &StackId| self.stacks.get(id).is_some_and(Stack::has_died);
        for stack in self.machine.hot_stacks().filter(died).collect::<Vec<_>>() {
            self.stacks[&stack].end();
            self.happens(Event::Failed { stack, message: "the browser died".to_owned() });
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Launch { stack, kind } => {
                    let boot_id = &self.published.borrow().state.boot_id;
                    let launched = Stack::launch(stack, kind, boot_id, &self.settings, self.reports.0.clone());
                    self.stacks.insert(stack, launched);
                }
                Effect::OpenPage { stack, url, wait } => self.tell(stack, Command::open(url, wait)),
                Effect::Ping { stack } => self.tell(stack, Some(Command::Ping)),
                Effect::Stop { stack } => {
                    if let Some(stack) = self.stacks.get(&stack) {
                        stack.end();
                    }
                }
            }
        }
        self.publish();
        self.starts.look(&self.published.borrow().state);
    }

    fn tell(&self, stack: StackId, command: Option<Command>) {
        if let (Some(stack), Some(command)) = (self.stacks.get(&stack), command) {
            stack.tell(command);
        }
    }

    /// Publishes what the runner is, when that has changed, under a new generation.
    fn publish(&self) {
        let ready = self.machine.is_ready();
        self.published.send_if_modified(|published| {
            let mut state = self.machine.describe(&published.state, self.settled);
            let changed = state != published.state || ready != published.ready;
            if changed {
                log_changes(&published.state, &state);
                state.generation += 1;
                *published = Published { state, ready };
            }
            changed
        });
    }

    fn bind_answer(&self, uid: &str) -> BindAnswer {
        let state = self.published.borrow().state.clone();
        BindAnswer {
            boot_id: state.boot_id,
            generation: state.generation,
            engine: self.settings.engine,
            browser_version: state.browser_version,
            playwright_version: state.playwright_version,
            session: self.machine.session(uid).expect("a session that was bound, or was here before, is listed"),
        }
    }
}

/// Sessions are what people look for in logs: each step of one is a line, with its UID.
fn log_changes(before: &RunnerState, after: &RunnerState) {
    for session in &after.sessions {
        if before.session(&session.uid).map(|before| before.phase) != Some(session.phase) {
            tracing::info!(
                session = session.uid,
                namespace = session.namespace,
                name = session.name,
                tier = ?session.tier,
                phase = ?session.phase,
                reason = session.end.as_ref().map(|end| end.reason.as_str()),
                cause = session.end.as_ref().map(|end| end.message.as_str()),
                "session changed phase"
            );
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
