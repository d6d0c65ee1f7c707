//! `GET /ws/{namespace}/{name}`: the way of a Playwright client to its session.

use crate::{
    Gateway,
    dial::{self, Answer},
    kubernetes,
    metrics::Outcome,
    refusal::Refusal,
    relay::{Ending, WORD_OF_END, relay},
    rights::{Handshake, MayConnect},
    session::Key,
    sessions::Followed,
};
use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use camofleet_crds::v1alpha1::{RunnerRef, SessionState};
use camofleet_runner_api::{Refusal as RunnerRefusal, token::Role};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use hyper::upgrade::OnUpgrade;
use std::sync::Arc;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument;

/// Finds the session, waits until it is Ready, dials its runner, and relays.
pub async fn playwright(
    right: MayConnect,
    handshake: Handshake,
    State(gateway): State<Arc<Gateway>>,
) -> Result<Response, Refusal> {
    let (mut session, runner) = gateway.unless_draining(ready_session(&gateway, right.session())).await?;
    tracing::Span::current().record("session", session.uid());
    match gateway.unless_draining(ask_runner(&gateway, &session, &runner, &handshake)).await {
        Ok(Answer::Upgraded { headers, connection }) => {
            let relayed = relay_both(Arc::clone(&gateway), right, session, handshake.connection, connection);
            gateway.tasks.spawn(relayed.in_current_span());
            let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
            response.headers_mut().extend(headers);
            Ok(response)
        }
        // The runner speaks to the gateway here, not to the client, whose token and session are not what is wrong.
        Ok(Answer::Refused { status: status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), body, .. }) => {
            Err(Refusal::RunnerRefused(runner_words(status, &body)))
        }
        // The session is not there, or ends just now.
        Ok(Answer::Refused { status: status @ (StatusCode::NOT_FOUND | StatusCode::CONFLICT), body, .. }) => {
            Err(over_or(&mut session, Refusal::RunnerRefused(runner_words(status, &body))).await)
        }
        Ok(Answer::Refused { status, content_type, body }) => Ok(passed_on(status, content_type, body.into())),
        Err(Refusal::Draining) => Err(Refusal::Draining),
        Err(refusal) => Err(over_or(&mut session, refusal).await),
    }
}

/// The session that has this name now, and its runner, when both are there before the client's patience ends.
async fn ready_session(gateway: &Gateway, key: &Key) -> Result<(Followed, RunnerRef), Refusal> {
    let deadline = Instant::now() + gateway.patience;
    // This replica's watch may lag behind a create, of a session that is new or that is made again under its name. So who
    // is not known, or known to be over, is asked for once at the API server itself.
    let former = match gateway.sessions.follow(key) {
        None => {
            kubernetes::uid_of(&gateway.client, key).await?.ok_or_else(|| Refusal::NoSession(key.clone()))?;
            None
        }
        Some(session) => {
            let uid = session.uid();
            let refusal = match ready_by(deadline, session).await {
                Err(refusal @ Refusal::Over(_)) => refusal,
                other => return other,
            };
            if kubernetes::uid_of(&gateway.client, key).await?.is_none_or(|now| now == uid) {
                return Err(refusal);
            }
            Some(uid)
        }
    };
    let next = timeout_at(deadline, gateway.sessions.follow_next(key, former.as_deref())).await;
    ready_by(deadline, next.map_err(|_| Refusal::NotReady(SessionState::Pending))?).await
}

async fn ready_by(deadline: Instant, mut session: Followed) -> Result<(Followed, RunnerRef), Refusal> {
    match timeout_at(deadline, session.ready()).await {
        Ok(Ok(runner)) => Ok((session, runner)),
        Ok(Err(over)) => Err(Refusal::Over(over)),
        Err(_) => Err(Refusal::NotReady(session.state())),
    }
}

async fn ask_runner(
    gateway: &Gateway,
    session: &Followed,
    runner: &RunnerRef,
    handshake: &Handshake,
) -> Result<Answer, Refusal> {
    let uid = session.uid();
    let token = gateway.signer.hop_token(&runner.uid, &uid, Role::Connect);
    let start = Instant::now();
    let answer = dial::playwright(&runner.address, &uid, &token, &handshake.headers).await;
    let answer = answer.map_err(|error| Refusal::RunnerUnreachable(error.to_string()))?;
    gateway.metrics.dialled(start.elapsed());
    Ok(answer)
}

/// A runner ends a session before the watch says so: the better answer is why it ended.
async fn over_or(session: &mut Followed, refusal: Refusal) -> Refusal {
    timeout(WORD_OF_END, session.over()).await.map_or(refusal, Refusal::Over)
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

/// Relays from the moment that both sides are upgraded, and counts what came of it.
async fn relay_both(
    gateway: Arc<Gateway>,
    right: MayConnect,
    mut session: Followed,
    client: OnUpgrade,
    runner: OnUpgrade,
) {
    let start = Instant::now();
    let metrics = &gateway.metrics;
    metrics.open.inc();
    let outcome = match tokio::try_join!(client, runner) {
        Ok((client, runner)) => {
            tracing::info!("connected");
            let ending = async {
                tokio::select! {
                    over = session.over() => Ending::Session(over),
                    () = gateway.draining.cancelled() => Ending::Drain,
                    () = right.revoked(&gateway) => Ending::Revoked,
                }
            };
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

impl Gateway {
    /// What comes of the work, unless the gateway has to go before.
    async fn unless_draining<T>(&self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        tokio::select! {
            biased;
            () = self.draining.cancelled() => Err(Refusal::Draining),
            done = work => done,
        }
    }
}
