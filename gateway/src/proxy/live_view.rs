//! `GET /vnc/{namespace}/{name}`: the display of a session as RFB over a WebSocket, for noVNC and other RFB clients.
//!
//! Each client has its own connection to the display. A slow client therefore does not slow down other clients, and the
//! display sends it fewer pictures. [`rfb`](crate::rfb) filters the client's messages by its mode. Input of a
//! controller counts as activity of the session; viewing does not.

use crate::{
    auth::{
        extract::{Handshake, MayView, SessionAccess, Upgrading},
        subprotocol::RequestedSubprotocols,
    },
    error::ApiError,
    metrics::{Outcome, Traffic},
    proxy::{
        close_frame,
        keepalive::{Keepalive, LastSeen, Ping},
        relay::{CloseReason, END_REASON_TIMEOUT, Side},
        runner_client::{self, Service},
        upstream::{self, ReadySession, Upstream},
    },
    rfb::{self, ClientFilter, DisplayCheck, MessageError, RfbError},
    state::Gateway,
};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use camofleet_auth::token::Scope;
use camofleet_crds::v1alpha1::RunnerRef;
use camofleet_runtime::tcp;
use futures::{Sink, SinkExt, Stream, StreamExt};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};
use tracing::Instrument;

/// Longest read from the display.
const BUFFER: usize = 64 << 10;
/// Longest WebSocket message of a client. noVNC's messages have a few bytes, except for pasted text.
const MAX_MESSAGE: usize = 1 << 20;
/// Longest read from a client. tungstenite zeroes a buffer of this size before each read, and it reads with every chunk
/// of a picture that is sent.
const READ_BUFFER: usize = 4 << 10;
/// A side that does not accept a message within this time is stuck.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// Shortest interval between two reports of a controller's activity to the runner.
const TOUCH_INTERVAL: Duration = Duration::from_secs(5);

/// Finds the session, waits until it is Ready, connects to its display, and relays.
pub async fn vnc(
    MayView(access): MayView,
    handshake: Result<Handshake, ApiError>,
    State(gateway): State<Arc<Gateway>>,
) -> Result<Response, ApiError> {
    let mut found = upstream::find(&gateway, &access).await?;
    tracing::Span::current().record("session", found.session.uid());
    if !found.session.has_live_view() {
        return Err(ApiError::NoLiveView);
    }
    // Checked last, so that a page can send a plain request to find out why its WebSocket was rejected.
    let handshake = handshake?;
    let mode = if access.scope() == Scope::Control { rfb::ClientMode::Control } else { rfb::ClientMode::View };
    let response = switching_protocols(&handshake.headers, access.scope());
    match upstream::open(&gateway, &access, &mut found, Service::Display, &handshake.headers).await? {
        Upstream::Opened { connection, .. } => {
            let relayed = relay_view(Arc::clone(&gateway), access, found, mode, handshake.connection, connection);
            gateway.shutdown.spawn(relayed.in_current_span());
            Ok(response)
        }
        Upstream::Rejected(response) => Ok(response),
    }
}

/// The response to a handshake (RFC 6455 section 4.2.2).
fn switching_protocols(headers: &HeaderMap, granted: Scope) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let key = headers.get(SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
    let accept = HeaderValue::try_from(derive_accept_key(key)).expect("base64 is valid in a header");
    answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = RequestedSubprotocols::from_headers(headers).select(granted) {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

async fn relay_view(
    gateway: Arc<Gateway>,
    access: SessionAccess,
    found: ReadySession,
    mode: rfb::ClientMode,
    client: Upgrading,
    display: OnUpgrade,
) {
    let ReadySession { mut session, runner } = found;
    let gateway = &gateway;
    upstream::relay_until_closed(gateway, client, display, |client, display| async move {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE))
            .read_buffer_size(READ_BUFFER);
        let client = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, Some(config)).await;
        let reporter = ActivityReporter { gateway, uid: session.uid(), runner: &runner, scope: access.scope() };
        relay(
            client,
            tcp::split(display).into(),
            mode,
            upstream::close_reason(gateway, &access, &mut session),
            reporter,
        )
        .await
    })
    .await;
}

/// Reports the activity of a controller to the runner.
struct ActivityReporter<'a> {
    gateway: &'a Arc<Gateway>,
    uid: String,
    runner: &'a RunnerRef,
    scope: Scope,
}

impl ActivityReporter<'_> {
    fn traffic(&self) -> &Traffic {
        self.gateway.metrics.traffic()
    }

    fn report(&self) {
        let token = self.gateway.signer.hop_token(&self.runner.uid, &self.uid, self.scope, None);
        let (address, uid) = (self.runner.address.clone(), self.uid.clone());
        self.gateway.shutdown.spawn(
            async move {
                if let Err(error) = runner_client::touch(&address, &uid, &token).await {
                    tracing::warn!(%error, "could not report a controller's activity to the runner");
                }
            }
            .in_current_span(),
        );
    }
}

/// How the relay ended.
enum End {
    /// The client closed the connection.
    ClientClosed,
    /// The client disconnected without a Close frame, is stuck, or did not answer a Ping.
    ClientLost,
    /// The client violated RFB.
    InvalidClientBytes(RfbError),
    /// The client sent an invalid, non-binary or too long WebSocket message. Contains a code of RFC 6455 section 7.4.1
    /// and a reason.
    InvalidMessage(u16, String),
    /// The display disconnected, or is stuck.
    DisplayLost,
    /// The display's greeting is not the one of a runner's display.
    InvalidGreeting(RfbError),
    /// The gateway closed the connection.
    ByGateway(CloseReason),
}

/// Relays both directions until one side ends the connection or `closing` resolves.
async fn relay<V, R, W>(
    client: WebSocketStream<V>,
    display: Side<R, W>,
    mode: rfb::ClientMode,
    closing: impl Future<Output = CloseReason>,
    reporter: ActivityReporter<'_>,
) -> Outcome
where
    V: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let last_seen = LastSeen::new(Instant::now());
    let (mut to_client, mut from_client) = client.split();
    let Side { read: mut from_display, write: mut to_display } = display;
    let mut closing = pin!(closing);
    let end = tokio::select! {
        biased;
        reason = closing.as_mut() => End::ByGateway(reason),
        end = copy_to_client(&mut from_display, &mut to_client, &last_seen, reporter.traffic()) => end,
        end = copy_to_display(&mut from_client, &mut to_display, mode, &last_seen, &reporter) => end,
    };
    drop((from_display, to_display));
    let (outcome, close) = match end {
        End::ClientClosed => (Outcome::ClientClosed, None),
        End::ClientLost => (Outcome::ClientLost, None),
        End::InvalidClientBytes(error @ RfbError::Message(MessageError::CutTextTooLong(_))) => {
            (Outcome::ProtocolError, Some((1009, error.to_string())))
        }
        End::InvalidClientBytes(error) => (Outcome::ProtocolError, Some((1002, error.to_string()))),
        End::InvalidMessage(code, reason) => (Outcome::ProtocolError, Some((code, reason))),
        End::InvalidGreeting(error) => (Outcome::ProtocolError, Some((1011, error.to_string()))),
        End::DisplayLost => match timeout(END_REASON_TIMEOUT, closing).await {
            Ok(reason) => (reason.outcome(), Some(close_of(&reason))),
            Err(_) => {
                let reason = "the connection to the session's runner was lost; connect again".to_owned();
                (Outcome::RunnerLost, Some((1011, reason)))
            }
        },
        End::ByGateway(reason) => (reason.outcome(), Some(close_of(&reason))),
    };
    if outcome != Outcome::ClientLost {
        let mut client = to_client.reunite(from_client).expect("both halves are of the same WebSocket");
        let closing_handshake = async {
            if let Some((code, reason)) = close {
                let frame = CloseFrame { code: code.into(), reason: close_frame::truncate_reason(&reason).into() };
                let _ = client.send(Message::Close(Some(frame))).await;
            }
            // When the client closed first, this read also sends the answering Close frame.
            while let Some(Ok(_)) = client.next().await {}
            // Closing the socket while it has unread bytes would reset the connection, and the client could lose the
            // Close frame.
            let connection = client.get_mut();
            connection.shutdown().await?;
            tokio::io::copy(connection, &mut tokio::io::sink()).await
        };
        let _ = timeout(END_REASON_TIMEOUT, closing_handshake).await;
    }
    outcome
}

/// Code and reason of the Close frame. For a page, 4410 and 4401 are final; after 1001 it connects again.
fn close_of(reason: &CloseReason) -> (u16, String) {
    let code = match reason {
        CloseReason::Session(_) => 4410,
        CloseReason::Revoked => 4401,
        CloseReason::Drain => 1001,
    };
    (code, reason.message())
}

/// Copies the display's bytes to the client, with Pings in between.
async fn copy_to_client(
    display: &mut (impl AsyncRead + Unpin),
    client: &mut (impl Sink<Message, Error = Error> + Unpin),
    last_seen: &LastSeen,
    traffic: &Traffic,
) -> End {
    let (mut keepalive, mut check) = (Keepalive::new(Instant::now()), DisplayCheck::default());
    let mut buffer = BytesMut::new();
    loop {
        keepalive.received(last_seen.get());
        let next = match keepalive.next_ping(Instant::now()) {
            Ping::Unanswered => return End::ClientLost,
            Ping::Due => {
                if send(client, Message::Ping(bytes::Bytes::new())).await.is_err() {
                    return End::ClientLost;
                }
                keepalive.pinged(Instant::now());
                continue;
            }
            Ping::NotBefore(until) => until,
        };
        buffer.reserve(BUFFER);
        tokio::select! {
            () = sleep_until(next) => {}
            read = display.read_buf(&mut buffer) => {
                let Ok(length @ 1..) = read else { return End::DisplayLost };
                if let Err(error) = check.check(&buffer) {
                    return End::InvalidGreeting(error);
                }
                if send(client, Message::Binary(buffer.split().freeze())).await.is_err() {
                    return End::ClientLost;
                }
                traffic.to_client(length);
                keepalive.sent(Instant::now());
            }
        }
    }
}

async fn send(client: &mut (impl Sink<Message, Error = Error> + Unpin), message: Message) -> Result<(), ()> {
    timeout(WRITE_DEADLINE, client.send(message)).await.map_err(drop)?.map_err(drop)
}

/// Copies the client's permitted messages to the display, and reports input as activity.
async fn copy_to_display(
    client: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    display: &mut (impl AsyncWrite + Unpin),
    mode: rfb::ClientMode,
    last_seen: &LastSeen,
    reporter: &ActivityReporter<'_>,
) -> End {
    let (mut filter, mut passed) = (ClientFilter::new(mode), Vec::new());
    let mut reported: Option<Instant> = None;
    loop {
        let message = match client.next().await {
            Some(Ok(message)) => message,
            None => return End::ClientClosed,
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_))) => {
                return End::ClientLost;
            }
            Some(Err(error @ Error::Capacity(_))) => return End::InvalidMessage(1009, error.to_string()),
            Some(Err(error)) => return End::InvalidMessage(1002, error.to_string()),
        };
        let now = Instant::now();
        last_seen.update(now);
        let chunk = match message {
            Message::Binary(chunk) => chunk,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            Message::Text(_) => {
                return End::InvalidMessage(1003, "the live view accepts RFB in binary messages only".to_owned());
            }
            Message::Close(_) => return End::ClientClosed,
        };
        passed.clear();
        let input = match filter.filter(&chunk, &mut passed) {
            Ok(input) => input,
            Err(error) => return End::InvalidClientBytes(error),
        };
        if input && reported.is_none_or(|last| now >= last + TOUCH_INTERVAL) {
            reported = Some(now);
            reporter.report();
        }
        reporter.traffic().to_runner(passed.len());
        if !matches!(timeout(WRITE_DEADLINE, display.write_all(&passed)).await, Ok(Ok(()))) {
            return End::DisplayLost;
        }
        last_seen.update(Instant::now());
    }
}
