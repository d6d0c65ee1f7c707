//! Sharing pools among namespaces and tenants: access, limits and order.

use super::fleet::{Fleet, on_pool, session};
use camofleet_crds::{
    conditions::session as reasons,
    v1alpha1::{
        AllowedNamespaces, BrowserSession, BrowserSessionSpec, Limits, NamespacesFrom, SessionState, WorkerPoolSpec,
    },
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

fn allowing(from: NamespacesFrom, labels: &[(&str, &str)]) -> WorkerPoolSpec {
    let match_labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let selector = (from == NamespacesFrom::Selector)
        .then_some(LabelSelector { match_labels: Some(match_labels), match_expressions: None });
    WorkerPoolSpec { allowed_namespaces: AllowedNamespaces { from, selector }, ..WorkerPoolSpec::default() }
}

fn limited(limits: Limits) -> WorkerPoolSpec {
    WorkerPoolSpec { limits, ..allowing(NamespacesFrom::All, &[]) }
}

fn sessions(namespace: &str, count: usize, spec: &BrowserSessionSpec) -> Vec<BrowserSession> {
    (0..count).map(|i| session(namespace, &format!("{namespace}{i}"), 1, spec.clone())).collect()
}

#[test]
fn applies_allowed_namespaces_at_once() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "same", 1, WorkerPoolSpec::default());
    fleet.pool("own", "all", 1, allowing(NamespacesFrom::All, &[]));
    fleet.pool("own", "some", 2, allowing(NamespacesFrom::Selector, &[("team", "a")]));
    fleet.create([
        session("other", "same", 1, on_pool("own", "same")),
        session("other", "all", 1, on_pool("own", "all")),
        session("other", "some", 1, on_pool("own", "some")),
        session("own", "owner", 1, on_pool("own", "some")),
    ]);
    assert_eq!(fleet.pod_of("all"), Some("own/all/0"));
    assert!(
        fleet.pod_of("owner").is_some_and(|pod| pod.starts_with("own/some/")),
        "the pool's own namespace is always allowed"
    );
    assert_eq!((fleet.pod_of("same"), fleet.pod_of("some")), (None, None));
    fleet.advance(1_000);
    let (reason, message) = fleet.ready_reason("some");
    assert_eq!(reason, reasons::NOT_ALLOWED);
    assert!(message.contains("WorkerPool some in namespace own") && message.contains("namespace other"), "{message}");

    fleet.label("other", &[("team", "a")]);
    assert!(fleet.pod_of("some").is_some(), "a new label applies at once");
    let status = fleet.status("some");
    assert_eq!((status.pool.as_deref(), status.pool_namespace.as_deref()), (Some("some"), Some("own")));
    assert_eq!(fleet.status("owner").pool_namespace, None);

    fleet.label("other", &[]);
    assert_eq!(fleet.status("some").state, SessionState::Ready, "a bound session keeps its slot");
    fleet.delete("owner");
    fleet.create([session("other", "later", 2, on_pool("own", "some"))]);
    assert_eq!(fleet.pod_of("later"), None);
    fleet.edit("own", "some", |spec| spec.allowed_namespaces = allowing(NamespacesFrom::All, &[]).allowed_namespaces);
    assert!(fleet.pod_of("later").is_some(), "a change of the pool applies at once");
}

#[test]
fn a_session_without_a_pool_gets_the_best_one() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "small", 1, WorkerPoolSpec::default());
    fleet.pool("release", "large", 3, allowing(NamespacesFrom::All, &[]));
    fleet.pool("release", "private", 9, WorkerPoolSpec::default());
    let any = BrowserSessionSpec::default();
    fleet.create(sessions("own", 5, &any));
    let pods: Vec<_> = fleet.bound.iter().map(|(_, pod)| pod.rsplit_once('/').unwrap().0).collect();
    // Most free slots first, then the first name. The pool without access is not used.
    assert_eq!(pods, ["release/large", "release/large", "own/small", "release/large"]);
    assert_eq!(fleet.queued(), 1);
}

/// Otherwise the owner of a pool that allows all namespaces could attract all sessions.
#[test]
fn a_session_without_a_pool_uses_only_its_own_and_the_operator_namespace() {
    let mut fleet = Fleet::new();
    fleet.pool("foreign", "pool", 3, allowing(NamespacesFrom::All, &[]));
    fleet.create(sessions("own", 2, &BrowserSessionSpec::default()));
    fleet.advance(1_000);
    assert_eq!((fleet.bind_order(), fleet.ready_reason("own0").0.as_str()), (Vec::new(), reasons::NO_MATCHING_POOL));
    fleet.pool("release", "pool", 1, allowing(NamespacesFrom::All, &[]));
    assert_eq!(fleet.pod_of("own0"), Some("release/pool/0"));
    assert_eq!(fleet.pod_of("own1"), None);
}

/// A runner can list any session. This one was never assigned to it.
#[test]
fn a_runner_cannot_claim_a_session_of_another_pool() {
    let mut fleet = Fleet::new();
    fleet.pool("foreign", "pool", 1, allowing(NamespacesFrom::All, &[]));
    fleet.pool("own", "pool", 1, WorkerPoolSpec::default());
    fleet.create(sessions("own", 2, &on_pool("own", "pool")));
    assert_eq!(fleet.bind_order(), ["own0"]);
    fleet.report_session("foreign/pool/0", "own1");
    fleet.advance(1_000);
    assert_eq!(fleet.status("own1").state, SessionState::Queued);
    fleet.delete("own0");
    assert_eq!(fleet.pod_of("own1"), Some("own/pool/0"));
}

#[test]
fn a_hot_start_publishes_one_event() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 1, WorkerPoolSpec::default());
    fleet.create(sessions("own", 1, &on_pool("own", "pool")));
    assert_eq!(fleet.events, [("own0".to_owned(), "Ready".to_owned())]);
}

/// Otherwise these writes would delay the write of a session that gets a slot in the meantime.
#[test]
fn limits_concurrent_queued_writes() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 1, WorkerPoolSpec::default());
    fleet.create(sessions("own", 60, &on_pool("own", "pool")));
    fleet.advance(1_000);
    let queued = fleet.sessions.keys().filter(|uid| fleet.status(uid).state == SessionState::Queued).count();
    assert_eq!((queued, fleet.most_queued_writes), (59, 8));
}

/// A session that names no pool takes no slot of a pool where another session has a better rank.
#[test]
fn fair_shares_are_computed_per_pool() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "y", 3, allowing(NamespacesFrom::All, &[]));
    fleet.create([session("own", "y0", 1, on_pool("own", "y")), session("own", "y1", 1, on_pool("own", "y"))]);
    fleet.pool("own", "x", 1, WorkerPoolSpec::default());
    fleet.make_cold("own", "x");
    let unnamed = session("own", "unnamed", 2, BrowserSessionSpec::default());
    fleet.create([unnamed, session("other", "named", 3, on_pool("own", "y"))]);
    assert_eq!(
        fleet.pod_of("unnamed"),
        Some("own/x/0"),
        "the hot browser of pool y is for the other tenant, which has no session there"
    );
    assert!(fleet.pod_of("named").is_some_and(|pod| pod.starts_with("own/y/")));
}

#[test]
fn a_flooding_tenant_does_not_delay_others() {
    let mut fleet = Fleet::new();
    let weights = [("heavy".to_owned(), 2)].into();
    fleet.pool("own", "pool", 4, limited(Limits { tenant_weights: weights, ..Limits::default() }));
    fleet.create(sessions("flood", 40, &on_pool("own", "pool")));
    assert_eq!(fleet.bind_order(), ["flood0", "flood1", "flood10", "flood11"], "in order of creation and of UIDs");
    fleet.create(sessions("heavy", 4, &on_pool("own", "pool")));
    fleet.create(sessions("light", 4, &on_pool("own", "pool")));
    for uid in ["flood0", "flood1", "flood10"] {
        fleet.delete(uid);
    }
    assert_eq!(fleet.bind_order()[4..], ["heavy0", "heavy1", "light0"]);
}

#[test]
fn serves_higher_priority_first_and_rejects_priority_above_the_limit() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 1, limited(Limits { max_priority: 5, ..Limits::default() }));
    let with = |priority| BrowserSessionSpec { priority, ..on_pool("own", "pool") };
    fleet.create([session("own", "first", 1, with(0))]);
    fleet.create([
        session("own", "low", 1, with(0)),
        session("own", "high", 2, with(5)),
        session("own", "over", 2, with(6)),
    ]);
    fleet.delete("first");
    assert_eq!(fleet.bind_order(), ["first", "high"]);
    assert_eq!(fleet.status("over").state, SessionState::Finished);
    assert_eq!(fleet.ready_reason("over").0, reasons::PRIORITY_TOO_HIGH);
    assert!(
        fleet.ready_reason("over").1.contains("`limits.maxPriority` of WorkerPool pool"),
        "{:?}",
        fleet.ready_reason("over")
    );
}

/// `kubectl wait` ignores conditions of an older generation.
#[test]
fn updates_the_observed_generation_of_a_finished_session() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 1, limited(Limits::default()));
    fleet.create([session("own", "over", 1, BrowserSessionSpec { priority: 1, ..on_pool("own", "pool") })]);
    let before = fleet.status("over");
    fleet.edit_session("over", |spec| spec.idle_timeout_seconds = Some(60));
    let after = fleet.status("over");
    assert_eq!((before.observed_generation, after.observed_generation), (Some(1), Some(2)));
    assert!(after.conditions.iter().all(|condition| condition.observed_generation == Some(2)));
    assert_eq!((after.state, after.finished_time), (SessionState::Finished, before.finished_time));
}

#[test]
fn a_tenant_limit_holds_back_only_that_tenant() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 4, limited(Limits { max_sessions_per_tenant: Some(2), ..Limits::default() }));
    fleet.create(sessions("a", 4, &on_pool("own", "pool")));
    assert_eq!(fleet.bind_order(), ["a0", "a1"]);
    fleet.create(sessions("b", 1, &on_pool("own", "pool")));
    assert_eq!(fleet.bind_order(), ["a0", "a1", "b0"]);
    fleet.advance(1_000);
    assert_eq!(fleet.ready_reason("a2").0, reasons::TENANT_LIMIT_REACHED);
    fleet.delete("a0");
    assert_eq!(fleet.bind_order(), ["a0", "a1", "b0", "a2"]);
}

#[test]
fn enforces_max_sessions_and_max_queued() {
    let mut fleet = Fleet::new();
    let limits = Limits { max_sessions: Some(2), max_queued: Some(3), ..Limits::default() };
    fleet.pool("own", "pool", 4, limited(limits));
    fleet.create(sessions("a", 4, &on_pool("own", "pool")));
    assert_eq!((fleet.bound.len(), fleet.queued()), (2, 2));
    fleet.create(sessions("b", 3, &on_pool("own", "pool")));
    fleet.advance(1_000);
    let rejected: Vec<_> =
        fleet.sessions.keys().filter(|uid| fleet.status(uid).state == SessionState::Finished).collect();
    assert_eq!(rejected, ["b1", "b2"], "the sessions that arrived last");
    assert_eq!(fleet.ready_reason("b1").0, reasons::QUEUE_FULL);
    assert_eq!(fleet.ready_reason("a2").0, reasons::POOL_LIMIT_REACHED);
    fleet.edit("own", "pool", |spec| spec.limits.max_queued = Some(0));
    fleet.advance(1_000);
    assert_eq!(fleet.queued(), 3, "admitted sessions keep waiting");
    // A name that sorts first does not count as an earlier creation than that of admitted sessions.
    fleet.create(sessions("_", 2, &on_pool("own", "pool")));
    assert_eq!((fleet.queued(), fleet.ready_reason("_0").0.as_str()), (3, reasons::QUEUE_FULL));
}

#[test]
fn enforces_the_max_lifetime_of_the_pool() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 2, limited(Limits { max_lifetime_seconds: Some(600), ..Limits::default() }));
    let with = |seconds| BrowserSessionSpec { max_lifetime_seconds: seconds, ..on_pool("own", "pool") };
    fleet.create([session("own", "long", 1, with(Some(601))), session("own", "default", 1, with(None))]);
    assert_eq!(fleet.ready_reason("long").0, reasons::LIFETIME_TOO_LONG);
    let status = fleet.status("default");
    let life = status.deadline_time.unwrap().0.duration_since(status.scheduled_time.unwrap().0);
    assert_eq!(life.as_secs(), 600);
}

#[test]
fn a_session_uses_another_tenant_only_when_the_pool_allows_it() {
    let mut fleet = Fleet::new();
    let limits = Limits { allowed_tenants: vec!["shop".into()], max_sessions_per_tenant: Some(1), ..Limits::default() };
    fleet.pool("own", "pool", 4, limited(limits));
    let with = |tenant: &str| BrowserSessionSpec { tenant: Some(tenant.into()), ..on_pool("own", "pool") };
    fleet.create([
        session("a", "a-shop", 1, with("shop")),
        session("b", "b-shop", 1, with("shop")),
        session("b", "b-own", 1, with("b")),
        session("b", "stolen", 1, with("a")),
    ]);
    fleet.advance(1_000);
    assert_eq!(fleet.bind_order(), ["a-shop", "b-own"], "one session of tenant shop, from either namespace");
    assert_eq!(fleet.ready_reason("b-shop").0, reasons::TENANT_LIMIT_REACHED);
    assert_eq!(fleet.ready_reason("stolen").0, reasons::NOT_ALLOWED);
}

#[test]
fn an_unplaceable_session_does_not_block_others() {
    let mut fleet = Fleet::new();
    fleet.pool("own", "pool", 2, WorkerPoolSpec::default());
    let camoufox = BrowserSessionSpec {
        engine: Some(camofleet_crds::v1alpha1::Engine::Camoufox),
        ..BrowserSessionSpec::default()
    };
    fleet.create([session("own", "never", 1, camoufox), session("own", "now", 2, BrowserSessionSpec::default())]);
    assert_eq!(fleet.bind_order(), ["now"]);
    fleet.advance(1_000);
    assert_eq!(fleet.ready_reason("never").0, reasons::NO_MATCHING_POOL);
}

/// Three tenants, one of which floods the pool. Shares are fair by Jain's index of binds per weight, and in each
/// turnover of the slots.
#[test]
fn shares_are_fair_under_a_flood() {
    let mut fleet = Fleet::new();
    let weights = [("double".to_owned(), 2)].into();
    fleet.pool("own", "pool", 12, limited(Limits { tenant_weights: weights, ..Limits::default() }));
    fleet.create(sessions("flood", 2000, &on_pool("own", "pool")));
    fleet.create(sessions("single", 200, &on_pool("own", "pool")));
    fleet.create(sessions("double", 200, &on_pool("own", "pool")));
    // Shares are even only after the first sessions of the flood have ended.
    for ended in 0..132 {
        let (oldest, _) = fleet.bound[ended].clone();
        fleet.delete(&oldest);
    }
    let served: Vec<_> = fleet.bind_order()[24..].iter().map(|uid| uid.trim_end_matches(char::is_numeric)).collect();
    assert_eq!(served.len(), 120);
    let weight = |tenant: &str| if tenant == "double" { 2 } else { 1 };
    let tenants = ["flood", "single", "double"];
    let count = |tenant: &str| u32::try_from(served.iter().filter(|it| **it == tenant).count()).unwrap();
    let shares = tenants.map(|tenant| f64::from(count(tenant)) / f64::from(weight(tenant)));
    let jain = shares.iter().sum::<f64>().powi(2) / (3.0 * shares.iter().map(|share| share * share).sum::<f64>());
    assert!(jain >= 0.95, "Jain's index is {jain}, of {shares:?}");
    // In each turnover of all slots, each tenant gets its share.
    for turnover in served.chunks(12) {
        let got = tenants.map(|tenant| turnover.iter().filter(|it| **it == tenant).count());
        assert_eq!(got, [3, 3, 6], "{served:?}");
    }
}
