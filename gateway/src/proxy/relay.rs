//! Relays one Playwright connection (`/ws`) between client and runner, after both sides were upgraded.
//!
//! Bytes are forwarded unchanged. The relay reads only frame headers, to find the places where it can insert its own
//! Ping or Close frame, and to detect the Close frames of both sides. Each direction has one buffer, which is refilled
//! only when it is empty, so memory is constant and a slow reader slows down its writer.
//!
//! The way a connection ends matters, because the runner distinguishes two cases. When a client is *lost*, which means
//! that its connection ends without a Close frame, the runner keeps its contexts for a while, if the client has a name.
//! When the client *closes* the connection, the runner closes its contexts at once. Therefore:
//! - A Close frame of either side is forwarded with its code, like any other frame. Only a Close frame of the runner
//!   with the code 1001 is withheld for up to 2 s, because the Playwright server sends it at the end of every session,
//!   before the watch delivers the reason of the end, which the client gets instead.
//! - When the client is lost or the gateway drains, the runner's side is dropped without a Close frame.
//! - When the connection ends without a Close frame of the runner, the gateway sends one to the client (RFC 6455
//!   section 7.4.1): 1001 (going away) when the session has ended or the gateway drains; 1011 (unexpected condition)
//!   when the runner was lost while its session is not known to have ended; 1002 or 1009 when the client sent an
//!   invalid frame; 4401 (private, after HTTP's 401) when the client's token was revoked or has expired.

use crate::{
    cache::sessions::SessionEnd,
    metrics::{Outcome, Traffic},
    proxy::{
        close_frame,
        keepalive::{Keepalive, LastSeen, Ping},
    },
};
use camofleet_runner_api::frames::{FrameError, FrameScanner};
use futures::{
    FutureExt,
    future::{Either, select},
};
use std::{
    io,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep, sleep_until, timeout},
};

/// Size of the buffer of each direction.
const BUFFER: usize = 64 << 10;
/// A runner that does not accept one buffer within this time is stuck.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long to wait for the Close frame of the other side after one side's Close frame was forwarded.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for the rest of a frame to the client before the gateway closes the connection. Meanwhile nothing
/// from the client is forwarded.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);
/// Close code with which the Playwright server says that its browser was closed (RFC 6455 section 7.4.1).
const GOING_AWAY: u16 = 1001;
/// How long to wait for the reason of a session's end. A runner closes the connections of a session before the watch
/// delivers the reason.
pub const END_REASON_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the client has to accept the gateway's Close frame, and to close its side after the gateway's last byte.
/// Closing the socket while it has unread bytes would reset the connection, and the client could lose the Close frame.
const CLIENT_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The read half and the write half of the connection to one side.
pub struct Side<R, W> {
    /// The read half.
    pub read: R,
    /// The write half.
    pub write: W,
}

impl<R, W> From<(R, W)> for Side<R, W> {
    fn from((read, write): (R, W)) -> Self {
        Self { read, write }
    }
}

/// Why the gateway itself closes a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The session has ended.
    Session(SessionEnd),
    /// The gateway drains.
    Drain,
    /// The client's token was revoked or has expired.
    Revoked,
}

/// Content of a Close frame to the client.
struct Close {
    code: u16,
    reason: String,
}

/// Relays both directions until one side ends the connection, `closing` resolves, or `client_death` does. The runner's
/// side is dropped before the client's. While a live client reads nothing, as in a debugger, its messages wait.
pub async fn relay<CR, CW, RR, RW>(
    client: Side<CR, CW>,
    runner: Side<RR, RW>,
    closing: impl Future<Output = CloseReason>,
    client_death: impl Future<Output = ()>,
    traffic: &Traffic,
) -> Outcome
where
    CR: AsyncRead + Unpin,
    CW: AsyncWrite + Unpin,
    RR: AsyncRead + Unpin,
    RW: AsyncWrite + Unpin,
{
    let last_seen = LastSeen::new(Instant::now());
    let closing = pin!(closing);
    let closing = closing.shared();
    let mut from_client = client.read;
    let mut to_client = ToClient::new(client.write, traffic);
    let (mut from_runner, mut to_runner) = (runner.read, runner.write);

    let end = {
        let runner_has_closed = AtomicBool::new(false);
        let down = pin!(to_client.copy_from(&mut from_runner, &last_seen, closing.clone()));
        let up = pin!(async {
            let copying = pin!(async {
                tokio::select! {
                    end = copy_to_runner(&mut from_client, &mut to_runner, &last_seen, traffic) => end,
                    () = client_death => End::ClientLost,
                }
            });
            // `closing` is polled first: once it resolves, nothing more from the client must reach the runner.
            match select(closing.clone(), copying).await {
                // The client still has to answer the runner's Close frame.
                Either::Left((_, copying)) if runner_has_closed.load(Relaxed) => copying.await,
                Either::Left((reason, _)) => {
                    sleep(FRAME_TIMEOUT).await;
                    End::ByGateway(reason)
                }
                Either::Right((end, _)) => end,
            }
        });
        match select(down, up).await {
            Either::Left((End::RunnerClosed, up)) => {
                runner_has_closed.store(true, Relaxed);
                let _ = timeout(CLOSE_TIMEOUT, up).await;
                End::RunnerClosed
            }
            Either::Right((End::ClientClosed, down)) => {
                let _ = timeout(CLOSE_TIMEOUT, down).await;
                End::ClientClosed
            }
            // Bytes that the runner sent before it disconnected, such as a Close frame, can still arrive.
            Either::Right((End::RunnerLost, down)) => timeout(CLOSE_TIMEOUT, down).await.unwrap_or(End::RunnerLost),
            Either::Left((end, _)) | Either::Right((end, _)) => end,
        }
    };
    let (outcome, close) = match end {
        End::ClientClosed => (Outcome::ClientClosed, None),
        End::ClientLost => (Outcome::ClientLost, None),
        End::InvalidClientFrame(error) => (Outcome::ProtocolError, Some(Close::for_invalid_frame(error))),
        End::RunnerClosed => (Outcome::RunnerClosed, None),
        End::InvalidRunnerFrame => (Outcome::ProtocolError, None),
        End::RunnerLost => match timeout(END_REASON_TIMEOUT, closing).await {
            Ok(reason) => (reason.outcome(), Some(reason.close())),
            Err(_) => (Outcome::RunnerLost, Some(Close::for_lost_runner())),
        },
        End::ByGateway(reason) => (reason.outcome(), Some(reason.close())),
    };
    drop((from_runner, to_runner));
    if outcome != Outcome::ClientLost {
        to_client.finish(close).await;
        let _ = timeout(CLIENT_CLOSE_TIMEOUT, tokio::io::copy(&mut from_client, &mut tokio::io::sink())).await;
    }
    outcome
}

/// How the relay ended.
enum End {
    /// The client's Close frame was forwarded.
    ClientClosed,
    /// The client disconnected without a Close frame, or is dead.
    ClientLost,
    /// The client sent an invalid frame.
    InvalidClientFrame(FrameError),
    /// The runner's Close frame was forwarded.
    RunnerClosed,
    /// The runner disconnected without a Close frame, or is stuck.
    RunnerLost,
    /// The runner sent an invalid frame.
    InvalidRunnerFrame,
    /// The gateway closed the connection.
    ByGateway(CloseReason),
}

/// The direction to the client, into which the gateway inserts its own frames.
struct ToClient<'a, W> {
    client: W,
    buffer: Box<[u8]>,
    scanner: FrameScanner,
    /// Whether the bytes written so far end at a frame boundary.
    between_frames: bool,
    keepalive: Keepalive,
    traffic: &'a Traffic,
}

impl<'a, W: AsyncWrite + Unpin> ToClient<'a, W> {
    fn new(client: W, traffic: &'a Traffic) -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        let keepalive = Keepalive::new(Instant::now());
        Self { client, buffer, scanner: FrameScanner::default(), between_frames: true, keepalive, traffic }
    }

    /// Copies the runner's bytes and inserts Pings. After `closing` resolves, ends at the next frame boundary.
    async fn copy_from(
        &mut self,
        runner: &mut (impl AsyncRead + Unpin),
        last_seen: &LastSeen,
        mut closing: impl Future<Output = CloseReason> + Unpin,
    ) -> End {
        let mut pending = None;
        loop {
            self.keepalive.received(last_seen.get());
            let ping = self.keepalive.next_ping(Instant::now());
            if let Some(reason) = pending.take_if(|_| self.between_frames) {
                return End::ByGateway(reason);
            }
            let alarm = match ping {
                // A client that answers no Ping is paused, for example in a debugger. The kernel detects a dead peer.
                Ping::Due | Ping::Unanswered if self.between_frames => match self.ping().await {
                    Ok(()) => continue,
                    Err(_) => return End::ClientLost,
                },
                // A Ping cannot be inserted into a frame, so the rest of the frame must be forwarded first.
                Ping::Due | Ping::Unanswered => None,
                Ping::NotBefore(until) => Some(until),
            };
            tokio::select! {
                biased;
                reason = &mut closing, if pending.is_none() => pending = Some(reason),
                () = sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {}
                read = runner.read(&mut self.buffer) => {
                    let Ok(length @ 1..) = read else { return pending.map_or(End::RunnerLost, End::ByGateway) };
                    match self.forward_buffer(length, &mut pending, &mut closing).await {
                        Ok(None) => {}
                        Ok(Some(end)) => return end,
                        Err(_) => return End::ClientLost,
                    }
                }
            }
        }
    }

    /// Forwards the bytes in the buffer. At a frame boundary, inserts a Ping that is due, or ends for a pending close.
    async fn forward_buffer(
        &mut self,
        length: usize,
        pending: &mut Option<CloseReason>,
        closing: impl Future<Output = CloseReason>,
    ) -> io::Result<Option<End>> {
        let Ok(scan) = self.scanner.scan(&self.buffer[..length]) else {
            return Ok(Some(End::InvalidRunnerFrame));
        };
        self.traffic.to_client(length);
        if let Some(code) = scan.close {
            let mut written = 0;
            if let (GOING_AWAY, Some(start)) = (code, scan.close_start) {
                self.write(0..start, true).await?;
                written = start;
                let reason = match pending.take() {
                    None => timeout(END_REASON_TIMEOUT, closing).await.ok(),
                    known => known,
                };
                if let Some(reason) = reason {
                    return Ok(Some(End::ByGateway(reason)));
                }
            }
            // Nothing is inserted, because no frame may follow a Close frame.
            self.write(written..length, self.scanner.at_boundary()).await?;
            return Ok(Some(End::RunnerClosed));
        }
        let mut written = 0;
        if let Some(boundary) = scan.boundary {
            if let Some(reason) = pending.take() {
                self.write(0..boundary, true).await?;
                return Ok(Some(End::ByGateway(reason)));
            }
            if self.keepalive.next_ping(Instant::now()) == Ping::Due {
                self.write(0..boundary, true).await?;
                self.ping().await?;
                written = boundary;
            }
        }
        self.write(written..length, self.scanner.at_boundary()).await?;
        Ok(None)
    }

    async fn write(&mut self, range: std::ops::Range<usize>, ends_a_frame: bool) -> io::Result<()> {
        if !range.is_empty() {
            self.between_frames = false;
            self.client.write_all(&self.buffer[range]).await?;
            self.keepalive.sent(Instant::now());
        }
        self.between_frames = ends_a_frame;
        Ok(())
    }

    async fn ping(&mut self) -> io::Result<()> {
        self.between_frames = false;
        self.client.write_all(&close_frame::PING).await?;
        self.between_frames = true;
        self.keepalive.pinged(Instant::now());
        Ok(())
    }

    /// Sends the Close frame, if the stream is at a frame boundary, and shuts down the write half.
    async fn finish(&mut self, close: Option<Close>) {
        if let Some(Close { code, reason }) = close.filter(|_| self.between_frames) {
            let frame = close_frame::close(code, &reason);
            let _ = timeout(CLIENT_CLOSE_TIMEOUT, self.client.write_all(&frame)).await;
        }
        let _ = timeout(CLIENT_CLOSE_TIMEOUT, self.client.shutdown()).await;
    }
}

/// Copies the client's bytes to the runner until the client's Close frame or disconnect.
async fn copy_to_runner(
    client: &mut (impl AsyncRead + Unpin),
    runner: &mut (impl AsyncWrite + Unpin),
    last_seen: &LastSeen,
    traffic: &Traffic,
) -> End {
    let mut buffer = vec![0; BUFFER].into_boxed_slice();
    let mut scanner = FrameScanner::default();
    loop {
        let Ok(length @ 1..) = client.read(&mut buffer).await else { return End::ClientLost };
        last_seen.update(Instant::now());
        let scan = match scanner.scan(&buffer[..length]) {
            Ok(scan) => scan,
            Err(error) => return End::InvalidClientFrame(error),
        };
        traffic.to_runner(length);
        if !matches!(timeout(WRITE_DEADLINE, runner.write_all(&buffer[..length])).await, Ok(Ok(()))) {
            return End::RunnerLost;
        }
        last_seen.update(Instant::now());
        if scan.close.is_some() {
            return End::ClientClosed;
        }
    }
}

impl CloseReason {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Session(_) => Outcome::SessionEnded,
            Self::Drain => Outcome::Drained,
            Self::Revoked => Outcome::Revoked,
        }
    }

    /// The reason in the Close frame.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Session(end) => end.to_string(),
            Self::Drain => "the gateway is shutting down; connect again".to_owned(),
            Self::Revoked => "the token is no longer valid".to_owned(),
        }
    }

    fn close(&self) -> Close {
        let code = match self {
            Self::Session(_) | Self::Drain => 1001,
            Self::Revoked => 4401,
        };
        Close { code, reason: self.message() }
    }
}

impl Close {
    fn for_lost_runner() -> Self {
        Self { code: 1011, reason: "the connection to the session's runner was lost; connect again".to_owned() }
    }

    fn for_invalid_frame(error: FrameError) -> Self {
        let code = if matches!(error, FrameError::TooLong(_)) { 1009 } else { 1002 };
        Self { code, reason: error.to_string() }
    }
}
