//! Handles shutdown signals.

use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns a token that the first SIGTERM or SIGINT cancels. From this call on, these signals no longer terminate the
/// process.
///
/// # Errors
/// A signal handler could not be installed.
pub fn shutdown() -> io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let received = CancellationToken::new();
    let shutdown = received.clone();
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "received shutdown signal");
        received.cancel();
    });
    Ok(shutdown)
}
