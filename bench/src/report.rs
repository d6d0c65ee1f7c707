//! The report of a scenario: a table and one line of JSON.

use crate::{
    arrivals::ClaimStats,
    operator::Writes,
    stats::{as_f64, ratio},
};
use serde_json::{Map, Value, json};

/// Keys in the JSON of every scenario; null if they do not apply.
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
/// Kind of the writes that count as writes per session. Events, deletions, pods and pools are reported separately.
const SESSION_WRITE: &str = "browsersession_status";

/// Results of a scenario.
#[derive(Clone, Debug)]
pub struct Report {
    scenario: &'static str,
    rows: Vec<(String, ClaimStats)>,
    metrics: Map<String, Value>,
}

impl Report {
    /// Creates an empty report.
    pub fn new(scenario: &'static str) -> Self {
        let metrics = KEYS.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
        Self { scenario, rows: Vec::new(), metrics }
    }

    /// Sets a metric.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.metrics.insert(key.to_owned(), value.into());
    }

    /// Adds a row to the table.
    pub fn row(&mut self, what: &str, metrics: &ClaimStats) {
        self.rows.push((what.to_owned(), metrics.clone()));
    }

    /// Adds the latencies of the fleet.
    pub fn claims(&mut self, fleet: &ClaimStats) {
        self.row("claim to Ready", fleet);
        self.set("sessions", fleet.claims);
        self.set("not_ready", fleet.not_ready);
        for (key, percent) in [("p50_ms", 50), ("p90_ms", 90), ("p99_ms", 99)] {
            self.set(key, fleet.latencies.percentile(percent));
        }
        self.set("total_ms", fleet.totals.mean());
    }

    /// Adds the latencies of the API server alone (the floor), and the ratios of the fleet to them.
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

    /// Adds the operator's writes for `sessions` sessions.
    pub fn writes(&mut self, writes: &Writes, sessions: usize) {
        self.set("writes", writes.to_json());
        self.set("writes_per_session", ratio(as_f64(writes.of_kind(SESSION_WRITE)), as_f64(sessions)));
    }

    /// The metrics by key.
    pub fn metrics(&self) -> &Map<String, Value> {
        &self.metrics
    }

    /// Prints the report with a description of the machine and the versions.
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

/// Rounds fractions to three digits.
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
