//! Hostile pods and runners. Each test states what they must not be able to do to other tenants or to the operator.

use super::fleet::{on_pool, session};
use crate::support::installation;
use camofleet_crds::{
    conditions,
    v1alpha1::{BrowserSession, BrowserSessionSpec, Display, Engine, StartTier, WorkerPool, WorkerPoolSpec},
};
use camofleet_operator::core::{
    Change, Coordinator, Effect, Event, Key, Monotonic, Node, Now, ReadFailure, Report,
    runner::pod_build::revision,
    runner::pod_read::{PartialPod, PendingReason, PodPhase, RunnerPod},
};
use camofleet_runner_api::{BrowserCounts, RunnerState, Session, SessionPhase, StartPage};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

const START: i64 = 60_000;

fn at(millis: i64) -> Now {
    let wall = Timestamp::from_second(1_800_000_000).unwrap() + SignedDuration::from_millis(millis);
    Now { monotonic: Monotonic(millis), wall }
}

fn pool(namespace: &str, name: &str, replicas: i32) -> WorkerPool {
    let mut pool = WorkerPool::new(name, WorkerPoolSpec { replicas: Some(replicas), ..WorkerPoolSpec::default() });
    pool.metadata.namespace = Some(namespace.into());
    pool.metadata.uid = Some(format!("{namespace}-{name}"));
    pool.metadata.generation = Some(1);
    pool.metadata.resource_version = Some("1".into());
    pool.metadata.finalizers = Some(vec!["camofleet.dev/drain".into()]);
    pool
}

/// A running pod that the pool controls.
fn pod(pool: &WorkerPool, name: &str, ordinal: u32) -> RunnerPod {
    let key = Key::of(pool);
    RunnerPod {
        uid: format!("uid-{}-{name}", key.namespace),
        key: Key { namespace: key.namespace.clone(), name: name.into() },
        pool: (key, pool.metadata.uid.clone().unwrap()),
        ordinal,
        revision: revision(pool, &installation()),
        slots: 1,
        keys: "{}".into(),
        node: None,
        address: Some([10, 0, 0, 1].into()),
        version: 2,
        created: at(0).wall,
        deletion_deadline: None,
        phase: PodPhase::Running,
    }
}

fn state(sessions: Vec<Session>, generation: u64) -> RunnerState {
    let free = u32::from(sessions.is_empty());
    RunnerState {
        boot_id: "boot".into(),
        generation,
        engine: Some(Engine::Firefox),
        slots: 1,
        free,
        hot: BrowserCounts { headless: free, headful: 0 },
        warm: true,
        sessions,
        ..RunnerState::default()
    }
}

fn listed(uid: String, name: &str) -> Session {
    Session {
        uid,
        namespace: "ns".into(),
        name: name.into(),
        phase: SessionPhase::Ready,
        display: Display::Headless,
        tier: StartTier::Hot,
        start_page: StartPage::None,
        clients: 0,
        end: None,
    }
}

fn reports(pod: &RunnerPod, state: RunnerState) -> Event {
    Event::RunnerReported { pod: pod.uid.clone(), report: Report::new(state, pod.slots).unwrap() }
}

/// The answer to an uncached read of session `ns/name`.
fn session_read(name: &str, session: String, answer: Result<Option<Arc<BrowserSession>>, ReadFailure>) -> Event {
    Event::SessionRead { key: Key { namespace: "ns".into(), name: name.into() }, session, answer }
}

fn waiting_session(namespace: &str, name: &str, pool: &str) -> BrowserSession {
    session(namespace, name, 60, on_pool(namespace, pool))
}

fn session_created(session: BrowserSession) -> Event {
    Event::Sessions(Change::Applied(Arc::new(session)))
}

/// A core that leads from [`START`] on, with these pools and pods.
fn leader(pools: &[WorkerPool], pods: &[RunnerPod], cpus: usize) -> (Coordinator, Vec<Effect>) {
    let mut core = Coordinator::new(installation());
    let node = Node { name: "node".into(), ready: true, cordoned: false, cpus };
    let events = [
        Event::Keys("{}".into()),
        Event::Nodes(Change::Listed(vec![node])),
        Event::Pools(Change::Listed(pools.iter().cloned().map(Arc::new).collect())),
        Event::Pods(Change::Listed(pods.to_vec())),
        Event::Sessions(Change::Listed(Vec::new())),
        Event::BecameLeader,
    ];
    let effects = core.step(events, at(START));
    (core, effects)
}

/// Steps the core at each of its timers until the given time.
fn advance(core: &mut Coordinator, until: i64) -> Vec<Effect> {
    let mut effects = Vec::new();
    while let Some(Monotonic(due)) = core.next_timer().filter(|due| due.0 <= until) {
        effects.extend(core.step([], at(due)));
    }
    effects.extend(core.step([], at(until)));
    effects
}

fn bound_sessions(effects: &[Effect]) -> Vec<&str> {
    let bound = effects.iter().filter_map(|effect| match effect {
        Effect::Bind { session, .. } => Some(session.as_str()),
        _ => None,
    });
    bound.collect()
}

/// Namespaces of the created pods.
fn created_namespaces(effects: &[Effect]) -> Vec<&str> {
    let created = effects.iter().filter_map(|effect| match effect {
        Effect::CreatePod { pool, .. } => Some(pool.namespace.as_str()),
        _ => None,
    });
    created.collect()
}

fn deleted_pods(effects: &[Effect]) -> Vec<&str> {
    let deleted = effects.iter().filter_map(|effect| match effect {
        Effect::DeletePod { pod, .. } => Some(pod.as_str()),
        _ => None,
    });
    deleted.collect()
}

fn pod_owned_by(owner: serde_json::Value) -> PartialPod {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "ns", "name": "p", "uid": "u", "ownerReferences": [owner],
            "labels": { "camofleet.dev/ordinal": "0", "camofleet.dev/revision": "r" },
        },
        "spec": { "containers": [{ "name": "runner", "args": ["--slots=3"] }] },
    }))
    .unwrap()
}

#[test]
fn reads_only_pods_controlled_by_a_worker_pool() {
    let owner = |api_version: &str, kind: &str, controller: bool| json!({ "apiVersion": api_version, "kind": kind, "name": "pool", "uid": "1", "controller": controller });
    let read = RunnerPod::read(&pod_owned_by(owner("camofleet.dev/v1alpha1", "WorkerPool", true))).unwrap();
    assert_eq!(read.pool, (Key { namespace: "ns".into(), name: "pool".into() }, "1".into()));
    assert_eq!(read.slots, 3);
    let others = [
        owner("unserved.example/v1", "WorkerPool", true),
        owner("v1", "WorkerPool", true),
        owner("camofleet.dev/v1alpha1", "BrowserSession", true),
        owner("camofleet.dev/v1alpha1", "WorkerPool", false),
    ];
    for owner in others {
        assert!(RunnerPod::read(&pod_owned_by(owner.clone())).is_none(), "{owner}");
    }
}

#[test]
fn streams_only_runners_of_known_pools() {
    let (good, absent) = (pool("ns", "good", 1), pool("ns", "absent", 1));
    let former = WorkerPool { metadata: pool("ns", "good", 1).metadata, ..good.clone() };
    let mut of_former = pod(&former, "of-former", 0);
    of_former.pool.1 = "another-uid".into();
    // A pod in another namespace that copies the UID of a pool, which every user who can list pools can read.
    let mut elsewhere = pod(&pool("evil", "good", 1), "elsewhere", 0);
    elsewhere.pool.1 = good.metadata.uid.clone().unwrap();
    let claims = [pod(&absent, "of-absent", 0), of_former, elsewhere];
    let own = pod(&good, "own", 0);
    let pods = [&claims[..], std::slice::from_ref(&own)].concat();
    let (mut core, effects) = leader(std::slice::from_ref(&good), &pods, 4);
    let streamed: Vec<_> = effects.iter().filter(|effect| matches!(effect, Effect::StreamReports { .. })).collect();
    assert!(matches!(streamed[..], [Effect::StreamReports { pod, .. }] if *pod == own.uid), "{streamed:?}");

    // The claimants report sessions, which would make the pool's own runner surplus, and they offer slots.
    let mut effects = core.step([reports(&own, state(Vec::new(), 1))], at(START + 1));
    for claim in &claims {
        effects.extend(core.step([reports(claim, state(vec![listed("x-1".into(), "x")], 1))], at(START + 2)));
    }
    effects.extend(core.step(
        [
            session_created(waiting_session("ns", "first", "good")),
            session_created(waiting_session("ns", "second", "good")),
        ],
        at(START + 3),
    ));
    effects.extend(advance(&mut core, START + 20_000));
    assert_eq!(deleted_pods(&effects), Vec::<&str>::new());
    assert_eq!(bound_sessions(&effects), ["first"], "one runner, one slot");

    // A pod is adopted when its pool arrives later.
    let effects = core.step([Event::Pools(Change::Applied(Arc::new(absent)))], at(START + 30_000));
    let adopted = |effect: &Effect| matches!(effect, Effect::StreamReports { pod, .. } if *pod == claims[0].uid);
    assert!(effects.iter().any(adopted), "{effects:?}");
}

#[test]
fn claimants_use_no_launch_budget() {
    let claims: Vec<_> = (0..8)
        .map(|ordinal| RunnerPod {
            phase: PodPhase::Pending(None),
            ..pod(&pool("evil", "absent", 1), &format!("p{ordinal}"), ordinal)
        })
        .collect();
    let (_, effects) = leader(&[pool("ns", "good", 1)], &claims, 2);
    assert_eq!(created_namespaces(&effects), ["ns"]);
}

/// Runs the core with an API server whose new pods get the phase that `phase` returns for their namespace. Returns the
/// second of the first create in each namespace.
fn first_launches(
    pools: &[WorkerPool],
    cpus: usize,
    seconds: i64,
    phase: impl Fn(&str) -> PodPhase,
) -> BTreeMap<String, i64> {
    let (mut core, mut effects) = leader(pools, &[], cpus);
    let (mut now, mut first) = (START, BTreeMap::new());
    while now < START + seconds * 1000 {
        let mut events = Vec::new();
        for effect in std::mem::take(&mut effects) {
            if let Effect::CreatePod { pool: key, pod: made } = effect {
                let of = pools.iter().find(|pool| Key::of(*pool) == key).unwrap();
                let (name, labels) = (made.metadata.name.unwrap(), made.metadata.labels.unwrap());
                first.entry(key.namespace.clone()).or_insert((now - START) / 1000);
                let ordinal = labels["camofleet.dev/ordinal"].parse().unwrap();
                let phase = phase(&key.namespace);
                let address = (phase == PodPhase::Running).then(|| [10, 0, 0, 1].into());
                let made = RunnerPod { created: at(now).wall, phase, address, ..pod(of, &name, ordinal) };
                events.push(Event::PodCreated { pool: key, name, answer: Ok(()) });
                events.push(Event::Pods(Change::Applied(made.clone())));
                if made.key.namespace != "evil" {
                    events.push(reports(&made, state(Vec::new(), 1)));
                }
            }
        }
        now += 1000;
        effects = core.step(events, at(now));
    }
    first
}

#[test]
fn pending_pods_do_not_delay_another_pool() {
    let pools = [pool("evil", "p", 8), pool("good", "p", 1)];
    let fates = [
        PodPhase::Pending(Some(PendingReason::Gated)),
        PodPhase::Pending(Some(PendingReason::Unschedulable("0/3 nodes".into()))),
        PodPhase::Pending(Some(PendingReason::Image("ErrImagePull".into()))),
        // The pod waits for a volume or an init container. The kubelet gives no reason then.
        PodPhase::Pending(None),
    ];
    for stuck in fates {
        let phase = |namespace: &str| if namespace == "evil" { stuck.clone() } else { PodPhase::Running };
        assert_eq!(first_launches(&pools, 2, 30, phase).get("good"), Some(&0), "{stuck:?}");
    }
}

#[test]
fn runners_that_never_become_warm_do_not_delay_another_pool() {
    let evil = pool("evil", "p", 200);
    // The first pool has used all CPUs for a while when the other pool arrives.
    let (mut core, mut effects) = leader(std::slice::from_ref(&evil), &[], 4);
    let (mut now, mut ordinals) = (START, 0);
    for _ in 0..30 {
        let mut events = Vec::new();
        for effect in std::mem::take(&mut effects) {
            if let Effect::CreatePod { pool, pod: made } = effect {
                let name = made.metadata.name.unwrap();
                let made = RunnerPod { created: at(now).wall, ..pod(&evil, &name, ordinals) };
                ordinals += 1;
                events.push(Event::PodCreated { pool, name, answer: Ok(()) });
                events.push(Event::Pods(Change::Applied(made)));
            }
        }
        now += 1000;
        effects = core.step(events, at(now));
    }
    assert_eq!(ordinals, 4, "one launch for each CPU");
    let effects = core.step([Event::Pools(Change::Applied(Arc::new(pool("good", "p", 1))))], at(now));
    assert_eq!(created_namespaces(&effects), ["good"]);
}

/// Returns how many of 200 runners launch on 4 CPUs, `late` milliseconds after three runners of the pool became cold.
/// These list the sessions of `lists`. With `replaced`, they belong to a deleted pool of the same name.
fn launches_beside_cold_runners(late: i64, replaced: bool, lists: impl Fn(u32) -> Vec<Session>) -> usize {
    let mut evil = pool("evil", "p", 3);
    let pods: Vec<_> = (0..3).map(|ordinal| pod(&evil, &format!("cold-{ordinal}"), ordinal)).collect();
    let (mut core, _) = leader(std::slice::from_ref(&evil), &pods, 4);
    for warm in [true, false] {
        let report = |pod: &RunnerPod| {
            let state = state(lists(pod.ordinal), if warm { 1 } else { 2 });
            reports(pod, RunnerState { hot: BrowserCounts::default(), warm, ..state })
        };
        core.step(pods.iter().map(report).collect::<Vec<_>>(), at(START + 100));
    }
    advance(&mut core, START + late);
    if replaced {
        core.step([Event::Pools(Change::Deleted(Arc::new(evil.clone())))], at(START + late));
        evil.metadata.uid = Some("another".into());
    }
    evil.spec.replicas = Some(200);
    (evil.metadata.generation, evil.metadata.resource_version) = (Some(2), Some("2".into()));
    created_namespaces(&core.step([Event::Pools(Change::Applied(Arc::new(evil)))], at(START + late))).len()
}

#[test]
fn a_cold_runner_is_overdue_despite_invented_sessions_or_having_been_warm() {
    let invented = |ordinal| vec![listed(format!("invented-{ordinal}"), "x")];
    assert_eq!(launches_beside_cold_runners(100_000, false, |_| Vec::new()), 4, "a launch may take 120 s");
    assert_eq!(launches_beside_cold_runners(130_000, false, |_| Vec::new()), 1);
    assert_eq!(launches_beside_cold_runners(130_000, false, invented), 1);
}

#[test]
fn overdue_runners_of_a_deleted_pool_do_not_count_against_its_successor() {
    assert_eq!(launches_beside_cold_runners(130_000, true, |_| Vec::new()), 4);
}

/// The API server's answer to the write of a pool's status.
fn answer_pool_patch(effects: &[Effect], millis: i64) -> Event {
    let written = effects.iter().find_map(|effect| match effect {
        Effect::PatchPool { pool, status } => Some((pool.clone(), status.clone())),
        _ => None,
    });
    let (pool, status) = written.expect("the pool's status is written");
    let mut pool = WorkerPool::clone(&pool);
    pool.metadata.resource_version = Some(millis.to_string());
    pool.status = Some(*status);
    Event::PoolPatched { pool: Arc::new(pool.clone()), answer: Ok(Some(Arc::new(pool))) }
}

#[test]
fn publishes_that_a_pool_waits_to_launch() {
    let (mut core, effects) = leader(&[pool("ns", "p", 3)], &[], 1);
    assert_eq!(created_namespaces(&effects).len(), 1);
    core.step([answer_pool_patch(&effects, START)], at(START + 1));
    let effects = advance(&mut core, START + 1500);
    let Event::PoolPatched { answer: Ok(Some(pool)), .. } = answer_pool_patch(&effects, START + 1500) else {
        unreachable!()
    };
    let conditions = &pool.status.as_ref().unwrap().conditions;
    for kind in [conditions::READY, conditions::RECONCILING] {
        let condition = conditions::get(conditions, kind).unwrap();
        assert_eq!(condition.reason, conditions::pool::WAITING_TO_LAUNCH, "{kind}: {}", condition.message);
    }
}

#[test]
fn a_draining_pool_publishes_the_finalizer_removal_command() {
    let mut draining = pool("ns", "p", 1);
    let runner = pod(&draining, "runner", 0);
    draining.metadata.deletion_timestamp = Some(Time(at(START).wall));
    let (mut core, mut effects) = leader(std::slice::from_ref(&draining), std::slice::from_ref(&runner), 4);
    effects.extend(core.step([reports(&runner, state(vec![listed("s".into(), "s")], 1))], at(START + 100)));
    let Event::PoolPatched { answer: Ok(Some(pool)), .. } = answer_pool_patch(&effects, START) else { unreachable!() };
    let condition = conditions::get(&pool.status.as_ref().unwrap().conditions, conditions::READY).unwrap();
    assert_eq!(condition.reason, conditions::pool::DRAINING);
    assert!(condition.message.contains("kubectl patch workerpool p -n ns --type=merge"), "{}", condition.message);
}

#[test]
fn scheduling_starts_after_30_s_despite_an_unreported_runner() {
    let (evil, good) = (pool("evil", "p", 1), pool("good", "p", 1));
    let (unreported, reporting) = (pod(&evil, "unreported", 0), pod(&good, "reporting", 0));
    let (mut core, _) = leader(&[evil, good], &[unreported.clone(), reporting.clone()], 4);
    // The unreported runner neither reports nor becomes unreachable.
    let events = [
        reports(&reporting, state(Vec::new(), 1)),
        session_created(waiting_session("good", "s", "p")),
        session_created(waiting_session("evil", "e", "p")),
    ];
    let mut effects = core.step(events, at(START + 100));
    effects.extend(advance(&mut core, START + 29_900));
    assert_eq!(
        bound_sessions(&effects),
        Vec::<&str>::new(),
        "a former leader may have bound the session to the unreported runner"
    );
    let effects = advance(&mut core, START + 30_000);
    assert_eq!(bound_sessions(&effects), ["s"], "the unreported runner gets no session");
    let effects = advance(&mut core, START + 200_000);
    assert_eq!(deleted_pods(&effects), Vec::<&str>::new());
    assert!(!created_namespaces(&effects).contains(&"evil"), "the unreported runner is not replaced");
    // It gets a session once it has reported.
    let effects = core.step([reports(&unreported, state(Vec::new(), 1))], at(START + 201_000));
    assert_eq!(bound_sessions(&effects), ["e"]);
}

#[test]
fn keeps_a_runner_that_has_not_reported() {
    let mut shrunk = pool("ns", "p", 0);
    shrunk.spec.template.env = Vec::new();
    let mut old = pod(&shrunk, "old", 0);
    old.revision = "former".into();
    let (mut core, mut effects) = leader(&[shrunk], std::slice::from_ref(&old), 4);
    // The runner is unreachable, so scheduling does not wait for it. It may have a session of a former leader.
    effects.extend(core.step([Event::RunnerUnreachable { pod: old.uid.clone() }], at(START + 100)));
    effects.extend(advance(&mut core, START + 200_000));
    assert_eq!(deleted_pods(&effects), Vec::<&str>::new(), "the runner is surplus and outdated, but may be busy");
    let effects = core.step([reports(&old, state(Vec::new(), 1))], at(START + 200_100));
    assert_eq!(deleted_pods(&effects), [old.uid.as_str()]);
}

#[test]
fn ends_a_duplicate_once_the_other_bind_is_published() {
    let (first, second) = (pool("ns", "a", 1), pool("ns", "b", 1));
    let (unreported, reporting) = (pod(&first, "unreported", 0), pod(&second, "reporting", 0));
    let (mut core, _) = leader(&[first, second], &[unreported.clone(), reporting.clone()], 4);
    let waiting = session("ns", "s", 60, BrowserSessionSpec::default());
    let report = reports(&reporting, state(Vec::new(), 1));
    core.step([report, session_created(waiting)], at(START + 100));
    let effects = advance(&mut core, START + 30_000);
    assert_eq!(bound_sessions(&effects), ["s"]);
    let taken = reports(&reporting, state(vec![listed("s".into(), "s")], 2));
    let mut effects = core.step([taken], at(START + 30_100));
    let older = reports(&unreported, state(vec![listed("s".into(), "s")], 1));
    effects.extend(core.step([older.clone()], at(START + 30_200)));
    let ends = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::EndSession { .. })).count();
    assert_eq!(ends(&effects), 0, "a late write of a former leader may still name the older runner");
    let written = effects.iter().find_map(|effect| match effect {
        Effect::PatchSession { session, status, .. } => Some((session.clone(), status.clone())),
        _ => None,
    });
    let (object, status) = written.expect("the session is published");
    let mut published = BrowserSession::clone(&object);
    published.status = Some(*status);
    published.metadata.resource_version = Some("9".into());
    let patched = Event::SessionPatched { session: object, answer: Ok(Arc::new(published)) };
    let effects = core.step([patched], at(START + 30_300));
    let on_older = |effect: &Effect| matches!(effect, Effect::EndSession { pod, .. } if *pod == unreported.uid);
    assert!(effects.iter().any(on_older), "{effects:?}");
}

fn read_sessions(effects: &[Effect]) -> Vec<String> {
    let reads = effects.iter().filter_map(|effect| match effect {
        Effect::ReadSession { session, .. } => Some(session.clone()),
        _ => None,
    });
    reads.collect()
}

#[test]
fn limits_reads_caused_by_invented_sessions() {
    let mut evil = pool("evil", "p", 1);
    evil.spec.slots_per_runner = 32;
    let liar = RunnerPod { slots: 32, ..pod(&evil, "liar", 0) };
    let (mut core, _) = leader(std::slice::from_ref(&evil), std::slice::from_ref(&liar), 4);
    let mut count = 0;
    for number in 0_u32..20 {
        let now = START + i64::from(number) * 3000;
        let invented = (0..60).map(|at| listed(format!("{number}-{at}"), "x")).collect();
        core.step([reports(&liar, RunnerState { slots: 32, ..state(invented, u64::from(number) + 1) })], at(now));
        let effects = advance(&mut core, now + 2900);
        let asked = read_sessions(&effects);
        count += asked.len();
        let answers = asked.into_iter().map(|session| session_read("x", session, Ok(None)));
        core.step(answers.collect::<Vec<_>>(), at(now + 2950));
    }
    // A burst of 16, and one every 5 s.
    assert!((1..=16 + 12).contains(&count), "{count} reads for 1200 invented sessions in a minute");
}

#[test]
fn does_not_repeat_a_rejected_orphan_read_and_forgets_orphans_with_their_runner() {
    let evil = pool("evil", "p", 1);
    let liar = pod(&evil, "liar", 0);
    let (mut core, _) = leader(std::slice::from_ref(&evil), std::slice::from_ref(&liar), 4);
    let lists = |core: &mut Coordinator, generation: u64, now: i64| {
        let invented = (0..3).map(|at| listed(format!("x-{at}"), "x")).collect();
        core.step([reports(&liar, state(invented, generation))], at(now))
    };
    lists(&mut core, 1, START + 100);
    let asked = read_sessions(&advance(&mut core, START + 5_000));
    assert_eq!(asked.len(), 3);
    let [first, second, third] = &asked[..] else { unreachable!() };
    core.step(
        [
            session_read("x", first.clone(), Err(ReadFailure::Rejected)),
            session_read("x", second.clone(), Ok(None)),
            session_read("x", third.clone(), Err(ReadFailure::Transient)),
        ],
        at(START + 5_100),
    );
    lists(&mut core, 2, START + 5_200);
    let again = read_sessions(&advance(&mut core, START + 9_000));
    assert!(!again.is_empty() && again.iter().all(|uid| uid == third), "{again:?}");
    core.step([Event::Pods(Change::Deleted(liar.clone()))], at(START + 9_100));
    assert_eq!(read_sessions(&advance(&mut core, START + 600_000)), Vec::<String>::new());
}

#[test]
fn an_invented_session_name_does_not_delete_the_session() {
    let evil = pool("evil", "p", 1);
    let liar = pod(&evil, "liar", 0);
    let (mut core, _) = leader(std::slice::from_ref(&evil), std::slice::from_ref(&liar), 4);
    core.step([reports(&liar, state(vec![listed("s-1".into(), "invented")], 1))], at(START + 100));
    assert_eq!(read_sessions(&advance(&mut core, START + 3_000)), ["s-1"]);
    // The session arrives while the wrong name is looked up.
    let mut session = waiting_session("ns", "real", "absent");
    session.metadata.uid = Some("s-1".into());
    core.step([session_created(session)], at(START + 3_100));
    core.step([session_read("invented", "s-1".into(), Ok(None))], at(START + 3_200));
    let stats = core.stats(Monotonic(START + 3_300)).unwrap();
    assert_eq!(stats.queues.iter().map(|queue| queue.sessions).sum::<usize>(), 1, "the session was deleted");
}

#[test]
fn clamps_reported_numbers_without_overflow() {
    let evil = pool("evil", "p", 1);
    let liar = pod(&evil, "liar", 0);
    let (mut core, _) = leader(std::slice::from_ref(&evil), std::slice::from_ref(&liar), 4);
    let hot = BrowserCounts { headless: u32::MAX, headful: 1 };
    let boundless = RunnerState { hot, free: u32::MAX, slots: u32::MAX, ..state(Vec::new(), u64::MAX) };
    core.step([reports(&liar, boundless)], at(START + 100));
    let effects = advance(&mut core, START + 5_000);
    let slots = effects.iter().find_map(|effect| match effect {
        Effect::PatchPool { status, .. } => Some(status.slots),
        _ => None,
    });
    let slots = slots.map(|slots| (slots.total, slots.hot));
    assert!(slots.is_none_or(|slots| slots == (1, 1)), "{slots:?}");
}

fn ended_sessions(effects: &[Effect]) -> Vec<String> {
    let ended = effects.iter().filter_map(|effect| match effect {
        Effect::EndSession { session, .. } => Some(session.clone()),
        _ => None,
    });
    ended.collect()
}

const WIDE: u32 = 32;

/// A leader with a runner of 32 slots and as many deleted sessions as the runner can list. Also returns the runner's
/// list.
fn wide_runner_of_deleted_sessions() -> (Coordinator, RunnerPod, Vec<Session>) {
    let mut wide = pool("ns", "p", 1);
    wide.spec.slots_per_runner = i32::try_from(WIDE).unwrap();
    let runner = RunnerPod { slots: WIDE, ..pod(&wide, "wide", 0) };
    let (mut core, _) = leader(&[wide], std::slice::from_ref(&runner), 4);
    let names: Vec<_> = (0..RunnerState::max_sessions(WIDE)).map(|at| format!("s-{at}")).collect();
    let gone = names.iter().map(|name| waiting_session("ns", name, "p"));
    let gone = gone
        .flat_map(|session| [session_created(session.clone()), Event::Sessions(Change::Deleted(Arc::new(session)))]);
    let effects = core.step(gone.collect::<Vec<_>>(), at(START));
    assert_eq!(ended_sessions(&effects), Vec::<String>::new());
    let over = |name: &String| Session { phase: SessionPhase::Ended, ..listed(name.clone(), name) };
    let list = names.iter().map(over).collect();
    (core, runner, list)
}

fn wide_report(runner: &RunnerPod, list: &[Session], generation: u64) -> Event {
    reports(runner, RunnerState { slots: WIDE, ..state(list.to_vec(), generation) })
}

fn end_answers(runner: &RunnerPod, ended: &[String]) -> Vec<Event> {
    let answer = |session: &String| Event::EndAnswered { session: session.clone(), pod: runner.uid.clone() };
    ended.iter().map(answer).collect()
}

#[test]
fn ends_all_deleted_sessions_with_four_calls_in_flight() {
    let (mut core, runner, list) = wide_runner_of_deleted_sessions();
    let mut all = Vec::new();
    let mut in_flight = ended_sessions(&core.step([wide_report(&runner, &list, 1)], at(START + 100)));
    while !in_flight.is_empty() {
        assert!(in_flight.len() <= 4, "{in_flight:?} in flight");
        all.extend(in_flight.clone());
        // The runner sends no report in the meantime.
        in_flight = ended_sessions(&core.step(end_answers(&runner, &in_flight), at(START + 100)));
    }
    let listed: Vec<_> = list.iter().map(|session| session.uid.clone()).collect();
    assert_eq!(all, listed);
}

#[test]
fn backs_off_while_a_runner_keeps_listing_ended_sessions() {
    let (mut core, runner, list) = wide_runner_of_deleted_sessions();
    let (mut in_flight, mut minutes) = (Vec::new(), Vec::new());
    for minute in 0..3_i64 {
        let mut calls = 0;
        for millis in 0..60_000_i64 {
            let now = at(START + 100 + minute * 60_000 + millis);
            let mut events = end_answers(&runner, &in_flight);
            // More reports than the I/O layer accepts.
            if millis % 10 == 0 {
                let number = minute * 6000 + millis / 10;
                events.push(wide_report(&runner, &list, u64::try_from(number).unwrap() + 1));
            }
            in_flight = ended_sessions(&core.step(events, now));
            calls += in_flight.len();
            assert!(in_flight.len() <= 4);
        }
        minutes.push(calls / list.len());
    }
    // Calls start at 0, 1, 3, 7, 15 and 31 s, and then every 30 s.
    assert_eq!(minutes, [6, 2, 2]);
}

#[test]
fn repeats_a_lost_end_call_without_a_new_report() {
    let (mut core, runner, list) = wide_runner_of_deleted_sessions();
    let effects = core.step([wide_report(&runner, &list[..1], 1)], at(START + 100));
    assert_eq!(ended_sessions(&effects), ["s-0"]);
    let mut effects = core.step(end_answers(&runner, &ended_sessions(&effects)), at(START + 200));
    effects.extend(advance(&mut core, START + 1_199));
    assert_eq!(ended_sessions(&effects), Vec::<String>::new());
    assert_eq!(ended_sessions(&advance(&mut core, START + 1_200)), ["s-0"]);
    // The call is not repeated once the runner is gone.
    core.step([Event::Pods(Change::Deleted(runner.clone()))], at(START + 1_300));
    assert_eq!(ended_sessions(&advance(&mut core, START + 100_000)), Vec::<String>::new());
}
