//! Serves HTTP/1.1 to clients that are untrusted until they authenticate.
//!
//! The resources of an unauthenticated client are bounded: the size of a request head, the duration of a head, of an
//! exchange and of an idle connection, and the number of connections, in total and per address. At a limit, the server
//! sheds an old connection for the new one, so a silent client loses its connection, and a client that sends its
//! request promptly keeps it. A handler or extractor that accepts a credential calls
//! [`ConnectionHandle::authenticated`], which lifts these bounds.
//!
//! Behind a trusted proxy, one connection carries the requests of many clients. There the server counts and sheds
//! requests in progress, by client address, instead of connections. The proxy's own connections have no limit per
//! address. If all connections are taken and no other one can be shed, the server sheds proxy connections that have no
//! authenticated request in progress.

mod connection;
mod limiter;
mod limits;

pub use connection::ConnectionHandle;
pub use limiter::Counts;
pub use limits::Limits;

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

/// Maximum size of a request head, and of the data that is read ahead of a slow handler, in bytes. A longer head is
/// answered with 431.
pub const MAX_HEAD: usize = 16 << 10;
/// Delay after a failed accept. Most likely the process has no file descriptors left, so an immediate retry would spin.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Maximum number of connections that wait to be accepted: Linux's default limit (`net.core.somaxconn`). A flood of
/// connections would overflow a shorter queue, and a client whose SYN is dropped retries after 1 s at the earliest (RFC
/// 6298).
const BACKLOG: u32 = 4096;

/// Cannot listen on an address, because it is in use or does not belong to this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// Listens on an address, with an accept queue of 4096 connections.
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

/// Serves one listener.
#[derive(Clone, Debug)]
pub struct Server {
    name: &'static str,
    proxies: TrustedProxies,
    limiter: Arc<Limiter>,
}

impl Server {
    /// `name` is the field `listener` of the log lines.
    pub fn new(name: &'static str, limits: Limits, proxies: TrustedProxies) -> Self {
        Self { name, proxies, limiter: Arc::new(Limiter::new(limits)) }
    }

    /// Current and total numbers of connections.
    pub fn counts(&self) -> Counts {
        self.limiter.counts()
    }

    /// Serves until `shutdown` is cancelled. Then it stops accepting, closes idle connections, and closes the others
    /// after the response in progress. Each connection is tracked by `tasks` until it is closed or upgraded.
    pub async fn serve(&self, listener: TcpListener, router: Router, shutdown: CancellationToken, tasks: TaskTracker) {
        while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, peer)) => {
                    let Some(connection) = self.admit(peer) else { continue };
                    tasks.spawn(serve_connection(stream, connection, router.clone(), shutdown.clone()));
                    // Under a flood, each connection is polled before it becomes the oldest and is shed.
                    yield_now().await;
                }
                Err(error) => {
                    tracing::warn!(listener = self.name, %error, "could not accept a connection");
                    self.limiter.shed();
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    fn admit(&self, peer: SocketAddr) -> Option<Arc<Connection>> {
        let connection = Connection::open(&self.limiter, peer.ip(), self.proxies.clone());
        if let Some(Counts { connections, unauthenticated, shed, refused }) = self.limiter.take_report() {
            tracing::warn!(
                listener = self.name,
                connections,
                unauthenticated,
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
        let response = connection.respond(request, router.clone());
        async { Ok::<_, Infallible>(response.await) }
    });
    let http = http1::Builder::new()
        .keep_alive(connection.limits().keep_alive)
        .max_buf_size(MAX_HEAD)
        .max_header_size(MAX_HEAD)
        // The deadlines depend on authentication, so `Connection` enforces them.
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
        Err(reason) => tracing::debug!(?reason, "closed an unauthenticated connection"),
    }
}
