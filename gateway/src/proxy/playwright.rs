//! `GET /ws/{namespace}/{name}`: connects a Playwright client to the browser of a session.

use crate::{
    auth::extract::{Handshake, MayConnect, SessionAccess, Upgrading},
    cache::sessions::SessionWatch,
    error::ApiError,
    metrics::Outcome,
    proxy::{
        client_options::Options,
        relay::{Side, relay},
        runner_client::Service,
        upstream::{self, Upstream},
    },
    state::Gateway,
};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use camofleet_runtime::tcp;
use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use std::sync::Arc;
use tracing::Instrument;

/// Finds the session, waits until it is Ready, connects to its runner, and relays.
pub async fn playwright(
    MayConnect(access): MayConnect,
    Options(options): Options,
    handshake: Handshake,
    State(gateway): State<Arc<Gateway>>,
) -> Result<Response, ApiError> {
    let mut ready = upstream::find(&gateway, &access).await?;
    tracing::Span::current().record("session", ready.session.uid());
    match upstream::open(&gateway, &access, &mut ready, Service::Playwright(options), &handshake.headers).await? {
        Upstream::Opened { headers, connection } => {
            let relayed = relay_both(Arc::clone(&gateway), access, ready.session, handshake.connection, connection);
            gateway.shutdown.spawn(relayed.in_current_span());
            let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
            response.headers_mut().extend(headers);
            Ok(response)
        }
        Upstream::Rejected(response) => Ok(response),
    }
}

async fn relay_both(
    gateway: Arc<Gateway>,
    access: SessionAccess,
    mut session: SessionWatch,
    client: Upgrading,
    runner: OnUpgrade,
) {
    upstream::relay_until_closed(&gateway, client, runner, async |client, runner| {
        let (client, runner) = (Side::from(tcp::split(client)), Side::from(tcp::split(runner)));
        let Ok(client_death) = tcp::peer_death(client.write.as_ref()) else { return Outcome::ClientLost };
        let closing = upstream::close_reason(&gateway, &access, &mut session);
        relay(client, runner, closing, client_death, gateway.metrics.traffic()).await
    })
    .await;
}
