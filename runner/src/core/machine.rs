//! The state machine of a runner: routes events and calls to its sessions and stacks.
//!
//! There are never more stacks than slots. A stack that no session holds is hot, or on the way there. More of those than
//! there are free slots are ended, so a session that no hot browser suits displaces one.

#[cfg(test)]
mod tests;

use crate::core::{
    action::{Action, Verdict, verdict},
    backoff::Backoff,
    messages::{Effect, Event},
    plan::{Kind, Plan},
    proof::Proof,
    session::Session,
    sessions::Sessions,
    stack::{LAUNCH_TIMEOUT, Overdue, Purpose, StackId, Stacks},
};
use camofleet_crds::v1alpha1::{Display, StartUrlWait};
use camofleet_runner_api::{
    self as api, BindRequest, End, EndReason, ErrorReason, ErrorResponse, RunnerState, SessionReport, Tier,
};
use std::time::Instant;

/// The page that a browser loads as a proof.
const PROOF_PAGE: &str = "data:text/html,<title>proof</title>";

/// The state of a runner: one value, changed by one driver.
#[derive(Debug)]
pub struct Machine {
    plan: Plan,
    sessions: Sessions,
    stacks: Stacks,
    /// When the runner was told to end.
    draining_since: Option<Instant>,
    browser_version: Option<String>,
    launch_error: Option<String>,
    backoff: Backoff,
    proof: Proof,
    effects: Vec<Effect>,
}

impl Machine {
    /// A runner that has launched nothing yet: it begins with the first [`Event::Tick`].
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            sessions: Sessions::default(),
            stacks: Stacks::default(),
            draining_since: None,
            browser_version: None,
            launch_error: None,
            backoff: Backoff::default(),
            proof: Proof::new(plan.prove),
            effects: Vec::new(),
        }
    }

    /// Handles an event. The driver carries out the effects, in this order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        self.note_survivors(now);
        match event {
            Event::Launched { stack, version } => self.launched(stack, version, now),
            Event::Broke { stack, message } => self.broke(stack, &message, now),
            Event::Gone { stack } => self.gone(stack, now),
            Event::Answered { stack } => self.stacks.answered(stack, now),
            Event::StartPage { stack, error } => {
                if self.proof.tried_by() == Some(stack) {
                    self.proof_tried(stack, error, now);
                } else {
                    self.sessions.page_tried(stack, error);
                }
            }
            Event::Joined { stack } => self.sessions.client_joined(stack, now),
            Event::Left { stack } => self.sessions.client_left(stack),
            Event::Active { stack } => self.sessions.client_acted(stack, now),
            // Of two signals the first counts.
            Event::Drain => self.draining_since = self.draining_since.or(Some(now)),
            Event::Tick => {}
        }
        self.settle(now)
    }

    /// Binds a session, or takes over the time-outs of one that is here. [`Machine::session`] then describes it.
    pub fn bind(&mut self, uid: &str, request: BindRequest, now: Instant) -> (Result<(), ErrorResponse>, Vec<Effect>) {
        let answer = match self.sessions.get(uid).map(|session| verdict(session.phase(), Action::Bind)) {
            None => self.grant(uid, request, now),
            Some(Verdict::Allowed) => {
                self.sessions.set_timeouts(uid, &request);
                Ok(())
            }
            Some(Verdict::NoChange) => Ok(()),
            Some(Verdict::Denied(why)) => Err(wrong_phase(uid, why)),
        };
        (answer, self.settle(now))
    }

    /// Begins to end a session, or forgets one that ended.
    pub fn end(&mut self, uid: &str, now: Instant) -> (Result<(), ErrorResponse>, Vec<Effect>) {
        self.note_survivors(now);
        let answer = self.allowed(uid, Action::End).map(drop);
        if answer.is_ok() {
            let end = End { reason: EndReason::Deleted, message: "the session was deleted".to_owned() };
            self.end_session(uid, end, now);
            self.sessions.acknowledge(uid);
        }
        (answer, self.settle(now))
    }

    /// Counts a session as active.
    ///
    /// # Errors
    /// When it is not here, or has ended.
    pub fn touch(&mut self, uid: &str, now: Instant) -> Result<(), ErrorResponse> {
        self.allowed(uid, Action::Touch)?;
        self.sessions.touch(uid, now);
        Ok(())
    }

    /// The stack to connect to for that action, and the session's display.
    ///
    /// # Errors
    /// When the session is not here, or not ready.
    pub fn enter(&self, uid: &str, action: Action) -> Result<(StackId, Display), ErrorResponse> {
        let session = self.allowed(uid, action)?;
        let stack = session.stack().expect("a session that may be connected to is ready, and so has a stack");
        Ok((stack, session.display()))
    }

    /// The earliest time after `now` at which [`Event::Tick`] changes anything. What was due by `now` is done, or waits for an event.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let sessions =
            self.sessions.iter().flat_map(|(_, session)| [session.lifetime_deadline(), session.idle_deadline()]);
        let runner = [
            self.backoff.until().filter(|_| self.wanted().is_some() || self.proof.owed().is_some()),
            self.drain_deadline().filter(|_| self.sessions.has_live()),
            self.acknowledge_deadline(),
        ];
        let deadlines = sessions.chain(runner).flatten().chain(self.stacks.deadlines());
        deadlines.filter(|deadline| *deadline > now).min()
    }

    /// Whether the runner was told to end and has nothing left to do.
    pub fn is_finished(&self, now: Instant) -> bool {
        self.draining_since.is_some()
            && self.stacks.is_empty()
            && (self.sessions.is_empty() || self.acknowledge_deadline().is_some_and(|deadline| deadline <= now))
    }

    /// Whether it serves sessions, or could. A runner whose prewarmed browsers fail would fail the session's too. One that is spent stays
    /// ready: its state says that it takes no more sessions, and a pod that is about to end as planned must raise no alarm.
    pub fn is_ready(&self) -> bool {
        self.sessions.has_live() || (self.draining_since.is_none() && !self.backoff.is_failing())
    }

    /// The state to publish after `former`, with its generation and with what it says of the process.
    pub fn describe(&self, former: &RunnerState, now: Instant) -> RunnerState {
        RunnerState {
            boot_id: former.boot_id.clone(),
            generation: former.generation,
            engine: former.engine,
            playwright_version: former.playwright_version.clone(),
            browser_version: self.browser_version.clone(),
            draining: self.draining_since.is_some(),
            slots: self.plan.slots,
            free: self.free(),
            spent: self.is_spent(),
            hot: self.stacks.hot(now),
            warm: self.is_warm(now),
            launch_error: self.launch_error.clone(),
            sessions: self.sessions.iter().map(|(uid, session)| session.describe(uid)).collect(),
        }
    }

    /// A session as it is published.
    pub fn session(&self, uid: &str) -> Option<api::Session> {
        self.sessions.get(uid).map(|session| session.describe(uid))
    }

    /// A session with how long it has been idle.
    ///
    /// # Errors
    /// When it is not here.
    pub fn report(&self, uid: &str, now: Instant) -> Result<SessionReport, ErrorResponse> {
        self.sessions.get(uid).map(|session| session.report(uid, now)).ok_or_else(|| unknown(uid))
    }

    /// Browsers that run and that a session can still get.
    pub fn hot_stacks(&self) -> impl Iterator<Item = StackId> {
        self.stacks.running_unassigned()
    }

    fn grant(&mut self, uid: &str, request: BindRequest, now: Instant) -> Result<(), ErrorResponse> {
        let refuse = |reason, message: String| Err(ErrorResponse { reason, message });
        if self.draining_since.is_some() {
            return refuse(
                ErrorReason::Draining,
                "this runner was told to go and takes no session: choose another".into(),
            );
        }
        if self.is_spent() {
            let served = self.sessions.served();
            let words = format!("this runner served {served} sessions, as many as it may: choose another");
            return refuse(ErrorReason::NoFreeSlot, words);
        }
        if self.free() == 0 {
            let words = format!("all {} slots of this runner are taken: choose another", self.plan.slots);
            return refuse(ErrorReason::NoFreeSlot, words);
        }
        let hot = self.stacks.hottest(request.display.into(), now);
        let tier = if hot.is_some() { Tier::Hot } else { Tier::Cold };
        self.sessions.add(uid, Session::new(request, tier, now));
        if let Some(stack) = hot {
            self.assign(uid, stack, now);
        }
        Ok(())
    }

    /// Assigns a free stack to a session that has none.
    fn assign(&mut self, uid: &str, stack: StackId, now: Instant) {
        self.stacks.assign(stack);
        self.sessions.assign(uid, stack);
        if self.stacks.is_running(stack) {
            self.become_ready(stack, now);
        }
    }

    fn become_ready(&mut self, stack: StackId, now: Instant) {
        if let Some((url, wait)) = self.sessions.become_ready(stack, now) {
            self.effects.push(Effect::Open { stack, url, wait });
        }
    }

    fn launched(&mut self, id: StackId, version: String, now: Instant) {
        self.browser_version = Some(version);
        if self.stacks.launched(id, now) {
            self.launch_error = None;
            self.backoff.launched();
            if self.proof.tried_by() == Some(id) {
                let page = PROOF_PAGE.to_owned();
                self.effects.push(Effect::Open { stack: id, url: page, wait: StartUrlWait::Load });
            }
            self.become_ready(id, now);
        }
    }

    fn broke(&mut self, id: StackId, message: &str, now: Instant) {
        let Some(reason) = self.stacks.broke(id) else { return };
        let proves = self.proof.tried_by() == Some(id);
        if reason == EndReason::LaunchFailed || proves {
            self.launch_error = Some(message.to_owned());
        }
        if proves {
            self.proof.retry();
        }
        if !self.sessions.broke(id, End { reason, message: message.to_owned() }) {
            self.backoff.failed(now);
        }
    }

    /// The page that is the proof was loaded or failed to. Either way its browser has served its purpose.
    fn proof_tried(&mut self, id: StackId, error: Option<String>, now: Instant) {
        match error {
            None => {
                self.proof.succeed();
                self.end_stack(id);
            }
            Some(error) => {
                self.broke(id, &format!("the browser was launched and could not load a page: {error}"), now);
                self.effects.push(Effect::End { stack: id });
            }
        }
    }

    /// A browser that has run long enough ends a row of failures. This is noted before anything is taken down.
    fn note_survivors(&mut self, now: Instant) {
        for since in self.stacks.running_since() {
            self.backoff.runs(since, now);
        }
    }

    fn gone(&mut self, id: StackId, now: Instant) {
        // The driver reports a failure before, unless the stack was told to end. Should it not, no session may wait for the stack.
        self.broke(id, "the browser's supervision ended", now);
        self.stacks.remove(id);
        self.sessions.stack_gone(id, now);
    }

    fn end_session(&mut self, uid: &str, end: End, now: Instant) {
        if let Some(stack) = self.sessions.end(uid, end, now) {
            self.end_stack(stack);
        }
    }

    fn end_stack(&mut self, id: StackId) {
        if self.stacks.end(id) {
            self.effects.push(Effect::End { stack: id });
        }
    }

    fn allowed(&self, uid: &str, action: Action) -> Result<&Session, ErrorResponse> {
        let session = self.sessions.get(uid).ok_or_else(|| unknown(uid))?;
        match verdict(session.phase(), action) {
            Verdict::Allowed | Verdict::NoChange => Ok(session),
            Verdict::Denied(why) => Err(wrong_phase(uid, why)),
        }
    }

    /// Does what is due, then what there is room for: sessions first, in order of arrival, then hot browsers.
    fn settle(&mut self, now: Instant) -> Vec<Effect> {
        self.end_overdue_sessions(now);
        self.end_overdue_stacks(now);
        self.serve_waiting(now);
        let ended_proof = self.end_proof_in_the_way();
        if self.end_surplus(now) || ended_proof {
            // A launch that was ended leaves its turn to another.
            self.serve_waiting(now);
        }
        self.prove(now);
        self.prewarm(now);
        self.ping(now);
        std::mem::take(&mut self.effects)
    }

    fn end_overdue_sessions(&mut self, now: Instant) {
        let drained = self.drain_deadline().is_some_and(|deadline| deadline <= now).then(|| {
            let seconds = self.plan.drain_timeout.as_secs();
            let message = format!("the runner was told to go, and {seconds} s passed");
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

    fn end_overdue_stacks(&mut self, now: Instant) {
        let seconds = LAUNCH_TIMEOUT.as_secs();
        for (id, overdue) in self.stacks.overdue(now) {
            match overdue {
                Overdue::Launch => {
                    self.broke(id, &format!("the browser was not ready after {seconds} s"), now);
                    self.effects.push(Effect::End { stack: id });
                }
                Overdue::Page => self.proof_tried(id, Some(format!("nothing came of it in {seconds} s")), now),
                Overdue::Answer => self.end_stack(id),
            }
        }
    }

    fn serve_waiting(&mut self, now: Instant) {
        for (uid, kind) in self.sessions.waiting() {
            // A prewarm that is under way is ready sooner than a launch that begins now.
            let ready_or_soon = self.stacks.hottest(kind, now).or_else(|| self.stacks.launching_of(kind));
            let Some(stack) = ready_or_soon.or_else(|| self.launch_for_session(kind, now)) else { continue };
            self.assign(&uid, stack, now);
        }
    }

    /// Ends hot browsers for which there is no free slot. Returns whether there were any.
    fn end_surplus(&mut self, now: Instant) -> bool {
        let mut any = false;
        while self.stacks.count_unassigned() > self.free() as usize {
            let Some(id) = self.stacks.least_useful(self.plan.prewarm, now) else { break };
            self.end_stack(id);
            any = true;
        }
        any
    }

    /// A session that waits goes before the proof, which is tried again later; and a runner that ends owes none. Returns whether a proof
    /// was ended.
    fn end_proof_in_the_way(&mut self) -> bool {
        let in_the_way = self.draining_since.is_some() || self.sessions.is_one_waiting();
        let Some(stack) = self.proof.tried_by().filter(|_| in_the_way) else { return false };
        self.proof.retry();
        self.end_stack(stack);
        true
    }

    /// Whether browsers may be launched that no session waits for.
    fn may_prewarm(&self, now: Instant) -> bool {
        !self.sessions.is_one_waiting() && self.backoff.until().is_none_or(|until| until <= now)
    }

    /// Launches the browser that has to load a page before any hot browser is worth launching.
    fn prove(&mut self, now: Instant) {
        if let Some(kind) = self.proof.owed()
            && self.draining_since.is_none()
            && self.may_prewarm(now)
            && let Some(stack) = self.launch(kind, Purpose::Proof, now)
        {
            self.proof.begin(stack);
        }
    }

    fn prewarm(&mut self, now: Instant) {
        if !self.may_prewarm(now) {
            return;
        }
        while let Some(kind) = self.wanted() {
            if self.launch(kind, Purpose::Prewarm, now).is_none() {
                return;
            }
        }
    }

    /// The kind of hot browser of which most are missing.
    fn wanted(&self) -> Option<Kind> {
        if self.stacks.count_unassigned() >= self.free() as usize {
            return None;
        }
        let missing = |kind: Kind| kind.of(self.plan.prewarm).saturating_sub(self.stacks.unassigned_of(kind));
        [Kind::Headful, Kind::Headless].into_iter().filter(|kind| missing(*kind) > 0).max_by_key(|kind| missing(*kind))
    }

    /// Launches for a session. It does not wait for prewarms: the youngest, which is of the other kind, gives up its turn.
    fn launch_for_session(&mut self, kind: Kind, now: Instant) -> Option<StackId> {
        if self.has_room() && !self.has_turn() {
            self.end_stack(self.stacks.youngest_launching()?);
        }
        self.launch(kind, Purpose::Session, now)
    }

    fn has_room(&self) -> bool {
        self.stacks.len() < self.plan.slots as usize
    }

    fn has_turn(&self) -> bool {
        self.stacks.count_launching() < self.plan.launches as usize
    }

    fn launch(&mut self, kind: Kind, purpose: Purpose, now: Instant) -> Option<StackId> {
        if !self.has_room() || !self.has_turn() {
            return None;
        }
        let stack = self.stacks.launch(kind, purpose, now);
        self.effects.push(Effect::Launch { stack, kind });
        Some(stack)
    }

    fn ping(&mut self, now: Instant) {
        self.effects.extend(self.stacks.ping(now).into_iter().map(|stack| Effect::Ping { stack }));
    }

    /// How many sessions would be granted now.
    fn free(&self) -> u32 {
        if self.draining_since.is_some() {
            return 0;
        }
        let free = self.plan.slots.saturating_sub(self.sessions.count_live());
        match self.plan.sessions {
            0 => free,
            total => free.min(total.saturating_sub(self.sessions.served())),
        }
    }

    fn is_spent(&self) -> bool {
        self.plan.sessions > 0 && self.sessions.served() >= self.plan.sessions
    }

    fn is_warm(&self, now: Instant) -> bool {
        self.proof.is_given() && self.wanted().is_none() && self.stacks.are_fresh(now)
    }

    /// When live sessions end because the runner does.
    fn drain_deadline(&self) -> Option<Instant> {
        self.draining_since.map(|since| since + self.plan.drain_timeout)
    }

    /// When the runner stops waiting for acknowledgements; none while a session is live.
    fn acknowledge_deadline(&self) -> Option<Instant> {
        self.sessions.acknowledge_deadline(self.draining_since?)
    }
}

fn unknown(uid: &str) -> ErrorResponse {
    ErrorResponse { reason: ErrorReason::UnknownSession, message: format!("no session {uid} on this runner") }
}

fn wrong_phase(uid: &str, why: &str) -> ErrorResponse {
    ErrorResponse { reason: ErrorReason::WrongPhase, message: format!("session {uid} {why}") }
}
