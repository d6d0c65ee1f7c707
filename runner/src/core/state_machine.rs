//! The state machine of a runner: routes events and calls to its sessions and stacks, and reconciles the two.
//!
//! There are never more stacks than slots. A stack without a session runs the smoke test, is a hot browser, or is being
//! launched as one. When there are more of the latter two than free slots, the surplus is stopped, so a session that no
//! hot browser suits displaces one.

#[cfg(test)]
mod tests;

use crate::core::{
    action::{Action, Permission, WrongPhase, permission},
    backoff::Backoff,
    config::{DisplayKind, RunnerConfig},
    messages::{Effect, Event},
    session::Session,
    sessions::Sessions,
    smoke_test::SmokeTest,
    stack::{LAUNCH_TIMEOUT, Purpose, StackId, Stacks, TimedOutOperation},
};
use camofleet_crds::v1alpha1::{Display, StartTier, StartUrlWait};
use camofleet_runner_api::{
    self as api, BindRequest, End, EndReason, ErrorReason, ErrorResponse, RunnerState, SessionReport,
};
use std::time::Instant;

/// The page that a browser loads in the smoke test.
const SMOKE_TEST_PAGE: &str = "data:text/html,<title>smoke test</title>";

/// The state of a runner. A single driver owns it.
#[derive(Debug)]
pub struct StateMachine {
    config: RunnerConfig,
    sessions: Sessions,
    stacks: Stacks,
    draining_since: Option<Instant>,
    browser_version: Option<String>,
    launch_error: Option<String>,
    backoff: Backoff,
    smoke_test: SmokeTest,
    effects: Vec<Effect>,
}

impl StateMachine {
    /// Creates a runner without stacks. It launches the first ones on the first [`Event::Tick`].
    pub fn new(config: RunnerConfig) -> Self {
        Self {
            config,
            sessions: Sessions::default(),
            stacks: Stacks::default(),
            draining_since: None,
            browser_version: None,
            launch_error: None,
            backoff: Backoff::default(),
            smoke_test: SmokeTest::new(config.smoke_test),
            effects: Vec::new(),
        }
    }

    /// Handles an event. Returns effects, which the driver applies in order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        self.record_stable_browsers(now);
        match event {
            Event::Launched { stack, version } => self.launched(stack, version, now),
            Event::Failed { stack, message } => self.stack_failed(stack, &message, now),
            Event::Removed { stack } => self.stack_removed(stack, now),
            Event::PingAnswered { stack } => self.stacks.ping_answered(stack, now),
            Event::PageFinished { stack, error } => {
                if self.smoke_test.stack() == Some(stack) {
                    self.smoke_test_finished(stack, error, now);
                } else {
                    self.sessions.start_page_finished(stack, error);
                }
            }
            Event::ClientConnected { stack } => self.sessions.client_connected(stack, now),
            Event::ClientDisconnected { stack } => self.sessions.client_disconnected(stack),
            Event::ClientActive { stack } => self.sessions.client_active(stack, now),
            // A second signal does not extend the drain deadline.
            Event::Drain => self.draining_since = self.draining_since.or(Some(now)),
            Event::Tick => {}
        }
        self.reconcile(now)
    }

    /// Binds a session, or updates the timeouts of a bound one. [`StateMachine::session`] then describes it.
    pub fn bind(&mut self, uid: &str, request: BindRequest, now: Instant) -> (Result<(), ErrorResponse>, Vec<Effect>) {
        let result = match self.sessions.get(uid).map(|session| permission(session.phase(), Action::Bind)) {
            None => self.admit(uid, request, now),
            Some(Permission::Allowed) => {
                self.sessions.set_timeouts(uid, &request);
                Ok(())
            }
            Some(Permission::NoChange) => Ok(()),
            Some(Permission::Rejected(why)) => Err(wrong_phase(uid, why)),
        };
        (result, self.reconcile(now))
    }

    /// Begins to end a live session, or removes an ended one from the list.
    pub fn end(&mut self, uid: &str, now: Instant) -> (Result<(), ErrorResponse>, Vec<Effect>) {
        self.record_stable_browsers(now);
        let result = self.session_allowing(uid, Action::End).map(drop);
        if result.is_ok() {
            let end = End { reason: EndReason::Deleted, message: "the session was deleted".to_owned() };
            self.end_session(uid, end, now);
            self.sessions.acknowledge(uid);
        }
        (result, self.reconcile(now))
    }

    /// Resets the idle time of a session.
    ///
    /// # Errors
    /// When the session is unknown or has ended.
    pub fn touch(&mut self, uid: &str, now: Instant) -> Result<(), ErrorResponse> {
        self.session_allowing(uid, Action::Touch)?;
        self.sessions.touch(uid, now);
        Ok(())
    }

    /// Returns the stack to connect to for an action, and the session's display.
    ///
    /// # Errors
    /// When the session is unknown or not ready.
    pub fn connect(&self, uid: &str, action: Action) -> Result<(StackId, Display), ErrorResponse> {
        let session = self.session_allowing(uid, action)?;
        let stack = session.stack().expect("only ready sessions allow connections, and they have a stack");
        Ok((stack, session.display()))
    }

    /// Returns the earliest time after `now` at which [`Event::Tick`] has an effect. Deadlines up to `now` have been
    /// handled, or wait for an event.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let sessions =
            self.sessions.iter().flat_map(|(_, session)| [session.lifetime_deadline(), session.idle_deadline()]);
        let runner = [
            self.backoff
                .retry_at()
                .filter(|_| self.missing_kind().is_some() || self.smoke_test.pending_kind().is_some()),
            self.drain_deadline().filter(|_| self.sessions.has_live()),
            self.acknowledge_deadline(),
        ];
        let deadlines = sessions.chain(runner).flatten().chain(self.stacks.deadlines());
        deadlines.filter(|deadline| *deadline > now).min()
    }

    /// Whether the runner has drained: no stack is left, and the ended sessions were acknowledged or have waited long
    /// enough.
    pub fn is_finished(&self, now: Instant) -> bool {
        self.draining_since.is_some()
            && self.stacks.is_empty()
            && (self.sessions.is_empty() || self.acknowledge_deadline().is_some_and(|deadline| deadline <= now))
    }

    /// Whether the readiness probe succeeds: the runner has a live session, or it neither drains nor has a failed
    /// browser after which none became ready. A runner whose prewarmed browsers fail is not ready, because a session's
    /// browser would probably fail too, but it still accepts sessions. A spent runner stays ready: its state already
    /// prevents the operator from binding more sessions, and a pod whose replacement is planned must not trigger
    /// alerts.
    pub fn is_ready(&self) -> bool {
        self.sessions.has_live() || (self.draining_since.is_none() && !self.backoff.is_failing())
    }

    /// Returns the state to publish. The generation and the fields that describe the process are copied from
    /// `previous`.
    pub fn describe(&self, previous: &RunnerState, now: Instant) -> RunnerState {
        RunnerState {
            boot_id: previous.boot_id.clone(),
            generation: previous.generation,
            engine: previous.engine,
            playwright_version: previous.playwright_version.clone(),
            browser_version: self.browser_version.clone(),
            draining: self.draining_since.is_some(),
            slots: self.config.slots,
            free: self.free(),
            spent: self.is_spent(),
            hot: self.stacks.hot(now),
            warm: self.is_warm(now),
            launch_error: self.launch_error.clone(),
            sessions: self.sessions.iter().map(|(uid, session)| session.describe(uid)).collect(),
        }
    }

    /// Returns a session in its published form.
    pub fn session(&self, uid: &str) -> Option<api::Session> {
        self.sessions.get(uid).map(|session| session.describe(uid))
    }

    /// Returns a session with its idle time.
    ///
    /// # Errors
    /// When the session is unknown.
    pub fn report(&self, uid: &str, now: Instant) -> Result<SessionReport, ErrorResponse> {
        self.sessions.get(uid).map(|session| session.report(uid, now)).ok_or_else(|| unknown(uid))
    }

    /// Returns the running browsers that have no session.
    pub fn hot_stacks(&self) -> impl Iterator<Item = StackId> {
        self.stacks.running_unassigned()
    }

    fn admit(&mut self, uid: &str, request: BindRequest, now: Instant) -> Result<(), ErrorResponse> {
        let reject = |reason, message: String| Err(ErrorResponse { reason, message });
        if self.draining_since.is_some() {
            return reject(ErrorReason::Draining, "this runner is draining and accepts no new session".into());
        }
        if self.is_spent() {
            let served = self.sessions.served();
            let message = format!("this runner has served its total of {served} sessions");
            return reject(ErrorReason::NoFreeSlot, message);
        }
        if self.free() == 0 {
            let message = format!("all {} slots of this runner are occupied", self.config.slots);
            return reject(ErrorReason::NoFreeSlot, message);
        }
        let hot = self.stacks.pick_hot(request.display.into(), now);
        let tier = if hot.is_some() { StartTier::Hot } else { StartTier::Cold };
        self.sessions.add(uid, Session::new(request, tier, now));
        if let Some(stack) = hot {
            self.assign(uid, stack, now);
        }
        Ok(())
    }

    /// Assigns a stack without a session to a session without a stack.
    fn assign(&mut self, uid: &str, stack: StackId, now: Instant) {
        self.stacks.assign(stack);
        self.sessions.assign(uid, stack);
        if self.stacks.is_running(stack) {
            self.become_ready(stack, now);
        }
    }

    fn become_ready(&mut self, stack: StackId, now: Instant) {
        let Some(session) = self.sessions.become_ready(stack, now) else { return };
        self.effects.push(Effect::Bind { stack, reconnect_grace: session.reconnect_grace() });
        if let Some((url, wait)) = session.page_to_open() {
            self.effects.push(Effect::OpenPage { stack, url, wait });
        }
    }

    fn launched(&mut self, id: StackId, version: String, now: Instant) {
        self.browser_version = Some(version);
        if self.stacks.launched(id, now) {
            self.launch_error = None;
            self.backoff.browser_ready();
            if self.smoke_test.stack() == Some(id) {
                let page = SMOKE_TEST_PAGE.to_owned();
                self.effects.push(Effect::OpenPage { stack: id, url: page, wait: StartUrlWait::Load });
            }
            self.become_ready(id, now);
        }
    }

    fn stack_failed(&mut self, id: StackId, message: &str, now: Instant) {
        let Some(reason) = self.stacks.failed(id) else { return };
        let is_smoke_test = self.smoke_test.stack() == Some(id);
        if reason == EndReason::LaunchFailed || is_smoke_test {
            self.launch_error = Some(message.to_owned());
        }
        if is_smoke_test {
            self.smoke_test.reset();
        }
        if !self.sessions.stack_failed(id, End { reason, message: message.to_owned() }) {
            self.backoff.failed(now);
        }
    }

    /// Evaluates the smoke test, and stops its browser in either case.
    fn smoke_test_finished(&mut self, id: StackId, error: Option<String>, now: Instant) {
        match error {
            None => {
                self.smoke_test.pass();
                self.stop_stack(id);
            }
            Some(error) => {
                self.stack_failed(id, &format!("the browser was launched but could not load a page: {error}"), now);
                self.effects.push(Effect::Stop { stack: id });
            }
        }
    }

    /// Resets the backoff when a browser has run long enough. Must come before any stack is stopped.
    fn record_stable_browsers(&mut self, now: Instant) {
        for since in self.stacks.running_since() {
            self.backoff.browser_running(since, now);
        }
    }

    fn stack_removed(&mut self, id: StackId, now: Instant) {
        // The driver sends `Failed` first unless the core stopped the stack. If it did not, this keeps the session
        // from waiting forever.
        self.stack_failed(id, "the browser's supervisor exited", now);
        self.stacks.remove(id);
        self.sessions.stack_removed(id, now);
    }

    fn end_session(&mut self, uid: &str, end: End, now: Instant) {
        if let Some(stack) = self.sessions.end(uid, end, now) {
            self.stop_stack(stack);
        }
    }

    fn stop_stack(&mut self, id: StackId) {
        if self.stacks.stop(id) {
            self.effects.push(Effect::Stop { stack: id });
        }
    }

    fn session_allowing(&self, uid: &str, action: Action) -> Result<&Session, ErrorResponse> {
        let session = self.sessions.get(uid).ok_or_else(|| unknown(uid))?;
        match permission(session.phase(), action) {
            Permission::Allowed | Permission::NoChange => Ok(session),
            Permission::Rejected(why) => Err(wrong_phase(uid, why)),
        }
    }

    /// Handles expired deadlines, then uses the free capacity: first for waiting sessions in order of arrival, then
    /// for hot browsers.
    fn reconcile(&mut self, now: Instant) -> Vec<Effect> {
        self.end_timed_out_sessions(now);
        self.handle_timed_out_stacks(now);
        self.assign_waiting_sessions(now);
        let preempted = self.preempt_smoke_test();
        if self.stop_surplus_stacks(now) || preempted {
            // The stopped launch has freed capacity for another.
            self.assign_waiting_sessions(now);
        }
        self.run_smoke_test(now);
        self.prewarm(now);
        self.ping_hot_browsers(now);
        std::mem::take(&mut self.effects)
    }

    fn end_timed_out_sessions(&mut self, now: Instant) {
        let drained = self.drain_deadline().is_some_and(|deadline| deadline <= now).then(|| {
            let seconds = self.config.drain_timeout.as_secs();
            let message = format!("the runner was draining, and the drain timeout of {seconds} s passed");
            End { reason: EndReason::RunnerDrained, message }
        });
        let ends = self.sessions.iter().filter_map(|(uid, session)| {
            let end = session.timed_out(now).or_else(|| drained.clone())?;
            Some((uid.to_owned(), end))
        });
        for (uid, end) in ends.collect::<Vec<_>>() {
            self.end_session(&uid, end, now);
        }
    }

    fn handle_timed_out_stacks(&mut self, now: Instant) {
        let seconds = LAUNCH_TIMEOUT.as_secs();
        for (id, operation) in self.stacks.timed_out(now) {
            match operation {
                TimedOutOperation::Launch => {
                    self.stack_failed(
                        id,
                        &format!("the browser was not ready after {seconds} s: it hangs, or its node lacks CPU time"),
                        now,
                    );
                    self.effects.push(Effect::Stop { stack: id });
                }
                TimedOutOperation::Page => {
                    self.smoke_test_finished(id, Some(format!("no result within {seconds} s")), now);
                }
                TimedOutOperation::Pong => self.stop_stack(id),
            }
        }
    }

    fn assign_waiting_sessions(&mut self, now: Instant) {
        for (uid, kind) in self.sessions.waiting() {
            // A prewarm that is already launching is ready sooner than a new launch.
            let existing = self.stacks.pick_hot(kind, now).or_else(|| self.stacks.oldest_launching(kind));
            let Some(stack) = existing.or_else(|| self.launch_for_session(kind, now)) else { continue };
            self.assign(&uid, stack, now);
        }
    }

    /// Stops hot browsers that exceed the free slots. Returns whether there were any.
    fn stop_surplus_stacks(&mut self, now: Instant) -> bool {
        let mut stopped = false;
        while self.stacks.count_unassigned() > self.free() as usize {
            let Some(id) = self.stacks.least_useful(self.config.prewarm, now) else { break };
            self.stop_stack(id);
            stopped = true;
        }
        stopped
    }

    /// Stops a running smoke test when a session waits for capacity or the runner drains. Returns whether it stopped
    /// one. A stopped test is repeated later, unless the runner drains.
    fn preempt_smoke_test(&mut self) -> bool {
        let must_yield = self.draining_since.is_some() || self.sessions.has_waiting();
        let Some(stack) = self.smoke_test.stack().filter(|_| must_yield) else { return false };
        self.smoke_test.reset();
        self.stop_stack(stack);
        true
    }

    /// Whether browsers can be launched ahead of demand.
    fn can_prewarm(&self, now: Instant) -> bool {
        !self.sessions.has_waiting() && self.backoff.retry_at().is_none_or(|retry_at| retry_at <= now)
    }

    /// Launches the browser of a pending smoke test.
    fn run_smoke_test(&mut self, now: Instant) {
        if let Some(kind) = self.smoke_test.pending_kind()
            && self.draining_since.is_none()
            && self.can_prewarm(now)
            && let Some(stack) = self.launch(kind, Purpose::SmokeTest, now)
        {
            self.smoke_test.start(stack);
        }
    }

    fn prewarm(&mut self, now: Instant) {
        if !self.can_prewarm(now) {
            return;
        }
        while let Some(kind) = self.missing_kind() {
            if self.launch(kind, Purpose::Prewarm, now).is_none() {
                return;
            }
        }
    }

    /// Returns the kind of hot browser that is furthest below its configured number.
    fn missing_kind(&self) -> Option<DisplayKind> {
        if self.stacks.count_unassigned() >= self.free() as usize {
            return None;
        }
        let missing = |kind: DisplayKind| {
            kind.count_in(self.config.prewarm).saturating_sub(self.stacks.count_unassigned_of(kind))
        };
        [DisplayKind::Headful, DisplayKind::Headless]
            .into_iter()
            .filter(|kind| missing(*kind) > 0)
            .max_by_key(|kind| missing(*kind))
    }

    /// Launches a browser for a session. When prewarms use all launch capacity, the newest of them is stopped. It is
    /// of the other kind, because the session would have taken one of its own kind.
    fn launch_for_session(&mut self, kind: DisplayKind, now: Instant) -> Option<StackId> {
        if self.has_stack_capacity() && !self.has_launch_capacity() {
            self.stop_stack(self.stacks.newest_launching()?);
        }
        self.launch(kind, Purpose::Session, now)
    }

    fn has_stack_capacity(&self) -> bool {
        self.stacks.len() < self.config.slots as usize
    }

    fn has_launch_capacity(&self) -> bool {
        self.stacks.count_launching() < self.config.max_concurrent_launches as usize
    }

    fn launch(&mut self, kind: DisplayKind, purpose: Purpose, now: Instant) -> Option<StackId> {
        if !self.has_stack_capacity() || !self.has_launch_capacity() {
            return None;
        }
        let stack = self.stacks.launch(kind, purpose, now);
        self.effects.push(Effect::Launch { stack, kind });
        Some(stack)
    }

    fn ping_hot_browsers(&mut self, now: Instant) {
        self.effects.extend(self.stacks.take_due_pings(now).into_iter().map(|stack| Effect::Ping { stack }));
    }

    /// Number of sessions that would be accepted now.
    fn free(&self) -> u32 {
        if self.draining_since.is_some() {
            return 0;
        }
        let free = self.config.slots.saturating_sub(self.sessions.count_live());
        match self.config.max_total_sessions {
            0 => free,
            total => free.min(total.saturating_sub(self.sessions.served())),
        }
    }

    fn is_spent(&self) -> bool {
        self.config.max_total_sessions > 0 && self.sessions.served() >= self.config.max_total_sessions
    }

    fn is_warm(&self, now: Instant) -> bool {
        self.smoke_test.has_passed() && self.missing_kind().is_none() && self.stacks.all_responsive(now)
    }

    /// When the remaining live sessions of a draining runner end.
    fn drain_deadline(&self) -> Option<Instant> {
        self.draining_since.map(|since| since + self.config.drain_timeout)
    }

    /// When a draining runner stops waiting for acknowledgements; `None` while a session is live.
    fn acknowledge_deadline(&self) -> Option<Instant> {
        self.sessions.acknowledge_deadline(self.draining_since?)
    }
}

fn unknown(uid: &str) -> ErrorResponse {
    ErrorResponse { reason: ErrorReason::UnknownSession, message: format!("no session {uid} on this runner") }
}

fn wrong_phase(uid: &str, why: WrongPhase) -> ErrorResponse {
    let message = match why {
        WrongPhase::Starting => format!("session {uid} is still starting: wait until it is Ready"),
        WrongPhase::Ended => format!("session {uid} has ended"),
    };
    ErrorResponse { reason: ErrorReason::WrongPhase, message }
}
