//! Single turns of the operator's core that random histories meet too seldom, or cannot tell from others.

use camofleet_crds::v1alpha1::{BrowserSession, BrowserSessionSpec, Display, EngineName, WorkerPool, WorkerPoolSpec};
use camofleet_operator::core::{
    Change, Core, Effect, Input, Key, Mono, Now,
    pods::{Fate, Installation, RunnerPod, revision},
};
use camofleet_runner_api::{Hot, RunnerState, Session, SessionPhase, StartPage, Tier};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use std::sync::Arc;

const NAMESPACE: &str = "ns";
const POD: &str = "pod-1";

/// A leader with one pool, which has one runner.
struct Leader {
    core: Core,
    millis: i64,
    pool: WorkerPool,
}

impl Leader {
    fn new() -> Self {
        let mut pool = WorkerPool::new("pool", WorkerPoolSpec { slots_per_runner: 2, ..WorkerPoolSpec::default() });
        pool.metadata.namespace = Some(NAMESPACE.into());
        pool.metadata.uid = Some("pool-1".into());
        pool.metadata.generation = Some(1);
        pool.metadata.resource_version = Some("1".into());
        pool.metadata.finalizers = Some(vec!["camofleet.dev/drain".into()]);
        Self { core: Core::new(installation()), millis: 1_000_000, pool }
    }

    fn leads(mut self) -> Self {
        let (pool, pod) = (Arc::new(self.pool.clone()), self.pod());
        self.step([
            Input::Keys("{}".into()),
            Input::Pools(Change::All(vec![pool])),
            Input::Pods(Change::All(vec![pod])),
            Input::Leads,
        ]);
        self
    }

    fn step(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
        let now = self.now();
        self.core.step(inputs, now)
    }

    /// What it does of itself until so much later, at the moments that it asked to be woken at.
    fn pass(&mut self, millis: i64) -> Vec<Effect> {
        let end = self.millis + millis;
        let mut effects = Vec::new();
        while let Some(Mono(at)) = self.core.wake().filter(|at| at.0 <= end) {
            self.millis = self.millis.max(at);
            effects.extend(self.step([]));
        }
        self.millis = end;
        effects
    }

    fn now(&self) -> Now {
        Now { mono: Mono(self.millis), wall: start() + SignedDuration::from_millis(self.millis) }
    }

    fn pod(&self) -> RunnerPod {
        RunnerPod {
            uid: POD.into(),
            key: Key { namespace: NAMESPACE.into(), name: "runner".into() },
            pool: (Key::of(&self.pool), "pool-1".into()),
            ordinal: 0,
            revision: revision(&self.pool, &installation()),
            keys: "{}".into(),
            node: None,
            address: Some([10, 0, 0, 1].into()),
            version: 2,
            created: self.now().wall,
            killed_at: None,
            fate: Fate::Running,
        }
    }
}

fn start() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn installation() -> Installation {
    Installation { runner_image: "image".into(), public_url: "http://gateway".into() }
}

fn session(version: u64) -> BrowserSession {
    let mut session = BrowserSession::new("s", BrowserSessionSpec::default());
    session.metadata.namespace = Some(NAMESPACE.into());
    session.metadata.uid = Some("s-1".into());
    session.metadata.generation = Some(1);
    session.metadata.resource_version = Some(version.to_string());
    session.metadata.creation_timestamp = Some(Time(start() + SignedDuration::from_millis(1_000_000)));
    session
}

/// The runner's word: it has these sessions, all Ready.
fn told(sessions: &[&str]) -> Input {
    let used = u32::try_from(sessions.len()).unwrap();
    let sessions = sessions.iter().map(|uid| Session {
        uid: (*uid).into(),
        namespace: NAMESPACE.into(),
        name: "s".into(),
        phase: SessionPhase::Ready,
        display: Display::Headless,
        tier: Tier::Hot,
        start_page: StartPage::None,
        clients: 0,
        end: None,
    });
    let state = RunnerState {
        boot_id: "boot".into(),
        generation: 1 + u64::from(used),
        engine: Some(EngineName::Firefox),
        browser_version: Some("153".into()),
        playwright_version: "1.62".into(),
        draining: false,
        slots: 2,
        free: 2 - used,
        spent: false,
        hot: Hot { headless: 2 - used, headful: 0 },
        warm: true,
        launch_error: None,
        sessions: sessions.collect(),
    };
    Input::Runner { pod: POD.into(), state }
}

#[test]
fn what_an_uncached_read_finds_is_not_taken_for_gone_by_an_older_list() {
    let mut leader = Leader::new().leads();
    leader.step([told(&["s-1"])]);
    let asked = leader.pass(31_000);
    assert!(asked.iter().any(|effect| matches!(effect, Effect::ReadSession { .. })), "it is a stranger: {asked:?}");
    let found = Arc::new(session(9));
    let read = Input::SessionRead { session: "s-1".into(), found: Some(found.clone()) };
    // The list was read before the object was made.
    let effects = leader.step([read, Input::Sessions(Change::All(Vec::new()))]);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::End { .. })), "it was ended: {effects:?}");
    let effects = leader.step([Input::Sessions(Change::Applied(found))]);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Bind { .. })), "it was not adopted: {effects:?}");
}
