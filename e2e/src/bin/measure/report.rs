//! Prints samples as percentiles: a table, and one line of JSON.

use serde_json::{Value, json};

/// Prints the percentiles of each series of samples.
pub fn report(unit: &str, results: Vec<(&'static str, Vec<f64>)>) {
    println!("{unit:<20} {:>5} {:>10} {:>10} {:>10}", "n", "p50", "p90", "p99");
    let mut json = serde_json::Map::new();
    for (name, mut samples) in results {
        samples.sort_by(f64::total_cmp);
        let [p50, p90, p99] = [50, 90, 99].map(|percent| percentile(&samples, percent));
        println!("{name:<20} {:>5} {p50:>10.3} {p90:>10.3} {p99:>10.3}", samples.len());
        json.insert(name.to_owned(), json!({ "n": samples.len(), "p50": p50, "p90": p90, "p99": p99 }));
    }
    println!("{}", Value::Object(json));
}

/// The smallest sample that is not exceeded by `percent` percent of the samples (nearest rank).
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}
