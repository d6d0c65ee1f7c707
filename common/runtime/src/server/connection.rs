//! One connection: what it is doing, until when it can, and whether one of its credentials was accepted.

use super::{
    Limits,
    limiter::{Kind, Limiter, Permit, Registration},
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

/// Why a connection was closed before its client or its server were done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// Another one needed its place.
    Shed,
    /// The client was too slow.
    Late,
}

/// A connection that is served.
#[derive(Debug)]
pub(super) struct Connection {
    peer: IpAddr,
    /// Whether the peer is a trusted proxy: then the credential of one request says nothing of the next.
    is_proxy: bool,
    proxies: TrustedProxies,
    limiter: Arc<Limiter>,
    /// Cancelled when the connection is given up.
    shed: CancellationToken,
    state: Mutex<State>,
    _permit: Permit,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// When it began.
    since: Instant,
    /// Whether a credential was accepted: on this connection, or, of a proxy, for the request that is being answered.
    authenticated: bool,
    /// While the connection can be given up.
    registration: Option<Registration>,
    /// While the request that is being answered can be given up. Only a proxy's.
    request: Option<Registration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    FirstHead,
    Exchange,
    Idle,
    /// Another protocol has begun, and the connection is no longer served here.
    Upgraded,
}

/// The connection that a request came on. It is one of the request's extensions.
///
/// A connection counts as open for as long as a handle of it is there: what takes over an upgraded connection keeps one.
#[derive(Clone, Debug)]
pub struct ConnectionHandle {
    connection: Arc<Connection>,
    client: IpAddr,
}

impl ConnectionHandle {
    /// The client's address: the peer's, or behind a trusted proxy the one that it tells.
    pub fn client_address(&self) -> IpAddr {
        self.client
    }

    /// Exempts the connection from deadlines and from being given up, since a credential of its client was accepted. On a
    /// connection of a trusted proxy only the request is exempt that this handle came with, since the next one can be another client's.
    pub fn authenticated(&self) {
        let mut state = self.connection.state();
        state.authenticated = true;
        (state.registration, state.request) = (None, None);
    }
}

impl Connection {
    /// None when there is no place for it.
    pub(super) fn open(limiter: &Arc<Limiter>, peer: IpAddr, proxies: TrustedProxies) -> Option<Arc<Self>> {
        let permit = limiter.open()?;
        let is_proxy = proxies.contains(peer);
        let state = State {
            phase: Phase::FirstHead,
            since: Instant::now(),
            authenticated: false,
            registration: None,
            request: None,
        };
        let (limiter, shed) = (Arc::clone(limiter), CancellationToken::new());
        let connection = Self { peer, is_proxy, proxies, limiter, shed, state: Mutex::new(state), _permit: permit };
        connection.state().registration = Some(connection.register());
        Some(Arc::new(connection))
    }

    fn register(&self) -> Registration {
        let kind = if self.is_proxy { Kind::Proxy } else { Kind::Connection };
        self.limiter.register(kind, Some(self.peer), self.shed.clone())
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limiter.limits
    }

    /// Serves what comes, for as long as the limits allow. After each time that it was looked at, the deadline is a function of
    /// what the connection is doing then.
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
            timer.as_mut().poll(context).map(|()| Err(Closed::Late))
        });
        tokio::select! {
            served = served => served,
            () = self.shed.cancelled() => Err(Closed::Shed),
        }
    }

    /// Has the router answer a request. One that came through a proxy is answered with 429 when its place is given up.
    pub(super) fn answer(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        router: Router,
    ) -> impl Future<Output = Response<Answer>> + use<> {
        let client = self.proxies.client_address(self.peer, request.headers());
        let shed = self.is_proxy.then(CancellationToken::new);
        let registration = shed.clone().map(|shed| {
            // A proxy's own requests, and those of which it does not tell the client, are not limited by its address.
            let address = Some(client).filter(|client| !self.proxies.contains(*client));
            self.limiter.register(Kind::Request, address, shed)
        });
        let exchange = Exchange::begin(Arc::clone(self), registration);
        let handle = ConnectionHandle { connection: Arc::clone(self), client };
        request.extensions_mut().insert(handle.clone());
        async move {
            let answered = TowerToHyperService::new(router).call(request);
            let response = match shed {
                None => answered.await,
                Some(shed) => shed.run_until_cancelled(answered).await.unwrap_or_else(|| Ok(too_many_requests())),
            };
            let response = response.unwrap_or_else(|impossible| match impossible {});
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                handle.connection.state().phase = Phase::Upgraded;
            }
            response.map(|body| Answer { body, _exchange: exchange })
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        let limits = self.limits();
        let limit = match (state.phase, state.authenticated) {
            (Phase::FirstHead, _) => limits.first_head,
            (Phase::Exchange, false) => limits.exchange,
            (Phase::Exchange, true) | (Phase::Upgraded, _) => return None,
            (Phase::Idle, authenticated) if authenticated || self.is_proxy => limits.authenticated_idle,
            (Phase::Idle, _) => limits.idle,
        };
        Some(state.since + limit)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_many_requests() -> Response<Body> {
    let message = "too many requests without a valid token from this address are being answered; send the token, or retry later\n";
    (StatusCode::TOO_MANY_REQUESTS, message).into_response()
}

/// The time from a request's head to the end of its response.
#[derive(Debug)]
struct Exchange(Arc<Connection>);

impl Exchange {
    fn begin(connection: Arc<Connection>, registration: Option<Registration>) -> Self {
        let mut state = connection.state();
        (state.phase, state.since) = (Phase::Exchange, Instant::now());
        state.request = registration;
        drop(state);
        Self(connection)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.request = None;
        if state.phase == Phase::Upgraded {
            return;
        }
        (state.phase, state.since) = (Phase::Idle, Instant::now());
        if self.0.is_proxy {
            // It becomes the youngest of those that can be given up: another request has just been answered on it.
            state.authenticated = false;
            state.registration = Some(self.0.register());
        }
    }
}

/// The body of a response. The exchange is over when it was sent, or dropped.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    _exchange: Exchange,
}

impl HttpBody for Answer {
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
