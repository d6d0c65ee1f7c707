//! Property tests over random histories: a simulated driver sends events and applies effects in any order, and checks
//! the invariants after each step. Example tests follow for the behaviour that should be readable.

#![allow(clippy::unchecked_time_subtraction, reason = "these times are long after the clock's beginning")]

use super::*;
use crate::core::{
    sessions::ACKNOWLEDGE_TIMEOUT,
    stack::{RESPONSIVE_WINDOW, UNRESPONSIVE_TIMEOUT},
};
use camofleet_runner_api::{BrowserCounts, SessionPhase, StartPage};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

#[derive(Clone, Debug)]
enum Step {
    Bind { uid: u8, display: Display, idle: u32, lifetime: u32, page: bool },
    End { uid: u8 },
    Touch { uid: u8 },
    Launched { nth: usize },
    Failed { nth: usize },
    Removed { nth: usize },
    PingAnswered { nth: usize },
    Page { nth: usize, loaded: bool },
    Client { nth: usize, connects: bool },
    Active { nth: usize },
    Wait { millis: u64 },
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    let display = prop_oneof![Just(Display::Headless), Just(Display::Headful), Just(Display::LiveView)];
    let bind = (0..6u8, display, 1..60u32, 1..200u32, any::<bool>());
    let bind = bind.prop_map(|(uid, display, idle, lifetime, page)| Step::Bind { uid, display, idle, lifetime, page });
    let nth = 0..8usize;
    prop_oneof![
        6 => bind,
        3 => (0..6u8).prop_map(|uid| Step::End { uid }),
        1 => (0..6u8).prop_map(|uid| Step::Touch { uid }),
        8 => nth.clone().prop_map(|nth| Step::Launched { nth }),
        2 => nth.clone().prop_map(|nth| Step::Failed { nth }),
        6 => nth.clone().prop_map(|nth| Step::Removed { nth }),
        3 => nth.clone().prop_map(|nth| Step::PingAnswered { nth }),
        3 => (nth.clone(), any::<bool>()).prop_map(|(nth, loaded)| Step::Page { nth, loaded }),
        2 => (nth.clone(), any::<bool>()).prop_map(|(nth, connects)| Step::Client { nth, connects }),
        1 => nth.prop_map(|nth| Step::Active { nth }),
        6 => (1..30_000u64).prop_map(|millis| Step::Wait { millis }),
        1 => Just(Step::Drain),
    ]
}

fn config() -> impl Strategy<Value = RunnerConfig> {
    let smoke_test = prop::option::of(prop_oneof![Just(DisplayKind::Headless), Just(DisplayKind::Headful)]);
    (1..5u32, 0..8u32, 0..5u32, 0..5u32, 1..4u32, smoke_test).prop_map(
        |(slots, max_total_sessions, headless, headful, max_concurrent_launches, smoke_test)| {
            let headless = headless.min(slots);
            let prewarm = BrowserCounts { headless, headful: headful.min(slots - headless) };
            RunnerConfig {
                slots,
                max_total_sessions,
                prewarm,
                smoke_test,
                max_concurrent_launches,
                drain_timeout: Duration::from_secs(100),
            }
        },
    )
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum SimState {
    Launching,
    Running,
    Stopping,
}

struct World {
    machine: StateMachine,
    now: Instant,
    stacks: BTreeMap<StackId, SimState>,
    kinds: BTreeMap<StackId, DisplayKind>,
    /// The session (UID and incarnation) to which each stack was assigned.
    assigned_to: HashMap<StackId, (String, u32)>,
    /// How often each UID was bound.
    incarnation: HashMap<String, u32>,
    opened: HashSet<StackId>,
    phases: HashMap<(String, u32), SessionPhase>,
}

impl World {
    fn new(config: RunnerConfig) -> Self {
        let mut world = Self {
            machine: StateMachine::new(config),
            now: Instant::now(),
            stacks: BTreeMap::new(),
            kinds: BTreeMap::new(),
            assigned_to: HashMap::new(),
            incarnation: HashMap::new(),
            opened: HashSet::new(),
            phases: HashMap::new(),
        };
        world.handle(Event::Tick);
        world
    }

    fn state(&self) -> RunnerState {
        self.machine.describe(&RunnerState::default(), self.now)
    }

    fn handle(&mut self, event: Event) {
        let effects = self.machine.handle(event, self.now);
        self.apply_effects(effects);
    }

    fn apply_effects(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Launch { stack, kind } => {
                    self.kinds.insert(stack, kind);
                    assert_eq!(self.stacks.insert(stack, SimState::Launching), None, "stack id reused");
                }
                Effect::Stop { stack } => {
                    let was = self.stacks.insert(stack, SimState::Stopping).expect("only existing stacks are stopped");
                    assert_ne!(was, SimState::Stopping, "{stack:?} stopped twice");
                }
                Effect::Ping { stack } => {
                    assert_eq!(self.stacks[&stack], SimState::Running);
                    assert!(!self.is_in_use(stack), "pinged a browser in use");
                }
                Effect::Bind { stack, .. } => {
                    assert_eq!(self.stacks[&stack], SimState::Running);
                    assert!(self.is_in_use(stack), "bound a browser without a session");
                    assert!(!self.opened.contains(&stack), "bound after the page was opened");
                }
                Effect::OpenPage { stack, .. } => {
                    assert_eq!(self.stacks[&stack], SimState::Running);
                    assert!(self.opened.insert(stack), "page opened twice");
                }
            }
        }
        self.check();
    }

    fn is_in_use(&self, stack: StackId) -> bool {
        let held = self.machine.sessions.iter().any(|(_, session)| session.stack() == Some(stack));
        held || self.machine.smoke_test.stack() == Some(stack)
    }

    fn nth(&self, nth: usize, sim: SimState) -> Option<StackId> {
        let those: Vec<_> = self.stacks.iter().filter(|(_, state)| **state == sim).map(|(id, _)| *id).collect();
        (!those.is_empty()).then(|| those[nth % those.len()])
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Bind { uid, display, idle, lifetime, page } => {
                self.bind(&format!("s{uid}"), request(display, idle, lifetime, page));
            }
            Step::End { uid } => {
                let known = self.machine.session(&format!("s{uid}")).is_some();
                let (answer, effects) = self.machine.end(&format!("s{uid}"), self.now);
                assert_eq!(answer.is_ok(), known);
                self.apply_effects(effects);
            }
            Step::Touch { uid } => drop(self.machine.touch(&format!("s{uid}"), self.now)),
            Step::Launched { nth } => {
                let Some(stack) = self.nth(nth, SimState::Launching) else { return };
                self.stacks.insert(stack, SimState::Running);
                self.handle(Event::Launched { stack, version: "1.2.3".into() });
            }
            Step::Failed { nth } => {
                let sim = if nth % 2 == 0 { SimState::Launching } else { SimState::Running };
                let Some(stack) = self.nth(nth, sim) else { return };
                self.stacks.insert(stack, SimState::Stopping);
                self.handle(Event::Failed { stack, message: "crashed".into() });
            }
            Step::Removed { nth } => {
                let Some(stack) = self.nth(nth, SimState::Stopping) else { return };
                self.stacks.remove(&stack);
                self.handle(Event::Removed { stack });
            }
            Step::PingAnswered { nth } => {
                let Some(stack) = self.nth(nth, SimState::Running) else { return };
                self.handle(Event::PingAnswered { stack });
            }
            Step::Page { nth, loaded } => {
                let Some(stack) = self.nth(nth, SimState::Running).filter(|stack| self.opened.contains(stack)) else {
                    return;
                };
                self.handle(Event::PageFinished { stack, error: (!loaded).then(|| "not loaded".into()) });
            }
            Step::Client { nth, connects } => {
                let Some(stack) = self.nth(nth, SimState::Running) else { return };
                self.handle(if connects {
                    Event::ClientConnected { stack }
                } else {
                    Event::ClientDisconnected { stack }
                });
            }
            Step::Active { nth } => {
                let Some(stack) = self.nth(nth, SimState::Running) else { return };
                self.handle(Event::ClientActive { stack });
            }
            Step::Wait { millis } => self.wait(Duration::from_millis(millis)),
            Step::Drain => self.handle(Event::Drain),
        }
    }

    fn bind(&mut self, uid: &str, request: BindRequest) {
        let before = self.machine.session(uid);
        let (free, served, draining) =
            (self.machine.free(), self.machine.sessions.served(), self.machine.draining_since.is_some());
        let (answer, effects) = self.machine.bind(uid, request, self.now);
        match (before, answer) {
            (Some(before), answer) => {
                assert_eq!(answer, Ok(()), "a repeated PUT succeeds");
                assert_eq!(self.machine.sessions.served(), served, "a repeated PUT does not count as a new session");
                assert_eq!(
                    self.machine.session(uid).map(|after| (after.tier, after.name)),
                    Some((before.tier, before.name))
                );
            }
            (None, Ok(())) => {
                assert!(free > 0 && !draining, "accepted without a free slot");
                *self.incarnation.entry(uid.to_owned()).or_default() += 1;
                assert_eq!(self.machine.sessions.served(), served + 1);
            }
            (None, Err(error)) => {
                assert_eq!(free, 0, "rejected with a free slot: {error}");
                assert_eq!(error.reason == ErrorReason::Draining, draining);
                assert!(self.machine.session(uid).is_none());
            }
        }
        self.apply_effects(effects);
    }

    /// Advances the clock from deadline to deadline, and checks that nothing changes in between.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let deadline = self.machine.next_deadline(self.now).filter(|deadline| *deadline <= end);
            let before = self.state();
            let quiet = deadline.map_or(end, |deadline| deadline - Duration::from_nanos(1)).max(self.now);
            self.now = quiet;
            assert_eq!(self.machine.handle(Event::Tick, quiet), [], "effects before the deadline");
            assert_eq!(before, self.state(), "state changed before the deadline");
            if let Some(deadline) = deadline {
                self.now = deadline;
                self.handle(Event::Tick);
            }
        }
    }

    /// Advances the clock while the first browser answers its pings.
    fn answering_pings(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.wait(Duration::from_secs(1));
            self.apply(Step::PingAnswered { nth: 0 });
        }
    }

    fn check(&mut self) {
        let config = self.machine.config;
        let state = self.state();
        let live = state.sessions.iter().filter(|session| session.phase != SessionPhase::Ended).count();
        let launching = self.stacks.values().filter(|sim| **sim == SimState::Launching).count();
        assert!(self.stacks.len() <= config.slots as usize, "more stacks than slots");
        assert!(live <= config.slots as usize, "more sessions than slots");
        assert!(launching <= config.max_concurrent_launches as usize, "too many launches at once");
        let (served, total) = (self.machine.sessions.served(), config.max_total_sessions);
        assert!(total == 0 || served <= total, "more sessions than the total");
        assert_eq!(state.spent, total > 0 && served == total);
        assert!(!(state.spent || state.draining) || state.free == 0);
        assert!(state.free as usize + live <= config.slots as usize);
        assert!(state.hot.headless + state.hot.headful <= state.free, "more hot browsers than free slots");
        assert!(!state.warm || self.machine.missing_kind().is_none() && self.machine.smoke_test.has_passed());
        self.check_ownership();
        self.check_no_missed_launch(launching);
        for session in &state.sessions {
            let key = (session.uid.clone(), self.incarnation[&session.uid]);
            let before = self.phases.insert(key, session.phase);
            assert!(before.is_none_or(|before| before <= session.phase), "phase moved backwards");
            assert_eq!(session.end.is_some(), session.phase >= SessionPhase::Ending);
        }
    }

    fn check_ownership(&mut self) {
        let mut held = HashSet::new();
        for (uid, session) in self.machine.sessions.iter() {
            let Some(stack) = session.stack() else { continue };
            assert!(held.insert(stack), "stack shared by two sessions");
            let owner = (uid.to_owned(), self.incarnation[uid]);
            assert_eq!(
                *self.assigned_to.entry(stack).or_insert_with(|| owner.clone()),
                owner,
                "stack reused by another session"
            );
            let expected = match self.stacks[&stack] {
                SimState::Launching => SessionPhase::Starting,
                SimState::Running => SessionPhase::Ready,
                SimState::Stopping => SessionPhase::Ending,
            };
            assert_eq!(session.phase(), expected);
        }
        let mut hot = self.machine.hot_stacks();
        assert!(hot.all(|stack| !self.is_in_use(stack)), "hot browser is in use");
        for stack in self.assigned_to.keys().filter(|stack| !held.contains(*stack)) {
            assert!(!self.stacks.contains_key(stack), "stack outlived its session");
        }
    }

    fn check_no_missed_launch(&self, launching: usize) {
        let config = self.machine.config;
        let has_slot = self.stacks.len() < config.slots as usize;
        let for_sessions = self.machine.sessions.iter().filter_map(|(_, session)| session.stack());
        let for_sessions = for_sessions.filter(|stack| self.stacks[stack] == SimState::Launching).count();
        let can_launch = for_sessions < config.max_concurrent_launches as usize;
        assert!(
            !has_slot || !can_launch || !self.machine.sessions.has_waiting(),
            "session waits despite free capacity"
        );
        let has_room = has_slot && launching < config.max_concurrent_launches as usize;
        let paused = self.machine.backoff.retry_at().is_some_and(|retry_at| retry_at > self.now);
        assert!(!has_room || paused || self.machine.missing_kind().is_none(), "no prewarm despite free capacity");
        assert!(self.machine.next_deadline(self.now).is_none_or(|deadline| deadline > self.now));
    }

    /// Drains the runner and checks that it finishes.
    fn drain_to_end(mut self) {
        self.handle(Event::Drain);
        self.wait(Duration::from_secs(300));
        assert!(
            self.stacks.values().all(|sim| *sim == SimState::Stopping),
            "stack still alive after the drain deadline"
        );
        for stack in self.stacks.keys().copied().collect::<Vec<_>>() {
            self.stacks.remove(&stack);
            self.handle(Event::Removed { stack });
        }
        let state = self.state();
        assert!(state.sessions.iter().all(|session| session.phase == SessionPhase::Ended));
        self.wait(ACKNOWLEDGE_TIMEOUT);
        assert!(self.machine.is_finished(self.now));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn invariants_hold_in_random_histories(config in config(), steps in prop::collection::vec(step(), 0..80)) {
        let mut world = World::new(config);
        for step in steps {
            world.apply(step);
        }
        world.drain_to_end();
    }
}

fn request(display: Display, idle: u32, lifetime: u32, page: bool) -> BindRequest {
    BindRequest {
        namespace: "ns".into(),
        name: "name".into(),
        display,
        idle_timeout_seconds: idle,
        max_lifetime_seconds: lifetime,
        start_url: page.then(|| "data:,".into()),
        start_url_wait: StartUrlWait::Load,
        reconnect_grace_seconds: 60,
    }
}

fn warm_world(slots: u32, prewarm: BrowserCounts) -> World {
    let mut world = World::new(RunnerConfig {
        slots,
        max_total_sessions: 0,
        prewarm,
        smoke_test: None,
        max_concurrent_launches: 8,
        drain_timeout: Duration::from_secs(60),
    });
    for _ in 0..slots {
        world.apply(Step::Launched { nth: 0 });
    }
    world
}

#[test]
fn binds_a_hot_browser_and_opens_the_start_page() {
    let mut world = warm_world(2, BrowserCounts { headless: 2, headful: 0 });
    assert!(world.state().warm);
    world.bind("s", request(Display::Headless, 60, 600, true));
    let session = world.machine.session("s").unwrap();
    assert_eq!(
        (session.phase, session.tier, session.start_page),
        (SessionPhase::Ready, StartTier::Hot, StartPage::Loading)
    );
    assert_eq!(world.opened.len(), 1);
    assert_eq!((world.state().hot.headless, world.state().free, world.state().warm), (1, 1, true));
}

/// A runner with one slot and a pending smoke test.
fn smoke_test_world() -> World {
    let drain_timeout = Duration::from_secs(60);
    let prewarm = BrowserCounts { headless: 1, headful: 0 };
    World::new(RunnerConfig {
        slots: 1,
        max_total_sessions: 0,
        prewarm,
        smoke_test: Some(DisplayKind::Headful),
        max_concurrent_launches: 2,
        drain_timeout,
    })
}

#[test]
fn is_warm_only_after_the_smoke_test_loads_a_page() {
    let mut world = smoke_test_world();
    assert_eq!(world.kinds.values().copied().collect::<Vec<_>>(), [DisplayKind::Headful]);
    world.apply(Step::Launched { nth: 0 });
    assert_eq!((world.opened.len(), world.state().hot, world.state().warm), (1, BrowserCounts::default(), false));
    world.apply(Step::Page { nth: 0, loaded: false });
    assert!(world.state().launch_error.is_some_and(|error| error.contains("could not load a page")));
    world.apply(Step::Removed { nth: 0 });
    world.wait(Duration::from_secs(1));
    world.apply(Step::Launched { nth: 0 });
    world.apply(Step::Page { nth: 0, loaded: true });
    assert_eq!(
        (world.nth(0, SimState::Running), world.state().launch_error),
        (None, None),
        "the smoke test's browser is not reused"
    );
    world.apply(Step::Removed { nth: 0 });
    world.apply(Step::Launched { nth: 0 });
    assert!(world.state().warm && world.state().hot.headless == 1);
}

#[test]
fn a_hung_smoke_test_fails_and_does_not_delay_a_session() {
    let mut world = smoke_test_world();
    world.apply(Step::Launched { nth: 0 });
    world.wait(LAUNCH_TIMEOUT);
    assert!(world.state().launch_error.is_some_and(|error| error.contains("90 s")));
    world.apply(Step::Removed { nth: 0 });
    world.wait(Duration::from_secs(1));
    world.bind("s", request(Display::Headless, 60, 600, false));
    world.apply(Step::Removed { nth: 0 });
    world.apply(Step::Launched { nth: 0 });
    assert_eq!(world.machine.session("s").unwrap().phase, SessionPhase::Ready);
    assert!(!world.state().warm, "the smoke test is still pending");
}

#[test]
fn a_session_of_the_other_kind_displaces_a_hot_browser() {
    let mut world = warm_world(1, BrowserCounts { headless: 1, headful: 0 });
    world.bind("s", request(Display::LiveView, 60, 600, false));
    assert_eq!(world.nth(0, SimState::Launching), None, "the displaced stack still occupies capacity");
    world.apply(Step::Removed { nth: 0 });
    world.apply(Step::Launched { nth: 0 });
    let session = world.machine.session("s").unwrap();
    assert_eq!((session.phase, session.tier), (SessionPhase::Ready, StartTier::Cold));
}

#[test]
fn a_session_preempts_a_prewarm_launch() {
    let config = RunnerConfig {
        slots: 3,
        max_total_sessions: 0,
        prewarm: BrowserCounts { headless: 2, headful: 0 },
        smoke_test: None,
        max_concurrent_launches: 1,
        drain_timeout: Duration::from_secs(60),
    };
    let mut world = World::new(config);
    world.apply(Step::Launched { nth: 0 });
    world.bind("hot", request(Display::Headless, 60, 600, false));
    let prewarmed = world.kinds.last_key_value().map(|(id, kind)| (*id, *kind));
    world.bind("other kind", request(Display::LiveView, 60, 600, false));
    let (prewarmed, kind) = prewarmed.unwrap();
    assert_eq!((kind, world.stacks[&prewarmed]), (DisplayKind::Headless, SimState::Stopping));
    world.apply(Step::Launched { nth: 0 });
    assert_eq!(world.machine.session("other kind").unwrap().phase, SessionPhase::Ready);
    // The preempted prewarm is launched again.
    world.apply(Step::Removed { nth: 0 });
    world.apply(Step::Launched { nth: 0 });
    assert_eq!(world.state().hot, BrowserCounts { headless: 1, headful: 0 });

    // A prewarm of the session's own kind is assigned to it instead of being stopped.
    let mut world = World::new(config);
    world.bind("same kind", request(Display::Headless, 60, 600, false));
    assert_eq!(world.stacks.len(), 1);
    world.apply(Step::Launched { nth: 0 });
    assert_eq!(world.machine.session("same kind").unwrap().phase, SessionPhase::Ready);
}

#[test]
fn replaces_an_unresponsive_hot_browser() {
    let mut world = warm_world(1, BrowserCounts { headless: 1, headful: 0 });
    world.wait(RESPONSIVE_WINDOW);
    assert_eq!((world.state().hot.headless, world.state().warm), (0, false));
    world.apply(Step::PingAnswered { nth: 0 });
    assert_eq!((world.state().hot.headless, world.state().warm), (1, true));
    world.wait(UNRESPONSIVE_TIMEOUT);
    assert_eq!(world.nth(0, SimState::Running), None);
    world.apply(Step::Removed { nth: 0 });
    assert!(world.nth(0, SimState::Launching).is_some());
}

#[test]
fn retries_failed_launches_with_exponential_backoff() {
    let mut world = World::new(RunnerConfig {
        slots: 1,
        max_total_sessions: 0,
        prewarm: BrowserCounts { headless: 1, headful: 0 },
        smoke_test: None,
        max_concurrent_launches: 1,
        drain_timeout: Duration::ZERO,
    });
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        assert_eq!(world.stacks.values().collect::<Vec<_>>(), [&SimState::Launching]);
        world.apply(Step::Failed { nth: 0 });
        world.apply(Step::Removed { nth: 0 });
        assert!(!world.machine.is_ready() && world.state().launch_error.is_some());
        world.wait(Duration::from_secs(pause) - Duration::from_millis(1));
        assert!(world.stacks.is_empty());
        world.wait(Duration::from_millis(1));
    }
    world.apply(Step::Launched { nth: 0 });
    assert!(world.machine.is_ready() && world.state().launch_error.is_none());
}

#[test]
fn backs_off_when_hot_browsers_crash_early_in_a_row() {
    let mut world = warm_world(1, BrowserCounts { headless: 1, headful: 0 });
    let mut crash_and_expect_replacement_after = |lived: u64, pause: u64| {
        world.answering_pings(Duration::from_secs(lived));
        world.apply(Step::Failed { nth: 1 });
        world.apply(Step::Removed { nth: 0 });
        world.wait(Duration::from_secs(pause) - Duration::from_millis(1));
        assert!(world.stacks.is_empty(), "crashed after {lived} s: replaced in less than {pause} s");
        world.wait(Duration::from_millis(1));
        world.apply(Step::Launched { nth: 0 });
        assert!(world.machine.is_ready() && world.state().warm);
    };
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        crash_and_expect_replacement_after(1, pause);
    }
    // A crash after a long uptime does not count towards the backoff.
    for _ in 0..3 {
        crash_and_expect_replacement_after(40, 1);
    }
    crash_and_expect_replacement_after(1, 2);
}

#[test]
fn idle_time_counts_from_the_last_activity_and_lifetime_from_the_bind() {
    let mut world = warm_world(2, BrowserCounts { headless: 2, headful: 0 });
    world.bind("idle", request(Display::Headless, 30, 600, false));
    world.bind("busy", request(Display::Headless, 30, 100, false));
    for _ in 0..4 {
        world.wait(Duration::from_secs(20));
        let idle = |uid| world.machine.report(uid, world.now).unwrap().idle_milliseconds;
        assert_eq!(idle("busy"), Some(20_000));
        world.machine.touch("busy", world.now).unwrap();
        assert_eq!(world.machine.report("busy", world.now).unwrap().idle_milliseconds, Some(0));
    }
    assert_eq!(world.machine.report("idle", world.now).unwrap().idle_milliseconds, None, "the session has ended");
    let reason = |world: &World, uid: &str| world.machine.session(uid).unwrap().end.map(|end| end.reason);
    assert_eq!(reason(&world, "idle"), Some(EndReason::IdleTimeout));
    assert_eq!(reason(&world, "busy"), None);
    world.wait(Duration::from_secs(20));
    assert_eq!(reason(&world, "busy"), Some(EndReason::LifetimeExceeded));
}

#[test]
fn lists_an_ended_session_until_it_is_acknowledged() {
    let mut world = warm_world(2, BrowserCounts { headless: 2, headful: 0 });
    world.bind("crashed", request(Display::Headless, 30, 600, false));
    world.apply(Step::Failed { nth: 1 });
    world.bind("deleted", request(Display::Headless, 30, 600, false));
    world.apply(Step::Removed { nth: 0 });
    let session = world.machine.session("crashed").map(|session| (session.phase, session.end.unwrap().reason));
    assert_eq!(session, Some((SessionPhase::Ended, EndReason::BrowserCrashed)));
    assert!(world.machine.end("crashed", world.now).0.is_ok());
    assert!(world.machine.session("crashed").is_none());
    assert_eq!(world.machine.end("crashed", world.now).0.unwrap_err().reason, ErrorReason::UnknownSession);
}

#[test]
fn drains_sessions_and_waits_for_acknowledgements() {
    let mut world = warm_world(3, BrowserCounts { headless: 3, headful: 0 });
    world.bind("ends", request(Display::Headless, 30, 600, false));
    world.bind("stays", request(Display::Headless, 300, 600, false));
    world.handle(Event::Drain);
    assert_eq!(
        world.stacks.values().filter(|sim| **sim == SimState::Stopping).count(),
        1,
        "the unused hot browser is stopped"
    );
    assert!(world.machine.is_ready(), "a draining runner with sessions is ready");
    world.wait(Duration::from_secs(60));
    let reason = |world: &World, uid: &str| world.machine.session(uid).unwrap().end.unwrap().reason;
    assert_eq!(reason(&world, "ends"), EndReason::IdleTimeout);
    assert_eq!(reason(&world, "stays"), EndReason::RunnerDrained);
    for _ in 0..3 {
        world.apply(Step::Removed { nth: 0 });
    }
    assert!(!world.machine.is_finished(world.now));
    for uid in ["ends", "stays"] {
        assert!(world.machine.end(uid, world.now).0.is_ok());
    }
    assert!(world.machine.is_finished(world.now));
}
