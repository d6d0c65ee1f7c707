//! The admin listener: serves the cluster's probes and metrics.

use crate::state::Gateway;
use camofleet_runtime::admin;
use http::StatusCode;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Serves until the process exits, including while the gateway drains.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener) {
    let state = Arc::clone(&gateway);
    let unready_reason = move || state.unready_reason().map(str::to_owned);
    let metrics = move || {
        let text = gateway.metrics.render(gateway.clients.counts());
        async { text.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())) }
    };
    admin::serve(listener, admin::router(unready_reason, metrics)).await;
}
