//! Connections into sessions: the upgrade is answered by the session's own server, and then bytes are passed on, both ways
//! at once, as they are. Close codes pass by themselves. A client that is lost without a Close frame is dropped on the other
//! side without one too, so that the server sees an abnormal closure and the client may come back.

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
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use camofleet_auth::token::Scope;
use camofleet_crds::v1alpha1::Display;
use camofleet_runner_api::{ErrorReason, ErrorResponse, frames::FrameScanner};
use camofleet_runtime::server::ConnectionHandle;
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
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How much is read at once, in each direction.
const BUFFER_SIZE: usize = 64 * 1024;
/// How long the session's server may take to answer an upgrade.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest body of a refusal that is passed on.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// A busy client's activity is told this often.
const ACTIVITY_INTERVAL: Duration = Duration::from_millis(250);
/// How long a client may take to hang up once its session's server did. Hanging up on one that still sends would take from
/// it the last bytes that it has not read (a reset discards them).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What of the client's handshake is for the Playwright server: its version, and the WebSocket's (RFC 6455 section 4.1).
const FORWARDED_HEADERS: [HeaderName; 6] = [
    header::USER_AGENT,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_PROTOCOL,
];

/// Connects a Playwright client with the session's Playwright server.
pub(crate) async fn playwright(
    caller: GatewayOnSession,
    State(AppState { runner, tunnels, .. }): State<AppState>,
    request: Request,
) -> Result<Response, ApiError> {
    match caller.scope {
        Scope::Connect => {}
        Scope::Control | Scope::View => return Err(forbidden("driving the browser takes the scope connect")),
    }
    if !is_upgrade_to(&request, |protocol| protocol.eq_ignore_ascii_case("websocket")) {
        return Err(invalid("this is a WebSocket: `Connection: Upgrade` and `Upgrade: websocket` are missing"));
    }
    let permit = tunnels.acquire(&caller.uid)?;
    let SessionAccess { stack, endpoints, .. } =
        runner.connect(caller.uid.clone(), caller.single_use_id.clone(), Action::Connect).await?;
    let handshake =
        timeout(HANDSHAKE_TIMEOUT, open_websocket(&endpoints.playwright, &endpoints.ws_path, request.headers())).await;
    let mut response = handshake
        .unwrap_or_else(|_| Err("it does not answer".into()))
        .map_err(|error| unreachable(&caller.uid, &*error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return forward_error(response).await;
    }
    let connection = request.extensions().get::<ConnectionHandle>().cloned();
    let (client, server) = (hyper::upgrade::on(request), hyper::upgrade::on(&mut response));
    tracing::info!(session = caller.uid, "client connected");
    tokio::spawn(async move {
        let _guards = (connection, permit);
        if let Ok((client, server)) = tokio::try_join!(client, server) {
            let connected_client = ConnectedClient::connect(runner, stack);
            let (client, server) = (TokioIo::new(client), TokioIo::new(server));
            relay(client, server, endpoints.closed, |client_reader, server_writer| {
                copy_client_frames(client_reader, server_writer, connected_client)
            })
            .await;
        }
        tracing::info!(session = caller.uid, "client disconnected");
    });
    let (parts, _) = response.into_parts();
    Ok(Response::from_parts(parts, Body::empty()))
}

/// Connects the gateway with the session's display: RFB, as it is. Who may do what there is told apart by the gateway.
pub(crate) async fn vnc(
    caller: GatewayOnSession,
    State(AppState { runner, tunnels, .. }): State<AppState>,
    request: Request,
) -> Result<Response, ApiError> {
    match caller.scope {
        Scope::Control | Scope::View => {}
        Scope::Connect => return Err(forbidden("looking at the display takes the scope control or view")),
    }
    let Some(protocol) = request.headers().get(header::UPGRADE).cloned().filter(|_| is_upgrade_to(&request, |_| true))
    else {
        return Err(invalid("this speaks RFB: `Connection: Upgrade` and `Upgrade: rfb` are missing"));
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
    tracing::info!(session = caller.uid, scope = ?caller.scope, "viewer connected");
    let connection = request.extensions().get::<ConnectionHandle>().cloned();
    let client: OnUpgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let _guards = (connection, permit);
        if let Ok(client) = client.await {
            relay(TokioIo::new(client), server, endpoints.closed, copy_viewer_bytes).await;
        }
        tracing::info!(session = caller.uid, "viewer disconnected");
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, protocol);
    Ok(response)
}

/// Sends the client's handshake to the session's server.
async fn open_websocket(
    socket: &Path,
    ws_path: &str,
    headers: &HeaderMap,
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
    Ok(sender.send_request(request).await?)
}

/// A refusal of the session's server, with its words: a client of another Playwright minor is told so by 428.
async fn forward_error(response: Response<hyper::body::Incoming>) -> Result<Response, ApiError> {
    let status = response.status();
    let body = timeout(HANDSHAKE_TIMEOUT, Limited::new(response.into_body(), MAX_ERROR_BODY).collect()).await;
    let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// Passes bytes on until one side ends or the session does. `upstream` copies what the client sends, until the client is gone, which
/// it tells the server, or sends what may not pass. What either side said last, a Close frame most of all, reaches the other in any case.
async fn relay<Client, Server, Upstream, Copying>(
    client: Client,
    server: Server,
    closed: CancellationToken,
    upstream: Upstream,
) where
    Client: AsyncRead + AsyncWrite + Unpin,
    Server: AsyncRead + AsyncWrite + Unpin,
    Upstream: FnOnce(tokio::io::ReadHalf<Client>, tokio::io::WriteHalf<Server>) -> Copying,
    Copying: Future<Output = io::Result<()>>,
{
    let (client_reader, mut client_writer) = tokio::io::split(client);
    let (mut server_reader, server_writer) = tokio::io::split(server);
    let mut upstream = pin!(upstream(client_reader, server_writer));
    let mut downstream = pin!(async {
        match copy(&mut server_reader, &mut client_writer).await {
            Ok(()) => client_writer.shutdown().await,
            Err(_) => drain(server_reader).await,
        }
    });
    tokio::select! {
        // In this order: the server's last words before what says that it is gone.
        biased;
        _ = downstream.as_mut() => {}
        copied = upstream.as_mut() => {
            // Hanging up on a server that still sends would have it fail before it reads the client's goodbye.
            if copied.is_ok() {
                timeout(CLOSE_TIMEOUT, downstream).await.ok();
            }
            return;
        }
        // The client was slow to take what the server sent_bytes.
        () = closed.cancelled() => drop(timeout(CLOSE_TIMEOUT, downstream).await),
    }
    timeout(CLOSE_TIMEOUT, upstream).await.ok();
}

/// Copies what a viewer sends.
async fn copy_viewer_bytes(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    match copy(&mut from, &mut to).await {
        Ok(()) => to.shutdown().await,
        Err(_) => drain(from).await,
    }
}

/// Who takes nothing more has ended, or has said goodbye: the other side may not have read yet what it said at last.
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

/// Copies what a Playwright client sends, and counts its data frames, not its pings, as activity.
async fn copy_client_frames(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut connected_client: ConnectedClient,
) -> io::Result<()> {
    let mut scanner = FrameScanner::default();
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        // One that is reset has gone, too.
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

/// A client that is connected, for as long as this lives.
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

    /// A tunnel through which data flows while its session ends, seen from its client.
    fn ending_session(sent_bytes: &[u8], buffer: usize) -> (DuplexStream, impl Future<Output = ()> + use<>) {
        let (client, client_side) = duplex(buffer);
        let (mut server, server_side) = duplex(1 << 20);
        let (closed, sent_bytes) = (CancellationToken::new(), sent_bytes.to_vec());
        let relayed = async move {
            server.write_all(&sent_bytes).await.unwrap();
            drop(server);
            closed.cancel();
            relay(client_side, server_side, closed, copy_viewer_bytes).await;
        };
        (client, relayed)
    }

    #[tokio::test]
    async fn delivers_the_last_bytes_of_the_server_after_the_session_has_ended() {
        // Often, since an order that is left to chance is right at times. The second time the client is slow to read.
        for round in 0..64 {
            let sent_bytes = [&[7; 500][..], b"a Close frame"].concat();
            let (mut client, relayed) = ending_session(&sent_bytes, if round % 2 == 0 { 1 << 20 } else { 10 });
            // What is sent_bytes to a server that has ended must not end the tunnel before.
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
            tokio::join!(received, relay(client_side, server_side, CancellationToken::new(), copy_viewer_bytes));
        assert_eq!(received, b"a Close frame");
    }

    #[tokio::test(start_paused = true)]
    async fn closes_the_tunnel_of_a_client_that_does_not_read() {
        let (client, relayed) = ending_session(&[7; 500], 10);
        relayed.await;
        drop(client);
    }
}
