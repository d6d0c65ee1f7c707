//! What a simulated runner decides, as the real one does, but for browsers: these are numbers here. No clock, no socket:
//! questions come in with the time at which they are asked.

use camofleet_crds::v1alpha1::{Display, EngineName, StartUrlWait};
use camofleet_runner_api::{
    self as api, BindRequest, End, EndReason, Hot, Refusal, RefusalReason, RunnerState, SessionPhase, StartPage, Tier,
};
use std::time::{Duration, Instant};

/// How long a drained runner waits for the operator to read how its sessions ended.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(8);

/// What the runner was told to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sessions at once.
    pub slots: u32,
    /// Sessions in all; 0: no limit.
    pub sessions: u32,
    /// Hot browsers to keep.
    pub prewarm: Hot,
    /// How long live sessions may go on once the runner was told to go.
    pub drain_timeout: Duration,
    /// How long a browser takes to start.
    pub launch_time: Duration,
}

/// The state of a simulated runner.
#[derive(Clone, Debug)]
pub struct Chart {
    plan: Plan,
    sessions: Vec<(String, Session)>,
    hot: Hot,
    /// Hot browsers to be: when each is there, and whether it is on a display.
    launching: Vec<(Instant, Kind)>,
    served: u32,
    told_to_go: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Headless,
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

impl Kind {
    fn of(self, hot: &mut Hot) -> &mut u32 {
        match self {
            Self::Headless => &mut hot.headless,
            Self::Headful => &mut hot.headful,
        }
    }
}

#[derive(Clone, Debug)]
struct Session {
    request: BindRequest,
    tier: Tier,
    bound: Instant,
    active: Instant,
    /// When it ends by itself, as if its client were done.
    leaves: Option<Instant>,
    phase: Phase,
}

#[derive(Clone, Debug)]
enum Phase {
    Starting { ready: Instant },
    Ready,
    Ended { end: End, at: Instant },
}

impl Session {
    fn is_live(&self) -> bool {
        match self.phase {
            Phase::Starting { .. } | Phase::Ready => true,
            Phase::Ended { .. } => false,
        }
    }

    fn finish(&mut self, reason: EndReason, now: Instant) {
        if self.is_live() {
            let end = End { reason, message: "the simulated session is over".to_owned() };
            self.phase = Phase::Ended { end, at: now };
        }
    }

    fn lifetime_deadline(&self) -> Instant {
        self.bound + Duration::from_secs(self.request.max_lifetime_seconds.into())
    }

    fn idle_deadline(&self) -> Instant {
        let idle = self.active + Duration::from_secs(self.request.idle_timeout_seconds.into());
        self.leaves.map_or(idle, |leaves| leaves.min(idle))
    }
}

impl Chart {
    /// A runner that starts now.
    pub fn new(plan: Plan, now: Instant) -> Self {
        let (sessions, launching) = (Vec::new(), Vec::new());
        let mut chart = Self { plan, sessions, hot: Hot::default(), launching, served: 0, told_to_go: None };
        chart.advance(now);
        chart
    }

    /// Binds a session, or takes over the time-outs of one that is here; it ends by itself after `life`, if that is given.
    /// Says whether it is new.
    ///
    /// # Errors
    /// When there is no room for it, or it has ended.
    pub fn bind(
        &mut self,
        uid: &str,
        request: BindRequest,
        life: Option<Duration>,
        now: Instant,
    ) -> Result<bool, Refusal> {
        self.advance(now);
        let new = match self.find(uid) {
            Some(session) if session.is_live() => {
                session.request.idle_timeout_seconds = request.idle_timeout_seconds;
                session.request.max_lifetime_seconds = request.max_lifetime_seconds;
                false
            }
            Some(_) => return Err(refusal(RefusalReason::WrongPhase, format!("session {uid} has ended"))),
            None => {
                self.grant(uid, request, life, now)?;
                true
            }
        };
        self.advance(now);
        Ok(new)
    }

    fn grant(&mut self, uid: &str, request: BindRequest, life: Option<Duration>, now: Instant) -> Result<(), Refusal> {
        if self.told_to_go.is_some() {
            return Err(refusal(RefusalReason::Draining, "this runner was told to go: choose another".to_owned()));
        }
        if self.free() == 0 {
            let words =
                format!("all {} slots are taken, or it has served its sessions: choose another", self.plan.slots);
            return Err(refusal(RefusalReason::NoFreeSlot, words));
        }
        let hot = Kind::from(request.display).of(&mut self.hot);
        let (tier, phase) = if *hot > 0 {
            *hot -= 1;
            (Tier::Hot, Phase::Ready)
        } else {
            (Tier::Cold, Phase::Starting { ready: now + self.plan.launch_time })
        };
        self.served += 1;
        let leaves = life.map(|life| now + life);
        self.sessions.push((uid.to_owned(), Session { request, tier, bound: now, active: now, leaves, phase }));
        Ok(())
    }

    /// Ends a session, or forgets one that ended. Nothing of it is left at once.
    ///
    /// # Errors
    /// When it is not here.
    pub fn end(&mut self, uid: &str, now: Instant) -> Result<(), Refusal> {
        self.advance(now);
        let at = self.sessions.iter().position(|(other, _)| other == uid).ok_or_else(|| unknown(uid))?;
        self.sessions.remove(at);
        self.advance(now);
        Ok(())
    }

    /// A session ends by itself, for that reason.
    ///
    /// # Errors
    /// When it is not here.
    pub fn end_by_itself(&mut self, uid: &str, reason: EndReason, now: Instant) -> Result<(), Refusal> {
        self.advance(now);
        let session = self.find(uid).ok_or_else(|| unknown(uid))?;
        session.finish(reason, now);
        self.advance(now);
        Ok(())
    }

    /// Counts a session as active.
    ///
    /// # Errors
    /// When it is not here, or clients cannot connect to it.
    pub fn touch(&mut self, uid: &str, now: Instant) -> Result<(), Refusal> {
        self.advance(now);
        match self.find(uid) {
            Some(session @ Session { phase: Phase::Ready, .. }) => {
                session.active = now;
                Ok(())
            }
            Some(_) => Err(refusal(RefusalReason::WrongPhase, format!("session {uid} is not ready"))),
            None => Err(unknown(uid)),
        }
    }

    /// Tells it to go: no session is taken any more, and those that are here have until the deadline.
    pub fn drain(&mut self, now: Instant) {
        // Told twice, the first time counts.
        self.told_to_go = self.told_to_go.or(Some(now));
        self.advance(now);
    }

    /// Does what is due.
    pub fn advance(&mut self, now: Instant) {
        let mut launched = Vec::new();
        self.launching.retain(|(ready, kind)| {
            let done = *ready <= now;
            launched.extend(done.then_some(*kind));
            !done
        });
        for kind in launched {
            *kind.of(&mut self.hot) += 1;
        }
        let drained = self.drain_deadline().is_some_and(|deadline| deadline <= now);
        for (_, session) in &mut self.sessions {
            if matches!(session.phase, Phase::Starting { ready } if ready <= now) {
                session.phase = Phase::Ready;
            }
            if !session.is_live() {
                continue;
            }
            let reason = if session.lifetime_deadline() <= now {
                EndReason::LifetimeExceeded
            } else if session.idle_deadline() <= now {
                EndReason::IdleTimeout
            } else if drained {
                EndReason::RunnerDrained
            } else {
                continue;
            };
            session.finish(reason, now);
        }
        self.keep_hot(now);
    }

    /// Launches what is lacking of hot browsers, and ends what there is no slot for.
    fn keep_hot(&mut self, now: Instant) {
        let room = if self.told_to_go.is_some() { 0 } else { self.free() };
        while self.unowned() > room {
            if self.launching.pop().is_none() {
                let surplus = if self.hot.headful > self.plan.prewarm.headful { Kind::Headful } else { Kind::Headless };
                let kind = if *surplus.of(&mut self.hot) > 0 { surplus } else { Kind::Headful };
                *kind.of(&mut self.hot) -= 1;
            }
        }
        for kind in [Kind::Headful, Kind::Headless] {
            while self.unowned() < room && self.count(kind) < *kind.of(&mut self.plan.prewarm) {
                if self.plan.launch_time.is_zero() {
                    *kind.of(&mut self.hot) += 1;
                } else {
                    self.launching.push((now + self.plan.launch_time, kind));
                }
            }
        }
    }

    fn unowned(&self) -> u32 {
        self.hot.headless + self.hot.headful + small(self.launching.len())
    }

    fn count(&mut self, kind: Kind) -> u32 {
        let launching = self.launching.iter().filter(|(_, other)| *other == kind).count();
        *kind.of(&mut self.hot) + small(launching)
    }

    /// Free slots, within what is left of the total.
    fn free(&self) -> u32 {
        let live = self.sessions.iter().filter(|(_, session)| session.is_live()).count();
        let left = if self.plan.sessions == 0 { u32::MAX } else { self.plan.sessions.saturating_sub(self.served) };
        self.plan.slots.saturating_sub(small(live)).min(left)
    }

    fn drain_deadline(&self) -> Option<Instant> {
        Some(self.told_to_go? + self.plan.drain_timeout)
    }

    /// The earliest time at which [`Chart::advance`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let launches = self.launching.iter().map(|(ready, _)| *ready);
        let sessions = self.sessions.iter().filter_map(|(_, session)| {
            let over = session.lifetime_deadline().min(session.idle_deadline());
            match session.phase {
                Phase::Starting { ready } => Some(ready.min(over)),
                Phase::Ready => Some(over),
                Phase::Ended { at, .. } => self.told_to_go.map(|_| at + ACKNOWLEDGE_TIMEOUT),
            }
        });
        let drain = self.drain_deadline().filter(|_| self.sessions.iter().any(|(_, session)| session.is_live()));
        launches.chain(sessions).chain(drain).min()
    }

    /// Whether it was told to go and has nothing left to do.
    pub fn is_finished(&self, now: Instant) -> bool {
        let is_left = |session: &Session| match session.phase {
            Phase::Starting { .. } | Phase::Ready => true,
            Phase::Ended { at, .. } => at + ACKNOWLEDGE_TIMEOUT > now,
        };
        self.told_to_go.is_some() && !self.sessions.iter().any(|(_, session)| is_left(session))
    }

    /// What is published of it. Its identity is not known here.
    pub fn describe(&self) -> RunnerState {
        let lacks = self.launching.iter().any(|(_, kind)| {
            let (mut hot, mut wished) = (self.hot, self.plan.prewarm);
            *kind.of(&mut hot) < *kind.of(&mut wished)
        });
        RunnerState {
            boot_id: String::new(),
            generation: 0,
            engine: Some(EngineName::Firefox),
            browser_version: Some("153.0".to_owned()),
            playwright_version: "1.62".to_owned(),
            draining: self.told_to_go.is_some(),
            slots: self.plan.slots,
            free: self.free(),
            spent: self.plan.sessions > 0 && self.served >= self.plan.sessions,
            hot: self.hot,
            warm: !lacks,
            launch_error: None,
            sessions: self.sessions.iter().map(|(uid, session)| describe(uid, session)).collect(),
        }
    }

    /// A session as it is published.
    pub fn session(&self, uid: &str) -> Option<api::Session> {
        self.sessions.iter().find(|(other, _)| other == uid).map(|(uid, session)| describe(uid, session))
    }

    /// A session with how long it has been idle.
    ///
    /// # Errors
    /// When it is not here.
    pub fn report(&self, uid: &str, now: Instant) -> Result<api::SessionReport, Refusal> {
        let (_, session) = self.sessions.iter().find(|(other, _)| other == uid).ok_or_else(|| unknown(uid))?;
        let idle = match session.phase {
            Phase::Ready => Some(now.saturating_duration_since(session.active)),
            Phase::Starting { .. } | Phase::Ended { .. } => None,
        };
        let idle_milliseconds = idle.map(|idle| idle.as_millis().try_into().unwrap_or(u64::MAX));
        Ok(api::SessionReport { session: describe(uid, session), idle_milliseconds })
    }

    fn find(&mut self, uid: &str) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|(other, _)| other == uid).map(|(_, session)| session)
    }
}

fn describe(uid: &str, session: &Session) -> api::Session {
    let (phase, end) = match &session.phase {
        Phase::Starting { .. } => (SessionPhase::Starting, None),
        Phase::Ready => (SessionPhase::Ready, None),
        Phase::Ended { end, .. } => (SessionPhase::Ended, Some(end.clone())),
    };
    let navigated = session.request.start_url.is_some() && session.request.start_url_wait != StartUrlWait::None;
    api::Session {
        uid: uid.to_owned(),
        namespace: session.request.namespace.clone(),
        name: session.request.name.clone(),
        phase,
        display: session.request.display,
        tier: session.tier,
        start_page: if navigated { StartPage::Loaded } else { StartPage::None },
        clients: 0,
        end,
    }
}

fn refusal(reason: RefusalReason, message: String) -> Refusal {
    Refusal { reason, message }
}

fn unknown(uid: &str) -> Refusal {
    refusal(RefusalReason::UnknownSession, format!("no session {uid} is here"))
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan() -> Plan {
        Plan {
            slots: 2,
            sessions: 0,
            prewarm: Hot { headless: 2, headful: 0 },
            drain_timeout: 10 * SECOND,
            launch_time: 3 * SECOND,
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
        }
    }

    fn warm(plan: Plan) -> (Chart, Instant) {
        let start = Instant::now();
        let mut chart = Chart::new(plan, start);
        assert!(plan.launch_time.is_zero() || !chart.describe().warm);
        let now = start + plan.launch_time;
        chart.advance(now);
        assert!(chart.describe().warm);
        (chart, now)
    }

    fn phase(chart: &Chart, uid: &str) -> Option<SessionPhase> {
        chart.session(uid).map(|session| session.phase)
    }

    #[test]
    fn a_hot_browser_is_bound_at_once_and_a_full_runner_refuses() {
        let (mut chart, now) = warm(plan());
        for uid in ["a", "b"] {
            assert_eq!(chart.bind(uid, request(), None, now), Ok(true));
            assert_eq!(phase(&chart, uid), Some(SessionPhase::Ready));
        }
        assert_eq!(chart.describe().free, 0);
        assert_eq!(chart.describe().hot, Hot::default());
        assert_eq!(chart.bind("c", request(), None, now).unwrap_err().reason, RefusalReason::NoFreeSlot);
        assert_eq!(chart.bind("a", request(), None, now), Ok(false), "a repeated call finds it");
    }

    #[test]
    fn a_cold_session_is_ready_when_its_browser_is() {
        let start = Instant::now();
        let mut chart = Chart::new(plan(), start);
        chart.bind("a", request(), None, start).unwrap();
        assert_eq!(chart.session("a").unwrap().tier, Tier::Cold);
        assert_eq!(phase(&chart, "a"), Some(SessionPhase::Starting));
        assert_eq!(chart.next_deadline(), Some(start + 3 * SECOND));
        chart.advance(start + 3 * SECOND);
        assert_eq!(phase(&chart, "a"), Some(SessionPhase::Ready));
    }

    #[test]
    fn a_slot_is_filled_again_when_its_session_is_over() {
        let (mut chart, now) = warm(plan());
        chart.bind("a", request(), None, now).unwrap();
        chart.end("a", now).unwrap();
        assert_eq!(chart.end("a", now).unwrap_err().reason, RefusalReason::UnknownSession);
        assert_eq!(chart.describe().hot.headless, 1);
        assert!(!chart.describe().warm);
        chart.advance(now + 3 * SECOND);
        assert_eq!(chart.describe().hot.headless, 2);
    }

    #[test]
    fn a_session_ends_by_itself_and_is_listed_until_it_is_acknowledged() {
        let (mut chart, now) = warm(plan());
        chart.bind("a", request(), Some(SECOND), now).unwrap();
        assert_eq!(chart.next_deadline(), Some(now + SECOND));
        chart.advance(now + SECOND);
        assert_eq!(chart.session("a").unwrap().end.unwrap().reason, EndReason::IdleTimeout);
        assert_eq!(chart.describe().free, 2);
        assert_eq!(chart.bind("a", request(), None, now + SECOND).unwrap_err().reason, RefusalReason::WrongPhase);
        chart.end("a", now + SECOND).unwrap();
        assert_eq!(chart.session("a"), None);
    }

    #[test]
    fn a_touch_puts_the_idle_end_off_but_not_the_life_end() {
        let (mut chart, now) = warm(plan());
        chart.bind("a", BindRequest { max_lifetime_seconds: 400, ..request() }, None, now).unwrap();
        chart.touch("a", now + 200 * SECOND).unwrap();
        chart.advance(now + 399 * SECOND);
        assert_eq!(phase(&chart, "a"), Some(SessionPhase::Ready));
        chart.advance(now + 400 * SECOND);
        assert_eq!(chart.session("a").unwrap().end.unwrap().reason, EndReason::LifetimeExceeded);
    }

    #[test]
    fn a_spent_runner_takes_nothing_and_launches_nothing() {
        let (mut chart, now) = warm(Plan { slots: 1, sessions: 1, prewarm: Hot { headless: 1, headful: 0 }, ..plan() });
        chart.bind("a", request(), None, now).unwrap();
        chart.end("a", now).unwrap();
        let state = chart.describe();
        assert!(state.spent && state.warm);
        assert_eq!((state.free, state.hot), (0, Hot::default()));
        assert_eq!(chart.bind("b", request(), None, now).unwrap_err().reason, RefusalReason::NoFreeSlot);
    }

    #[test]
    fn another_kind_displaces_a_hot_browser() {
        let (mut chart, now) = warm(plan());
        chart.bind("a", BindRequest { display: Display::LiveView, ..request() }, None, now).unwrap();
        assert_eq!(chart.describe().hot, Hot { headless: 1, headful: 0 });
    }

    #[test]
    fn a_drained_runner_lets_its_sessions_live_until_the_deadline() {
        let (mut chart, now) = warm(plan());
        chart.bind("a", request(), None, now).unwrap();
        chart.drain(now);
        assert!(!chart.is_finished(now));
        assert_eq!(chart.describe().hot, Hot::default());
        assert_eq!(chart.bind("b", request(), None, now).unwrap_err().reason, RefusalReason::Draining);
        assert_eq!(chart.next_deadline(), Some(now + 10 * SECOND));
        chart.advance(now + 10 * SECOND);
        assert_eq!(chart.session("a").unwrap().end.unwrap().reason, EndReason::RunnerDrained);
        assert!(!chart.is_finished(now + 10 * SECOND), "the operator has not read the end yet");
        assert!(chart.is_finished(now + 18 * SECOND));
        chart.end("a", now + 11 * SECOND).unwrap();
        assert!(chart.is_finished(now + 11 * SECOND));
    }

    #[test]
    fn without_a_launch_time_all_is_hot_at_once() {
        let (mut chart, now) = warm(Plan { launch_time: Duration::ZERO, ..plan() });
        for uid in ["a", "b"] {
            chart.bind(uid, request(), None, now).unwrap();
            chart.end(uid, now).unwrap();
            assert_eq!(chart.describe().hot.headless, 2);
        }
    }
}
