//! What can be measured of the operator. No label has a value that users choose.

use crate::core::Phase;
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
    pub(super) leader: Gauge,
    pub(super) queue_length: Gauge,
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
            Gauge::default(),
        );
        let (phases, writes, calls, leader, queue_length) = metrics;
        registry.register_with_unit(
            "session_phase",
            "Phases of a session's way to Ready",
            Unit::Seconds,
            Family::clone(&phases),
        );
        registry.register("writes", "Writes to the API server by kind and outcome", Family::clone(&writes));
        registry.register("runner_calls", "Calls to runners by outcome", Family::clone(&calls));
        registry.register("leader", "1 while this process leads", leader.clone());
        registry.register("queue_length", "Sessions that wait for a slot", queue_length.clone());
        Self { registry, phases, writes, calls, leader, queue_length }
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

    /// The OpenMetrics text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes everything");
        text
    }
}
