//! Compares two variants by alternating runs: medians, ratios of neighbouring runs, and the spread between runs of one
//! variant.

use crate::{
    report::{cell, rounded},
    stats::{median, ratio},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A variant of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The baseline.
    A,
    /// The candidate.
    B,
}

/// Order of the runs: A B, B A, A B, … A machine that slows down favours neither variant, and every run except the
/// first and the last is next to a run of the same variant.
pub fn order(pairs: usize) -> impl Iterator<Item = Variant> {
    (0..pairs).flat_map(|pair| match pair % 2 {
        0 => [Variant::A, Variant::B],
        _ => [Variant::B, Variant::A],
    })
}

/// Metrics of runs in the order of [`order`].
#[derive(Clone, Debug)]
pub struct Comparison {
    scenario: String,
    names: [String; 2],
    runs: Vec<(Variant, BTreeMap<String, f64>)>,
}

/// The comparison of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Values of A, in order.
    pub a: Vec<f64>,
    /// Values of B, in order.
    pub b: Vec<f64>,
    /// B divided by A, for each pair of neighbouring runs.
    pub ratios: Vec<f64>,
    /// Later divided by earlier, for neighbouring runs of one variant.
    pub identical: Vec<f64>,
}

impl Comparison {
    /// Creates a comparison without runs.
    pub fn new(scenario: &str, a: &str, b: &str) -> Self {
        Self { scenario: scenario.to_owned(), names: [a.to_owned(), b.to_owned()], runs: Vec::new() }
    }

    /// Adds the next run in [`order`]. Only numbers count; those in nested objects are named `object.field`.
    pub fn add(&mut self, variant: Variant, metrics: &Map<String, Value>) {
        let mut numbers = BTreeMap::new();
        collect_numbers("", metrics, &mut numbers);
        self.runs.push((variant, numbers));
    }

    /// The comparison of one metric.
    pub fn row(&self, key: &str) -> Row {
        let of = |variant: Variant| {
            let runs = self.runs.iter().filter(move |(other, _)| *other == variant);
            runs.filter_map(|(_, metrics)| metrics.get(key).copied()).collect()
        };
        let (mut ratios, mut identical) = (Vec::new(), Vec::new());
        for (index, neighbours) in self.runs.windows(2).enumerate() {
            let [(first, earlier), (second, later)] = neighbours else { continue };
            let (Some(earlier), Some(later)) = (earlier.get(key), later.get(key)) else { continue };
            let is_pair = index % 2 == 0;
            match (first, second) {
                (Variant::A, Variant::B) if is_pair => ratios.extend(ratio(*later, *earlier)),
                (Variant::B, Variant::A) if is_pair => ratios.extend(ratio(*earlier, *later)),
                (Variant::A, Variant::A) | (Variant::B, Variant::B) => identical.extend(ratio(*later, *earlier)),
                (Variant::A, Variant::B) | (Variant::B, Variant::A) => {}
            }
        }
        Row { a: of(Variant::A), b: of(Variant::B), ratios, identical }
    }

    fn keys(&self) -> impl Iterator<Item = &String> {
        self.runs.iter().flat_map(|(_, metrics)| metrics.keys()).collect::<std::collections::BTreeSet<_>>().into_iter()
    }

    /// Prints a table and one line of JSON.
    pub fn print(&self, machine: Value, versions: Value) {
        let [a, b] = &self.names;
        println!(
            "{}: A is {a}, B is {b}; medians, B/A of neighbouring runs, and spread of identical runs",
            self.scenario
        );
        println!(
            "{:<32} {:>3} {:>10} {:>10} {:>7}  {:<16} {:<16}",
            "metric", "n", "A", "B", "B/A", "lowest, highest", "identical runs"
        );
        let mut metrics = Map::new();
        for key in self.keys() {
            let row = self.row(key);
            let [a, b, ratios] = [&row.a, &row.b, &row.ratios].map(|values| cell(median(values)));
            let (range, identical) = (range(&row.ratios), range(&row.identical));
            println!("{key:<32} {:>3} {a:>10} {b:>10} {ratios:>7}  {range:<16} {identical:<16}", row.b.len());
            metrics.insert(key.clone(), row.to_json());
        }
        println!();
        let document = json!({
            "scenario": self.scenario, "a": self.names[0], "b": self.names[1], "runs": self.runs.len(), "figures": metrics,
            "machine": machine, "versions": versions,
        });
        println!("{}", rounded(document));
    }
}

impl Row {
    /// Median of the ratios B/A.
    pub fn ratio(&self) -> Option<f64> {
        median(&self.ratios)
    }

    fn to_json(&self) -> Value {
        json!({
            "a": median(&self.a), "b": median(&self.b), "ratio": self.ratio(), "ratios": self.ratios, "same": self.identical,
            "runs_a": self.a, "runs_b": self.b,
        })
    }
}

fn collect_numbers(prefix: &str, metrics: &Map<String, Value>, numbers: &mut BTreeMap<String, f64>) {
    for (key, value) in metrics {
        let key = format!("{prefix}{key}");
        match value {
            Value::Object(within) => collect_numbers(&format!("{key}."), within, numbers),
            _ => numbers.extend(value.as_f64().map(|number| (key, number))),
        }
    }
}

fn range(values: &[f64]) -> String {
    let lowest = values.iter().copied().min_by(f64::total_cmp);
    let highest = values.iter().copied().max_by(f64::total_cmp);
    format!("{}, {}", cell(lowest), cell(highest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_runs(values: &[f64]) -> Comparison {
        let mut comparison = Comparison::new("test", "before", "after");
        for (variant, value) in order(values.len() / 2).zip(values) {
            let metrics = json!({ "p50_ms": value, "cpu_percent": { "operator": 7.0 }, "writes": { "event": { "ok": 3 } }, "none": null });
            comparison.add(variant, metrics.as_object().unwrap());
        }
        comparison
    }

    #[test]
    fn variants_alternate() {
        use Variant::{A, B};
        assert_eq!(order(3).collect::<Vec<_>>(), [A, B, B, A, A, B]);
    }

    #[test]
    fn ratios_compare_neighbouring_runs_and_identical_runs_give_the_spread() {
        // A 10, B 20, B 22, A 11, A 12, B 36
        let row = of_runs(&[10.0, 20.0, 22.0, 11.0, 12.0, 36.0]).row("p50_ms");
        assert_eq!((row.a, row.b), (vec![10.0, 11.0, 12.0], vec![20.0, 22.0, 36.0]));
        assert_eq!(row.ratios, [2.0, 2.0, 3.0]);
        assert_eq!(row.identical, [22.0 / 20.0, 12.0 / 11.0]);
    }

    #[test]
    fn nested_metrics_get_dotted_names() {
        let comparison = of_runs(&[1.0, 1.0]);
        assert_eq!(comparison.row("cpu_percent.operator").a, [7.0]);
        assert_eq!(comparison.row("writes.event.ok").a, [3.0]);
        assert!(comparison.row("none").a.is_empty());
        assert_eq!(comparison.keys().count(), 3);
    }
}
