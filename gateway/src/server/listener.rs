//! The public listener: accepts connections, serves HTTP/1.1 on them, and logs each request. Of the URL it logs the names of
//! the session and nothing else: the query may hold a token, and the rest is whatever a stranger likes.

use crate::{
    Gateway,
    auth::extract::Names,
    cache::session::Key,
    error::Refusal,
    metrics::{Metrics, Outcome},
    proxy::{live_view, playwright},
    rest,
    server::static_files,
};
use axum::{
    Router,
    extract::{Path, Request, State, rejection::PathRejection},
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use camofleet_runtime::{
    client_address::TrustedProxies,
    server::{ConnectionHandle, Limits, Server},
};
use http::{HeaderName, HeaderValue};
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::TcpListener, time::Instant};
use tracing::{Instrument, Span, field};

/// What clients can hold. Load balancers and ingresses keep an idle connection for 60 s (AWS, nginx), and a request that meets the
/// closing of its connection is a 502 there: so a connection with an accepted credential is kept for longer.
const LIMITS: Limits = Limits {
    connections: 16_384,
    anonymous: 1024,
    anonymous_per_address: 128,
    first_head: Duration::from_secs(10),
    exchange: Duration::from_secs(60),
    idle: Duration::from_secs(10),
    authenticated_idle: Duration::from_secs(75),
    keep_alive: true,
};
/// How many requests in a row have to come from one address until it is reported as a proxy's.
const ALL_FROM_ONE: u32 = 200;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Everything that clients can ask for.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/ws/{namespace}/{name}", get(playwright::playwright))
        .route("/vnc/{namespace}/{name}", get(live_view::vnc))
        .merge(rest::router())
        .merge(static_files::router(&gateway.ui))
        .fallback(async || Refusal::NoSuchName)
        .layer(middleware::from_fn_with_state(Arc::clone(&gateway), log_and_count))
        .with_state(gateway)
}

/// The server of the public listener, behind these proxies.
pub fn server(proxies: TrustedProxies) -> Server {
    Server::new("public", LIMITS, proxies)
}

/// Serves until the gateway drains. Each connection is one of the gateway's tasks.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener) {
    let (draining, tasks) = (gateway.draining.clone(), gateway.tasks.clone());
    gateway.server.serve(listener, router(Arc::clone(&gateway)), draining, tasks).await;
}

/// Detects a proxy before the gateway that `gateway.trustedProxies` does not name: a long run of requests comes from one address,
/// which all clients of the proxy share with its limits.
#[derive(Debug, Default)]
pub struct SoleAddress {
    proxies: TrustedProxies,
    run: Mutex<Run>,
}

/// The latest requests that came from one address without another's between them.
#[derive(Debug, Default)]
struct Run {
    client: Option<IpAddr>,
    requests: u32,
    is_reported: bool,
}

impl SoleAddress {
    /// Expects clients behind these proxies. Requests of the proxies themselves, such as health checks, are not counted, because
    /// their addresses have no limit.
    pub fn new(proxies: TrustedProxies) -> Self {
        Self { proxies, run: Mutex::default() }
    }

    /// Counts a request. True once per process: when it completes the first run of 200 requests from one address.
    fn is_sole(&self, client: IpAddr) -> bool {
        if self.proxies.contains(client) {
            return false;
        }
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        if run.client != Some(client) {
            (run.client, run.requests) = (Some(client), 0);
        }
        run.requests = run.requests.saturating_add(1);
        let is_sole = run.requests == ALL_FROM_ONE && !run.is_reported;
        run.is_reported |= is_sole;
        is_sole
    }
}

async fn log_and_count(
    State(gateway): State<Arc<Gateway>>,
    names: Result<Path<Names>, PathRejection>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(connection) = request.extensions().get::<ConnectionHandle>()
        && let client = connection.client_address()
        && gateway.sole_address.is_sole(client)
    {
        tracing::warn!(
            %client,
            requests = ALL_FROM_ONE,
            "received a long run of requests from one address: if it is a proxy's or a load balancer's, all its clients share one limit, so add it to the chart's value gateway.trustedProxies"
        );
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sole_address_is_reported_once() {
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let reports = |requests: &[IpAddr]| {
            let sole = SoleAddress::new(TrustedProxies::new(vec![IpAddr::from([10, 0, 0, 1]).into()]));
            requests.iter().filter(|client| sole.is_sole(**client)).count()
        };
        let run = vec![one; ALL_FROM_ONE as usize];
        assert_eq!(reports(&run[1..]), 0, "one too few");
        assert_eq!(reports(&run), 1);
        assert_eq!(reports(&[&run[..], &run[..]].concat()), 1, "a longer run");
        assert_eq!(reports(&[&run[1..], &[other][..], &run[1..]].concat()), 0, "two runs, one too few in each");
        assert_eq!(reports(&[&[other, one, other][..], &run[..]].concat()), 1, "a run after requests of several");
        assert_eq!(reports(&[&run[..], &[other][..], &run[..]].concat()), 1, "a second run");
        assert_eq!(reports(&[one, other].repeat(ALL_FROM_ONE as usize)), 0, "two that take turns");
        let proxy = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(reports(&vec![proxy; ALL_FROM_ONE as usize]), 0, "a trusted proxy's health checks");
        assert_eq!(reports(&[proxy, one].repeat(ALL_FROM_ONE as usize)), 1, "a sole address between health checks");
    }
}
