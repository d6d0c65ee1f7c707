//! Runner processes, which have slots, fence off earlier epochs, and report their sessions.

use super::World;
use camofleet_crds::v1alpha1::{BrowserSession, Engine, SessionState, StartTier};
use camofleet_operator::core::{
    BindFailure, Event, Report,
    runner::pod_read::{PodPhase, RunnerPod},
};
use camofleet_runner_api::{
    BindRequest, BindResponse, BrowserCounts, End, EndReason, RunnerState, Session, SessionPhase, StartPage,
};
use std::{collections::BTreeMap, sync::Arc};

/// Outcome of calls to a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// The runner responds.
    Up,
    /// Calls fail at once.
    Refused,
    /// Calls neither complete nor fail.
    Hanging,
}

pub struct Runner {
    pub pod: RunnerPod,
    boot_id: String,
    generation: u64,
    slots: u32,
    served: u32,
    warm: bool,
    pub(super) connectivity: Connectivity,
    /// Epoch in which the pod was created.
    pub(super) created_in: u64,
    /// Whether calls have ever failed, so that a new leader may not know its sessions.
    pub(super) was_unreachable: bool,
    pub(super) draining: bool,
    highest_epoch: u64,
    /// For each session that was bound here, the epoch of the call and the epoch of the leader at that time.
    pub(super) bound_in: BTreeMap<String, (u64, u64)>,
    pub(super) sessions: Vec<Session>,
}

impl Runner {
    pub(super) fn new(pod: RunnerPod, boot_id: String, slots: u32, created_in: u64) -> Self {
        Self {
            pod,
            boot_id,
            generation: 1,
            slots,
            served: 0,
            warm: false,
            connectivity: Connectivity::Up,
            created_in,
            was_unreachable: false,
            draining: false,
            highest_epoch: 0,
            bound_in: BTreeMap::new(),
            sessions: Vec::new(),
        }
    }

    fn answers(&self) -> bool {
        self.connectivity == Connectivity::Up && self.pod.phase == PodPhase::Running
    }

    pub(super) fn live_sessions(&self) -> u32 {
        u32::try_from(self.sessions.iter().filter(|session| session.phase != SessionPhase::Ended).count()).unwrap()
    }

    pub(super) fn has_live_session(&self, session: &str) -> bool {
        self.sessions.iter().any(|there| there.uid == session && there.phase != SessionPhase::Ended)
    }

    pub(super) fn free_slots(&self) -> u32 {
        if self.draining { 0 } else { (self.slots - self.live_sessions()).min(self.slots.saturating_sub(self.served)) }
    }

    fn state(&self) -> RunnerState {
        let free = self.free_slots();
        RunnerState {
            boot_id: self.boot_id.clone(),
            generation: self.generation,
            engine: Some(Engine::Firefox),
            browser_version: Some("153".into()),
            playwright_version: "1.62".into(),
            draining: self.draining,
            slots: self.slots,
            free,
            spent: self.served >= self.slots,
            hot: BrowserCounts { headless: if self.warm { free } else { 0 }, headful: 0 },
            warm: self.warm,
            launch_error: None,
            sessions: self.sessions.clone(),
        }
    }

    /// UID of the pod, and the runner's state without sessions and hot browsers.
    pub(super) fn empty_report(&self) -> (String, RunnerState) {
        let state = RunnerState { sessions: Vec::new(), hot: BrowserCounts::default(), ..self.state() };
        (self.pod.uid.clone(), state)
    }

    pub(super) fn drain(&mut self) {
        self.draining = true;
        self.generation += 1;
    }

    /// The process exits with its sessions.
    pub(super) fn die(&mut self) {
        self.sessions.clear();
    }

    fn end_session(&mut self, at: usize, reason: EndReason) {
        self.generation += 1;
        let session = &mut self.sessions[at];
        session.phase = SessionPhase::Ended;
        session.end = Some(End { reason, message: String::new() });
    }
}

impl World {
    pub(super) fn bind(
        &mut self,
        session: &str,
        pod: &str,
        request: &BindRequest,
        epoch: u64,
    ) -> Result<BindResponse, BindFailure> {
        let others = self.other_holders(session, pod, epoch);
        let lost = || BindFailure::Unknown("unreachable".into());
        let runner =
            self.runners.iter_mut().find(|runner| runner.pod.uid == pod && runner.answers()).ok_or_else(lost)?;
        if epoch < runner.highest_epoch {
            return Err(BindFailure::Unknown("stale epoch".into()));
        }
        runner.highest_epoch = epoch;
        if !runner.sessions.iter().any(|there| there.uid == session) {
            if runner.free_slots() == 0 {
                return Err(BindFailure::NoFreeSlot);
            }
            if !others.is_empty() {
                self.violations
                    .push(format!("{session} was bound to {pod}, although {others:?} has it and was reachable"));
            }
            runner.generation += 1;
            runner.served += 1;
            runner.bound_in.insert(session.to_owned(), (epoch, self.epoch));
            runner.sessions.push(Session {
                uid: session.into(),
                namespace: request.namespace.clone(),
                name: request.name.clone(),
                phase: if runner.warm { SessionPhase::Ready } else { SessionPhase::Starting },
                display: request.display,
                tier: if runner.warm { StartTier::Hot } else { StartTier::Cold },
                start_page: StartPage::None,
                clients: 0,
                end: None,
            });
        }
        let state = runner.state();
        Ok(BindResponse {
            boot_id: state.boot_id.clone(),
            generation: state.generation,
            engine: Engine::Firefox,
            browser_version: state.browser_version.clone(),
            playwright_version: state.playwright_version.clone(),
            session: state.session(session).unwrap().clone(),
        })
    }

    pub(super) fn end(&mut self, session: &str, pod: &str, epoch: u64) {
        let Some(runner) = self.runners.iter_mut().find(|runner| runner.pod.uid == pod && runner.answers()) else {
            return;
        };
        if epoch < runner.highest_epoch {
            return;
        }
        runner.highest_epoch = epoch;
        let Some(at) = runner.sessions.iter().position(|there| there.uid == session) else { return };
        let live = runner.sessions[at].phase != SessionPhase::Ended;
        let uses = |object: &&Arc<BrowserSession>| {
            object.metadata.uid.as_deref() == Some(session)
                && object.status.as_ref().is_some_and(|status| {
                    status.state != SessionState::Finished
                        && status.runner.as_ref().is_some_and(|runner| runner.uid == pod)
                })
        };
        if live && self.sessions.values().find(uses).is_some() {
            self.violations.push(format!("{session} was ended on {pod}, where it is published"));
        }
        runner.generation += 1;
        runner.sessions.remove(at);
    }

    /// The event stream of a runner delivers its state to an operator that streams it, or fails.
    pub fn deliver_report(&mut self, at: usize, index: usize) {
        let operator = &mut self.operators[index];
        let runner = &mut self.runners[at];
        let pod = runner.pod.uid.clone();
        if operator.paused || !operator.streamed.contains(&pod) {
            return;
        }
        if runner.answers() {
            if operator.epoch < runner.highest_epoch {
                return;
            }
            runner.highest_epoch = operator.epoch;
            let report = Report::new(runner.state(), runner.pod.slots).expect("a valid report");
            operator.reported.insert(pod.clone());
            operator.inbox.push(Event::RunnerReported { pod, report });
        } else if runner.connectivity != Connectivity::Hanging {
            operator.inbox.push(Event::RunnerUnreachable { pod });
        }
    }

    /// The runner becomes unreachable.
    pub fn disconnect(&mut self, at: usize, connectivity: Connectivity) {
        (self.runners[at].connectivity, self.runners[at].was_unreachable) = (connectivity, true);
    }

    /// The runner responds again.
    pub fn reconnect(&mut self, at: usize) {
        self.runners[at].connectivity = Connectivity::Up;
    }

    /// All browsers finish launching: the hot ones, and those of starting sessions.
    pub fn warm(&mut self, at: usize) {
        let runner = &mut self.runners[at];
        if runner.pod.phase != PodPhase::Running {
            return;
        }
        runner.generation += 1;
        runner.warm = true;
        for session in runner.sessions.iter_mut().filter(|session| session.phase == SessionPhase::Starting) {
            session.phase = SessionPhase::Ready;
        }
    }

    /// A session ends by its idle timeout.
    pub fn end_session_by_itself(&mut self, at: usize) {
        let runner = &mut self.runners[at];
        if let Some(at) = runner.sessions.iter().position(|session| session.phase != SessionPhase::Ended) {
            runner.end_session(at, EndReason::IdleTimeout);
        }
    }

    /// The process restarts in the same pod, which a kubelet never does with `restartPolicy: Never`.
    pub fn reboot(&mut self, at: usize) {
        let boot_id = self.new_uid("boot");
        let runner = &mut self.runners[at];
        if runner.pod.phase != PodPhase::Running {
            return;
        }
        (runner.boot_id, runner.generation, runner.served, runner.warm) = (boot_id, 1, 0, false);
        runner.die();
    }
}
