//! The public listener: accepts connections, serves HTTP/1.1 on them, and logs each request. Of the URL it logs the names of
//! the session and nothing else: the query may hold a token, and the rest is whatever a stranger likes.

use crate::{
    Gateway, api, live_view,
    metrics::{Metrics, Outcome},
    pages, playwright,
    refusal::Refusal,
    rights::Names,
    session::Key,
    tcp,
};
use axum::{
    Router,
    extract::{Path, Request, State, rejection::PathRejection},
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use http::{HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tracing::{Instrument, Span, field};

/// How long a client may take to send the head of a request, also on a connection that is kept alive: longer than load balancers
/// and ingresses keep theirs (60 s, AWS and nginx), for a request that meets the closing of its connection is a 502 there.
const HEAD_DEADLINE: Duration = Duration::from_secs(75);
/// Out of file descriptors, most likely: accepting again at once would spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Everything that clients can ask for.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/ws/{namespace}/{name}", get(playwright::playwright))
        .route("/vnc/{namespace}/{name}", get(live_view::vnc))
        .merge(api::router())
        .merge(pages::router(&gateway.ui))
        .fallback(async || Refusal::NoSuchName)
        .layer(middleware::from_fn_with_state(Arc::clone(&gateway), log_and_count))
        .with_state(gateway)
}

/// Serves until the gateway drains. Each connection is one of the gateway's tasks.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener) {
    let service = TowerToHyperService::new(router(Arc::clone(&gateway)));
    while let Some(accepted) = gateway.draining.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                gateway.tasks.spawn(serve_connection(Arc::clone(&gateway), stream, service.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn serve_connection(gateway: Arc<Gateway>, stream: TcpStream, service: TowerToHyperService<Router>) {
    if let Err(error) = tcp::prepare(&stream) {
        return tracing::debug!(%error, "a client went at once");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = gateway.draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended badly");
    }
}

async fn log_and_count(
    State(gateway): State<Arc<Gateway>>,
    names: Result<Path<Names>, PathRejection>,
    request: Request,
    next: Next,
) -> Response {
    let id = request_id(&request);
    let key = names.ok().and_then(|Path(names)| names.session(&gateway));
    let span = tracing::info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        namespace = key.as_ref().map(Key::namespace),
        session_name = key.as_ref().map(Key::name),
        session = field::Empty,
    );
    answer(gateway, request, next, id).instrument(span).await
}

async fn answer(gateway: Arc<Gateway>, request: Request, next: Next, id: HeaderValue) -> Response {
    let start = Instant::now();
    let asked = Asked { metrics: &gateway.metrics, answered: false };
    let mut response = next.run(request).await;
    asked.answered();
    if let Some(outcome) = response.extensions().get::<Outcome>() {
        gateway.metrics.count(*outcome);
    }
    let outcome = response.extensions().get::<Outcome>().map(field::debug);
    let status = response.status().as_u16();
    tracing::info!(parent: &Span::current(), status, outcome, seconds = start.elapsed().as_secs_f64(), "answered");
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// A request that is under way. It is dropped when its client goes before the answer, which counts too.
struct Asked<'a> {
    metrics: &'a Metrics,
    answered: bool,
}

impl Asked<'_> {
    fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.metrics.count(Outcome::ClientLeft);
            tracing::info!(outcome = ?Outcome::ClientLeft, "not answered");
        }
    }
}

/// The id that a proxy before us gave, when it is fit for a log, else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let is_fit = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=64).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    request.headers().get(REQUEST_ID).filter(is_fit).cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::new_v4().simple().to_string();
        HeaderValue::from_str(&id).expect("hexadecimal digits are fit for a header")
    })
}
