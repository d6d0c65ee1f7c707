//! Parses metrics in OpenMetrics text.

use std::str::FromStr;

/// Metrics of one process at one point in time.
#[derive(Clone, Debug)]
pub struct Metrics(String);

/// One sample of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Text after the name: the labels in braces, if any, and the value.
    text: &'a str,
}

impl Metrics {
    /// Wraps OpenMetrics text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Samples of the metric with this name.
    pub fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Sample<'a>> {
        self.0.lines().filter_map(move |line| {
            let text = line.strip_prefix(name)?;
            (text.starts_with('{') || text.starts_with(' ')).then_some(Sample { text })
        })
    }

    /// Sum of the samples with this name and all these labels. 0 if there are none, because counters are exported from
    /// their first use on.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name).filter(|sample| sample.has(labels)).filter_map(Sample::value::<f64>).sum()
    }

    /// Whether a sample has this name and all these labels.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.samples(name).any(|sample| sample.has(labels))
    }
}

impl<'a> Sample<'a> {
    /// Value of a label, if the sample has the label.
    pub fn label(self, name: &str) -> Option<&'a str> {
        let (_, rest) = self.text.split_once(&format!("{name}=\""))?;
        Some(rest.split_once('"')?.0)
    }

    /// Value of the sample, if it parses as this type.
    pub fn value<T: FromStr>(self) -> Option<T> {
        self.text.rsplit_once(' ')?.1.parse().ok()
    }

    fn has(self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(label, value)| self.text.contains(&format!("{label}=\"{value}\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_gauge_without_labels() {
        let metrics = Metrics::new("camofleet_operator_leader 1\n".to_owned());
        let is = |name, value: f64| (metrics.sum(name, &[]) - value).abs() < f64::EPSILON;
        assert!(is("camofleet_operator_leader", 1.0));
        assert!(is("camofleet_operator_lead", 0.0), "a prefix of a name is not the name");
    }
}
