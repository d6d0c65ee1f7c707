//! Reads the metrics of operator and gateway pods.

use crate::endpoints::http_client;
use anyhow::{Context, Result};
use camofleet_testkit::metrics::Metrics;
use k8s_openapi::api::core::v1::Pod;

/// Reads a pod's metrics.
///
/// # Errors
/// If the pod has no IP address or does not respond with success.
pub async fn of(pod: &Pod) -> Result<Metrics> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).context("the pod has no IP address yet")?;
    let response = http_client()?.get(format!("http://{ip}:8081/metrics")).send().await?.error_for_status()?;
    Ok(Metrics::new(response.text().await?))
}
