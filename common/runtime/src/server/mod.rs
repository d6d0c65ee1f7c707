//! Serves HTTP/1.1 to clients that are not trusted before one of their credentials was accepted.
//!
//! Everything that a client without an accepted credential can hold is bounded: the bytes of a request's head, the time that a head,
//! an exchange and an idle connection take, and the number of places, in total and for each address. When these places are full an
//! old one is given up for the newcomer, so a silent client loses its place and one that sends its request at once does not.
//! A handler, or an extractor, that accepts a credential calls [`ConnectionHandle::authenticated`], and none of that applies any more.
//!
//! A *place* is a connection. Behind a trusted proxy one connection carries the requests of many clients, and what is counted in its
//! stead is each request that is being answered, by the address of its client. The proxy's own connections have no limit for each
//! address. When all places are taken and no other connection can be given up, those are that answer no request with an accepted
//! credential.

mod connection;
mod limiter;

pub use connection::ConnectionHandle;
pub use limiter::Counts;

use crate::{client_address::TrustedProxies, tcp};
use axum::Router;
use connection::Connection;
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use limiter::Limiter;
use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::yield_now,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The longest head of a request, in bytes, and how much is read ahead of a slow handler. A longer head is answered with 431.
pub const MAX_HEAD: usize = 16 << 10;
/// The process is out of file descriptors, most likely: accepting again at once would spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Connections that can wait to be accepted: as many as Linux allows by default (`net.core.somaxconn`). With fewer a flood of newcomers
/// overflows the queue, and a client whose SYN is dropped tries again after 1 s at the earliest (RFC 6298).
const BACKLOG: u32 = 4096;

/// An address cannot be listened on: it is not this machine's, or in use.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// Listens on an address, with a queue that is long enough for a flood of newcomers.
///
/// # Errors
/// See [`ListenError`].
pub fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    bind(address).map_err(|source| ListenError { address, source })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What clients of one listener can hold. Times apply to connections without an accepted credential, except for
/// `authenticated_idle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, upgraded ones included. Beyond that, one that can be given up is, or else the newcomer is closed.
    pub connections: usize,
    /// Connections without an accepted credential at once, and as many requests behind trusted proxies. Beyond that, one is
    /// given up: the oldest of the address that has most.
    pub anonymous: usize,
    /// Limiter without an accepted credential of one address (for IPv6, one /64) at once. Beyond that, its oldest is given up.
    pub anonymous_per_address: usize,
    /// From the accept to the end of the first request's head.
    pub first_head: Duration,
    /// From a request's head to the end of its response, the request's body included.
    pub exchange: Duration,
    /// From the end of a response to the end of the next request's head.
    pub idle: Duration,
    /// The same for connections with an accepted credential, and for those of trusted proxies.
    pub authenticated_idle: Duration,
    /// Whether a connection can carry more than one request.
    pub keep_alive: bool,
}

impl Limits {
    /// For listeners of probes and metrics, which take no credential: one request for each connection, all of them short.
    /// The address limit keeps places free for the kubelet and Prometheus while one pod opens as many connections as it can.
    pub const PROBES: Self = Self {
        connections: 128,
        anonymous: 64,
        anonymous_per_address: 16,
        first_head: Duration::from_secs(5),
        exchange: Duration::from_secs(10),
        idle: Duration::from_secs(1),
        authenticated_idle: Duration::from_secs(1),
        keep_alive: false,
    };
}

/// Serves one listener.
#[derive(Clone, Debug)]
pub struct Server {
    name: &'static str,
    proxies: TrustedProxies,
    limiter: Arc<Limiter>,
}

impl Server {
    /// A server whose log lines have that name.
    pub fn new(name: &'static str, limits: Limits, proxies: TrustedProxies) -> Self {
        Self { name, proxies, limiter: Arc::new(Limiter::new(limits)) }
    }

    /// How many places are held and were given up.
    pub fn counts(&self) -> Counts {
        self.limiter.counts()
    }

    /// Serves until `shutdown`. Then it accepts no more, closes idle connections and has the others closed after the response that
    /// is under way. Each connection is one of `tasks` until it is closed or upgraded.
    pub async fn serve(&self, listener: TcpListener, router: Router, shutdown: CancellationToken, tasks: TaskTracker) {
        while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, peer)) => {
                    let Some(connection) = self.admit(peer) else { continue };
                    tasks.spawn(serve_connection(stream, connection, router.clone(), shutdown.clone()));
                    // So that under a flood of newcomers each of them is looked at before it is the oldest.
                    yield_now().await;
                }
                Err(error) => {
                    tracing::warn!(listener = self.name, %error, "could not accept a connection");
                    self.limiter.shed();
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn admit(&self, peer: SocketAddr) -> Option<Arc<Connection>> {
        let connection = Connection::open(&self.limiter, peer.ip(), self.proxies.clone());
        if let Some(Counts { connections, anonymous, shed, refused }) = self.limiter.take_report() {
            tracing::warn!(
                listener = self.name,
                connections,
                anonymous,
                shed,
                refused,
                "closed connections because too many were open"
            );
        }
        connection
    }
}

async fn serve_connection(stream: TcpStream, connection: Arc<Connection>, router: Router, shutdown: CancellationToken) {
    if let Err(error) = tcp::prepare(&stream) {
        return tracing::debug!(%error, "client closed its connection at once");
    }
    let service = service_fn(|request: Request<Incoming>| {
        let answer = connection.answer(request, router.clone());
        async { Ok::<_, Infallible>(answer.await) }
    });
    let http = http1::Builder::new()
        .keep_alive(connection.limits().keep_alive)
        .max_buf_size(MAX_HEAD)
        .max_header_size(MAX_HEAD)
        // The deadlines are the connection's, which knows whether a credential was accepted.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut http = pin!(http);
    let served = tokio::select! {
        served = connection.within_limits(http.as_mut()) => served,
        () = shutdown.cancelled() => {
            http.as_mut().graceful_shutdown();
            connection.within_limits(http).await
        }
    };
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection failed"),
        Err(reason) => tracing::debug!(?reason, "closed a connection without an accepted credential"),
    }
}
