//! One simulated runner: its chart, who may ask it, and what it publishes.

use super::{
    chart::{Chart, Plan},
    hostile::{Attack, Bystander, invented},
    record::Record,
};
use camofleet_auth::token::{Caller, PublicKeys};
use camofleet_runner_api::{
    BindAnswer, BindRequest, EndReason, Refusal, RefusalReason, RunnerState, Session, SessionPhase, SessionReport,
    TRACEPARENT,
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
use uuid::Uuid;

/// How a runner answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    #[default]
    Well,
    /// It takes connections and answers nothing.
    Hangs,
    /// It answers after so long.
    Slow(Duration),
    /// It answers with what is not of its API.
    Garbage,
    /// It does what it is asked, and tells of no session.
    Forgets,
    /// It answers calls, and its event stream says nothing.
    Mute,
    /// It attacks the operator.
    Hostile(Attack),
}

/// Which pod a runner is in.
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
    /// Its pod.
    pub pod: PodIdentity,
    /// Its address.
    pub address: IpAddr,
    plan: Plan,
    run: Mutex<Run>,
    changed: watch::Sender<u64>,
    timer: Notify,
    keys: Mutex<PublicKeys>,
    behaviour: watch::Sender<Behaviour>,
    /// Sessions that it tells of and has not.
    invented: Mutex<Vec<Session>>,
    connections: Mutex<CancellationToken>,
    /// Calls that reached it.
    calls: AtomicUsize,
    /// States that it sent to attack.
    hostile_states: AtomicUsize,
    /// Its node has power.
    powered: AtomicBool,
    gone: CancellationToken,
    world: Arc<World>,
}

/// What all runners share.
#[derive(Debug, Default)]
pub struct World {
    /// Which runner held what.
    pub record: Record,
    /// How long sessions live that are bound from now on; absent: until somebody ends them.
    pub life: Mutex<Option<Duration>>,
    /// The `traceparent` of each call to bind, by session.
    pub traceparents: Mutex<BTreeMap<String, Vec<Option<String>>>>,
    /// The host that redirects lead to, once it listens.
    pub(super) bystander: Mutex<Option<Bystander>>,
}

/// One run of a runner's process.
#[derive(Debug)]
struct Run {
    chart: Chart,
    state: RunnerState,
    highest_epoch: u64,
}

impl Run {
    fn new(plan: Plan) -> Self {
        let chart = Chart::new(plan, Instant::now());
        let state = RunnerState { boot_id: Uuid::new_v4().to_string(), ..chart.describe() };
        Self { chart, state, highest_epoch: 0 }
    }
}

impl Runner {
    /// A runner in that pod, which trusts these keys.
    pub(super) fn new(pod: PodIdentity, address: IpAddr, plan: Plan, keys: PublicKeys, world: Arc<World>) -> Self {
        Self {
            pod,
            address,
            plan,
            run: Mutex::new(Run::new(plan)),
            changed: watch::Sender::new(0),
            timer: Notify::new(),
            keys: Mutex::new(keys),
            behaviour: watch::Sender::new(Behaviour::Well),
            invented: Mutex::default(),
            connections: Mutex::default(),
            calls: AtomicUsize::new(0),
            hostile_states: AtomicUsize::new(0),
            powered: AtomicBool::new(true),
            gone: CancellationToken::new(),
            world,
        }
    }

    /// Lives until it was told to go and has done so, or is killed.
    pub(super) async fn live(&self) {
        while !self.gone.is_cancelled() {
            let (deadline, finished) = {
                let (mut run, now) = (self.run(), Instant::now());
                run.chart.advance(now);
                self.publish(&mut run, now);
                (run.chart.next_deadline(), run.chart.is_finished(now))
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

    /// Ends it at once, with all that it holds.
    pub(super) fn kill(&self) {
        self.gone.cancel();
        self.cut_connections();
        self.world.record.gone(&self.pod.uid, Instant::now());
    }

    /// Its process is another one, in the same pod, with another boot id: what it held is lost.
    pub fn restart(&self) {
        let (mut run, now) = (self.run(), Instant::now());
        *run = Run::new(self.plan);
        self.world.record.gone(&self.pod.uid, now);
        self.changed.send_replace(run.state.generation);
        drop(run);
        self.timer.notify_one();
        self.cut_connections();
    }

    /// From now on it answers like that.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
        self.cut_connections();
    }

    /// From now on it attacks the operator in that way.
    pub fn attack(&self, attack: Attack) {
        self.invent(invented(attack, &self.pod.namespace, self.plan.slots, &self.pod.uid));
        self.behave(Behaviour::Hostile(attack));
    }

    /// How many calls have reached it, whatever it answered.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many states it has sent to attack.
    pub fn hostile_states(&self) -> usize {
        self.hostile_states.load(Ordering::Relaxed)
    }

    pub(super) fn note_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_hostile_state(&self) {
        self.hostile_states.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn bystander(&self) -> Option<Bystander> {
        lock(&self.world.bystander).clone()
    }

    /// From now on it tells of these sessions, too, which it has not.
    pub fn invent(&self, sessions: Vec<Session>) {
        *lock(&self.invented) = sessions;
        self.cut_connections();
    }

    /// What it held is lost, it answers nobody, and is told nothing any more.
    pub(super) fn lose_power(&self) {
        self.powered.store(false, Ordering::Relaxed);
        self.restart();
        self.behave(Behaviour::Hangs);
    }

    /// Whether somebody would hear that it should go, and could say that it has.
    pub(super) fn is_powered(&self) -> bool {
        self.powered.load(Ordering::Relaxed)
    }

    /// Ends when it is no more.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Drops every connection to it. New ones are taken.
    pub fn cut_connections(&self) {
        let mut connections = lock(&self.connections);
        std::mem::take(&mut *connections).cancel();
    }

    /// A session's browser ends by itself.
    ///
    /// # Errors
    /// When the session is not here.
    pub fn end_by_itself(&self, uid: &str) -> Result<(), Refusal> {
        self.ask(|chart, now| chart.end_by_itself(uid, EndReason::BrowserCrashed, now))
    }

    /// Tells it to go, as SIGTERM does.
    pub(super) fn drain(&self) {
        if self.is_powered() {
            self.ask(Chart::drain);
        }
    }

    /// The sessions that it has, those that have ended and are still listed among them.
    pub fn sessions(&self) -> Vec<Session> {
        self.run().state.sessions.clone()
    }

    /// What it tells of itself.
    pub fn state(&self) -> RunnerState {
        let mut state = self.run().state.clone();
        state.sessions.extend(lock(&self.invented).iter().cloned());
        match *self.behaviour.borrow() {
            Behaviour::Forgets => RunnerState { free: state.slots, sessions: Vec::new(), ..state },
            _ => state,
        }
    }

    /// Says when its state has changed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How it answers.
    pub(super) fn behaviour(&self) -> watch::Receiver<Behaviour> {
        self.behaviour.subscribe()
    }

    /// Cancelled when what connections it has now are to be dropped.
    pub(super) fn connection(&self) -> CancellationToken {
        lock(&self.connections).clone()
    }

    pub(super) fn trust(&self, keys: PublicKeys) {
        *lock(&self.keys) = keys;
    }

    /// Who sent a request with these headers.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let unauthorized = |message: String| Refusal { reason: RefusalReason::Unauthorized, message };
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| unauthorized("`Authorization: Bearer <token>` is missing".to_owned()))?;
        let caller = lock(&self.keys).verify(token, &self.pod.uid).map_err(|error| unauthorized(error.to_string()))?;
        if let Caller::Operator { epoch } = caller {
            let mut run = self.run();
            run.highest_epoch = run.highest_epoch.max(epoch);
            check_term(&run, epoch)?;
        }
        Ok(caller)
    }

    pub(super) fn note_trace(&self, uid: &str, headers: &HeaderMap) {
        let header = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
        lock(&self.world.traceparents).entry(uid.to_owned()).or_default().push(header);
    }

    pub(super) fn bind(&self, epoch: u64, uid: &str, request: BindRequest) -> Result<BindAnswer, Refusal> {
        let life = *lock(&self.world.life);
        let (mut run, now) = (self.run(), Instant::now());
        // A leader of a later term may have called while the body was read.
        check_term(&run, epoch)?;
        let new = run.chart.bind(uid, request, life, now)?;
        if new {
            self.world.record.bound(uid, &self.pod.uid, now);
        }
        self.publish(&mut run, now);
        self.timer.notify_one();
        let state = &run.state;
        let session = state.session(uid).cloned();
        Ok(BindAnswer {
            boot_id: state.boot_id.clone(),
            generation: state.generation,
            engine: state.engine.unwrap_or(camofleet_crds::v1alpha1::EngineName::Firefox),
            browser_version: state.browser_version.clone(),
            playwright_version: state.playwright_version.clone(),
            session: session.expect("what was just bound is listed until it is ended by another call"),
        })
    }

    pub(super) fn end(&self, epoch: u64, uid: &str) -> Result<(), Refusal> {
        check_term(&self.run(), epoch)?;
        self.ask(|chart, now| chart.end(uid, now))
    }

    pub(super) fn touch(&self, uid: &str) -> Result<(), Refusal> {
        self.ask(|chart, now| chart.touch(uid, now))
    }

    pub(super) fn report(&self, uid: &str) -> Result<SessionReport, Refusal> {
        self.run().chart.report(uid, Instant::now())
    }

    fn ask<T>(&self, question: impl FnOnce(&mut Chart, Instant) -> T) -> T {
        let (mut run, now) = (self.run(), Instant::now());
        let answer = question(&mut run.chart, now);
        self.publish(&mut run, now);
        self.timer.notify_one();
        answer
    }

    fn publish(&self, run: &mut Run, now: Instant) {
        let (boot_id, generation) = (run.state.boot_id.clone(), run.state.generation);
        let state = RunnerState { boot_id, generation, ..run.chart.describe() };
        if state == run.state {
            return;
        }
        for former in run.state.sessions.iter().filter(|session| is_live(session)) {
            if !state.session(&former.uid).is_some_and(is_live) {
                self.world.record.ended(&former.uid, &self.pod.uid, now);
            }
        }
        run.state = RunnerState { generation: generation + 1, ..state };
        self.changed.send_replace(run.state.generation);
    }

    fn run(&self) -> MutexGuard<'_, Run> {
        lock(&self.run)
    }
}

fn is_live(session: &Session) -> bool {
    session.phase < SessionPhase::Ended
}

fn check_term(run: &Run, epoch: u64) -> Result<(), Refusal> {
    if epoch >= run.highest_epoch {
        return Ok(());
    }
    let message =
        format!("a leader of epoch {} has called before, and this is one of epoch {epoch}", run.highest_epoch);
    Err(Refusal { reason: RefusalReason::StaleEpoch, message })
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
