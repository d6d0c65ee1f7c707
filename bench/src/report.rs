//! What is told of a scenario: a table for people, and one line of JSON.

use crate::{
    arrivals::ClaimStats,
    operator::Writes,
    stats::{as_f64, ratio},
};
use serde_json::{Map, Value, json};

/// Keys that every scenario has, null where they mean nothing.
const KEYS: [&str; 12] = [
    "sessions",
    "not_ready",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "floor_p50_ms",
    "floor_p99_ms",
    "p50_ratio",
    "p99_ratio",
    "total_ratio",
    "writes_per_session",
    "writes",
];
/// The writes that count for a session's budget. Events, its deletion, pods and pools are told apart.
const SESSION_WRITE: &str = "browsersession_status";

/// The figures of one scenario.
#[derive(Clone, Debug)]
pub struct Report {
    scenario: &'static str,
    rows: Vec<(String, ClaimStats)>,
    metrics: Map<String, Value>,
}

impl Report {
    /// Nothing is known yet.
    pub fn new(scenario: &'static str) -> Self {
        let metrics = KEYS.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
        Self { scenario, rows: Vec::new(), metrics }
    }

    /// One more figure.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.metrics.insert(key.to_owned(), value.into());
    }

    /// One more row of the table.
    pub fn row(&mut self, what: &str, metrics: &ClaimStats) {
        self.rows.push((what.to_owned(), metrics.clone()));
    }

    /// What the fleet took.
    pub fn claims(&mut self, fleet: &ClaimStats) {
        self.row("claim to Ready", fleet);
        self.set("sessions", fleet.claims);
        self.set("not_ready", fleet.not_ready);
        for (key, percent) in [("p50_ms", 50), ("p90_ms", 90), ("p99_ms", 99)] {
            self.set(key, fleet.latencies.percentile(percent));
        }
        self.set("total_ms", fleet.totals.mean());
    }

    /// What the API server alone took for the same, and how much longer the fleet took than that.
    pub fn compare_with_floor(&mut self, fleet: &ClaimStats, floor: &ClaimStats) {
        self.row("floor", floor);
        let quotient = |of: Option<f64>, to: Option<f64>| ratio(of?, to?);
        for percent in [50, 99] {
            let (ours, bare) = (fleet.latencies.percentile(percent), floor.latencies.percentile(percent));
            self.set(&format!("floor_p{percent}_ms"), bare);
            self.set(&format!("p{percent}_ratio"), quotient(ours, bare));
        }
        self.set("floor_total_ms", floor.totals.mean());
        self.set("total_ratio", quotient(fleet.totals.mean(), floor.totals.mean()));
    }

    /// What the operator wrote for so many sessions.
    pub fn writes(&mut self, writes: &Writes, sessions: usize) {
        self.set("writes", writes.to_json());
        self.set("writes_per_session", ratio(as_f64(writes.of_kind(SESSION_WRITE)), as_f64(sessions)));
    }

    /// The figures, by their keys.
    pub fn metrics(&self) -> &Map<String, Value> {
        &self.metrics
    }

    /// Prints it, with what it was measured on and what with.
    pub fn print(mut self, machine: Value, versions: Value) {
        println!(
            "{:<24} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "milliseconds", "n", "not ready", "p50", "p90", "p99", "total"
        );
        for (what, metrics) in &self.rows {
            let [p50, p90, p99] = [50, 90, 99].map(|percent| cell(metrics.latencies.percentile(percent)));
            let (n, not_ready, total) = (metrics.claims, metrics.not_ready, cell(metrics.totals.mean()));
            println!("{what:<24} {n:>6} {not_ready:>9} {p50:>9} {p90:>9} {p99:>9} {total:>9}");
        }
        println!();
        for (key, value) in &self.metrics {
            if !value.is_null() {
                println!("{key:<28} {}", shown(&rounded(value.clone())));
            }
        }
        println!();
        self.set("scenario", self.scenario);
        self.set("machine", machine);
        self.set("versions", versions);
        println!("{}", rounded(Value::Object(self.metrics)));
    }
}

pub(crate) fn cell(figure: Option<f64>) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.2}"))
}

fn shown(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if !value.is_u64() => format!("{number:.3}"),
        _ => value.to_string(),
    }
}

/// Figures with more digits than were measured are hard to read.
pub(crate) fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let thousandths = number.as_f64().map(|number| (number * 1000.0).round() / 1000.0);
            json!(thousandths)
        }
        Value::Array(values) => values.into_iter().map(rounded).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, rounded(value))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn metrics(milliseconds: &[u64]) -> ClaimStats {
        let latencies = milliseconds.iter().map(|time| Duration::from_millis(*time)).collect();
        let totals = std::iter::once(Duration::from_millis(milliseconds.iter().sum())).collect();
        ClaimStats { latencies, totals, claims: milliseconds.len(), not_ready: 0 }
    }

    #[test]
    fn ratios_divide_the_fleet_by_the_floor() {
        let (fleet, floor) = (metrics(&[10, 10, 30]), metrics(&[5, 5, 10]));
        let mut report = Report::new("test");
        report.claims(&fleet);
        report.compare_with_floor(&fleet, &floor);
        let of = |key: &str| report.metrics[key].as_f64().unwrap();
        assert_eq!((of("p50_ratio"), of("p99_ratio"), of("total_ratio")), (2.0, 3.0, 2.5));
        assert!(KEYS.iter().all(|key| report.metrics.contains_key(*key)));
    }

    #[test]
    fn rounds_fractions_and_keeps_integers() {
        assert_eq!(rounded(json!({ "a": [1.23456, 7], "b": "c" })), json!({ "a": [1.235, 7], "b": "c" }));
    }
}
