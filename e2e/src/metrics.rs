//! Metrics of the operator and the gateway, read from their pods.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;

/// The metrics of one pod at one moment.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Reads them.
    ///
    /// # Errors
    /// When the pod has no address, or does not answer.
    pub async fn of(pod: &Pod) -> Result<Self> {
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).context("the pod has no address yet")?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let answer = client.get(format!("http://{ip}:8081/metrics")).send().await?.error_for_status()?;
        Ok(Self(answer.text().await?))
    }

    /// Sum of the samples of that name that have all these labels. 0 when there is none: counters begin when first used.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |line: &str| labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")));
        let samples = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with('{') || rest.starts_with(' ')).then_some(rest)
        });
        samples.filter(|line| has(line)).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}
