//! Metrics of the operator. To bound the number of series, labels are constants or the names of pools, whose series are
//! removed with the pool, and priorities are grouped into classes.

use crate::core::{FleetStats, Interval, Key, Observation};
use crate::io::watch::LastSeen;
use camofleet_crds::v1alpha1::{Slots, StartTier};
use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};
use std::{collections::BTreeMap, sync::atomic::AtomicU64, time::Duration};

const PREFIX: &str = "camofleet_operator";

/// Counters and histograms. Gauges are computed for each scrape.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    phases: Histograms<PhaseLabel>,
    waits: Histograms<QueueLabel>,
    starts: Family<StartLabel, Counter>,
    ends: Family<EndLabel, Counter>,
    writes: Family<WriteLabel, Counter>,
    pruned: Family<KindLabel, Counter>,
    calls: Histograms<CallLabel>,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

/// Pool and namespace are empty for sessions that name no pool or a pool that does not exist. The label is not
/// `namespace`, because Prometheus sets that to the namespace of the operator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct QueueLabel {
    pool_namespace: String,
    pool: String,
    priority: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StartLabel {
    pool_namespace: String,
    pool: String,
    tier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabel {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    call: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SlotLabel {
    pool_namespace: String,
    pool: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Buckets in seconds, from 1 ms because a session with a hot browser takes a few milliseconds.
const FINE: [f64; 15] = [0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.02, 0.035, 0.06, 0.1, 0.25, 1.0, 3.0, 10.0, 60.0];
/// Buckets in seconds of histograms per pool and priority class: few, and up to long waits. 300 s is the default of
/// `queueTimeoutSeconds`.
const COARSE: [f64; 8] = [0.01, 0.1, 1.0, 10.0, 30.0, 60.0, 300.0, 3600.0];

const TIERS: [StartTier; 2] = [StartTier::Hot, StartTier::Cold];
/// Classes of priorities, because users can choose any from 0 to 1000.
const PRIORITIES: [&str; 4] = ["0", "1-9", "10-99", "100-1000"];

fn priority_class(priority: i32) -> &'static str {
    let [none, low, middle, high] = PRIORITIES;
    match priority {
        ..=0 => none,
        1..=9 => low,
        10..=99 => middle,
        100.. => high,
    }
}

impl QueueLabel {
    fn new(pool: Option<&Key>, priority: &'static str) -> Self {
        let (pool_namespace, pool) = pool.map(|key| (key.namespace.clone(), key.name.clone())).unwrap_or_default();
        Self { pool_namespace, pool, priority }
    }
}

/// Value of the tier in metric labels and span attributes.
pub(super) fn tier_label(tier: StartTier) -> &'static str {
    match tier {
        StartTier::Hot => "hot",
        StartTier::Cold => "cold",
    }
}

impl StartLabel {
    fn new(pool: Option<&Key>, tier: StartTier) -> Self {
        let (pool_namespace, pool) = pool.map(|key| (key.namespace.clone(), key.name.clone())).unwrap_or_default();
        Self { pool_namespace, pool, tier: tier_label(tier) }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let fine = (|| Histogram::new(FINE)) as fn() -> Histogram;
        let coarse = (|| Histogram::new(COARSE)) as fn() -> Histogram;
        let (phases, waits, calls) = (
            Family::new_with_constructor(fine),
            Family::new_with_constructor(coarse),
            Family::new_with_constructor(fine),
        );
        let (starts, ends) = (Family::default(), Family::default());
        let (writes, pruned) = (Family::default(), Family::default());
        registry.register_with_unit(
            "session_phase",
            "Duration of the phases of a session until Ready",
            Unit::Seconds,
            Family::clone(&phases),
        );
        registry.register_with_unit(
            "queue_wait",
            "Time that sessions waited for a slot, by the slot's pool and the session's priority",
            Unit::Seconds,
            Family::clone(&waits),
        );
        registry.register_with_unit(
            "runner_call",
            "Duration of calls to runners, by call and outcome",
            Unit::Seconds,
            Family::clone(&calls),
        );
        registry.register("session_starts", "Sessions that became Ready, by pool and tier", Family::clone(&starts));
        registry.register("session_ends", "Sessions that finished, by reason", Family::clone(&ends));
        registry.register("writes", "Writes to the API server, by kind and outcome", Family::clone(&writes));
        registry.register(
            "pruned_writes",
            "Writes from which the API server pruned fields, by kind",
            Family::clone(&pruned),
        );
        Self { registry, phases, waits, starts, ends, writes, pruned, calls }
    }
}

impl Metrics {
    /// Updates the metrics with an observation of the core.
    pub(super) fn observe(&self, observation: &Observation) {
        match observation {
            Observation::Assigned { pool, priority, waited, .. } => {
                if let Some(waited) = waited.map(Interval::length) {
                    self.phase("queued", waited);
                    let label = QueueLabel::new(Some(pool), priority_class(*priority));
                    self.waits.get_or_create(&label).observe(waited.as_secs_f64());
                }
            }
            Observation::Bound { took } => self.phase("runner_put", *took),
            Observation::Ready { pool, tier, started, .. } => {
                self.starts.get_or_create(&StartLabel::new(pool.as_ref(), *tier)).inc();
                let phase = match tier {
                    StartTier::Hot => "ready_hot",
                    StartTier::Cold => "ready_cold",
                };
                if let Some(started) = started {
                    self.phase(phase, started.length());
                }
            }
            Observation::Ended { reason, .. } => {
                self.ends.get_or_create(&EndLabel { reason: reason.clone() }).inc();
            }
            // Users can revert metadata, and the alert on this counter is about outdated CRDs.
            Observation::Reverted { .. } => {}
            Observation::Pruned { kind, .. } => {
                self.pruned.get_or_create(&KindLabel { kind }).inc();
            }
        }
    }

    fn phase(&self, phase: &'static str, took: Duration) {
        self.phases.get_or_create(&PhaseLabel { phase }).observe(took.as_secs_f64());
    }

    pub(super) fn record_write(&self, kind: &'static str, outcome: &'static str) {
        self.writes.get_or_create(&WriteLabel { kind, outcome }).inc();
    }

    pub(super) fn record_call(&self, call: &'static str, outcome: &'static str, took: Duration) {
        self.calls.get_or_create(&CallLabel { call, outcome }).observe(took.as_secs_f64());
    }

    /// Removes the series of a deleted pool.
    pub(super) fn forget(&self, pool: &Key) {
        for priority in PRIORITIES {
            self.waits.remove(&QueueLabel::new(Some(pool), priority));
        }
        for tier in TIERS {
            self.starts.remove(&StartLabel::new(Some(pool), tier));
        }
    }

    /// OpenMetrics text with the current gauges. Only the leader has gauges of the fleet, so that sums over all
    /// operators are right.
    pub(super) fn text(&self, stats: Option<&FleetStats>, last_seen: &LastSeen) -> String {
        let mut text = String::new();
        let encoded = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &current_gauges(stats, last_seen)))
            .and_then(|()| encode_eof(&mut text));
        encoded.expect("writing to a String cannot fail");
        text
    }
}

/// Gauges of the current state. The registry is rebuilt for each scrape, so that deleted objects leave no series.
fn current_gauges(stats: Option<&FleetStats>, last_seen: &LastSeen) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    let leads = i64::from(stats.is_some());
    registry.register("leader", "1 while this process leads", ConstGauge::new(leads));
    let silences = Family::<KindLabel, Seconds>::default();
    for (kind, age) in last_seen.ages() {
        silences.get_or_create(&KindLabel { kind }).set(age.as_secs_f64());
    }
    registry.register_with_unit(
        "watch_silence",
        "Time since the last event of a watch, including bookmarks",
        Unit::Seconds,
        silences,
    );
    let Some(stats) = stats else { return registry };

    // Several demands can fall into one class.
    let mut queues = BTreeMap::<QueueLabel, (usize, Duration)>::new();
    // With this entry, the sum over an empty queue is 0 instead of absent.
    queues.insert(QueueLabel::new(None, priority_class(0)), (0, Duration::ZERO));
    for queue in &stats.queues {
        let label = QueueLabel::new(queue.pool.as_ref(), priority_class(queue.priority));
        let (sessions, longest) = queues.entry(label).or_default();
        *sessions += queue.sessions;
        *longest = queue.longest_wait.max(*longest);
    }
    let (lengths, longest) = (Family::<QueueLabel, Gauge>::default(), Family::<QueueLabel, Seconds>::default());
    for (label, (sessions, waited)) in queues {
        lengths.get_or_create(&label).set(i64::try_from(sessions).unwrap_or(i64::MAX));
        longest.get_or_create(&label).set(waited.as_secs_f64());
    }
    registry.register(
        "queue_length",
        "Sessions that wait for a slot, by the pool that they name and by priority",
        lengths,
    );
    registry.register_with_unit("queue_longest_wait", "Longest current wait of those sessions", Unit::Seconds, longest);
    let slots = Family::<SlotLabel, Gauge>::default();
    for (Key { namespace, name }, Slots { total, used, hot, starting }) in &stats.slots {
        let other = (total - used - hot - starting).max(0);
        for (state, count) in [("used", used), ("hot", hot), ("starting", starting), ("other", &other)] {
            let label = SlotLabel { pool_namespace: namespace.clone(), pool: name.clone(), state };
            slots.get_or_create(&label).set(i64::from(*count));
        }
    }
    registry.register("slots", "Slots by pool and state", slots);
    registry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Monotonic, Now, QueueStats};
    use camofleet_crds::v1alpha1::{BrowserSession, BrowserSessionSpec};
    use k8s_openapi::jiff::Timestamp;
    use std::sync::Arc;

    fn pool(name: &str) -> Key {
        Key { namespace: "ns".into(), name: name.into() }
    }

    fn interval(millis: i64) -> Interval {
        let at = |millis| Now { monotonic: Monotonic(millis), wall: Timestamp::from_millisecond(millis).unwrap() };
        Interval { from: at(1000), to: at(1000 + millis) }
    }

    /// Sorted samples of metrics whose names start with `beginning`, without histogram buckets.
    fn samples(metrics: &Metrics, stats: Option<&FleetStats>, beginning: &str) -> Vec<String> {
        let text = metrics.text(stats, &LastSeen::default());
        let lines = text.lines().filter_map(|line| line.strip_prefix("camofleet_operator_"));
        let mut samples: Vec<_> =
            lines.filter(|line| line.starts_with(beginning) && !line.contains("_bucket")).map(str::to_owned).collect();
        samples.sort();
        samples
    }

    #[test]
    fn only_the_leader_exports_queue_and_slot_gauges() {
        let metrics = Metrics::default();
        let queue = |pool, priority, sessions, longest| QueueStats {
            pool,
            priority,
            sessions,
            longest_wait: Duration::from_secs(longest),
        };
        let stats = FleetStats {
            queues: vec![
                queue(Some(pool("a")), 7, 2, 3),
                queue(Some(pool("a")), 9, 1, 8),
                queue(Some(pool("a")), 1000, 1, 1),
                queue(None, 0, 5, 60),
            ],
            slots: vec![(pool("a"), Slots { total: 10, used: 4, hot: 3, starting: 1 })],
        };
        let expected = [
            r#"queue_length{pool_namespace="",pool="",priority="0"} 5"#,
            r#"queue_length{pool_namespace="ns",pool="a",priority="1-9"} 3"#,
            r#"queue_length{pool_namespace="ns",pool="a",priority="100-1000"} 1"#,
            r#"queue_longest_wait_seconds{pool_namespace="",pool="",priority="0"} 60.0"#,
            r#"queue_longest_wait_seconds{pool_namespace="ns",pool="a",priority="1-9"} 8.0"#,
            r#"queue_longest_wait_seconds{pool_namespace="ns",pool="a",priority="100-1000"} 1.0"#,
        ];
        assert_eq!(samples(&metrics, Some(&stats), "queue_l"), expected);
        let expected = [
            r#"slots{pool_namespace="ns",pool="a",state="hot"} 3"#,
            r#"slots{pool_namespace="ns",pool="a",state="other"} 2"#,
            r#"slots{pool_namespace="ns",pool="a",state="starting"} 1"#,
            r#"slots{pool_namespace="ns",pool="a",state="used"} 4"#,
        ];
        assert_eq!(samples(&metrics, Some(&stats), "slots"), expected);
        assert_eq!(samples(&metrics, Some(&stats), "leader"), ["leader 1"]);
        // The pool was deleted, or this process no longer leads.
        let gone = FleetStats::default();
        for stats in [Some(&gone), None] {
            assert_eq!(samples(&metrics, stats, "slots"), Vec::<String>::new());
        }
        let empty_queue = [
            r#"queue_length{pool_namespace="",pool="",priority="0"} 0"#,
            r#"queue_longest_wait_seconds{pool_namespace="",pool="",priority="0"} 0.0"#,
        ];
        assert_eq!(samples(&metrics, Some(&gone), "queue_l"), empty_queue);
        assert_eq!(samples(&metrics, None, "queue_l"), Vec::<String>::new());
        assert_eq!(samples(&metrics, None, "leader"), ["leader 0"]);
    }

    #[test]
    fn drops_the_metrics_of_a_deleted_pool() {
        let metrics = Metrics::default();
        for (name, priority, tier) in [("a", 0, StartTier::Hot), ("a", 50, StartTier::Cold), ("b", 0, StartTier::Hot)] {
            let session = Arc::new(BrowserSession::new("s", BrowserSessionSpec::default()));
            let (waited, pool) = (Some(interval(20)), pool(name));
            metrics.observe(&Observation::Assigned { session: "u".into(), pool: pool.clone(), priority, waited });
            metrics.observe(&Observation::Ready { session, pool: Some(pool), tier, started: waited });
        }
        let of = |name: &str| {
            let series = [samples(&metrics, None, "queue_wait"), samples(&metrics, None, "session_starts")].concat();
            series.into_iter().filter(|line| line.contains(&format!("pool=\"{name}\""))).collect::<Vec<_>>()
        };
        assert_eq!(
            of("a"),
            [
                r#"queue_wait_seconds_count{pool_namespace="ns",pool="a",priority="0"} 1"#,
                r#"queue_wait_seconds_count{pool_namespace="ns",pool="a",priority="10-99"} 1"#,
                r#"queue_wait_seconds_sum{pool_namespace="ns",pool="a",priority="0"} 0.02"#,
                r#"queue_wait_seconds_sum{pool_namespace="ns",pool="a",priority="10-99"} 0.02"#,
                r#"session_starts_total{pool_namespace="ns",pool="a",tier="cold"} 1"#,
                r#"session_starts_total{pool_namespace="ns",pool="a",tier="hot"} 1"#,
            ]
        );
        let others = of("b");
        metrics.forget(&pool("a"));
        assert_eq!(of("a"), Vec::<String>::new());
        assert_eq!(of("b"), others);
    }

    #[test]
    fn groups_priorities_into_four_classes() {
        let metrics = Metrics::default();
        for priority in -1..=1001 {
            let (session, waited) = ("u".to_owned(), Some(interval(1)));
            metrics.observe(&Observation::Assigned { session, pool: pool("a"), priority, waited });
        }
        let counted = samples(&metrics, None, "queue_wait_seconds_count");
        let of = |class: &str, count: u32| {
            format!(r#"queue_wait_seconds_count{{pool_namespace="ns",pool="a",priority="{class}"}} {count}"#)
        };
        assert_eq!(counted, [of("0", 2), of("1-9", 9), of("10-99", 90), of("100-1000", 902)]);
        metrics.forget(&pool("a"));
        assert_eq!(samples(&metrics, None, "queue_wait"), Vec::<String>::new());
    }

    #[test]
    fn counts_but_does_not_time_partially_observed_starts() {
        let metrics = Metrics::default();
        let session = Arc::new(BrowserSession::new("s", BrowserSessionSpec::default()));
        metrics.observe(&Observation::Ready { session, pool: None, tier: StartTier::Hot, started: None });
        assert_eq!(
            samples(&metrics, None, "session_"),
            [r#"session_starts_total{pool_namespace="",pool="",tier="hot"} 1"#],
        );
        let session = Arc::new(BrowserSession::new("s", BrowserSessionSpec::default()));
        metrics.observe(&Observation::Ended { session, reason: "IdleTimeout".into(), started: None });
        assert_eq!(samples(&metrics, None, "session_ends"), [r#"session_ends_total{reason="IdleTimeout"} 1"#]);
    }
}
