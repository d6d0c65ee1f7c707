//! Serves probes and metrics.

use crate::core::Load;
use crate::io::{
    executor::Executor,
    watch::{self, Watches},
};
use axum::http::StatusCode;
use camofleet_runtime::{admin, server};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// Requests the load of the fleet from the core. The reply is None if this process does not lead.
pub(super) type LoadRequest = oneshot::Sender<Option<Load>>;

/// Serves `/healthz`, `/readyz` and `/metrics`. The process is ready if its caches are complete, so that it leads or
/// could lead at once, and the API server keeps all fields that it writes.
pub(super) fn serve(
    listen: SocketAddr,
    executor: Arc<Executor>,
    watches: &Watches,
    load_requests: mpsc::Sender<LoadRequest>,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = server::listen(listen)?;
    let (warm, last_seen) = (watches.warm(), watches.last_seen());
    let pruned = executor.clone();
    let not_ready = move || {
        let read = *warm.borrow();
        if watch::is_warm(read) {
            pruned.pruned.readiness_error()
        } else {
            Some(format!("{read} of {} watches have read their first list", watch::COUNT))
        }
    };
    let metrics = move || {
        let (executor, last_seen, load_requests) = (executor.clone(), last_seen.clone(), load_requests.clone());
        async move {
            let (ask, answer) = oneshot::channel();
            if load_requests.send(ask).await.is_err() {
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
            let load = answer.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
            Ok(executor.metrics.text(load.as_ref(), &last_seen))
        }
    };
    Ok(tokio::spawn(admin::serve(listener, admin::router(not_ready, metrics))))
}
