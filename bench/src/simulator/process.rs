//! One process of a simulated runner: the real runner's state machine with simulated browsers. It has no clock and no
//! socket; callers pass the time.

use super::browsers::{Browsers, Fault};
use camofleet_crds::v1alpha1::Engine;
use camofleet_runner::core::{Action, Effect, Event, HighestEpoch, RunnerConfig, StateMachine, Term};
use camofleet_runner_api::{BindRequest, ErrorResponse, RunnerState, Session, SessionPhase, SessionReport};
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The Playwright version in reports.
const PLAYWRIGHT_VERSION: &str = "1.62";

/// A runner process with its own boot ID.
#[derive(Debug)]
pub(super) struct Process {
    config: RunnerConfig,
    machine: StateMachine,
    browsers: Browsers,
    highest_epoch: HighestEpoch,
    /// The last published state.
    state: RunnerState,
    /// Lifetime of sessions that the simulator ends by their idle timeout, by UID.
    lifetimes: BTreeMap<String, Duration>,
}

impl Process {
    /// Starts a process.
    pub(super) fn start(config: RunnerConfig, browsers: Browsers, now: Instant) -> Self {
        let state = RunnerState {
            boot_id: Uuid::new_v4().to_string(),
            engine: Some(Engine::Firefox),
            playwright_version: PLAYWRIGHT_VERSION.to_owned(),
            ..RunnerState::default()
        };
        let (machine, highest_epoch) = (StateMachine::new(config), HighestEpoch::default());
        let mut process = Self { config, machine, browsers, highest_epoch, state, lifetimes: BTreeMap::new() };
        process.handle(Event::Tick, now);
        process.publish(now);
        process
    }

    /// Replaces this process by a new one in the same pod, which loses all sessions.
    pub(super) fn restart(&mut self, now: Instant) {
        *self = Self::start(self.config, self.browsers.restarted(), now);
    }

    /// The last published state.
    pub(super) fn state(&self) -> &RunnerState {
        &self.state
    }

    /// Number of slots.
    pub(super) fn slots(&self) -> u32 {
        self.config.slots
    }

    /// Number of browser launches started.
    pub(super) fn launches(&self) -> usize {
        self.browsers.launches()
    }

    /// The term of the leader with this epoch.
    pub(super) fn term(&self, epoch: u64) -> Term {
        self.highest_epoch.term(epoch)
    }

    /// Sets the fault of running and future browsers.
    pub(super) fn set_fault(&mut self, fault: Fault) {
        self.browsers.set_fault(fault);
    }

    /// Binds a session, or updates the timeouts of one that is bound already. With a `lifetime`, a new session has an
    /// idle client and ends by its idle timeout after that time. Returns whether the session is new.
    pub(super) fn bind(
        &mut self,
        uid: &str,
        request: BindRequest,
        lifetime: Option<Duration>,
        now: Instant,
    ) -> Result<bool, ErrorResponse> {
        let is_new = self.machine.session(uid).is_none();
        let lifetime = if is_new { lifetime } else { self.lifetimes.get(uid).copied() };
        let request = match lifetime {
            Some(lifetime) => BindRequest { idle_timeout_seconds: whole_seconds(lifetime), ..request },
            None => request,
        };
        let (answer, effects) = self.machine.bind(uid, request, now);
        if let (Ok(()), Some(lifetime)) = (&answer, lifetime) {
            self.lifetimes.insert(uid.to_owned(), lifetime);
        }
        self.carry_out(effects, now);
        answer.map(|()| is_new)
    }

    /// Starts to end a session, or forgets one that has ended.
    pub(super) fn end(&mut self, uid: &str, now: Instant) -> Result<(), ErrorResponse> {
        let (answer, effects) = self.machine.end(uid, now);
        self.carry_out(effects, now);
        answer
    }

    /// Resets the idle time of a session.
    pub(super) fn touch(&mut self, uid: &str, now: Instant) -> Result<(), ErrorResponse> {
        let answer = self.machine.touch(uid, now);
        self.handle(Event::Tick, now);
        answer
    }

    /// A session and its idle time.
    pub(super) fn report(&self, uid: &str, now: Instant) -> Result<SessionReport, ErrorResponse> {
        self.machine.report(uid, now)
    }

    /// Crashes the browser of a ready session.
    pub(super) fn crash(&mut self, uid: &str, now: Instant) -> Result<(), ErrorResponse> {
        let (stack, _) = self.machine.connect(uid, Action::Connect)?;
        for event in self.browsers.crash(stack) {
            self.handle(event, now);
        }
        Ok(())
    }

    /// Starts to drain: binds no more sessions, and finishes when all have ended or the drain timeout has passed.
    pub(super) fn drain(&mut self, now: Instant) {
        self.handle(Event::Drain, now);
    }

    /// Handles everything that is due by `now`.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some(launched) = self.browsers.next_launched(now) {
            self.handle(launched, now);
        }
        self.handle(Event::Tick, now);
    }

    /// The earliest time after `now` at which [`Process::advance`] has something to do.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.machine.next_deadline(now).into_iter().chain(self.browsers.next_deadline()).min()
    }

    /// Whether the process has drained and can exit.
    pub(super) fn is_finished(&self, now: Instant) -> bool {
        self.machine.is_finished(now)
    }

    /// Publishes a changed state with the next generation, and returns the sessions that have freed their slots since
    /// the last one.
    pub(super) fn publish(&mut self, now: Instant) -> Option<Vec<String>> {
        let former = &self.state;
        let state = self.machine.describe(former, now);
        if state == *former {
            return None;
        }
        let has_left = |session: &&Session| is_live(session) && !state.session(&session.uid).is_some_and(is_live);
        let left: Vec<_> = former.sessions.iter().filter(has_left).map(|session| session.uid.clone()).collect();
        self.lifetimes.retain(|uid, _| state.session(uid).is_some_and(is_live));
        for session in state.sessions.iter().filter(|session| session.phase == SessionPhase::Ready) {
            let is_newly_ready = former.session(&session.uid).is_none_or(|former| former.phase < SessionPhase::Ready);
            if let Some(lifetime) = self.lifetimes.get(&session.uid).filter(|_| is_newly_ready) {
                // The state machine counts whole seconds. The fraction that a lifetime lacks is counted as idle time
                // before Ready.
                let lacking = Duration::from_secs(whole_seconds(*lifetime).into()).saturating_sub(*lifetime);
                let active = now.checked_sub(lacking).unwrap_or(now);
                self.machine.touch(&session.uid, active).expect("a session that is ready can be touched");
            }
        }
        self.state = RunnerState { generation: former.generation + 1, ..state };
        Some(left)
    }

    fn handle(&mut self, event: Event, now: Instant) {
        let effects = self.machine.handle(event, now);
        self.carry_out(effects, now);
    }

    fn carry_out(&mut self, effects: Vec<Effect>, now: Instant) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            if let Some(event) = self.browsers.carry_out(effect, now) {
                effects.extend(self.machine.handle(event, now));
            }
        }
    }
}

/// The lifetime in seconds, rounded up, at least 1.
fn whole_seconds(lifetime: Duration) -> u32 {
    u32::try_from(lifetime.as_millis().div_ceil(1000).max(1)).unwrap_or(u32::MAX)
}

/// Whether a session occupies a slot.
fn is_live(session: &Session) -> bool {
    session.phase < SessionPhase::Ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::v1alpha1::{Display, StartTier, StartUrlWait};
    use camofleet_runner::core::DisplayKind;
    use camofleet_runner_api::{BrowserCounts, EndReason, ErrorReason};

    const SECOND: Duration = Duration::from_secs(1);
    const LAUNCH_TIME: Duration = Duration::from_secs(3);

    fn config() -> RunnerConfig {
        RunnerConfig {
            slots: 2,
            max_total_sessions: 0,
            prewarm: BrowserCounts { headless: 2, headful: 0 },
            smoke_test: None,
            max_concurrent_launches: 2,
            drain_timeout: 10 * SECOND,
        }
    }

    fn request() -> BindRequest {
        BindRequest {
            namespace: "ns".into(),
            name: "s".into(),
            display: Display::Headless,
            idle_timeout_seconds: 300,
            max_lifetime_seconds: 3600,
            start_url: None,
            start_url_wait: StartUrlWait::Load,
            reconnect_grace_seconds: 60,
        }
    }

    fn cold(config: RunnerConfig, fault: Fault) -> (Process, Instant) {
        let start = Instant::now();
        (Process::start(config, Browsers::new(LAUNCH_TIME, fault), start), start)
    }

    fn warm(config: RunnerConfig) -> (Process, Instant) {
        let (mut process, start) = cold(config, Fault::None);
        assert!(!process.state.warm);
        let now = start + LAUNCH_TIME;
        assert!(at(&mut process, now).warm);
        (process, now)
    }

    /// The state after everything due by `now`.
    fn at(process: &mut Process, now: Instant) -> &RunnerState {
        process.advance(now);
        process.publish(now);
        process.state()
    }

    /// The state at `end`, after handling each deadline up to then.
    fn advance_until(process: &mut Process, mut now: Instant, end: Instant) -> &RunnerState {
        while let Some(deadline) = process.next_deadline(now).filter(|deadline| *deadline <= end) {
            now = deadline;
            at(process, now);
        }
        at(process, end)
    }

    fn phase(process: &Process, uid: &str) -> Option<SessionPhase> {
        process.machine.session(uid).map(|session| session.phase)
    }

    fn end_reason(process: &Process, uid: &str) -> Option<EndReason> {
        process.machine.session(uid)?.end.map(|end| end.reason)
    }

    #[test]
    fn binds_hot_browsers_at_once_and_rejects_when_full() {
        let (mut process, now) = warm(config());
        for uid in ["a", "b"] {
            assert_eq!(process.bind(uid, request(), None, now), Ok(true));
            assert_eq!(phase(&process, uid), Some(SessionPhase::Ready));
        }
        let state = at(&mut process, now);
        assert_eq!((state.free, state.hot), (0, BrowserCounts::default()));
        assert_eq!(process.bind("c", request(), None, now).unwrap_err().reason, ErrorReason::NoFreeSlot);
        assert_eq!(process.bind("a", request(), None, now), Ok(false), "a repeated bind finds the session");
    }

    #[test]
    fn a_cold_session_is_ready_when_its_browser_is() {
        let (mut process, start) = cold(config(), Fault::None);
        process.bind("a", request(), None, start).unwrap();
        assert_eq!(process.machine.session("a").unwrap().tier, StartTier::Cold);
        assert_eq!(phase(&process, "a"), Some(SessionPhase::Starting));
        assert_eq!(process.next_deadline(start), Some(start + LAUNCH_TIME));
        process.advance(start + LAUNCH_TIME);
        assert_eq!(phase(&process, "a"), Some(SessionPhase::Ready));
    }

    #[test]
    fn launches_another_hot_browser_when_a_session_has_ended() {
        let (mut process, now) = warm(config());
        process.bind("a", request(), None, now).unwrap();
        process.end("a", now).unwrap();
        assert_eq!(process.end("a", now).unwrap_err().reason, ErrorReason::UnknownSession);
        let state = at(&mut process, now);
        assert_eq!((state.hot.headless, state.warm), (1, false));
        assert_eq!(at(&mut process, now + LAUNCH_TIME).hot.headless, 2);
    }

    #[test]
    fn a_session_ends_after_its_lifetime_and_is_listed_until_acknowledged() {
        for lifetime in [Duration::from_millis(200), SECOND, Duration::from_millis(2500)] {
            let (mut process, now) = warm(config());
            process.bind("a", request(), Some(lifetime), now).unwrap();
            assert_eq!(process.publish(now), Some(Vec::new()));
            let end = now + lifetime;
            assert_eq!(process.next_deadline(now), Some(end));
            process.advance(end);
            assert_eq!(process.publish(end), Some(vec!["a".to_owned()]));
            assert_eq!(end_reason(&process, "a"), Some(EndReason::IdleTimeout));
            assert_eq!(process.state().free, 2);
            assert_eq!(process.bind("a", request(), None, end), Ok(false), "a repeated bind returns the ended session");
            process.end("a", end).unwrap();
            assert_eq!(phase(&process, "a"), None);
        }
    }

    #[test]
    fn a_repeated_bind_keeps_the_lifetime() {
        let (mut process, now) = warm(config());
        process.bind("a", request(), Some(SECOND), now).unwrap();
        process.publish(now);
        assert_eq!(process.bind("a", request(), None, now + SECOND / 2), Ok(false));
        process.advance(now + SECOND);
        assert_eq!(end_reason(&process, "a"), Some(EndReason::IdleTimeout));
    }

    #[test]
    fn a_touch_extends_the_idle_timeout_but_not_the_maximum_lifetime() {
        let (mut process, now) = warm(config());
        process.bind("a", BindRequest { max_lifetime_seconds: 400, ..request() }, None, now).unwrap();
        process.touch("a", now + 200 * SECOND).unwrap();
        process.advance(now + 399 * SECOND);
        assert_eq!(phase(&process, "a"), Some(SessionPhase::Ready));
        process.advance(now + 400 * SECOND);
        assert_eq!(end_reason(&process, "a"), Some(EndReason::LifetimeExceeded));
    }

    #[test]
    fn a_spent_runner_binds_no_session_and_launches_no_browser() {
        let spent = RunnerConfig {
            slots: 1,
            max_total_sessions: 1,
            prewarm: BrowserCounts { headless: 1, headful: 0 },
            ..config()
        };
        let (mut process, now) = warm(spent);
        process.bind("a", request(), None, now).unwrap();
        process.end("a", now).unwrap();
        let state = at(&mut process, now);
        assert!(state.spent && state.warm);
        assert_eq!((state.free, state.hot), (0, BrowserCounts::default()));
        assert_eq!(process.bind("b", request(), None, now).unwrap_err().reason, ErrorReason::NoFreeSlot);
    }

    #[test]
    fn a_session_of_another_kind_displaces_a_hot_browser() {
        let (mut process, now) = warm(config());
        process.bind("a", BindRequest { display: Display::LiveView, ..request() }, None, now).unwrap();
        assert_eq!(at(&mut process, now).hot, BrowserCounts { headless: 1, headful: 0 });
    }

    #[test]
    fn a_draining_runner_keeps_its_sessions_until_the_deadline() {
        let (mut process, now) = warm(config());
        process.bind("a", request(), None, now).unwrap();
        process.drain(now);
        assert!(!process.is_finished(now));
        assert_eq!(at(&mut process, now).hot, BrowserCounts::default());
        assert_eq!(process.bind("b", request(), None, now).unwrap_err().reason, ErrorReason::Draining);
        assert_eq!(process.next_deadline(now), Some(now + 10 * SECOND));
        process.advance(now + 10 * SECOND);
        assert_eq!(end_reason(&process, "a"), Some(EndReason::RunnerDrained));
        assert!(!process.is_finished(now + 10 * SECOND), "the operator has not acknowledged the end yet");
        assert!(process.is_finished(now + 18 * SECOND));
        process.end("a", now + 11 * SECOND).unwrap();
        assert!(process.is_finished(now + 11 * SECOND));
    }

    #[test]
    fn without_a_launch_time_browsers_are_hot_at_once() {
        let now = Instant::now();
        let mut process = Process::start(config(), Browsers::new(Duration::ZERO, Fault::None), now);
        for uid in ["a", "b"] {
            process.bind(uid, request(), None, now).unwrap();
            process.end(uid, now).unwrap();
            assert_eq!(at(&mut process, now).hot.headless, 2);
        }
    }

    #[test]
    fn a_crash_ends_a_session_and_a_restart_loses_all() {
        let (mut process, now) = warm(config());
        process.bind("a", request(), None, now).unwrap();
        process.crash("a", now).unwrap();
        assert_eq!(end_reason(&process, "a"), Some(EndReason::BrowserCrashed));
        let former = at(&mut process, now).boot_id.clone();
        process.restart(now);
        assert!(process.state().boot_id != former && process.state().sessions.is_empty());
    }

    #[test]
    fn a_canary_is_not_warm_before_a_browser_loads_a_page() {
        let (mut process, start) =
            cold(RunnerConfig { smoke_test: Some(DisplayKind::Headful), ..config() }, Fault::PageLoadFails);
        let now = start + 60 * SECOND;
        let state = advance_until(&mut process, start, now);
        assert!(
            !state.warm && state.launch_error.as_ref().is_some_and(|error| error.contains("could not load a page"))
        );
        process.set_fault(Fault::None);
        let state = advance_until(&mut process, now, now + 60 * SECOND);
        assert!(state.warm && state.launch_error.is_none());
    }

    #[test]
    fn a_hot_browser_that_hangs_is_not_handed_out_and_is_replaced() {
        let (mut process, now) = warm(config());
        process.set_fault(Fault::Hangs);
        assert_eq!(advance_until(&mut process, now, now + 10 * SECOND).hot.headless, 2);
        let state = advance_until(&mut process, now + 10 * SECOND, now + 11 * SECOND);
        assert_eq!(
            (state.hot, state.warm),
            (BrowserCounts::default(), false),
            "two pings of each browser are unanswered"
        );
        advance_until(&mut process, now + 11 * SECOND, now + 21 * SECOND);
        process.set_fault(Fault::None);
        let state = advance_until(&mut process, now + 21 * SECOND, now + 21 * SECOND + LAUNCH_TIME);
        assert_eq!((state.hot.headless, state.warm), (2, true));
    }

    #[test]
    fn a_session_whose_launch_hangs_fails() {
        let (mut process, start) = cold(config(), Fault::LaunchHangs);
        process.bind("a", request(), None, start).unwrap();
        advance_until(&mut process, start, start + 89 * SECOND);
        assert_eq!(phase(&process, "a"), Some(SessionPhase::Starting));
        advance_until(&mut process, start + 89 * SECOND, start + 90 * SECOND);
        assert_eq!(end_reason(&process, "a"), Some(EndReason::LaunchFailed));
        assert_eq!(process.state().free, 2);
    }

    #[test]
    fn a_session_whose_browser_hangs_ends_when_it_is_idle() {
        let (mut process, now) = warm(config());
        process.bind("a", request(), None, now).unwrap();
        process.set_fault(Fault::Hangs);
        advance_until(&mut process, now, now + 299 * SECOND);
        assert_eq!(phase(&process, "a"), Some(SessionPhase::Ready), "its client may still be working");
        advance_until(&mut process, now + 299 * SECOND, now + 300 * SECOND);
        assert_eq!(end_reason(&process, "a"), Some(EndReason::IdleTimeout));
    }
}
