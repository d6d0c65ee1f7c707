//! Connections into sessions: the upgrade is answered by the session's own server, and then bytes are passed on, both ways
//! at once, as they are. Close codes pass by themselves. A client that is lost without a Close frame is dropped on the other
//! side without one too, so that the server sees an abnormal closure and the client may come back.

use crate::{
    core::{Action, Event, StackId},
    http::{
        error::{Refused, forbidden},
        extract::Hop,
        state::App,
    },
    supervisor::driver::{Access, Runner},
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
const BUFFER: usize = 64 * 1024;
/// How long the session's server may take to answer an upgrade.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest body of a refusal that is passed on.
const MAX_REFUSAL: usize = 64 * 1024;
/// A busy client's activity is told this often.
const ACTIVITY_INTERVAL: Duration = Duration::from_millis(250);
/// How long a client may take to hang up once its session's server did. Hanging up on one that still sends would take from
/// it the last bytes that it has not read (a reset discards them).
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// What of the client's handshake is for the Playwright server: its version, and the WebSocket's (RFC 6455 section 4.1).
const PASSED_ON: [HeaderName; 6] = [
    header::USER_AGENT,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_PROTOCOL,
];

/// Connects a Playwright client with the session's Playwright server.
pub(crate) async fn playwright(
    hop: Hop,
    State(App { runner, tunnels, .. }): State<App>,
    request: Request,
) -> Result<Response, Refused> {
    match hop.scope {
        Scope::Connect => {}
        Scope::Control | Scope::View => return Err(forbidden("driving the browser takes the scope connect")),
    }
    if !is_upgrade_to(&request, |protocol| protocol.eq_ignore_ascii_case("websocket")) {
        return Err(invalid("this is a WebSocket: `Connection: Upgrade` and `Upgrade: websocket` are missing"));
    }
    let tunnel = tunnels.open(&hop.uid)?;
    let Access { stack, endpoints, .. } = runner.enter(hop.uid.clone(), hop.once.clone(), Action::Connect).await?;
    let answered = timeout(ANSWER_TIMEOUT, ask(&endpoints.playwright, &endpoints.ws_path, request.headers())).await;
    let mut answer = answered
        .unwrap_or_else(|_| Err("it does not answer".into()))
        .map_err(|error| unreachable(&hop.uid, &*error))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return passed_on(answer).await;
    }
    let place = request.extensions().get::<ConnectionHandle>().cloned();
    let (client, server) = (hyper::upgrade::on(request), hyper::upgrade::on(&mut answer));
    tracing::info!(session = hop.uid, "client connected");
    tokio::spawn(async move {
        let _held = (place, tunnel);
        if let Ok((client, server)) = tokio::try_join!(client, server) {
            let guest = Guest::arrive(runner, stack);
            let (client, server) = (TokioIo::new(client), TokioIo::new(server));
            pump(client, server, endpoints.closed, |sender, receiver| watched(sender, receiver, guest)).await;
        }
        tracing::info!(session = hop.uid, "client disconnected");
    });
    let (parts, _) = answer.into_parts();
    Ok(Response::from_parts(parts, Body::empty()))
}

/// Connects the gateway with the session's display: RFB, as it is. Who may do what there is told apart by the gateway.
pub(crate) async fn vnc(
    hop: Hop,
    State(App { runner, tunnels, .. }): State<App>,
    request: Request,
) -> Result<Response, Refused> {
    match hop.scope {
        Scope::Control | Scope::View => {}
        Scope::Connect => return Err(forbidden("looking at the display takes the scope control or view")),
    }
    let Some(protocol) = request.headers().get(header::UPGRADE).cloned().filter(|_| is_upgrade_to(&request, |_| true))
    else {
        return Err(invalid("this speaks RFB: `Connection: Upgrade` and `Upgrade: rfb` are missing"));
    };
    let tunnel = tunnels.open(&hop.uid)?;
    let Access { display, endpoints, .. } = runner.enter(hop.uid.clone(), hop.once.clone(), Action::View).await?;
    match display {
        Display::LiveView => {}
        Display::Headless | Display::Headful => {
            return Err(invalid("the session has no live view: its display is not LiveView"));
        }
    }
    let server = UnixStream::connect(&endpoints.vnc).await.map_err(|error| unreachable(&hop.uid, &error))?;
    tracing::info!(session = hop.uid, scope = ?hop.scope, "viewer connected");
    let place = request.extensions().get::<ConnectionHandle>().cloned();
    let client: OnUpgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let _held = (place, tunnel);
        if let Ok(client) = client.await {
            pump(TokioIo::new(client), server, endpoints.closed, unwatched).await;
        }
        tracing::info!(session = hop.uid, "viewer disconnected");
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, protocol);
    Ok(response)
}

/// Sends the client's handshake to the session's server.
async fn ask(
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
    for name in PASSED_ON {
        if let Some(value) = headers.get(&name) {
            sent.insert(name, value.clone());
        }
    }
    Ok(sender.send_request(request).await?)
}

/// A refusal of the session's server, with its words: a client of another Playwright minor is told so by 428.
async fn passed_on(answer: Response<hyper::body::Incoming>) -> Result<Response, Refused> {
    let status = answer.status();
    let body = timeout(ANSWER_TIMEOUT, Limited::new(answer.into_body(), MAX_REFUSAL).collect()).await;
    let words = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut response = Response::new(Body::from(words));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// Passes bytes on until one side ends or the session does. `upstream` copies what the client sends, until the client is gone, which
/// it tells the server, or sends what may not pass. What either side said last, a Close frame most of all, reaches the other in any case.
async fn pump<Client, Server, Upstream, Copying>(
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
    let (client_sends, mut client_reads) = tokio::io::split(client);
    let (mut server_sends, server_reads) = tokio::io::split(server);
    let mut upstream = pin!(upstream(client_sends, server_reads));
    let mut downstream = pin!(async {
        match copy(&mut server_sends, &mut client_reads).await {
            Ok(()) => client_reads.shutdown().await,
            Err(_) => discard(server_sends).await,
        }
    });
    tokio::select! {
        // In this order: the server's last words before what says that it is gone.
        biased;
        _ = downstream.as_mut() => {}
        gone = upstream.as_mut() => {
            // Hanging up on a server that still sends would have it fail before it reads the client's goodbye.
            if gone.is_ok() {
                timeout(FAREWELL_TIMEOUT, downstream).await.ok();
            }
            return;
        }
        // The client was slow to take what the server said.
        () = closed.cancelled() => drop(timeout(FAREWELL_TIMEOUT, downstream).await),
    }
    timeout(FAREWELL_TIMEOUT, upstream).await.ok();
}

/// Copies what a viewer sends.
async fn unwatched(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    match copy(&mut from, &mut to).await {
        Ok(()) => to.shutdown().await,
        Err(_) => discard(from).await,
    }
}

/// Who takes nothing more has ended, or has said goodbye: the other side may not have read yet what it said at last.
async fn discard(mut from: impl AsyncRead + Unpin) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await.map(drop)
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count]).await?,
        }
    }
}

/// Copies what a Playwright client sends, and counts its data frames, not its pings, as activity.
async fn watched(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut guest: Guest,
) -> io::Result<()> {
    let mut scanner = FrameScanner::default();
    let mut buffer = vec![0; BUFFER];
    loop {
        // One that is reset has gone, too.
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return to.shutdown().await;
        }
        let bytes = &buffer[..count];
        if scanner.scan(bytes).map_err(io::Error::other)?.data {
            guest.acts();
        }
        if to.write_all(bytes).await.is_err() {
            return discard(from).await;
        }
    }
}

/// A client that is connected, for as long as this lives.
struct Guest {
    runner: Runner,
    stack: StackId,
    told: Instant,
}

impl Guest {
    fn arrive(runner: Runner, stack: StackId) -> Self {
        runner.report(Event::ClientConnected { stack });
        Self { runner, stack, told: Instant::now() }
    }

    fn acts(&mut self) {
        if self.told.elapsed() >= ACTIVITY_INTERVAL {
            self.told = Instant::now();
            self.runner.report(Event::ClientActive { stack: self.stack });
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.runner.report(Event::ClientDisconnected { stack: self.stack });
    }
}

fn is_upgrade_to(request: &Request, protocol: impl Fn(&str) -> bool) -> bool {
    let values = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let connection = values(header::CONNECTION).unwrap_or_default();
    let upgrades = connection.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    upgrades && values(header::UPGRADE).is_some_and(protocol)
}

fn invalid(message: &str) -> Refused {
    ErrorResponse { reason: ErrorReason::Invalid, message: message.to_owned() }.into()
}

fn unreachable(uid: &str, error: &(impl std::fmt::Display + ?Sized)) -> Refused {
    let message = format!("session {uid} cannot be reached and is probably ending: {error}");
    ErrorResponse { reason: ErrorReason::WrongPhase, message }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::io::{DuplexStream, duplex};

    /// A tunnel through which data flows while its session ends, seen from its client.
    fn ending(said: &[u8], buffer: usize) -> (DuplexStream, impl Future<Output = ()> + use<>) {
        let (client, of_client) = duplex(buffer);
        let (mut server, of_server) = duplex(1 << 20);
        let (closed, said) = (CancellationToken::new(), said.to_vec());
        let pumped = async move {
            server.write_all(&said).await.unwrap();
            drop(server);
            closed.cancel();
            pump(of_client, of_server, closed, unwatched).await;
        };
        (client, pumped)
    }

    #[tokio::test]
    async fn what_the_server_said_last_reaches_the_client_though_the_session_is_gone() {
        // Often, since an order that is left to chance is right at times. The second time the client is slow to read.
        for round in 0..64 {
            let said = [&[7; 500][..], b"a Close frame"].concat();
            let (mut client, pumped) = ending(&said, if round % 2 == 0 { 1 << 20 } else { 10 });
            // What is said to a server that has ended must not end the tunnel before.
            client.write_all(b"still at work").now_or_never();
            let heard = async {
                let mut heard = Vec::new();
                client.read_to_end(&mut heard).await.unwrap();
                drop(client);
                heard
            };
            let (heard, ()) = tokio::join!(heard, pumped);
            assert!(heard == said, "round {round}: {} bytes of {}", heard.len(), said.len());
        }
    }

    #[tokio::test]
    async fn what_the_client_said_last_reaches_a_server_that_still_sends() {
        let (mut client, of_client) = duplex(1 << 10);
        let (mut server, of_server) = UnixStream::pair().unwrap();
        client.write_all(b"a Close frame").await.unwrap();
        drop(client);
        while server.try_write(&[7; 1 << 10]).is_ok() {}
        let heard = async {
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            drop(server);
            heard
        };
        let (heard, ()) = tokio::join!(heard, pump(of_client, of_server, CancellationToken::new(), unwatched));
        assert_eq!(heard, b"a Close frame");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_does_not_hold_the_tunnel() {
        let (client, pumped) = ending(&[7; 500], 10);
        pumped.await;
        drop(client);
    }
}
