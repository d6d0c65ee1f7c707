//! The way to a session that all doors share: which one, is it Ready, and what does its runner say.

use crate::{
    auth::{
        extract::{SessionAccess, Upgrading},
        principal::Denied,
    },
    cache::sessions::Followed,
    error::ApiError,
    kubernetes,
    metrics::Outcome,
    proxy::{
        relay::{END_REASON_TIMEOUT, Ending},
        runner_client::{self, Answer, Service},
    },
    state::Gateway,
};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use camofleet_crds::v1alpha1::{RunnerRef, SessionState};
use camofleet_runner_api::{Refusal as RunnerRefusal, RefusalReason};
use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use kube::ResourceExt;
use tokio::time::{Instant, timeout, timeout_at};

/// A session that is Ready, and where.
pub struct Found {
    /// The session.
    pub session: Followed,
    /// Its runner.
    pub runner: RunnerRef,
}

/// The runner's answer to a client's handshake.
pub enum Upstream {
    /// The runner accepted it.
    Opened {
        /// Headers of the runner's 101 that are for the client.
        headers: HeaderMap,
        /// The connection to the session's service.
        connection: OnUpgrade,
    },
    /// The runner rejected the client, not the gateway: for example 428 for another minor of Playwright. Holds the response to pass on.
    Rejected(Response),
}

/// The session of that name that the client may connect to, when it is Ready before the client's patience ends.
pub async fn find(gateway: &Gateway, access: &SessionAccess) -> Result<Found, ApiError> {
    let found = gateway.shutdown.unless_draining(ready_session(gateway, access)).await?;
    if found.session.session().is_in_pool(access.pool()) {
        Ok(found)
    } else {
        Err(ApiError::NoSession(access.session().clone()))
    }
}

/// Dials the runner for one of the session's services. The client's headers go with it as far as the service needs them.
///
/// # Errors
/// When the gateway drains, the session is over, or the runner is unreachable or rejects the gateway.
pub async fn enter(
    gateway: &Gateway,
    access: &SessionAccess,
    found: &mut Found,
    service: Service,
    client: &HeaderMap,
) -> Result<Upstream, ApiError> {
    let session = &mut found.session;
    match gateway.shutdown.unless_draining(ask_runner(gateway, access, session, &found.runner, service, client)).await {
        Ok(Answer::Upgraded { headers, connection }) => Ok(Upstream::Opened { headers, connection }),
        Ok(Answer::Plain { status, body, .. }) if is_used_token(&body) => {
            tracing::debug!(%status, "the token was used before");
            Err(ApiError::Denied(Denied::Used))
        }
        // The runner speaks to the gateway here, not to the client, whose token and session are not what is wrong.
        Ok(Answer::Plain { status: status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), body, .. }) => {
            Err(ApiError::RunnerRefused(runner_words(status, &body)))
        }
        // The session is not there, or ends just now.
        Ok(Answer::Plain { status: status @ (StatusCode::NOT_FOUND | StatusCode::CONFLICT), body, .. }) => {
            Err(ended_or(session, ApiError::RunnerRefused(runner_words(status, &body))).await)
        }
        Ok(Answer::Plain { status, content_type, body }) => {
            Ok(Upstream::Rejected(passed_on(status, content_type, body.into())))
        }
        Err(ApiError::Draining) => Err(ApiError::Draining),
        Err(error) => Err(ended_or(session, error).await),
    }
}

/// Waits for what ends a connection from the gateway's side.
pub async fn ending(gateway: &Gateway, access: &SessionAccess, session: &mut Followed) -> Ending {
    tokio::select! {
        end = session.ended() => Ending::Session(end),
        () = gateway.shutdown.draining() => Ending::Drain,
        () = access.revoked(gateway) => Ending::Revoked,
    }
}

/// Has what goes on between client and runner carried, from the moment that both sides are upgraded, and counts what came
/// of it.
pub async fn between<Carried: Future<Output = Outcome>>(
    gateway: &Gateway,
    client: Upgrading,
    runner: OnUpgrade,
    carry: impl FnOnce(Upgraded, Upgraded) -> Carried,
) {
    let start = Instant::now();
    gateway.metrics.opened();
    let outcome = match tokio::try_join!(client.upgrade, runner) {
        Ok((client, runner)) => {
            tracing::info!("connected");
            carry(client, runner).await
        }
        Err(error) => {
            tracing::debug!(%error, "a side went before the connection stood");
            Outcome::ClientLeft
        }
    };
    gateway.metrics.closed(outcome);
    tracing::info!(?outcome, seconds = start.elapsed().as_secs_f64(), "disconnected");
}

async fn ready_session(gateway: &Gateway, access: &SessionAccess) -> Result<Found, ApiError> {
    let deadline = Instant::now() + gateway.patience;
    let key = access.session();
    // This replica's watch may lag behind a create, of a session that is new or that is made again under its name. So who
    // is not known, or known to be over, is asked for once at the API server itself.
    let known = gateway.sessions.follow(key).filter(|session| access.is_for(&session.uid()));
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
        (Some(now), _) if !access.is_for(&now) => return Err(ApiError::Denied(Denied::OtherSession)),
        (Some(now), _) => now,
        (None, Some((_, error))) => return Err(error),
        (None, None) => return Err(ApiError::NoSession(key.clone())),
    };
    let next = timeout_at(deadline, gateway.sessions.follow_later(key, &next)).await;
    ready_by(deadline, next.map_err(|_| ApiError::NotReady(SessionState::Pending))?).await
}

async fn ready_by(deadline: Instant, mut session: Followed) -> Result<Found, ApiError> {
    match timeout_at(deadline, session.ready()).await {
        Ok(Ok(runner)) => Ok(Found { session, runner }),
        Ok(Err(end)) => Err(ApiError::SessionEnded(end)),
        Err(_) => Err(ApiError::NotReady(session.state())),
    }
}

async fn ask_runner(
    gateway: &Gateway,
    access: &SessionAccess,
    session: &Followed,
    runner: &RunnerRef,
    service: Service,
    client: &HeaderMap,
) -> Result<Answer, ApiError> {
    let uid = session.uid();
    let token = gateway.signer.hop_token(&runner.uid, &uid, access.scope(), access.single_use_id());
    let start = Instant::now();
    let answer = runner_client::upgrade(&runner.address, &uid, service, &token, client).await;
    let answer = answer.map_err(|error| ApiError::RunnerUnreachable(error.to_string()))?;
    gateway.metrics.dialled(start.elapsed());
    Ok(answer)
}

/// The end of the session when the watch delivers it within 2 s, else `error`: a runner ends a session before the watch delivers why.
pub async fn ended_or(session: &mut Followed, error: ApiError) -> ApiError {
    timeout(END_REASON_TIMEOUT, session.ended()).await.map_or(error, ApiError::SessionEnded)
}

fn is_used_token(body: &[u8]) -> bool {
    serde_json::from_slice(body).is_ok_and(|refusal: RunnerRefusal| refusal.reason == RefusalReason::TokenUsed)
}

fn runner_words(status: StatusCode, body: &[u8]) -> String {
    serde_json::from_slice(body).map_or_else(|_| status.to_string(), |refusal: RunnerRefusal| refusal.message)
}

fn passed_on(status: StatusCode, content_type: Option<HeaderValue>, body: Body) -> Response {
    let mut response = (status, body).into_response();
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response.extensions_mut().insert(Outcome::RunnerRefused);
    response
}
