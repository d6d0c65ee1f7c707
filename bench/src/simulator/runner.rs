//! A simulated runner: its process, the authentication of callers, and its behaviour.

use super::{
    attack::{Attack, RedirectTarget, extra_sessions},
    binding_log::BindingLog,
    browsers::{Browsers, Fault},
    process::Process,
};
use camofleet_auth::token::{Caller, PublicKeys};
use camofleet_runner::core::{RunnerConfig, Term};
use camofleet_runner_api::{
    BindRequest, BindResponse, ErrorReason, ErrorResponse, RunnerState, Session, SessionReport, TRACEPARENT,
};
use http::{HeaderMap, header::AUTHORIZATION};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// How a runner answers calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Like a real runner.
    #[default]
    Normal,
    /// Accepts connections and never answers.
    Hangs,
    /// Answers after this delay.
    Slow(Duration),
    /// Answers with bodies that are not part of its API.
    Garbage,
    /// Carries out calls but reports no session.
    OmitsSessions,
    /// Answers calls but sends nothing on the event stream.
    NoEvents,
    /// Attacks the operator.
    Hostile(Attack),
}

/// The pod of a runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodIdentity {
    /// UID of the pod.
    pub uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Name of its node.
    pub node: String,
}

/// A simulated runner.
#[derive(Debug)]
pub struct Runner {
    /// The pod of the runner.
    pub pod: PodIdentity,
    /// Address of the runner.
    pub address: IpAddr,
    process: Mutex<Process>,
    changed: watch::Sender<u64>,
    timer: Notify,
    keys: Mutex<PublicKeys>,
    behaviour: watch::Sender<Behaviour>,
    /// Sessions that the runner reports without having them.
    extra_sessions: Mutex<Vec<Session>>,
    connections: Mutex<CancellationToken>,
    /// Calls received.
    calls: AtomicUsize,
    /// States sent by an attack.
    hostile_states: AtomicUsize,
    /// Whether the node of the runner has power.
    powered: AtomicBool,
    gone: CancellationToken,
    shared: Arc<SharedState>,
}

/// State shared by all runners.
#[derive(Debug, Default)]
pub struct SharedState {
    /// The log of all bindings.
    pub binding_log: BindingLog,
    /// Lifetime of sessions that are bound from now on. `None`: until a caller or a timeout of the spec ends them.
    pub session_lifetime: Mutex<Option<Duration>>,
    /// The `traceparent` header of each bind call, by session.
    pub traceparents: Mutex<BTreeMap<String, Vec<Option<String>>>>,
    /// Faults of browsers in runners that start from now on, by image.
    pub(super) faults: Mutex<BTreeMap<String, Fault>>,
    /// The host that [`Attack::Redirect`] redirects to, once it listens.
    pub(super) redirect_target: Mutex<Option<RedirectTarget>>,
}

impl Runner {
    /// Creates a runner that trusts these keys.
    pub(super) fn new(
        pod: PodIdentity,
        address: IpAddr,
        config: RunnerConfig,
        browsers: Browsers,
        keys: PublicKeys,
        shared: Arc<SharedState>,
    ) -> Self {
        Self {
            pod,
            address,
            process: Mutex::new(Process::start(config, browsers, Instant::now())),
            changed: watch::Sender::new(0),
            timer: Notify::new(),
            keys: Mutex::new(keys),
            behaviour: watch::Sender::new(Behaviour::Normal),
            extra_sessions: Mutex::default(),
            connections: Mutex::default(),
            calls: AtomicUsize::new(0),
            hostile_states: AtomicUsize::new(0),
            powered: AtomicBool::new(true),
            gone: CancellationToken::new(),
            shared,
        }
    }

    /// Runs until the runner has drained or is killed.
    pub(super) async fn run(&self) {
        while !self.gone.is_cancelled() {
            let (deadline, finished) = {
                let (mut process, now) = (self.process(), Instant::now());
                process.advance(now);
                self.publish(&mut process, now);
                (process.next_deadline(now), process.is_finished(now))
            };
            if finished {
                break;
            }
            let sleep = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.timer.notified() => {}
                () = self.gone.cancelled() => {}
            }
        }
        self.kill();
    }

    /// Kills the runner with all its sessions.
    pub(super) fn kill(&self) {
        self.gone.cancel();
        self.close_connections();
        self.shared.binding_log.record_runner_gone(&self.pod.uid, Instant::now());
    }

    /// Restarts the process in the same pod with a new boot ID. All sessions are lost.
    pub fn restart(&self) {
        let (mut process, now) = (self.process(), Instant::now());
        process.restart(now);
        self.shared.binding_log.record_runner_gone(&self.pod.uid, now);
        self.changed.send_replace(process.state().generation);
        drop(process);
        self.timer.notify_one();
        self.close_connections();
    }

    /// Changes how the runner answers, and closes its connections.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
        self.close_connections();
    }

    /// Starts an attack on the operator.
    pub fn attack(&self, attack: Attack) {
        let slots = self.process().slots();
        self.set_extra_sessions(extra_sessions(attack, &self.pod.namespace, slots, &self.pod.uid));
        self.set_behaviour(Behaviour::Hostile(attack));
    }

    /// Number of calls received, whatever the response.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Number of states sent by an attack.
    pub fn hostile_states(&self) -> usize {
        self.hostile_states.load(Ordering::Relaxed)
    }

    pub(super) fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_hostile_state(&self) {
        self.hostile_states.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn redirect_target(&self) -> Option<RedirectTarget> {
        lock(&self.shared.redirect_target).clone()
    }

    /// Makes the runner report these sessions in addition to its own, and closes its connections.
    pub fn set_extra_sessions(&self, sessions: Vec<Session>) {
        *lock(&self.extra_sessions) = sessions;
        self.close_connections();
    }

    /// Powers the runner off: its sessions are lost, and it no longer answers or reacts to the deletion of its pod.
    pub(super) fn power_off(&self) {
        self.powered.store(false, Ordering::Relaxed);
        self.restart();
        self.set_behaviour(Behaviour::Hangs);
    }

    /// Whether the kubelet can terminate the pod and report its end.
    pub(super) fn is_powered(&self) -> bool {
        self.powered.load(Ordering::Relaxed)
    }

    /// Returns when the runner is gone.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Closes all connections. New ones are accepted.
    pub fn close_connections(&self) {
        let mut connections = lock(&self.connections);
        std::mem::take(&mut *connections).cancel();
    }

    /// Crashes the browser of a session.
    ///
    /// # Errors
    /// Returns an error if the runner does not have the session or the session is not ready.
    pub fn crash(&self, uid: &str) -> Result<(), ErrorResponse> {
        self.with_process(|process, now| process.crash(uid, now))
    }

    /// Sets the fault of running and future browsers.
    pub fn set_fault(&self, fault: Fault) {
        self.process().set_fault(fault);
    }

    /// Number of browser launches that its process has started.
    pub fn launches(&self) -> usize {
        self.process().launches()
    }

    /// Starts to drain, as SIGTERM does.
    pub(super) fn drain(&self) {
        if self.is_powered() {
            self.with_process(Process::drain);
        }
    }

    /// The sessions of the runner, including ended ones that are still listed.
    pub fn sessions(&self) -> Vec<Session> {
        self.process().state().sessions.clone()
    }

    /// The state that the runner reports.
    pub fn state(&self) -> RunnerState {
        let mut state = self.process().state().clone();
        state.sessions.extend(lock(&self.extra_sessions).iter().cloned());
        match *self.behaviour.borrow() {
            Behaviour::OmitsSessions => RunnerState { free: state.slots, sessions: Vec::new(), ..state },
            _ => state,
        }
    }

    /// Notifies of changes of the state.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The current behaviour.
    pub(super) fn behaviour(&self) -> watch::Receiver<Behaviour> {
        self.behaviour.subscribe()
    }

    /// A token that is cancelled when the current connections must be closed.
    pub(super) fn connection_token(&self) -> CancellationToken {
        lock(&self.connections).clone()
    }

    pub(super) fn set_keys(&self, keys: PublicKeys) {
        *lock(&self.keys) = keys;
    }

    /// Authenticates the sender of a request.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ErrorResponse> {
        let unauthorized = |message: String| ErrorResponse { reason: ErrorReason::Unauthorized, message };
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| unauthorized("`Authorization: Bearer <token>` is missing".to_owned()))?;
        let caller = lock(&self.keys).verify(token, &self.pod.uid).map_err(|error| unauthorized(error.to_string()))?;
        if let Caller::Operator { epoch } = caller {
            self.term(epoch).check()?;
        }
        Ok(caller)
    }

    pub(super) fn record_traceparent(&self, uid: &str, headers: &HeaderMap) {
        let header = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
        lock(&self.shared.traceparents).entry(uid.to_owned()).or_default().push(header);
    }

    pub(super) fn bind(&self, epoch: u64, uid: &str, request: BindRequest) -> Result<BindResponse, ErrorResponse> {
        let lifetime = *lock(&self.shared.session_lifetime);
        let (mut process, now) = (self.process(), Instant::now());
        // A leader with a higher epoch may have called while the body was read.
        process.term(epoch).check()?;
        let answer = process.bind(uid, request, lifetime, now);
        if answer == Ok(true) {
            self.shared.binding_log.record_bind(uid, &self.pod.uid, now);
        }
        self.publish(&mut process, now);
        self.timer.notify_one();
        answer?;
        let state = process.state();
        let session = state.session(uid).cloned();
        Ok(BindResponse {
            boot_id: state.boot_id.clone(),
            generation: state.generation,
            engine: state.engine.unwrap_or(camofleet_crds::v1alpha1::Engine::Firefox),
            browser_version: state.browser_version.clone(),
            playwright_version: state.playwright_version.clone(),
            session: session.expect("a session is listed from its binding until a later call ends it"),
        })
    }

    pub(super) fn end(&self, epoch: u64, uid: &str) -> Result<(), ErrorResponse> {
        self.term(epoch).check()?;
        self.with_process(|process, now| process.end(uid, now))
    }

    pub(super) fn touch(&self, uid: &str) -> Result<(), ErrorResponse> {
        self.with_process(|process, now| process.touch(uid, now))
    }

    pub(super) fn report(&self, uid: &str) -> Result<SessionReport, ErrorResponse> {
        self.process().report(uid, Instant::now())
    }

    fn with_process<T>(&self, call: impl FnOnce(&mut Process, Instant) -> T) -> T {
        let (mut process, now) = (self.process(), Instant::now());
        let answer = call(&mut process, now);
        self.publish(&mut process, now);
        self.timer.notify_one();
        answer
    }

    fn publish(&self, process: &mut Process, now: Instant) {
        let Some(left) = process.publish(now) else { return };
        for uid in left {
            self.shared.binding_log.record_end(&uid, &self.pod.uid, now);
        }
        self.changed.send_replace(process.state().generation);
    }

    fn term(&self, epoch: u64) -> Term {
        self.process().term(epoch)
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        lock(&self.process)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
