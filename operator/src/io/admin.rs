//! Probes and metrics.

use crate::io::{
    LoadAsk, Shell,
    watch::{self, Watches},
};
use anyhow::Context;
use axum::{Router, http::StatusCode, http::header::CONTENT_TYPE, routing::get};
use camofleet_runtime::{
    client_address::TrustedProxies,
    server::{self, Limits, Server},
};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `/healthz` (the process runs), `/readyz` (its caches are warm, so that it leads or could at once, and the API server keeps
/// all fields that it writes) and `/metrics`.
pub(super) fn serve(
    listen: SocketAddr,
    shell: Arc<Shell>,
    watches: &Watches,
    load_asks: mpsc::Sender<LoadAsk>,
) -> anyhow::Result<JoinHandle<()>> {
    let listener =
        server::listen(listen).with_context(|| format!("cannot listen on {listen} for probes and metrics"))?;
    let (warm, pulses) = (watches.warm(), watches.pulses());
    let pruned = shell.clone();
    let ready = move || {
        let read = *warm.borrow();
        let trouble = if watch::is_warm(read) {
            pruned.pruned.trouble()
        } else {
            Some(format!("{read} of the watches were read whole so far"))
        };
        async move {
            match trouble {
                None => (StatusCode::OK, "ok".to_owned()),
                Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, trouble),
            }
        }
    };
    let metrics = async move || {
        let (ask, answer) = oneshot::channel();
        if load_asks.send(ask).await.is_err() {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        let load = answer.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        Ok(([(CONTENT_TYPE, OPENMETRICS)], shell.metrics.text(load.as_ref(), &pulses)))
    };
    let router = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    let server = Server::new("admin", Limits::PROBES, TrustedProxies::default());
    Ok(tokio::spawn(async move { server.serve(listener, router, CancellationToken::new(), TaskTracker::new()).await }))
}
