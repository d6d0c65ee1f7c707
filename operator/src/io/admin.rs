//! Serves probes and metrics.

use crate::core::FleetStats;
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

/// Requests the statistics of the fleet from the core. The reply is `None` if this process does not lead.
pub(super) type StatsRequest = oneshot::Sender<Option<FleetStats>>;

/// Serves `/healthz`, `/readyz` and `/metrics`. The process is ready if its caches are complete, so that it leads or
/// could lead at once, and the API server keeps all fields that it writes.
pub(super) fn serve(
    listen: SocketAddr,
    executor: Arc<Executor>,
    watches: &Watches,
    stats_requests: mpsc::Sender<StatsRequest>,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = server::listen(listen)?;
    let (listed, last_seen) = (watches.listed_count(), watches.last_seen());
    let pruned = executor.clone();
    let not_ready = move || {
        let count = *listed.borrow();
        if watch::are_all_listed(count) {
            pruned.pruned.readiness_error()
        } else {
            Some(format!("{count} of {} watches have read their first list", watch::COUNT))
        }
    };
    let metrics = move || {
        let (executor, last_seen, stats_requests) = (executor.clone(), last_seen.clone(), stats_requests.clone());
        async move {
            let (ask, answer) = oneshot::channel();
            if stats_requests.send(ask).await.is_err() {
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
            let stats = answer.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
            Ok(executor.metrics.text(stats.as_ref(), &last_seen))
        }
    };
    Ok(tokio::spawn(admin::serve(listener, admin::router(not_ready, metrics))))
}
