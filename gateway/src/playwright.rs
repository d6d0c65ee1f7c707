//! `GET /ws/{namespace}/{name}`: the way of a Playwright client to its session.

use crate::{
    Gateway,
    dial::{self, Service},
    door,
    metrics::Outcome,
    refusal::Refusal,
    relay::relay,
    rights::{Handshake, MayConnect, Right},
    sessions::Followed,
};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use std::sync::Arc;
use tokio::time::Instant;
use tracing::Instrument;

/// Finds the session, waits until it is Ready, dials its runner, and relays.
pub async fn playwright(
    MayConnect(right): MayConnect,
    handshake: Handshake,
    State(gateway): State<Arc<Gateway>>,
) -> Result<Response, Refusal> {
    let mut found = door::find(&gateway, &right).await?;
    tracing::Span::current().record("session", found.session.uid());
    match door::enter(&gateway, &right, &mut found, Service::Playwright, &handshake.headers).await? {
        Ok(opened) => {
            let relayed =
                relay_both(Arc::clone(&gateway), right, found.session, handshake.connection, opened.connection);
            gateway.tasks.spawn(relayed.in_current_span());
            let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
            response.headers_mut().extend(opened.headers);
            Ok(response)
        }
        Err(response) => Ok(response),
    }
}

/// Relays from the moment that both sides are upgraded, and counts what came of it.
async fn relay_both(gateway: Arc<Gateway>, right: Right, mut session: Followed, client: OnUpgrade, runner: OnUpgrade) {
    let start = Instant::now();
    let metrics = &gateway.metrics;
    metrics.open.inc();
    let outcome = match tokio::try_join!(client, runner) {
        Ok((client, runner)) => {
            tracing::info!("connected");
            let ending = door::ending(&gateway, &right, &mut session);
            relay(dial::side(client), dial::side(runner), ending, &metrics.traffic).await
        }
        Err(error) => {
            tracing::debug!(%error, "a side went before the connection stood");
            Outcome::ClientLeft
        }
    };
    metrics.open.dec();
    metrics.count(outcome);
    tracing::info!(?outcome, seconds = start.elapsed().as_secs_f64(), "disconnected");
}
