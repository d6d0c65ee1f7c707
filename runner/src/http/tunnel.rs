//! Tunnels into sessions: after the upgrade, bytes are copied unchanged in both directions between the gateway and
//! the session's Playwright server or display.
//!
//! Close frames pass through with their codes. When a client is lost without a Close frame, the server's connection
//! is closed without one too, so that the server sees an abnormal closure and keeps the client's contexts for a
//! reconnect.

use crate::{
    core::{Action, Event, StackId},
    http::{
        error::{ApiError, forbidden},
        extract::GatewayOnSession,
        state::AppState,
    },
    supervisor::driver::{RunnerHandle, SessionAccess},
};
use axum::{
    body::Body,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use camofleet_auth::token::Scope;
use camofleet_crds::v1alpha1::Display;
use camofleet_runner_api::{ClientName, ClientOptions, ErrorReason, ErrorResponse, InitialPage, frames::FrameScanner};
use camofleet_runtime::{server::ConnectionHandle, tcp};
use futures::future::select;
use http_body_util::{BodyExt, Limited};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{
    io,
    path::Path,
    pin::pin,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, join},
    net::UnixStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Bytes read at once, per direction.
const BUFFER_SIZE: usize = 64 * 1024;
/// How long the session's server may take to answer an upgrade.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest error body of the session's server that is forwarded, in bytes.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// Minimum interval between activity events of one client.
const ACTIVITY_INTERVAL: Duration = Duration::from_millis(250);
/// How long one side can take to close its connection after the other has. Closing the connection of a side that
/// still sends would cause a reset, which discards the last bytes that it has not read.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Headers of the client's handshake that the Playwright server gets: the client's version, and those of the
/// WebSocket (RFC 6455 section 4.1).
const FORWARDED_HEADERS: [HeaderName; 6] = [
    header::USER_AGENT,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_PROTOCOL,
];

/// Header of a request to the Playwright server: `page` of [`ClientOptions`].
const PAGE: HeaderName = HeaderName::from_static("x-camofleet-page");
/// Header of a request to the Playwright server: `client` of [`ClientOptions`].
const CLIENT: HeaderName = HeaderName::from_static("x-camofleet-client");
/// Header of the Playwright server's 101 if the session has a start page: `shown` or `not-shown`.
const START_PAGE: HeaderName = HeaderName::from_static("x-camofleet-start-page");

/// Connects a Playwright client to the session's Playwright server.
pub(crate) async fn playwright(
    caller: GatewayOnSession,
    State(AppState { runner, tunnels, .. }): State<AppState>,
    options: Result<Query<ClientOptions>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    match caller.scope {
        Scope::Connect => {}
        Scope::Control | Scope::View => return Err(forbidden("connecting to the browser requires the scope connect")),
    }
    if !is_upgrade_to(&request, |protocol| protocol.eq_ignore_ascii_case("websocket")) {
        return Err(invalid("this endpoint is a WebSocket: send `Connection: Upgrade` and `Upgrade: websocket`"));
    }
    let Query(options) = options.map_err(|error| invalid(&error.body_text()))?;
    let permit = tunnels.acquire(&caller.uid)?;
    let SessionAccess { stack, endpoints, .. } =
        runner.connect(caller.uid.clone(), caller.single_use_id.clone(), Action::Connect).await?;
    let handshake = open_websocket(&endpoints.playwright, &endpoints.ws_path, request.headers(), &options);
    let mut response = timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .unwrap_or_else(|_| Err("its Playwright server does not respond".into()))
        .map_err(|error| unreachable(&caller.uid, &*error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return forward_error(response).await;
    }
    let connection = request.extensions().get::<ConnectionHandle>().cloned();
    let (client, server) = (hyper::upgrade::on(request), hyper::upgrade::on(&mut response));
    let name = options.client.as_ref().map(ClientName::as_str);
    tracing::info!(
        session = caller.uid,
        client = name,
        page = options.page.map(InitialPage::as_str),
        "client connected"
    );
    if response.headers().get(START_PAGE).is_some_and(|value| value == "not-shown") {
        tracing::info!(
            session = caller.uid,
            client = name,
            "the client is not shown the start page: it is not the session's first client and its URL has no ?page=open"
        );
    }
    tokio::spawn(async move {
        let _guards = (connection, permit);
        if let Ok((client, server)) = tokio::try_join!(client, server) {
            let connected_client = ConnectedClient::connect(runner, stack);
            let (reader, writer) = tcp::split(client);
            // The gateway stops reading while its client is paused.
            if let Ok(gateway_death) = tcp::peer_death(writer.as_ref()) {
                let (client, server) = (join(reader, writer), TokioIo::new(server));
                let relayed = relay(client, server, endpoints.closed, |client_reader, server_writer| {
                    copy_client_frames(client_reader, server_writer, connected_client)
                });
                select(pin!(relayed), pin!(gateway_death)).await;
            }
        }
        tracing::info!(session = caller.uid, "client disconnected");
    });
    let (parts, _) = response.into_parts();
    Ok(Response::from_parts(parts, Body::empty()))
}

/// Connects a live-view client to the session's display. Bytes pass through unfiltered: the gateway enforces the
/// client's scope.
pub(crate) async fn vnc(
    caller: GatewayOnSession,
    State(AppState { runner, tunnels, .. }): State<AppState>,
    request: Request,
) -> Result<Response, ApiError> {
    match caller.scope {
        Scope::Control | Scope::View => {}
        Scope::Connect => return Err(forbidden("connecting to the display requires the scope control or view")),
    }
    let Some(protocol) = request.headers().get(header::UPGRADE).cloned().filter(|_| is_upgrade_to(&request, |_| true))
    else {
        return Err(invalid("this endpoint speaks RFB: send `Connection: Upgrade` and `Upgrade: rfb`"));
    };
    let permit = tunnels.acquire(&caller.uid)?;
    let SessionAccess { display, endpoints, .. } =
        runner.connect(caller.uid.clone(), caller.single_use_id.clone(), Action::View).await?;
    match display {
        Display::LiveView => {}
        Display::Headless | Display::Headful => {
            return Err(invalid("the session has no live view: its display is not LiveView"));
        }
    }
    let server = UnixStream::connect(&endpoints.vnc).await.map_err(|error| unreachable(&caller.uid, &error))?;
    tracing::info!(session = caller.uid, scope = ?caller.scope, "live-view client connected");
    let connection = request.extensions().get::<ConnectionHandle>().cloned();
    let client: OnUpgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let _guards = (connection, permit);
        if let Ok(client) = client.await {
            relay(TokioIo::new(client), server, endpoints.closed, copy_client_bytes).await;
        }
        tracing::info!(session = caller.uid, "live-view client disconnected");
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, protocol);
    Ok(response)
}

/// Opens a WebSocket to the session's server with the client's handshake. Returns the server's response.
async fn open_websocket(
    socket: &Path,
    ws_path: &str,
    headers: &HeaderMap,
    options: &ClientOptions,
) -> Result<Response<hyper::body::Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::new(http_body_util::Empty::<bytes::Bytes>::new());
    *request.uri_mut() = Uri::try_from(ws_path)?;
    let sent = request.headers_mut();
    sent.insert(header::HOST, HeaderValue::from_static("localhost"));
    sent.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    for name in FORWARDED_HEADERS {
        if let Some(value) = headers.get(&name) {
            sent.insert(name, value.clone());
        }
    }
    if let Some(page) = options.page {
        sent.insert(PAGE, HeaderValue::from_static(page.as_str()));
    }
    if let Some(client) = &options.client {
        sent.insert(CLIENT, HeaderValue::from_str(client.as_str())?);
    }
    Ok(sender.send_request(request).await?)
}

/// Forwards an error response of the session's server. Playwright's server responds with 428 to a client of another
/// minor version, and its body tells the user which versions differ.
async fn forward_error(response: Response<hyper::body::Incoming>) -> Result<Response, ApiError> {
    let status = response.status();
    let body = timeout(HANDSHAKE_TIMEOUT, Limited::new(response.into_body(), MAX_ERROR_BODY).collect()).await;
    let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if status == StatusCode::CONFLICT {
        let message = String::from_utf8_lossy(&body).trim_end().to_owned();
        return Err(ErrorResponse { reason: ErrorReason::InitialPageHeld, message }.into());
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// Copies bytes in both directions until either side or the session ends. `copy_to_server` copies from the client to
/// the server until the client closes, which it passes on, or violates the protocol. The last bytes of each side, above
/// all a Close frame, are always delivered to the other.
async fn relay<Client, Server, CopyToServer, Copying>(
    client: Client,
    server: Server,
    closed: CancellationToken,
    copy_to_server: CopyToServer,
) where
    Client: AsyncRead + AsyncWrite + Unpin,
    Server: AsyncRead + AsyncWrite + Unpin,
    CopyToServer: FnOnce(tokio::io::ReadHalf<Client>, tokio::io::WriteHalf<Server>) -> Copying,
    Copying: Future<Output = io::Result<()>>,
{
    let (client_reader, mut client_writer) = tokio::io::split(client);
    let (mut server_reader, server_writer) = tokio::io::split(server);
    let mut client_to_server = pin!(copy_to_server(client_reader, server_writer));
    let mut server_to_client = pin!(async {
        match copy(&mut server_reader, &mut client_writer).await {
            Ok(()) => client_writer.shutdown().await,
            Err(_) => drain(server_reader).await,
        }
    });
    tokio::select! {
        // The server's last bytes have to be copied before the cancellation ends the tunnel.
        biased;
        _ = server_to_client.as_mut() => {}
        copied = client_to_server.as_mut() => {
            // Closing the connection of a server that still sends would reset it before it reads the client's Close
            // frame.
            if copied.is_ok() {
                timeout(CLOSE_TIMEOUT, server_to_client).await.ok();
            }
            return;
        }
        // Lets a slow client read what the server has sent.
        () = closed.cancelled() => drop(timeout(CLOSE_TIMEOUT, server_to_client).await),
    }
    timeout(CLOSE_TIMEOUT, client_to_server).await.ok();
}

async fn copy_client_bytes(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    match copy(&mut from, &mut to).await {
        Ok(()) => to.shutdown().await,
        Err(_) => drain(from).await,
    }
}

/// Reads and discards until the end of the stream. A peer that accepts no more data has closed its side, and its last
/// bytes may still be on their way to the other: closing that connection now could reset it and discard them.
async fn drain(mut from: impl AsyncRead + Unpin) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await.map(drop)
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count]).await?,
        }
    }
}

/// Copies what a Playwright client sends. Data frames count as activity, control frames such as pings do not.
async fn copy_client_frames(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut connected_client: ConnectedClient,
) -> io::Result<()> {
    let mut scanner = FrameScanner::default();
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        // A reset counts as the end of the client's stream.
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return to.shutdown().await;
        }
        let bytes = &buffer[..count];
        if scanner.scan(bytes).map_err(io::Error::other)?.data {
            connected_client.record_activity();
        }
        if to.write_all(bytes).await.is_err() {
            return drain(from).await;
        }
    }
}

/// Reports a client as connected until it is dropped.
struct ConnectedClient {
    runner: RunnerHandle,
    stack: StackId,
    last_reported: Instant,
}

impl ConnectedClient {
    fn connect(runner: RunnerHandle, stack: StackId) -> Self {
        runner.send(Event::ClientConnected { stack });
        Self { runner, stack, last_reported: Instant::now() }
    }

    fn record_activity(&mut self) {
        if self.last_reported.elapsed() >= ACTIVITY_INTERVAL {
            self.last_reported = Instant::now();
            self.runner.send(Event::ClientActive { stack: self.stack });
        }
    }
}

impl Drop for ConnectedClient {
    fn drop(&mut self) {
        self.runner.send(Event::ClientDisconnected { stack: self.stack });
    }
}

fn is_upgrade_to(request: &Request, protocol: impl Fn(&str) -> bool) -> bool {
    let values = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let connection = values(header::CONNECTION).unwrap_or_default();
    let upgrades = connection.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    upgrades && values(header::UPGRADE).is_some_and(protocol)
}

fn invalid(message: &str) -> ApiError {
    ErrorResponse { reason: ErrorReason::Invalid, message: message.to_owned() }.into()
}

fn unreachable(uid: &str, error: &(impl std::fmt::Display + ?Sized)) -> ApiError {
    let message = format!("session {uid} cannot be reached and is probably ending: {error}");
    ErrorResponse { reason: ErrorReason::WrongPhase, message }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::io::{DuplexStream, duplex};

    /// Returns the client's end of a tunnel whose server sends these bytes just before its session ends, and the relay.
    fn ending_session(sent_bytes: &[u8], buffer: usize) -> (DuplexStream, impl Future<Output = ()> + use<>) {
        let (client, client_side) = duplex(buffer);
        let (mut server, server_side) = duplex(1 << 20);
        let (closed, sent_bytes) = (CancellationToken::new(), sent_bytes.to_vec());
        let relayed = async move {
            server.write_all(&sent_bytes).await.unwrap();
            drop(server);
            closed.cancel();
            relay(client_side, server_side, closed, copy_client_bytes).await;
        };
        (client, relayed)
    }

    #[tokio::test]
    async fn delivers_the_last_bytes_of_the_server_after_the_session_has_ended() {
        // Many rounds, because a random select order would pass some of them. In every other round the client reads
        // slowly.
        for round in 0..64 {
            let sent_bytes = [&[7; 500][..], b"a Close frame"].concat();
            let (mut client, relayed) = ending_session(&sent_bytes, if round % 2 == 0 { 1 << 20 } else { 10 });
            // A failed write to the closed server must not end the tunnel early.
            client.write_all(b"still at work").now_or_never();
            let received = async {
                let mut received = Vec::new();
                client.read_to_end(&mut received).await.unwrap();
                drop(client);
                received
            };
            let (received, ()) = tokio::join!(received, relayed);
            assert!(received == sent_bytes, "round {round}: {} bytes of {}", received.len(), sent_bytes.len());
        }
    }

    #[tokio::test]
    async fn delivers_the_last_bytes_of_the_client_while_the_server_still_sends() {
        let (mut client, client_side) = duplex(1 << 10);
        let (mut server, server_side) = UnixStream::pair().unwrap();
        client.write_all(b"a Close frame").await.unwrap();
        drop(client);
        while server.try_write(&[7; 1 << 10]).is_ok() {}
        let received = async {
            let mut received = Vec::new();
            server.read_to_end(&mut received).await.unwrap();
            drop(server);
            received
        };
        let (received, ()) =
            tokio::join!(received, relay(client_side, server_side, CancellationToken::new(), copy_client_bytes));
        assert_eq!(received, b"a Close frame");
    }

    #[tokio::test(start_paused = true)]
    async fn closes_the_tunnel_of_a_client_that_does_not_read() {
        let (client, relayed) = ending_session(&[7; 500], 10);
        relayed.await;
        drop(client);
    }
}
