//! The task that owns the core: handles browser events before API calls, applies the core's effects, and publishes
//! the runner's state.

use crate::{
    config::BrowserSettings,
    core::{Action, Effect, Event, RunnerConfig, StackId, StateMachine, Term},
    supervisor::stack::{Command, Endpoints, Stack},
    traces::{SessionStarts, TracedBind},
};
use camofleet_crds::v1alpha1::Display;
use camofleet_runner_api::{BindRequest, BindResponse, ErrorReason, ErrorResponse, RunnerState, SessionReport};
use std::{collections::HashMap, sync::Arc, time::Instant};
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot, watch,
};

/// The published state of the runner.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) state: RunnerState,
    /// Whether the readiness probe succeeds.
    pub(crate) ready: bool,
}

/// Access to a ready session.
pub(crate) struct SessionAccess {
    pub(crate) stack: StackId,
    pub(crate) display: Display,
    pub(crate) endpoints: Endpoints,
}

enum Call {
    Bind { term: Term, uid: String, request: BindRequest, trace: Option<TracedBind>, reply: Reply<BindResponse> },
    End { term: Term, uid: String, reply: Reply<()> },
    Touch { uid: String, reply: Reply<()> },
    Report { uid: String, reply: Reply<SessionReport> },
    Connect { uid: String, single_use_id: Option<String>, action: Action, reply: Reply<SessionAccess> },
}

type Reply<T> = oneshot::Sender<Result<T, ErrorResponse>>;

/// Handle to the driver for the API and the tunnels. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RunnerHandle {
    calls: UnboundedSender<Call>,
    events: UnboundedSender<Event>,
    published: watch::Receiver<Published>,
}

impl RunnerHandle {
    /// Binds a session, or returns the state of a bound one.
    pub(crate) async fn bind(
        &self,
        term: Term,
        uid: String,
        request: BindRequest,
        trace: Option<TracedBind>,
    ) -> Result<BindResponse, ErrorResponse> {
        self.call(|reply| Call::Bind { term, uid, request, trace, reply }).await
    }

    /// Begins to end a live session, or removes an ended one from the list.
    pub(crate) async fn end(&self, term: Term, uid: String) -> Result<(), ErrorResponse> {
        self.call(|reply| Call::End { term, uid, reply }).await
    }

    /// Resets the idle time of a session.
    pub(crate) async fn touch(&self, uid: String) -> Result<(), ErrorResponse> {
        self.call(|reply| Call::Touch { uid, reply }).await
    }

    /// Returns a session with its idle time.
    pub(crate) async fn session_report(&self, uid: String) -> Result<SessionReport, ErrorResponse> {
        self.call(|reply| Call::Report { uid, reply }).await
    }

    /// Returns access to a session for an action. `single_use_id` is the id of a token that permits a single
    /// connection.
    pub(crate) async fn connect(
        &self,
        uid: String,
        single_use_id: Option<String>,
        action: Action,
    ) -> Result<SessionAccess, ErrorResponse> {
        self.call(|reply| Call::Connect { uid, single_use_id, action, reply }).await
    }

    pub(crate) fn send(&self, event: Event) {
        // A driver that has exited has stopped all stacks, so the event is irrelevant.
        self.events.send(event).ok();
    }

    /// Watches the published state.
    pub(crate) fn published(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    async fn call<T>(&self, make_call: impl FnOnce(Reply<T>) -> Call) -> Result<T, ErrorResponse> {
        let gone = || ErrorResponse { reason: ErrorReason::Draining, message: "this runner has shut down".to_owned() };
        let (reply, answer) = oneshot::channel();
        self.calls.send(make_call(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

pub(crate) struct Driver {
    machine: StateMachine,
    /// Time of the last event or call that the core handled.
    last_handled: Instant,
    stacks: HashMap<StackId, Stack>,
    settings: Arc<BrowserSettings>,
    events: (UnboundedSender<Event>, UnboundedReceiver<Event>),
    calls: UnboundedReceiver<Call>,
    published: watch::Sender<Published>,
    starts: SessionStarts,
}

impl Driver {
    /// Creates a driver, which [`Driver::run`] starts, and a handle to it.
    pub(crate) fn new(config: RunnerConfig, settings: BrowserSettings) -> (Self, RunnerHandle) {
        let state = RunnerState {
            boot_id: uuid::Uuid::new_v4().to_string(),
            engine: Some(settings.engine),
            playwright_version: settings.playwright_version.clone(),
            slots: config.slots,
            ..RunnerState::default()
        };
        let events = unbounded_channel();
        let (call_sender, calls) = unbounded_channel();
        let (publisher, published) = watch::channel(Published { state, ready: false });
        let runner = RunnerHandle { calls: call_sender, events: events.0.clone(), published };
        let driver = Self {
            machine: StateMachine::new(config),
            last_handled: Instant::now(),
            stacks: HashMap::new(),
            settings: Arc::new(settings),
            events,
            calls,
            published: publisher,
            starts: SessionStarts::default(),
        };
        (driver, runner)
    }

    /// Runs until the runner has drained.
    pub(crate) async fn run(mut self) {
        self.handle_event(Event::Tick);
        while !self.machine.is_finished(self.last_handled) {
            let deadline = self.machine.next_deadline(self.last_handled);
            tokio::select! {
                biased;
                Some(event) = self.events.1.recv() => self.handle_event(event),
                Some(call) = self.calls.recv() => self.handle_call(call),
                () = sleep_until(deadline) => self.handle_event(Event::Tick),
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        self.last_handled = Instant::now();
        if let Event::Removed { stack } = event {
            self.stacks.remove(&stack);
        }
        let effects = self.machine.handle(event, self.last_handled);
        self.apply_effects(effects);
    }

    fn handle_call(&mut self, call: Call) {
        self.last_handled = Instant::now();
        // A failed reply means that the caller has disconnected. Its call takes effect nevertheless.
        match call {
            // The leader's term may have ended since its call was authenticated.
            Call::Bind { term, uid, request, trace, reply } => {
                let result = term.check().and_then(|()| self.bind(&uid, request));
                if let Some(trace) = trace {
                    trace.finish(&uid, result.as_ref().err().map(|error| error.reason));
                    if let Ok(response) = &result {
                        self.starts.track(&response.session, trace);
                    }
                }
                reply.send(result).ok();
            }
            Call::End { term, uid, reply } => {
                reply.send(term.check().and_then(|()| self.end(&uid))).ok();
            }
            // The core does not reconcile on the following calls, so the tick handles the deadlines up to now.
            Call::Touch { uid, reply } => {
                let result = self.machine.touch(&uid, self.last_handled);
                self.handle_event(Event::Tick);
                reply.send(result).ok();
            }
            Call::Report { uid, reply } => {
                self.handle_event(Event::Tick);
                reply.send(self.machine.report(&uid, self.last_handled)).ok();
            }
            Call::Connect { uid, single_use_id, action, reply } => {
                self.handle_event(Event::Tick);
                reply.send(self.connect(&uid, single_use_id, action)).ok();
            }
        }
    }

    fn bind(&mut self, uid: &str, request: BindRequest) -> Result<BindResponse, ErrorResponse> {
        self.fail_exited_hot_browsers();
        let (result, effects) = self.machine.bind(uid, request, self.last_handled);
        self.apply_effects(effects);
        result.map(|()| self.bind_response(uid))
    }

    fn end(&mut self, uid: &str) -> Result<(), ErrorResponse> {
        let (result, effects) = self.machine.end(uid, self.last_handled);
        self.apply_effects(effects);
        result
    }

    fn connect(
        &mut self,
        uid: &str,
        single_use_id: Option<String>,
        action: Action,
    ) -> Result<SessionAccess, ErrorResponse> {
        let (id, display) = self.machine.connect(uid, action)?;
        let stack = self.stacks.get_mut(&id).expect("a ready session has a stack");
        if single_use_id.is_some_and(|token| !stack.used_tokens.insert(token)) {
            let message = "the token permits a single connection and has already been used".to_owned();
            return Err(ErrorResponse { reason: ErrorReason::TokenUsed, message });
        }
        Ok(SessionAccess { stack: id, display, endpoints: stack.endpoints.clone() })
    }

    /// Fails hot browsers that have exited without a report yet, so that none of them is bound.
    fn fail_exited_hot_browsers(&mut self) {
        let exited = |id: &StackId| self.stacks.get(id).is_some_and(Stack::has_exited);
        for stack in self.machine.hot_stacks().filter(exited).collect::<Vec<_>>() {
            self.stacks[&stack].stop();
            self.handle_event(Event::Failed { stack, message: "the browser exited".to_owned() });
        }
    }

    fn apply_effects(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Launch { stack, kind } => {
                    let boot_id = &self.published.borrow().state.boot_id;
                    let launched = Stack::launch(stack, kind, boot_id, &self.settings, self.events.0.clone());
                    self.stacks.insert(stack, launched);
                }
                Effect::Bind { stack, reconnect_grace } => {
                    self.send_command(stack, Some(Command::bind(reconnect_grace)));
                }
                Effect::OpenPage { stack, url, wait } => self.send_command(stack, Command::open(url, wait)),
                Effect::Ping { stack } => self.send_command(stack, Some(Command::Ping)),
                Effect::Stop { stack } => {
                    if let Some(stack) = self.stacks.get(&stack) {
                        stack.stop();
                    }
                }
            }
        }
        self.publish();
        self.starts.record_progress(&self.published.borrow().state);
    }

    fn send_command(&self, stack: StackId, command: Option<Command>) {
        if let (Some(stack), Some(command)) = (self.stacks.get(&stack), command) {
            stack.send(command);
        }
    }

    /// Publishes the state under a new generation if it has changed.
    fn publish(&self) {
        let ready = self.machine.is_ready();
        self.published.send_if_modified(|published| {
            let mut state = self.machine.describe(&published.state, self.last_handled);
            let changed = state != published.state || ready != published.ready;
            if changed {
                log_changes(&published.state, &state);
                state.generation += 1;
                *published = Published { state, ready };
            }
            changed
        });
    }

    fn bind_response(&self, uid: &str) -> BindResponse {
        let state = self.published.borrow().state.clone();
        BindResponse {
            boot_id: state.boot_id,
            generation: state.generation,
            engine: self.settings.engine,
            browser_version: state.browser_version,
            playwright_version: state.playwright_version,
            session: self.machine.session(uid).expect("a bound session is listed"),
        }
    }
}

/// Logs one line for each phase change of a session.
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
