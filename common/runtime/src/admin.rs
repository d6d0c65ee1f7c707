//! Serves probes and metrics without authentication, on a port that no Service exposes.

use crate::{
    client_address::TrustedProxies,
    server::{Limits, Server},
};
use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Routes `/healthz`, which succeeds while the process runs, and `/readyz`, which fails while `not_ready` returns a
/// reason.
pub fn probes(not_ready: impl Fn() -> Option<String> + Clone + Send + Sync + 'static) -> Router {
    let ready = async move || match not_ready() {
        None => (StatusCode::OK, "ok".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
    };
    Router::new().route("/healthz", get(async || "ok")).route("/readyz", get(ready))
}

/// Routes the probes, and `/metrics` with the OpenMetrics text from `metrics`.
pub fn router<M, E>(
    not_ready: impl Fn() -> Option<String> + Clone + Send + Sync + 'static,
    metrics: impl Fn() -> M + Clone + Send + Sync + 'static,
) -> Router
where
    M: Future<Output = Result<String, E>> + Send + 'static,
    E: IntoResponse + 'static,
{
    let metrics = move || {
        let text = metrics();
        async move { text.await.map(|text| ([(CONTENT_TYPE, OPENMETRICS)], text)) }
    };
    probes(not_ready).route("/metrics", get(metrics))
}

/// Serves until the process exits, also while it drains.
pub async fn serve(listener: TcpListener, router: Router) {
    let server = Server::new("admin", Limits::PROBES, TrustedProxies::default());
    server.serve(listener, router, CancellationToken::new(), TaskTracker::new()).await;
}
