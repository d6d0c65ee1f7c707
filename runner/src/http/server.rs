//! The routes and handlers of the HTTP API. Handlers delegate to the driver.

use crate::{
    http::{
        error::ApiError,
        extract::{AnyCaller, AnyCallerOnSession, Operator, OperatorOnSession},
        state::AppState,
        tunnel,
    },
    supervisor::driver::{Published, RunnerHandle},
    traces::TracedBind,
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use camofleet_runner_api::{
    BindRequest, BindResponse, ErrorReason, ErrorResponse, RunnerState, SessionReport, TRACEPARENT,
};
use camofleet_runtime::admin;
use futures::stream;
use std::{convert::Infallible, time::Duration};
use tokio::{sync::watch, time::timeout};

/// Interval at which the event stream repeats an unchanged state.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Routes of the kubelet's probes, which need no token.
pub(crate) fn probes(runner: RunnerHandle) -> Router {
    admin::probes(move || not_ready(&runner.published().borrow()))
}

/// Routes of the API, which need a token. For one more version it also serves the probes, because the pods of
/// operators older than the separate probe port are probed on this port.
pub(crate) fn router(app: AppState) -> Router {
    let probes = probes(app.runner.clone());
    Router::new()
        .route("/v1/sessions", get(list))
        .route("/v1/events", get(events))
        .route("/v1/sessions/{uid}", put(bind).get(report).delete(end))
        .route("/v1/sessions/{uid}/touch", post(touch))
        .route("/v1/sessions/{uid}/playwright", get(tunnel::playwright))
        .route("/v1/sessions/{uid}/vnc", get(tunnel::vnc))
        .with_state(app)
        .merge(probes)
}

fn not_ready(published: &Published) -> Option<String> {
    match (published.ready, &published.state.launch_error) {
        (true, _) => None,
        (false, Some(error)) => Some(format!("cannot launch browsers: {error}")),
        (false, None) if published.state.draining => Some("the runner is draining and has no session".to_owned()),
        (false, None) => Some("no browser has become ready since the last failure of one".to_owned()),
    }
}

async fn list(_: AnyCaller, State(runner): State<RunnerHandle>) -> Json<RunnerState> {
    Json(runner.published().borrow().state.clone())
}

async fn events(_: Operator, State(runner): State<RunnerHandle>) -> Response {
    let mut published = runner.published();
    published.mark_changed();
    let lines = stream::unfold(published, |mut published| async {
        // A timeout repeats the state. A closed channel means that the runner has ended.
        if let Ok(Err(_)) = timeout(HEARTBEAT, published.changed()).await {
            return None;
        }
        Some((Ok::<_, Infallible>(encode_line(&mut published)), published))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

fn encode_line(published: &mut watch::Receiver<Published>) -> Bytes {
    let mut line = serde_json::to_vec(&published.borrow_and_update().state).expect("plain data serializes");
    line.push(b'\n');
    line.into()
}

async fn bind(
    OperatorOnSession(uid, term): OperatorOnSession,
    State(AppState { runner, tracer, .. }): State<AppState>,
    headers: HeaderMap,
    request: Result<Json<BindRequest>, JsonRejection>,
) -> Result<Json<BindResponse>, ApiError> {
    let traceparent = headers.get(TRACEPARENT).and_then(|header| header.to_str().ok());
    let trace = TracedBind::new(tracer.as_ref(), traceparent);
    let invalid = |message| ErrorResponse { reason: ErrorReason::Invalid, message };
    let Json(request) = request.map_err(|error| invalid(error.body_text()))?;
    if request.idle_timeout_seconds == 0 || request.max_lifetime_seconds == 0 {
        return Err(invalid("idleTimeoutSeconds and maxLifetimeSeconds must be at least 1".to_owned()).into());
    }
    Ok(Json(runner.bind(term, uid, request, trace).await?))
}

async fn report(
    AnyCallerOnSession(uid): AnyCallerOnSession,
    State(runner): State<RunnerHandle>,
) -> Result<Json<SessionReport>, ApiError> {
    Ok(Json(runner.session_report(uid).await?))
}

async fn end(
    OperatorOnSession(uid, term): OperatorOnSession,
    State(runner): State<RunnerHandle>,
) -> Result<StatusCode, ApiError> {
    runner.end(term, uid).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn touch(
    AnyCallerOnSession(uid): AnyCallerOnSession,
    State(runner): State<RunnerHandle>,
) -> Result<StatusCode, ApiError> {
    runner.touch(uid).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readyz_names_why_the_runner_is_not_ready() {
        let reason = |ready, state| not_ready(&Published { state, ready });
        let failing = RunnerState { launch_error: Some("no display".to_owned()), ..RunnerState::default() };
        let draining = RunnerState { draining: true, ..RunnerState::default() };
        assert_eq!(reason(true, draining.clone()), None, "it drains and has a session");
        assert_eq!(reason(false, draining).as_deref(), Some("the runner is draining and has no session"));
        assert_eq!(reason(false, failing).as_deref(), Some("cannot launch browsers: no display"));
        // A hot browser that crashed leaves no launch error.
        let crashed = reason(false, RunnerState::default());
        assert_eq!(crashed.as_deref(), Some("no browser has become ready since the last failure of one"));
    }
}
