//! Probes and metrics.

use super::{Shell, watch};
use anyhow::Context;
use axum::{Router, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, sync::watch::Receiver, task::JoinHandle};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `/healthz` (the process runs), `/readyz` (its caches are warm: it leads, or could at once) and `/metrics`.
pub(super) async fn serve(
    listen: SocketAddr,
    shell: Arc<Shell>,
    warm: Receiver<usize>,
) -> anyhow::Result<JoinHandle<std::io::Result<()>>> {
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen} for probes and metrics"))?;
    let ready = move || {
        let read = *warm.borrow();
        async move {
            if watch::is_warm(read) {
                (StatusCode::OK, "ok".to_owned())
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, format!("{read} of the watches were read whole so far"))
            }
        }
    };
    let router = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(async move || ([(CONTENT_TYPE, OPENMETRICS)], shell.metrics.text()).into_response()));
    Ok(tokio::spawn(async move { axum::serve(listener, router).await }))
}
