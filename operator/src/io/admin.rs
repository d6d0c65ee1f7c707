//! Probes and metrics.

use crate::core::Load;
use crate::io::{
    shell::Shell,
    watch::{self, Watches},
};
use axum::http::StatusCode;
use camofleet_runtime::{admin, server};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// Asks the core how busy the fleet is. None: this process does not lead.
pub(super) type LoadAsk = oneshot::Sender<Option<Load>>;

/// Serves `/healthz` (the process runs), `/readyz` (its caches are warm, so that it leads or could at once, and the API server keeps
/// all fields that it writes) and `/metrics`.
pub(super) fn serve(
    listen: SocketAddr,
    shell: Arc<Shell>,
    watches: &Watches,
    load_asks: mpsc::Sender<LoadAsk>,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = server::listen(listen)?;
    let (warm, pulses) = (watches.warm(), watches.pulses());
    let pruned = shell.clone();
    let not_ready = move || {
        let read = *warm.borrow();
        if watch::is_warm(read) {
            pruned.pruned.trouble()
        } else {
            Some(format!("{read} of the watches were read whole so far"))
        }
    };
    let metrics = move || {
        let (shell, pulses, load_asks) = (shell.clone(), pulses.clone(), load_asks.clone());
        async move {
            let (ask, answer) = oneshot::channel();
            if load_asks.send(ask).await.is_err() {
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
            let load = answer.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
            Ok(shell.metrics.text(load.as_ref(), &pulses))
        }
    };
    Ok(tokio::spawn(admin::serve(listener, admin::router(not_ready, metrics))))
}
