//! Metrics of the operator and the gateway, read from their pods.

use crate::endpoints::http_client;
use anyhow::{Context, Result};
use camofleet_testkit::metrics::Metrics;
use k8s_openapi::api::core::v1::Pod;

/// The metrics of a pod now.
///
/// # Errors
/// When the pod has no address, or does not answer.
pub async fn of(pod: &Pod) -> Result<Metrics> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).context("the pod has no address yet")?;
    let answer = http_client()?.get(format!("http://{ip}:8081/metrics")).send().await?.error_for_status()?;
    Ok(Metrics::new(answer.text().await?))
}
