//! Reads metrics in OpenMetrics text.

use std::str::FromStr;

/// The metrics of one process at one moment.
#[derive(Clone, Debug)]
pub struct Metrics(String);

/// One sample of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The text after the name: the labels in braces, if there are any, and the value.
    text: &'a str,
}

impl Metrics {
    /// The metrics in this text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The samples of that name.
    pub fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Sample<'a>> {
        self.0.lines().filter_map(move |line| {
            let text = line.strip_prefix(name)?;
            (text.starts_with('{') || text.starts_with(' ')).then_some(Sample { text })
        })
    }

    /// Sum of the samples of that name that have all these labels. 0 when there is none: counters begin when first used.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name).filter(|sample| sample.has(labels)).filter_map(Sample::value::<f64>).sum()
    }

    /// There is a sample of that name with all these labels.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.samples(name).any(|sample| sample.has(labels))
    }
}

impl<'a> Sample<'a> {
    /// The value of a label, if the sample has it.
    pub fn label(self, name: &str) -> Option<&'a str> {
        let (_, rest) = self.text.split_once(&format!("{name}=\""))?;
        Some(rest.split_once('"')?.0)
    }

    /// The value, if it is of that type.
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
        assert!(is("camofleet_operator_lead", 0.0), "a name that is the beginning of another is another");
    }
}
