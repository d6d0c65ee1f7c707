//! The public listener: routes requests over HTTP/1.1, logs and counts them. From the URL it logs only the namespace
//! and name of a session, because the query can contain a token and the rest is arbitrary client input.

use crate::{
    auth::extract::PathParams,
    cache::session::Key,
    error::ApiError,
    metrics::{Metrics, Outcome},
    proxy::{live_view, playwright},
    rest,
    server::{other_protocols, static_files},
    state::Gateway,
};
use axum::{
    Router,
    extract::{self, Request, State, rejection::PathRejection},
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use camofleet_runtime::server::ConnectionHandle;
use http::{HeaderName, HeaderValue};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{net::TcpListener, time::Instant};
use tracing::{Instrument, Span, field};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The routes of the public listener. `ui`: the directory with the UI's build.
fn router(gateway: Arc<Gateway>, ui: &Path) -> Router {
    Router::new()
        .route("/ws/{namespace}/{name}", get(playwright::playwright))
        .route("/vnc/{namespace}/{name}", get(live_view::vnc))
        .merge(rest::router())
        .merge(static_files::router(ui))
        .merge(other_protocols::router())
        .fallback(async || ApiError::NoSuchResource)
        .layer(middleware::from_fn_with_state(Arc::clone(&gateway), log_and_count))
        .with_state(gateway)
}

/// Serves until the gateway drains. Each connection runs in a task that the shutdown waits for. `ui`: the directory
/// with the UI's build.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener, ui: PathBuf) {
    let (draining, tasks) = (gateway.shutdown.draining_token(), gateway.shutdown.tasks());
    gateway.clients.serve(listener, router(Arc::clone(&gateway), &ui), draining, tasks).await;
}

async fn log_and_count(
    State(gateway): State<Arc<Gateway>>,
    params: Result<extract::Path<PathParams>, PathRejection>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(connection) = request.extensions().get::<ConnectionHandle>() {
        gateway.clients.count_request(connection.client_address());
    }
    let id = request_id(&request);
    let key = params.ok().and_then(|extract::Path(params)| params.session(&gateway));
    let span = tracing::info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        namespace = key.as_ref().map(Key::namespace),
        name = key.as_ref().map(Key::name),
        session = field::Empty,
    );
    respond(gateway, request, next, id).instrument(span).await
}

async fn respond(gateway: Arc<Gateway>, request: Request, next: Next, id: HeaderValue) -> Response {
    let start = Instant::now();
    let in_flight = InFlight { metrics: &gateway.metrics, completed: false };
    let mut response = next.run(request).await;
    in_flight.complete();
    if let Some(outcome) = response.extensions().get::<Outcome>() {
        gateway.metrics.record(*outcome);
    }
    let outcome = response.extensions().get::<Outcome>().map(field::debug);
    let status = response.status().as_u16();
    tracing::info!(parent: &Span::current(), status, outcome, seconds = start.elapsed().as_secs_f64(), "answered");
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// A request in flight. When the client disconnects before the response, this value is dropped uncompleted and counts
/// the outcome `ClientLeft`.
struct InFlight<'a> {
    metrics: &'a Metrics,
    completed: bool,
}

impl InFlight<'_> {
    fn complete(mut self) {
        self.completed = true;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.completed {
            self.metrics.record(Outcome::ClientLeft);
            tracing::info!(outcome = ?Outcome::ClientLeft, "client disconnected before the response");
        }
    }
}

/// The request id from a proxy if it is safe to log, or else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let is_safe = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=64).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    request.headers().get(REQUEST_ID).filter(is_safe).cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::new_v4().simple().to_string();
        HeaderValue::from_str(&id).expect("hexadecimal digits are valid in a header")
    })
}
