//! `GET /vnc/{namespace}/{name}`: the display of a session as RFB over a WebSocket, for noVNC and other viewers.
//!
//! Each viewer has its own connection to the display. A slow viewer therefore does not slow down other viewers, and the
//! display sends it fewer pictures. [`rfb`](crate::rfb) filters the viewer's messages by its role. Input of a
//! controller counts as activity of the session; viewing does not.

use crate::{
    auth::{
        extract::{Handshake, MayWatch, SessionAccess, Upgrading},
        subprotocol::Offer,
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
/// Longest WebSocket message of a viewer. noVNC's messages have a few bytes, except for pasted text.
const MAX_MESSAGE: usize = 1 << 20;
/// Longest read from a viewer. tungstenite zeroes a buffer of this size before each read, and it reads with every chunk
/// of a picture that is sent.
const READ_BUFFER: usize = 4 << 10;
/// A side that does not accept a message within this time is stuck.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// Shortest interval between two reports of a controller's activity to the runner.
const TOUCH_INTERVAL: Duration = Duration::from_secs(5);

/// Finds the session, waits until it is Ready, connects to its display, and relays.
pub async fn vnc(
    MayWatch(access): MayWatch,
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
    let role = if access.scope() == Scope::Control { rfb::ViewerRole::Control } else { rfb::ViewerRole::View };
    let response = switching_protocols(&handshake.headers, access.scope());
    match upstream::open(&gateway, &access, &mut found, Service::Display, &handshake.headers).await? {
        Upstream::Opened { connection, .. } => {
            let relayed = relay_view(Arc::clone(&gateway), access, found, role, handshake.connection, connection);
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
    if let Some(protocol) = Offer::from_headers(headers).select(granted) {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

async fn relay_view(
    gateway: Arc<Gateway>,
    access: SessionAccess,
    found: ReadySession,
    role: rfb::ViewerRole,
    viewer: Upgrading,
    display: OnUpgrade,
) {
    let ReadySession { mut session, runner } = found;
    let gateway = &gateway;
    upstream::run(gateway, viewer, display, |viewer, display| async move {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE))
            .read_buffer_size(READ_BUFFER);
        let viewer = WebSocketStream::from_raw_socket(TokioIo::new(viewer), Role::Server, Some(config)).await;
        let reporter = ActivityReporter { gateway, uid: session.uid(), runner: &runner, scope: access.scope() };
        relay(
            viewer,
            runner_client::into_side(display),
            role,
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
    /// The viewer closed the connection.
    ViewerClosed,
    /// The viewer disconnected without a Close frame, is stuck, or did not answer a Ping.
    ViewerLost,
    /// The viewer violated RFB.
    InvalidViewerBytes(RfbError),
    /// The viewer sent an invalid, non-binary or too long WebSocket message. Contains a code of RFC 6455 section 7.4.1
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
    viewer: WebSocketStream<V>,
    display: Side<R, W>,
    role: rfb::ViewerRole,
    closing: impl Future<Output = CloseReason>,
    reporter: ActivityReporter<'_>,
) -> Outcome
where
    V: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let last_seen = LastSeen::new(Instant::now());
    let (mut to_viewer, mut from_viewer) = viewer.split();
    let Side { read: mut from_display, write: mut to_display } = display;
    let mut closing = pin!(closing);
    let end = tokio::select! {
        biased;
        reason = closing.as_mut() => End::ByGateway(reason),
        end = copy_to_viewer(&mut from_display, &mut to_viewer, &last_seen, reporter.traffic()) => end,
        end = copy_to_display(&mut from_viewer, &mut to_display, role, &last_seen, &reporter) => end,
    };
    drop((from_display, to_display));
    let (outcome, close) = match end {
        End::ViewerClosed => (Outcome::ClientClosed, None),
        End::ViewerLost => (Outcome::ClientLost, None),
        End::InvalidViewerBytes(error @ RfbError::Message(MessageError::CutTextTooLong(_))) => {
            (Outcome::ProtocolError, Some((1009, error.to_string())))
        }
        End::InvalidViewerBytes(error) => (Outcome::ProtocolError, Some((1002, error.to_string()))),
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
        let mut viewer = to_viewer.reunite(from_viewer).expect("both halves are of the same WebSocket");
        let closing_handshake = async {
            if let Some((code, reason)) = close {
                let frame = CloseFrame { code: code.into(), reason: close_frame::truncate_reason(&reason).into() };
                let _ = viewer.send(Message::Close(Some(frame))).await;
            }
            // When the viewer closed first, this read also sends the answering Close frame.
            while let Some(Ok(_)) = viewer.next().await {}
            // Closing the socket while it has unread bytes would reset the connection, and the viewer could lose the
            // Close frame.
            let connection = viewer.get_mut();
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

/// Copies the display's bytes to the viewer, with Pings in between.
async fn copy_to_viewer(
    display: &mut (impl AsyncRead + Unpin),
    viewer: &mut (impl Sink<Message, Error = Error> + Unpin),
    last_seen: &LastSeen,
    traffic: &Traffic,
) -> End {
    let (mut keepalive, mut check) = (Keepalive::new(Instant::now()), DisplayCheck::default());
    let mut buffer = BytesMut::new();
    loop {
        keepalive.received(last_seen.get());
        let next = match keepalive.next_ping(Instant::now()) {
            Ping::Unanswered => return End::ViewerLost,
            Ping::Due => {
                if send(viewer, Message::Ping(bytes::Bytes::new())).await.is_err() {
                    return End::ViewerLost;
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
                if send(viewer, Message::Binary(buffer.split().freeze())).await.is_err() {
                    return End::ViewerLost;
                }
                traffic.to_client(length);
                keepalive.sent(Instant::now());
            }
        }
    }
}

async fn send(viewer: &mut (impl Sink<Message, Error = Error> + Unpin), message: Message) -> Result<(), ()> {
    timeout(WRITE_DEADLINE, viewer.send(message)).await.map_err(drop)?.map_err(drop)
}

/// Copies the viewer's permitted messages to the display, and reports input as activity.
async fn copy_to_display(
    viewer: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    display: &mut (impl AsyncWrite + Unpin),
    role: rfb::ViewerRole,
    last_seen: &LastSeen,
    reporter: &ActivityReporter<'_>,
) -> End {
    let (mut filter, mut passed) = (ClientFilter::new(role), Vec::new());
    let mut reported: Option<Instant> = None;
    loop {
        let message = match viewer.next().await {
            Some(Ok(message)) => message,
            None => return End::ViewerClosed,
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_))) => {
                return End::ViewerLost;
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
            Message::Close(_) => return End::ViewerClosed,
        };
        passed.clear();
        let input = match filter.filter(&chunk, &mut passed) {
            Ok(input) => input,
            Err(error) => return End::InvalidViewerBytes(error),
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
