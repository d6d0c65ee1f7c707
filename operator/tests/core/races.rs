//! One pool with one runner.

use crate::support::installation;
use camofleet_crds::{
    conditions,
    v1alpha1::{
        BrowserSession, BrowserSessionSpec, BrowserSessionStatus, Display, EngineName, SessionState, WorkerPool,
        WorkerPoolSpec, WorkerPoolStatus,
    },
};
use camofleet_operator::core::{
    Change, Core, Effect, Event, Key, Mono, Now, Report, WriteFailure,
    runner::pod_build::revision,
    runner::pod_read::{PodPhase, RunnerPod},
};
use camofleet_runner_api::{BindAnswer, Hot, RunnerState, Session, SessionPhase, StartPage, Tier};
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

    fn leading(mut self) -> Self {
        let (pool, pod) = (Arc::new(self.pool.clone()), self.pod());
        self.step([
            Event::Keys("{}".into()),
            Event::Pools(Change::All(vec![pool])),
            Event::Pods(Change::All(vec![pod])),
            Event::Leads,
        ]);
        self
    }

    fn step(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Effect> {
        let now = self.now();
        self.core.step(events, now)
    }

    /// What it does of itself until so much later, at the moments that it asked to be woken at.
    fn advance(&mut self, millis: i64) -> Vec<Effect> {
        let end = self.millis + millis;
        let mut effects = Vec::new();
        while let Some(Mono(at)) = self.core.wake().filter(|at| at.0 <= end) {
            self.millis = self.millis.max(at);
            effects.extend(self.step([]));
        }
        self.millis = end;
        effects
    }

    /// Answers its writes of the pool's status, and what follows from the answers; all that it did.
    fn answer_pool_writes(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        let mut at = 0;
        while at < effects.len() {
            if let Effect::PatchPool { pool, status } = &effects[at] {
                let version = u64::try_from(self.millis).unwrap();
                let answer = with_status(pool, status.as_ref().clone(), &version.to_string());
                if let Event::PoolPatched { answer: Ok(Some(pool)), .. } = &answer {
                    self.pool = WorkerPool::clone(pool);
                }
                let more = self.step([answer]);
                effects.extend(more);
            }
            at += 1;
        }
        effects
    }

    fn advance_with_pool_writes(&mut self, millis: i64) -> Vec<Effect> {
        let mut effects = Vec::new();
        for _ in 0..millis / 500 {
            let done = self.advance(500);
            effects.extend(self.answer_pool_writes(done));
        }
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
            slots: 2,
            keys: "{}".into(),
            node: None,
            address: Some([10, 0, 0, 1].into()),
            version: 2,
            created: self.now().wall,
            killed_at: None,
            phase: PodPhase::Running,
        }
    }
}

fn start() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
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
fn reports_sessions(sessions: &[&str]) -> Event {
    reported(state_with(sessions))
}

fn reported(state: RunnerState) -> Event {
    Event::Runner { pod: POD.into(), report: Report::new(state, 2).unwrap() }
}

fn state_with(sessions: &[&str]) -> RunnerState {
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
    RunnerState {
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
    }
}

#[test]
fn an_older_list_does_not_delete_a_session_found_by_an_uncached_read() {
    let mut leader = Leader::new().leading();
    leader.step([reports_sessions(&["s-1"])]);
    let asked = leader.advance(3_000);
    assert!(asked.iter().any(|effect| matches!(effect, Effect::ReadSession { .. })), "it is a stranger: {asked:?}");
    let found = Arc::new(session(9));
    let read =
        Event::SessionRead { key: Key::of(found.as_ref()), session: "s-1".into(), answer: Ok(Some(found.clone())) };
    // The list was read before the object was made.
    let effects = leader.step([read, Event::Sessions(Change::All(Vec::new()))]);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::End { .. })), "it was ended: {effects:?}");
    let effects = leader.step([Event::Sessions(Change::Applied(found))]);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Bind { .. })), "it was not adopted: {effects:?}");
}

fn is_patch(effect: &Effect) -> bool {
    matches!(effect, Effect::PatchSession { .. })
}

/// The runner took the session.
fn bind_answered() -> Event {
    let state = state_with(&["s-1"]);
    let answer = BindAnswer {
        boot_id: state.boot_id.clone(),
        generation: state.generation,
        engine: EngineName::Firefox,
        browser_version: state.browser_version.clone(),
        playwright_version: state.playwright_version.clone(),
        session: state.sessions[0].clone(),
    };
    Event::BindAnswered { session: "s-1".into(), pod: POD.into(), answer: Ok(answer) }
}

/// The runner that took it does not have it any more.
fn reports_no_session() -> Event {
    reported(RunnerState { generation: 7, ..state_with(&[]) })
}

fn is_bind(effect: &Effect) -> bool {
    matches!(effect, Effect::Bind { .. })
}

#[test]
fn rebinds_a_session_lost_before_it_was_published() {
    let mut leader = Leader::new().leading();
    let full = RunnerState { free: 0, ..state_with(&[]) };
    leader.step([reported(full), Event::Sessions(Change::Applied(Arc::new(session(9))))]);
    let queued = leader.advance(300);
    assert!(queued.iter().any(is_patch), "that it waits is not told: {queued:?}");
    assert!(leader.step([reports_sessions(&[])]).iter().any(is_bind), "it is not bound");
    // That it is Queued is all that may have been told.
    let answered = leader.step([bind_answered()]);
    assert!(!answered.iter().any(is_patch), "two writes at once: {answered:?}");
    let lost = leader.step([reports_no_session()]);
    assert!(!lost.iter().any(is_bind), "it is given to a runner that forgets: {lost:?}");
    assert!(leader.step([reports_no_session()]).iter().any(is_bind), "it is not bound again");
}

#[test]
fn finishes_a_session_lost_while_it_is_being_published() {
    let mut leader = Leader::new().leading();
    let new = Event::Sessions(Change::Applied(Arc::new(session(9))));
    assert!(leader.step([reports_sessions(&[]), new]).iter().any(is_bind), "it is not bound");
    let effects = leader.step([bind_answered()]);
    let Some(Effect::PatchSession { session, .. }) = effects.iter().find(|effect| is_patch(effect)) else {
        panic!("it is not published: {effects:?}")
    };
    let lost = leader.step([reports_no_session()]);
    assert!(!lost.iter().any(is_bind), "it is moved though it may be published: {lost:?}");
    let failed = WriteFailure::Transient("no answer".into());
    leader.step([Event::SessionPatched { session: session.clone(), answer: Err(failed) }]);
    let effects = leader.advance(1_000);
    let Some(Effect::PatchSession { status, .. }) = effects.iter().find(|effect| is_patch(effect)) else {
        panic!("nobody is told: {effects:?}")
    };
    let finished = conditions::get(&status.conditions, conditions::FINISHED).expect("it is over");
    assert_eq!(finished.reason, conditions::session::RUNNER_LOST);
}

#[test]
fn publishes_a_session_bound_by_a_former_leader_once() {
    let mut leader = Leader::new().leading();
    let effects = leader.step([reports_sessions(&["s-1"]), Event::Sessions(Change::Applied(Arc::new(session(9))))]);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Bind { .. })), "not adopted: {effects:?}");
    assert!(!effects.iter().any(is_patch), "published before the runner has its time-outs: {effects:?}");
    let effects = leader.step([bind_answered()]);
    let Some(Effect::PatchSession { session, status, .. }) = effects.iter().find(|effect| is_patch(effect)) else {
        panic!("it is not published: {effects:?}")
    };
    let mut published = BrowserSession::clone(session);
    published.status = Some(status.as_ref().clone());
    published.metadata.resource_version = Some("10".into());
    let published = Arc::new(published);
    let patched = Event::SessionPatched { session: session.clone(), answer: Ok(published.clone()) };
    let mut effects =
        leader.step([patched, reports_sessions(&["s-1"]), Event::Sessions(Change::Applied(published.clone()))]);
    effects.extend(leader.advance(5_000));
    assert!(!effects.iter().any(is_patch), "published again: {effects:?}");

    // And the next leader has nothing to add.
    let mut next = Leader::new();
    next.millis = leader.millis;
    let mut next = next.leading();
    let mut effects = next.step([Event::Sessions(Change::All(vec![published]))]);
    effects.extend(next.step([reports_sessions(&["s-1"])]));
    effects.extend(next.advance(5_000));
    assert!(!effects.iter().any(is_patch), "published again: {effects:?}");
}

#[test]
fn retries_a_pod_deletion_after_a_conflict() {
    let mut leader = Leader::new().leading();
    leader.step([reports_sessions(&[])]);
    leader.pool.spec.replicas = Some(0);
    (leader.pool.metadata.generation, leader.pool.metadata.resource_version) = (Some(2), Some("3".into()));
    let is_delete = |effect: &Effect| matches!(effect, Effect::DeletePod { .. });
    let effects = leader.step([Event::Pools(Change::Applied(Arc::new(leader.pool.clone())))]);
    assert!(effects.iter().any(is_delete), "it is not deleted: {effects:?}");
    let conflict = Event::PodDeleted { pod: POD.into(), answer: Err(WriteFailure::Conflict) };
    let effects = leader.step([conflict]);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Unfollow { .. })), "it is forgotten: {effects:?}");
    let effects = leader.advance(1_000);
    assert!(effects.iter().any(is_delete), "it stays for good: {effects:?}");
}

#[test]
fn retries_a_session_deletion_after_a_conflict() {
    let mut leader = Leader::new().leading();
    let mut over = session(9);
    over.spec.ttl_seconds_after_finished = 0;
    over.status = Some(BrowserSessionStatus { state: SessionState::Finished, ..BrowserSessionStatus::default() });
    let is_delete = |effect: &Effect| matches!(effect, Effect::DeleteSession { .. });
    let effects = leader.step([Event::Sessions(Change::Applied(Arc::new(over)))]);
    assert!(effects.iter().any(is_delete), "it is not deleted: {effects:?}");
    leader.step([Event::SessionDeleted { session: "s-1".into(), answer: Err(WriteFailure::Conflict) }]);
    let effects = leader.advance(1_000);
    assert!(effects.iter().any(is_delete), "it stays for good: {effects:?}");
}

fn published_pool(effects: &[Effect]) -> Option<(Arc<WorkerPool>, WorkerPoolStatus)> {
    effects.iter().find_map(|effect| match effect {
        Effect::PatchPool { pool, status } => Some((pool.clone(), status.as_ref().clone())),
        _ => None,
    })
}

fn with_status(pool: &WorkerPool, status: WorkerPoolStatus, version: &str) -> Event {
    let mut pool = pool.clone();
    pool.status = Some(status);
    pool.metadata.resource_version = Some(version.into());
    Event::PoolPatched { pool: Arc::new(pool.clone()), answer: Ok(Some(Arc::new(pool))) }
}

#[test]
fn publishes_a_pool_while_it_creates_a_runner() {
    let mut leader = Leader::new();
    leader.pool.spec.replicas = Some(2);
    let pod = leader.pod();
    let (pool, first) = (Arc::new(leader.pool.clone()), Event::Pods(Change::All(vec![pod])));
    let effects = leader.step([Event::Keys("{}".into()), Event::Pools(Change::All(vec![pool])), first, Event::Leads]);
    let (pool, status) = published_pool(&effects).expect("its status is written");
    leader.step([with_status(&pool, status, "3")]);
    // Once the first one is warm, the other may be made; that the first one is warm is published a second after the
    // last.
    let effects = leader.step([reports_sessions(&[])]);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::CreatePod { .. })), "no runner is made: {effects:?}");
    assert!(published_pool(&effects).is_none(), "it was published just before");
    assert!(published_pool(&leader.advance(2_000)).is_some(), "its status waits for the answer to the create");
}

fn protects(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::ProtectPool { .. }))
}

#[test]
fn retries_a_disruption_budget_and_publishes_a_foreign_one() {
    let mut leader = Leader::new();
    let (pool, pod) = (Arc::new(leader.pool.clone()), leader.pod());
    let effects = leader.step([
        Event::Keys("{}".into()),
        Event::Pools(Change::All(vec![pool])),
        Event::Pods(Change::All(vec![pod])),
        Event::Leads,
        reports_sessions(&[]),
    ]);
    let mut effects = leader.answer_pool_writes(effects);
    let protected = |leader: &Leader, answer| Event::PoolProtected { pool: Arc::new(leader.pool.clone()), answer };
    for tries in 1..=8 {
        assert!(protects(&effects), "it was not tried again after {} times: {effects:?}", tries - 1);
        let refused = protected(&leader, Err(WriteFailure::Refused("it is somebody else's".into())));
        let answered = leader.step([refused]);
        effects = leader.answer_pool_writes(answered);
        effects.extend(leader.advance_with_pool_writes(60_000));
    }
    let stalled = |leader: &Leader| {
        let conditions = &leader.pool.status.as_ref().expect("it was published").conditions;
        conditions::get(conditions, conditions::STALLED).expect("it was published").clone()
    };
    let condition = stalled(&leader);
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", conditions::pool::BUDGET_TAKEN));
    assert_eq!(condition.message, "it is somebody else's");

    let done = protected(&leader, Ok(()));
    let answered = leader.step([done]);
    leader.answer_pool_writes(answered);
    assert!(!protects(&leader.advance_with_pool_writes(500_000)), "it was tried again though all is well");
    assert_eq!(stalled(&leader).status, "False");
    assert!(protects(&leader.advance_with_pool_writes(200_000)), "it is not seen to any more");
}

/// The pool was deleted, and another one has its name.
fn recreate_pool(leader: &mut Leader) -> Vec<Effect> {
    let former = Arc::new(leader.pool.clone());
    leader.pool.metadata.uid = Some("pool-2".into());
    leader.pool.metadata.resource_version = Some("7".into());
    let pool = Arc::new(leader.pool.clone());
    leader.step([Event::Pools(Change::Gone(former)), Event::Pools(Change::Applied(pool))])
}

#[test]
fn ignores_answers_about_a_deleted_pool_of_the_same_name() {
    let mut leader = Leader::new();
    let (pool, pod) = (Arc::new(leader.pool.clone()), leader.pod());
    let (pools, pods) = (Event::Pools(Change::All(vec![pool])), Event::Pods(Change::All(vec![pod])));
    let effects = leader.step([Event::Keys("{}".into()), pools, pods, Event::Leads, reports_sessions(&[])]);
    let (former, status) = published_pool(&effects).expect("its status is written");
    assert!(protects(&effects));
    let effects = recreate_pool(&mut leader);
    let (new, new_status) = published_pool(&effects).expect("the status of the new one is written");
    assert_eq!((new.metadata.uid.as_deref(), protects(&effects)), (Some("pool-2"), true));

    let late = Event::PoolProtected { pool: former.clone(), answer: Ok(()) };
    let effects = leader.step([with_status(&former, status, "5"), late]);
    let observed = effects.iter().find(|effect| matches!(effect, Effect::Observe(_)));
    assert!(observed.is_none() && published_pool(&effects).is_none(), "it was taken for the new one's: {effects:?}");
    // And the new one's own answers count.
    let lost = || Err(WriteFailure::Transient("no answer".into()));
    let effects =
        leader.step([with_status(&new, new_status, "8"), Event::PoolProtected { pool: new.clone(), answer: lost() }]);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Observe(_))), "{effects:?}");
    assert!(protects(&leader.advance_with_pool_writes(2_000)), "the former's budget was taken for its own");
}

#[test]
fn keeps_runners_when_the_template_becomes_too_large() {
    let mut leader = Leader::new();
    let pod = leader.pod();
    leader.pool.spec.template.too_large = Some(1_400_000);
    let (pool, pods) = (Arc::new(leader.pool.clone()), Event::Pods(Change::All(vec![pod])));
    let mut effects = leader.step([
        Event::Keys("{}".into()),
        Event::Pools(Change::All(vec![pool])),
        pods,
        Event::Leads,
        reports_sessions(&[]),
    ]);
    effects.extend(leader.advance_with_pool_writes(60_000));
    let changes = |effect: &&Effect| matches!(effect, Effect::DeletePod { .. } | Effect::CreatePod { .. });
    assert_eq!(effects.iter().filter(changes).count(), 0, "{effects:?}");
}

#[test]
fn only_the_leader_reports_load() {
    let mut leader = Leader::new();
    leader.pool.status = Some(WorkerPoolStatus::default());
    leader.pool.status.as_mut().unwrap().slots.hot = 2;
    assert_eq!(leader.core.load(leader.now().mono), None);
    let mut leader = leader.leading();
    leader.step([Event::Sessions(Change::Applied(Arc::new(session(9))))]);
    let load = leader.core.load(leader.now().mono).expect("it leads");
    let [(pool, slots)] = load.slots.as_slice() else { panic!("not one pool: {load:?}") };
    assert_eq!((pool, slots.hot), (&Key::of(&leader.pool), 2));
    assert_eq!(load.waiting.iter().map(|waiting| waiting.sessions).sum::<usize>(), 1);
    leader.step([Event::Follows]);
    assert_eq!(leader.core.load(leader.now().mono), None);
}
