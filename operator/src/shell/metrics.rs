//! What can be measured of the operator. No label has a value that users choose.

use crate::core::{Load, Phase};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::time::Duration;

/// The metrics, and how they are told.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    phases: Family<PhaseLabel, Histogram, fn() -> Histogram>,
    writes: Family<WriteLabel, Counter>,
    calls: Family<CallLabel, Counter>,
    leader: Gauge,
    queue_length: Family<NoLabel, Gauge>,
    slots: Family<SlotLabel, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
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
    state: &'static str,
}

/// A family of one at most: a gauge cannot be taken out of the registry.
type NoLabel = [(&'static str, &'static str); 0];

/// From 1 ms, since a hot session takes a few.
const BUCKETS: [f64; 15] =
    [0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.02, 0.035, 0.06, 0.1, 0.25, 1.0, 3.0, 10.0, 60.0];

fn phase_histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("camofleet_operator");
        let metrics = (
            Family::new_with_constructor(phase_histogram as fn() -> Histogram),
            Family::default(),
            Family::default(),
            Gauge::default(),
            Family::default(),
            Family::default(),
        );
        let (phases, writes, calls, leader, queue_length, slots) = metrics;
        registry.register_with_unit(
            "session_phase",
            "Phases of a session's way to Ready",
            Unit::Seconds,
            Family::clone(&phases),
        );
        registry.register("writes", "Writes to the API server by kind and outcome", Family::clone(&writes));
        registry.register("runner_calls", "Calls to runners by outcome", Family::clone(&calls));
        registry.register("leader", "1 while this process leads", leader.clone());
        registry.register("queue_length", "Sessions that wait for a slot", Family::clone(&queue_length));
        registry.register("slots", "Slots of all pools by state", Family::clone(&slots));
        Self { registry, phases, writes, calls, leader, queue_length, slots }
    }
}

impl Metrics {
    pub(super) fn observe(&self, phase: Phase, took: Duration) {
        let phase = match phase {
            Phase::Queued => "queued",
            Phase::Bound => "runner_put",
            Phase::ReadyHot => "ready_hot",
            Phase::ReadyCold => "ready_cold",
        };
        self.phases.get_or_create(&PhaseLabel { phase }).observe(took.as_secs_f64());
    }

    pub(super) fn wrote(&self, kind: &'static str, outcome: &'static str) {
        self.writes.get_or_create(&WriteLabel { kind, outcome }).inc();
    }

    pub(super) fn called(&self, call: &'static str, outcome: &'static str) {
        self.calls.get_or_create(&CallLabel { call, outcome }).inc();
    }

    /// Takes over what the leader has to serve. A follower tells nothing of it, or the sum over all operators were wrong.
    pub(super) fn show(&self, load: Option<Load>) {
        self.leader.set(i64::from(load.is_some()));
        let Some(Load { queued, slots }) = load else {
            self.queue_length.clear();
            self.slots.clear();
            return;
        };
        self.queue_length.get_or_create(&[]).set(i64::try_from(queued).unwrap_or(i64::MAX));
        let other = (slots.total - slots.used - slots.hot - slots.starting).max(0);
        let states = [("used", slots.used), ("hot", slots.hot), ("starting", slots.starting), ("other", other)];
        for (state, count) in states {
            self.slots.get_or_create(&SlotLabel { state }).set(i64::from(count));
        }
    }

    /// The OpenMetrics text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes everything");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::v1alpha1::Slots;

    #[test]
    fn the_leader_alone_tells_of_the_queue_and_the_slots() {
        let metrics = Metrics::default();
        let lines = |metrics: &Metrics| {
            let text = metrics.text();
            let told = |line: &&str| line.contains("operator_queue_length") || line.contains("operator_slots");
            text.lines().filter(told).filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        metrics.show(Some(Load { queued: 3, slots: Slots { total: 10, used: 4, hot: 3, starting: 1 } }));
        let mut told = lines(&metrics);
        told.sort();
        let expected = [
            "camofleet_operator_queue_length{} 3",
            "camofleet_operator_slots{state=\"hot\"} 3",
            "camofleet_operator_slots{state=\"other\"} 2",
            "camofleet_operator_slots{state=\"starting\"} 1",
            "camofleet_operator_slots{state=\"used\"} 4",
        ];
        assert_eq!(told, expected);
        metrics.show(None);
        assert_eq!(lines(&metrics), Vec::<String>::new());
        assert!(metrics.text().contains("camofleet_operator_leader 0"));
    }
}
