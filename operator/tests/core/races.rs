//! Races between the core, the API server and one runner of one pool.

use crate::support::installation;
use camofleet_crds::{
    conditions,
    v1alpha1::{
        BrowserSession, BrowserSessionSpec, BrowserSessionStatus, Display, Engine, SessionState, StartTier, WorkerPool,
        WorkerPoolSpec, WorkerPoolStatus,
    },
};
use camofleet_operator::core::{
    Change, Coordinator, Effect, Event, Key, Monotonic, Now, Report, WriteFailure,
    runner::pod_build::revision,
    runner::pod_read::{PodPhase, RunnerPod},
};
use camofleet_runner_api::{BindResponse, BrowserCounts, RunnerState, Session, SessionPhase, StartPage};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use std::sync::Arc;

const NAMESPACE: &str = "ns";
const POD: &str = "pod-1";

/// A leader with one pool and one runner of two slots.
struct Leader {
    core: Coordinator,
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
        Self { core: Coordinator::new(installation()), millis: 1_000_000, pool }
    }

    fn leading(mut self) -> Self {
        let (pool, pod) = (Arc::new(self.pool.clone()), self.pod());
        self.step([
            Event::Keys("{}".into()),
            Event::Pools(Change::Listed(vec![pool])),
            Event::Pods(Change::Listed(vec![pod])),
            Event::BecameLeader,
        ]);
        self
    }

    fn step(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Effect> {
        let now = self.now();
        self.core.step(events, now)
    }

    /// Advances the time, steps the core at each of its timers, and returns the effects.
    fn advance(&mut self, millis: i64) -> Vec<Effect> {
        let end = self.millis + millis;
        let mut effects = Vec::new();
        while let Some(Monotonic(at)) = self.core.next_timer().filter(|at| at.0 <= end) {
            self.millis = self.millis.max(at);
            effects.extend(self.step([]));
        }
        self.millis = end;
        effects
    }

    /// Answers the writes of the pool's status, also those that follow from the answers. Returns all effects.
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
        Now { monotonic: Monotonic(self.millis), wall: start() + SignedDuration::from_millis(self.millis) }
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
            deletion_deadline: None,
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

/// A report of the runner with these sessions, all Ready.
fn reports_sessions(sessions: &[&str]) -> Event {
    reported(state_with(sessions))
}

fn reported(state: RunnerState) -> Event {
    Event::RunnerReported { pod: POD.into(), report: Report::new(state, 2).unwrap() }
}

fn state_with(sessions: &[&str]) -> RunnerState {
    let used = u32::try_from(sessions.len()).unwrap();
    let sessions = sessions.iter().map(|uid| Session {
        uid: (*uid).into(),
        namespace: NAMESPACE.into(),
        name: "s".into(),
        phase: SessionPhase::Ready,
        display: Display::Headless,
        tier: StartTier::Hot,
        start_page: StartPage::None,
        clients: 0,
        end: None,
    });
    RunnerState {
        boot_id: "boot".into(),
        generation: 1 + u64::from(used),
        engine: Some(Engine::Firefox),
        browser_version: Some("153".into()),
        playwright_version: "1.62".into(),
        draining: false,
        slots: 2,
        free: 2 - used,
        spent: false,
        hot: BrowserCounts { headless: 2 - used, headful: 0 },
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
    assert!(
        asked.iter().any(|effect| matches!(effect, Effect::ReadSession { .. })),
        "the orphan is not looked up: {asked:?}"
    );
    let found = Arc::new(session(9));
    let read =
        Event::SessionRead { key: Key::of(found.as_ref()), session: "s-1".into(), answer: Ok(Some(found.clone())) };
    // The list is older than the object.
    let effects = leader.step([read, Event::Sessions(Change::Listed(Vec::new()))]);
    assert!(
        !effects.iter().any(|effect| matches!(effect, Effect::EndSession { .. })),
        "the session was ended: {effects:?}"
    );
    let effects = leader.step([Event::Sessions(Change::Applied(found))]);
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Bind { .. })),
        "the session was not adopted: {effects:?}"
    );
}

fn is_patch(effect: &Effect) -> bool {
    matches!(effect, Effect::PatchSession { .. })
}

/// The runner's answer that it took the session.
fn bind_answered() -> Event {
    let state = state_with(&["s-1"]);
    let answer = BindResponse {
        boot_id: state.boot_id.clone(),
        generation: state.generation,
        engine: Engine::Firefox,
        browser_version: state.browser_version.clone(),
        playwright_version: state.playwright_version.clone(),
        session: state.sessions[0].clone(),
    };
    Event::BindAnswered { session: "s-1".into(), pod: POD.into(), answer: Ok(answer) }
}

/// A later report of the runner without the session.
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
    assert!(queued.iter().any(is_patch), "`Queued` is not published: {queued:?}");
    assert!(leader.step([reports_sessions(&[])]).iter().any(is_bind), "the session is not bound");
    // Only `Queued` may be published so far.
    let answered = leader.step([bind_answered()]);
    assert!(!answered.iter().any(is_patch), "two writes at once: {answered:?}");
    let lost = leader.step([reports_no_session()]);
    assert!(!lost.iter().any(is_bind), "the session is bound to the runner that lost it: {lost:?}");
    assert!(leader.step([reports_no_session()]).iter().any(is_bind), "the session is not bound again");
}

#[test]
fn finishes_a_session_lost_while_it_is_being_published() {
    let mut leader = Leader::new().leading();
    let new = Event::Sessions(Change::Applied(Arc::new(session(9))));
    assert!(leader.step([reports_sessions(&[]), new]).iter().any(is_bind), "the session is not bound");
    let effects = leader.step([bind_answered()]);
    let Some(Effect::PatchSession { session, .. }) = effects.iter().find(|effect| is_patch(effect)) else {
        panic!("the session is not published: {effects:?}")
    };
    let lost = leader.step([reports_no_session()]);
    assert!(!lost.iter().any(is_bind), "a session that may be published is bound again: {lost:?}");
    let failed = WriteFailure::Transient("no answer".into());
    leader.step([Event::SessionPatched { session: session.clone(), answer: Err(failed) }]);
    let effects = leader.advance(1_000);
    let Some(Effect::PatchSession { status, .. }) = effects.iter().find(|effect| is_patch(effect)) else {
        panic!("the end is not published: {effects:?}")
    };
    let finished = conditions::get(&status.conditions, conditions::FINISHED).expect("the session is finished");
    assert_eq!(finished.reason, conditions::session::RUNNER_LOST);
}

#[test]
fn publishes_a_session_bound_by_a_former_leader_once() {
    let mut leader = Leader::new().leading();
    let effects = leader.step([reports_sessions(&["s-1"]), Event::Sessions(Change::Applied(Arc::new(session(9))))]);
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Bind { .. })),
        "the session was not adopted: {effects:?}"
    );
    assert!(!effects.iter().any(is_patch), "published before the runner has the timeouts: {effects:?}");
    let effects = leader.step([bind_answered()]);
    let Some(Effect::PatchSession { session, status, .. }) = effects.iter().find(|effect| is_patch(effect)) else {
        panic!("the session is not published: {effects:?}")
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

    // The next leader writes nothing.
    let mut next = Leader::new();
    next.millis = leader.millis;
    let mut next = next.leading();
    let mut effects = next.step([Event::Sessions(Change::Listed(vec![published]))]);
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
    assert!(effects.iter().any(is_delete), "the pod is not deleted: {effects:?}");
    let conflict = Event::PodDeleted { pod: POD.into(), answer: Err(WriteFailure::Conflict) };
    let effects = leader.step([conflict]);
    assert!(
        !effects.iter().any(|effect| matches!(effect, Effect::StopStreaming { .. })),
        "the stream of the runner was stopped: {effects:?}"
    );
    let effects = leader.advance(1_000);
    assert!(effects.iter().any(is_delete), "the deletion is not repeated: {effects:?}");
}

#[test]
fn retries_a_session_deletion_after_a_conflict() {
    let mut leader = Leader::new().leading();
    let mut over = session(9);
    over.spec.ttl_seconds_after_finished = 0;
    over.status = Some(BrowserSessionStatus { state: SessionState::Finished, ..BrowserSessionStatus::default() });
    let is_delete = |effect: &Effect| matches!(effect, Effect::DeleteSession { .. });
    let effects = leader.step([Event::Sessions(Change::Applied(Arc::new(over)))]);
    assert!(effects.iter().any(is_delete), "the session is not deleted: {effects:?}");
    leader.step([Event::SessionDeleted { session: "s-1".into(), answer: Err(WriteFailure::Conflict) }]);
    let effects = leader.advance(1_000);
    assert!(effects.iter().any(is_delete), "the deletion is not repeated: {effects:?}");
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
    let (pool, first) = (Arc::new(leader.pool.clone()), Event::Pods(Change::Listed(vec![pod])));
    let effects =
        leader.step([Event::Keys("{}".into()), Event::Pools(Change::Listed(vec![pool])), first, Event::BecameLeader]);
    let (pool, status) = published_pool(&effects).expect("the status is written");
    leader.step([with_status(&pool, status, "3")]);
    // The second runner is created once the first one is warm. The status with the first one follows the last write
    // after 1 s.
    let effects = leader.step([reports_sessions(&[])]);
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::CreatePod { .. })),
        "no runner is created: {effects:?}"
    );
    assert!(published_pool(&effects).is_none(), "the status was written less than 1 s ago");
    assert!(published_pool(&leader.advance(2_000)).is_some(), "the status waits for the answer to the create");
}

fn protects(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::ApplyDisruptionBudget { .. }))
}

#[test]
fn retries_a_disruption_budget_and_publishes_a_foreign_one() {
    let mut leader = Leader::new();
    let (pool, pod) = (Arc::new(leader.pool.clone()), leader.pod());
    let effects = leader.step([
        Event::Keys("{}".into()),
        Event::Pools(Change::Listed(vec![pool])),
        Event::Pods(Change::Listed(vec![pod])),
        Event::BecameLeader,
        reports_sessions(&[]),
    ]);
    let mut effects = leader.answer_pool_writes(effects);
    let protected =
        |leader: &Leader, answer| Event::DisruptionBudgetApplied { pool: Arc::new(leader.pool.clone()), answer };
    for attempt in 1..=8 {
        assert!(protects(&effects), "the budget was not written again after {} attempts: {effects:?}", attempt - 1);
        let rejected = protected(&leader, Err(WriteFailure::Rejected("the budget has another owner".into())));
        let answered = leader.step([rejected]);
        effects = leader.answer_pool_writes(answered);
        effects.extend(leader.advance_with_pool_writes(60_000));
    }
    let stalled = |leader: &Leader| {
        let conditions = &leader.pool.status.as_ref().expect("the status was published").conditions;
        conditions::get(conditions, conditions::STALLED).expect("the condition was published").clone()
    };
    let condition = stalled(&leader);
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", conditions::pool::BUDGET_TAKEN));
    assert_eq!(condition.message, "the budget has another owner");

    let done = protected(&leader, Ok(()));
    let answered = leader.step([done]);
    leader.answer_pool_writes(answered);
    assert!(!protects(&leader.advance_with_pool_writes(500_000)), "the budget was written again too early");
    assert_eq!(stalled(&leader).status, "False");
    assert!(protects(&leader.advance_with_pool_writes(200_000)), "the budget is not refreshed");
}

/// Deletes the pool and creates another one with its name.
fn recreate_pool(leader: &mut Leader) -> Vec<Effect> {
    let former = Arc::new(leader.pool.clone());
    leader.pool.metadata.uid = Some("pool-2".into());
    leader.pool.metadata.resource_version = Some("7".into());
    let pool = Arc::new(leader.pool.clone());
    leader.step([Event::Pools(Change::Deleted(former)), Event::Pools(Change::Applied(pool))])
}

#[test]
fn ignores_answers_about_a_deleted_pool_of_the_same_name() {
    let mut leader = Leader::new();
    let (pool, pod) = (Arc::new(leader.pool.clone()), leader.pod());
    let (pools, pods) = (Event::Pools(Change::Listed(vec![pool])), Event::Pods(Change::Listed(vec![pod])));
    let effects = leader.step([Event::Keys("{}".into()), pools, pods, Event::BecameLeader, reports_sessions(&[])]);
    let (former, status) = published_pool(&effects).expect("the status is written");
    assert!(protects(&effects));
    let effects = recreate_pool(&mut leader);
    let (new, new_status) = published_pool(&effects).expect("the new pool's status is written");
    assert_eq!((new.metadata.uid.as_deref(), protects(&effects)), (Some("pool-2"), true));

    let late = Event::DisruptionBudgetApplied { pool: former.clone(), answer: Ok(()) };
    let effects = leader.step([with_status(&former, status, "5"), late]);
    let observed = effects.iter().find(|effect| matches!(effect, Effect::Observe(_)));
    assert!(
        observed.is_none() && published_pool(&effects).is_none(),
        "the answer counted for the new pool: {effects:?}"
    );
    // Answers about the new pool count.
    let lost = || Err(WriteFailure::Transient("no answer".into()));
    let effects = leader.step([
        with_status(&new, new_status, "8"),
        Event::DisruptionBudgetApplied { pool: new.clone(), answer: lost() },
    ]);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Observe(_))), "{effects:?}");
    assert!(
        protects(&leader.advance_with_pool_writes(2_000)),
        "the budget of the deleted pool counted for the new one"
    );
}

#[test]
fn keeps_runners_when_the_template_becomes_too_large() {
    let mut leader = Leader::new();
    let pod = leader.pod();
    leader.pool.spec.template.oversized_bytes = Some(1_400_000);
    let (pool, pods) = (Arc::new(leader.pool.clone()), Event::Pods(Change::Listed(vec![pod])));
    let mut effects = leader.step([
        Event::Keys("{}".into()),
        Event::Pools(Change::Listed(vec![pool])),
        pods,
        Event::BecameLeader,
        reports_sessions(&[]),
    ]);
    effects.extend(leader.advance_with_pool_writes(60_000));
    let changes = |effect: &&Effect| matches!(effect, Effect::DeletePod { .. } | Effect::CreatePod { .. });
    assert_eq!(effects.iter().filter(changes).count(), 0, "{effects:?}");
}

#[test]
fn only_the_leader_exports_stats() {
    let mut leader = Leader::new();
    leader.pool.status = Some(WorkerPoolStatus::default());
    leader.pool.status.as_mut().unwrap().slots.hot = 2;
    assert_eq!(leader.core.stats(leader.now().monotonic), None);
    let mut leader = leader.leading();
    leader.step([Event::Sessions(Change::Applied(Arc::new(session(9))))]);
    let stats = leader.core.stats(leader.now().monotonic).expect("the core leads");
    let [(pool, slots)] = stats.slots.as_slice() else { panic!("expected one pool: {stats:?}") };
    assert_eq!((pool, slots.hot), (&Key::of(&leader.pool), 2));
    assert_eq!(stats.queues.iter().map(|queue| queue.sessions).sum::<usize>(), 1);
    leader.step([Event::LostLeadership]);
    assert_eq!(leader.core.stats(leader.now().monotonic), None);
}
