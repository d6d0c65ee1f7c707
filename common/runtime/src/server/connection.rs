//! State of a connection: its phase and deadline, and whether it is authenticated.

use super::{
    limiter::{Limiter, Permit, SheddableGuard, SheddableKind},
    limits::Limits,
};
use crate::client_address::TrustedProxies;
use axum::{
    Router,
    body::{Body, HttpBody},
    response::IntoResponse,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::Service,
};
use hyper_util::service::TowerToHyperService;
use std::{
    future::poll_fn,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Why the server closed a connection early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// A new connection needed its permit.
    Shed,
    /// The client missed a deadline.
    TimedOut,
}

#[derive(Debug)]
pub(super) struct Connection {
    peer: IpAddr,
    /// Whether the peer is a trusted proxy. Requests on its connection come from different clients, so a credential
    /// covers only the request that carried it.
    is_proxy: bool,
    proxies: TrustedProxies,
    limiter: Arc<Limiter>,
    /// Cancelled when the connection is shed.
    shed: CancellationToken,
    state: Mutex<State>,
    _permit: Permit,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Start of the phase.
    since: Instant,
    /// Whether a credential was accepted: for the connection, or, on a proxy's connection, for the current request.
    authenticated: bool,
    /// Set while the connection can be shed.
    sheddable: Option<SheddableGuard>,
    /// Set while the current request can be shed. Only on connections of proxies.
    sheddable_request: Option<SheddableGuard>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    FirstHead,
    Exchange,
    Idle,
    /// The connection has switched protocols and is no longer served here.
    Upgraded,
}

/// Handle of the connection of a request, in the extensions of the request.
///
/// A connection counts as open while a handle exists, so the task that takes over an upgraded connection keeps one.
#[derive(Clone, Debug)]
pub struct ConnectionHandle {
    connection: Arc<Connection>,
    client: IpAddr,
}

impl ConnectionHandle {
    /// Address of the client: the peer, or behind a trusted proxy the address that the proxy forwarded.
    pub fn client_address(&self) -> IpAddr {
        self.client
    }

    /// Marks the connection as authenticated, which exempts it from deadlines and from shedding. On a connection of a
    /// trusted proxy this exempts only the request of this handle, because the next request can come from another
    /// client.
    pub fn authenticated(&self) {
        let mut state = self.connection.state();
        state.authenticated = true;
        (state.sheddable, state.sheddable_request) = (None, None);
    }
}

impl Connection {
    /// None if the limiter has no permit.
    pub(super) fn open(limiter: &Arc<Limiter>, peer: IpAddr, proxies: TrustedProxies) -> Option<Arc<Self>> {
        let permit = limiter.open()?;
        let is_proxy = proxies.contains(peer);
        let state = State {
            phase: Phase::FirstHead,
            since: Instant::now(),
            authenticated: false,
            sheddable: None,
            sheddable_request: None,
        };
        let (limiter, shed) = (Arc::clone(limiter), CancellationToken::new());
        let connection = Self { peer, is_proxy, proxies, limiter, shed, state: Mutex::new(state), _permit: permit };
        connection.state().sheddable = Some(connection.add_sheddable());
        Some(Arc::new(connection))
    }

    fn add_sheddable(&self) -> SheddableGuard {
        let kind = if self.is_proxy { SheddableKind::Proxy } else { SheddableKind::Connection };
        self.limiter.add_sheddable(kind, Some(self.peer), self.shed.clone())
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limiter.limits
    }

    /// Polls `http` until it completes, the connection is shed, or its deadline passes. The deadline follows from the
    /// phase, which can change with each poll.
    pub(super) async fn within_limits<T>(&self, mut http: Pin<&mut impl Future<Output = T>>) -> Result<T, Closed> {
        let mut timer = pin!(sleep_until(Instant::now()));
        let served = poll_fn(|context| {
            if let Poll::Ready(served) = http.as_mut().poll(context) {
                return Poll::Ready(Ok(served));
            }
            let Some(deadline) = self.deadline() else { return Poll::Pending };
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            timer.as_mut().poll(context).map(|()| Err(Closed::TimedOut))
        });
        tokio::select! {
            served = served => served,
            () = self.shed.cancelled() => Err(Closed::Shed),
        }
    }

    /// Answers a request with the router. If a request that came through a proxy is shed, the response is 429.
    pub(super) fn respond(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        router: Router,
    ) -> impl Future<Output = Response<ResponseBody>> + use<> {
        let client = self.proxies.client_address(self.peer, request.headers());
        let shed = self.is_proxy.then(CancellationToken::new);
        let sheddable_request = shed.clone().map(|shed| {
            // Requests of the proxy itself, and those without a forwarded address, are not limited per address.
            let address = Some(client).filter(|client| !self.proxies.contains(*client));
            self.limiter.add_sheddable(SheddableKind::Request, address, shed)
        });
        let exchange = Exchange::begin(Arc::clone(self), sheddable_request);
        let handle = ConnectionHandle { connection: Arc::clone(self), client };
        request.extensions_mut().insert(handle.clone());
        async move {
            let response = TowerToHyperService::new(router).call(request);
            let response = match shed {
                None => response.await,
                Some(shed) => shed.run_until_cancelled(response).await.unwrap_or_else(|| Ok(too_many_requests())),
            };
            let response = response.unwrap_or_else(|impossible| match impossible {});
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                handle.connection.state().phase = Phase::Upgraded;
            }
            response.map(|body| ResponseBody { body, _exchange: exchange })
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        let limits = self.limits();
        let limit = match (state.phase, state.authenticated) {
            (Phase::FirstHead, _) => limits.first_head_timeout,
            (Phase::Exchange, false) => limits.exchange_timeout,
            (Phase::Exchange, true) | (Phase::Upgraded, _) => return None,
            (Phase::Idle, authenticated) if authenticated || self.is_proxy => limits.authenticated_idle_timeout,
            (Phase::Idle, _) => limits.idle_timeout,
        };
        Some(state.since + limit)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_many_requests() -> Response<Body> {
    let message =
        "too many requests without a valid token are in progress from this address; send the token, or retry later\n";
    (StatusCode::TOO_MANY_REQUESTS, message).into_response()
}

/// A request in progress, from its head to the end of its response.
#[derive(Debug)]
struct Exchange(Arc<Connection>);

impl Exchange {
    fn begin(connection: Arc<Connection>, sheddable_request: Option<SheddableGuard>) -> Self {
        let mut state = connection.state();
        (state.phase, state.since) = (Phase::Exchange, Instant::now());
        state.sheddable_request = sheddable_request;
        drop(state);
        Self(connection)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.sheddable_request = None;
        if state.phase == Phase::Upgraded {
            return;
        }
        (state.phase, state.since) = (Phase::Idle, Instant::now());
        if self.0.is_proxy {
            // Adding it again makes it the youngest, because it has just answered a request.
            state.authenticated = false;
            state.sheddable = Some(self.0.add_sheddable());
        }
    }
}

/// The body of a response. The exchange ends when the body is dropped, after it was sent or because the connection
/// failed.
#[derive(Debug)]
pub(super) struct ResponseBody {
    body: Body,
    _exchange: Exchange,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
