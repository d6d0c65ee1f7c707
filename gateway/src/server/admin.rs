//! The listener for the cluster: probes and metrics, without a token, on a port that no Service publishes.

use crate::Gateway;
use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use camofleet_runtime::{
    client_address::TrustedProxies,
    server::{Limits, Server},
};
use http::{StatusCode, header::CONTENT_TYPE};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// `/healthz`, `/readyz` and `/metrics`.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(gateway)
}

/// Serves until the process ends, also while it drains.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener) {
    let server = Server::new("admin", Limits::PROBES, TrustedProxies::default());
    server.serve(listener, router(gateway), CancellationToken::new(), TaskTracker::new()).await;
}

async fn ready(State(gateway): State<Arc<Gateway>>) -> Response {
    match gateway.not_ready() {
        None => "ready".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    match gateway.metrics.text(gateway.server.counts()) {
        Ok(text) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
