//! Opens the upstream connection: finds the session, waits until it is Ready, and connects to its runner. Shared by
//! `/ws` and `/vnc`.

use crate::{
    auth::{
        extract::{SessionAccess, Upgrading},
        principal::Denied,
    },
    cache::sessions::SessionWatch,
    error::ApiError,
    kubernetes,
    metrics::Outcome,
    proxy::{
        relay::{CloseReason, END_REASON_TIMEOUT},
        runner_client::{self, RunnerResponse, Service},
    },
    state::Gateway,
};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use camofleet_crds::v1alpha1::{RunnerRef, SessionState};
use camofleet_runner_api::{ErrorReason, ErrorResponse};
use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use kube::ResourceExt;
use tokio::time::{Instant, timeout, timeout_at};

/// A Ready session.
pub struct ReadySession {
    /// A watch on the session.
    pub session: SessionWatch,
    /// The session's runner.
    pub runner: RunnerRef,
}

/// The runner's response to a client's handshake.
pub enum Upstream {
    /// The runner accepted the connection.
    Opened {
        /// Headers of the runner's 101 to forward to the client.
        headers: HeaderMap,
        /// Resolves to the connection to the session's service.
        connection: OnUpgrade,
    },
    /// The runner rejected the client, not the gateway: for example, with 428 for another minor version of Playwright.
    /// Contains the response to forward.
    Rejected(Response),
}

/// Finds the session that the client is allowed to connect to, and waits until it is Ready.
///
/// # Errors
/// When the session does not exist, has ended, or does not become Ready in time.
pub async fn find(gateway: &Gateway, access: &SessionAccess) -> Result<ReadySession, ApiError> {
    let found = gateway.shutdown.unless_draining(ready_session(gateway, access)).await?;
    if found.session.session().is_in_pool(access.pool()) {
        Ok(found)
    } else {
        Err(ApiError::NoSession(access.session().clone()))
    }
}

/// Connects to one of the session's services on its runner. `client`: the headers of the client's request.
///
/// # Errors
/// When the gateway drains, the session has ended, or the runner is unreachable or rejects the gateway.
pub async fn open(
    gateway: &Gateway,
    access: &SessionAccess,
    found: &mut ReadySession,
    service: Service,
    client: &HeaderMap,
) -> Result<Upstream, ApiError> {
    let session = &mut found.session;
    match gateway.shutdown.unless_draining(dial_runner(gateway, access, session, &found.runner, service, client)).await
    {
        Ok(RunnerResponse::Upgraded { headers, connection }) => Ok(Upstream::Opened { headers, connection }),
        Ok(RunnerResponse::Other { status, body, .. }) if reason_of(&body) == Some(ErrorReason::TokenUsed) => {
            tracing::debug!(%status, "rejected a single-use token that was used before");
            Err(ApiError::Denied(Denied::AlreadyUsed))
        }
        Ok(RunnerResponse::Other { body, .. }) if reason_of(&body) == Some(ErrorReason::InitialPageHeld) => {
            Err(ApiError::InitialPageHeld(runner_message(StatusCode::CONFLICT, &body)))
        }
        // The runner rejected the gateway's token, not the client's.
        Ok(RunnerResponse::Other {
            status: status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), body, ..
        }) => Err(ApiError::RunnerRejected(runner_message(status, &body))),
        // The runner does not have the session, or the session is ending.
        Ok(RunnerResponse::Other { status: status @ (StatusCode::NOT_FOUND | StatusCode::CONFLICT), body, .. }) => {
            Err(session_end_or(session, ApiError::RunnerRejected(runner_message(status, &body))).await)
        }
        Ok(RunnerResponse::Other { status, content_type, body }) => {
            Ok(Upstream::Rejected(forwarded_response(status, content_type, body.into())))
        }
        Err(ApiError::Draining) => Err(ApiError::Draining),
        Err(error) => Err(session_end_or(session, error).await),
    }
}

/// Waits until the gateway has to close a connection, and returns the reason.
pub async fn close_reason(gateway: &Gateway, access: &SessionAccess, session: &mut SessionWatch) -> CloseReason {
    tokio::select! {
        end = session.ended() => CloseReason::Session(end),
        () = gateway.shutdown.draining() => CloseReason::Drain,
        () = access.wait_until_invalid(gateway) => CloseReason::Revoked,
    }
}

/// Waits until both sides are upgraded, runs `relay`, and counts the connection and its outcome.
pub async fn relay_until_closed<Relayed: Future<Output = Outcome>>(
    gateway: &Gateway,
    client: Upgrading,
    runner: OnUpgrade,
    relay: impl FnOnce(Upgraded, Upgraded) -> Relayed,
) {
    let start = Instant::now();
    gateway.metrics.opened();
    let outcome = match tokio::try_join!(client.upgrade, runner) {
        Ok((client, runner)) => {
            tracing::info!("connected");
            relay(client, runner).await
        }
        Err(error) => {
            tracing::debug!(%error, "a side disconnected before the upgrade completed");
            Outcome::ClientLeft
        }
    };
    gateway.metrics.closed(outcome);
    tracing::info!(?outcome, seconds = start.elapsed().as_secs_f64(), "disconnected");
}

async fn ready_session(gateway: &Gateway, access: &SessionAccess) -> Result<ReadySession, ApiError> {
    let deadline = Instant::now() + gateway.ready_timeout;
    let key = access.session();
    // The watch can lag behind the creation of a session, and an ended session may have had the same name. Therefore,
    // when the cache has no session or an ended one, the session is read once from the API server.
    let known = gateway.sessions.watch(key).filter(|session| access.covers_session(&session.uid()));
    let ended = match known {
        None => None,
        Some(session) => {
            let uid = session.uid();
            match ready_by(deadline, session).await {
                Err(error @ ApiError::SessionEnded(_)) => Some((uid, error)),
                other => return other,
            }
        }
    };
    let now = kubernetes::get(&gateway.client, key).await?.and_then(|object| object.uid());
    let next = match (now, ended) {
        (Some(now), Some((uid, error))) if now == uid => return Err(error),
        (Some(now), _) if !access.covers_session(&now) => return Err(ApiError::Denied(Denied::OtherSession)),
        (Some(now), _) => now,
        (None, Some((_, error))) => return Err(error),
        (None, None) => return Err(ApiError::NoSession(key.clone())),
    };
    let next = timeout_at(deadline, gateway.sessions.wait_for_session(key, &next)).await;
    ready_by(deadline, next.map_err(|_| ApiError::NotReady(SessionState::Pending))?).await
}

async fn ready_by(deadline: Instant, mut session: SessionWatch) -> Result<ReadySession, ApiError> {
    match timeout_at(deadline, session.ready()).await {
        Ok(Ok(runner)) => Ok(ReadySession { session, runner }),
        Ok(Err(end)) => Err(ApiError::SessionEnded(end)),
        Err(_) => Err(ApiError::NotReady(session.state())),
    }
}

async fn dial_runner(
    gateway: &Gateway,
    access: &SessionAccess,
    session: &SessionWatch,
    runner: &RunnerRef,
    service: Service,
    client: &HeaderMap,
) -> Result<RunnerResponse, ApiError> {
    let uid = session.uid();
    let token = gateway.signer.hop_token(&runner.uid, &uid, access.scope(), access.single_use_id());
    let start = Instant::now();
    let response = runner_client::upgrade(&runner.address, &uid, &service, &token, client).await;
    let response = response.map_err(|error| ApiError::RunnerUnreachable(error.to_string()))?;
    gateway.metrics.observe_dial(start.elapsed());
    Ok(response)
}

/// Returns the session's end if the watch delivers it within 2 s, or else `error`. A runner ends a session before the
/// watch delivers the reason.
pub async fn session_end_or(session: &mut SessionWatch, error: ApiError) -> ApiError {
    timeout(END_REASON_TIMEOUT, session.ended()).await.map_or(error, ApiError::SessionEnded)
}

fn reason_of(body: &[u8]) -> Option<ErrorReason> {
    serde_json::from_slice(body).ok().map(|error: ErrorResponse| error.reason)
}

fn runner_message(status: StatusCode, body: &[u8]) -> String {
    serde_json::from_slice(body).map_or_else(|_| status.to_string(), |error: ErrorResponse| error.message)
}

fn forwarded_response(status: StatusCode, content_type: Option<HeaderValue>, body: Body) -> Response {
    let mut response = (status, body).into_response();
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response.extensions_mut().insert(Outcome::RunnerRefused);
    response
}
