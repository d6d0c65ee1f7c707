//! Carries the bytes of one WebSocket between client and runner, after both sides were upgraded.
//!
//! Bytes pass untouched. Only headers of frames are read, to know where a Ping or a Close of our own may be put in and
//! when the two ends say goodbye. There is one buffer for each direction, read only when it is empty, so memory is a
//! constant and a slow reader slows its writer down.
//!
//! How a connection ends matters: the runner keeps a client's pages for a while when the client was *lost* (its side
//! ends without a Close frame), and closes them at once when the client *said* goodbye. So
//! - a Close frame of either side is passed on like any other frame, with its code;
//! - a lost client, and a gateway that goes, drop the runner's side without a Close frame;
//! - what ends here without a Close of the runner is told to the client by one of ours (RFC 6455 section 7.4.1): 1001
//!   (going away) when the session is over or the gateway goes, 1011 (unexpected condition) when the runner was lost
//!   while its session, as far as known, is alive, 1002 and 1009 when the client sent what may not pass, 4401 (ours, after
//!   HTTP's 401) when its token was taken out of the Secret.

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

/// What is carried at once, in each direction.
const BUFFER: usize = 64 << 10;
/// A side that does not take one buffer within this time is stuck. Shorter than the time that makes a client lost,
/// because a client is not heard while its bytes wait for the runner.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// After one side's Close frame was passed, the other's answer is waited for so long.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// When the connection is to end in the midst of a frame to the client, its rest is waited for so long. Of the client
/// nothing is carried meanwhile.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for the reason of a session's end, because the runner ends its connections before the watch
/// delivers it.
pub const END_REASON_TIMEOUT: Duration = Duration::from_secs(2);
/// After our last byte, the client may take so long to close its side. Closing with unread bytes would reset the
/// connection, and the client could lose the Close frame.
const LINGER: Duration = Duration::from_secs(2);

/// The two halves of a connection.
pub struct Side<R, W> {
    /// What comes from there.
    pub read: R,
    /// What goes there.
    pub write: W,
}

/// Why the gateway itself ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The session is over.
    Session(SessionEnd),
    /// The gateway is told to go.
    Drain,
    /// The client's token is good no longer.
    Revoked,
}

/// A Close frame for the client.
struct Close {
    code: u16,
    reason: String,
}

/// Carries both directions until one of the sides or `ending` ends it. The runner's side is dropped before the
/// client's.
pub async fn relay<CR, CW, RR, RW>(
    client: Side<CR, CW>,
    runner: Side<RR, RW>,
    closing: impl Future<Output = CloseReason>,
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
            let copying = pin!(copy_to_runner(&mut from_client, &mut to_runner, &last_seen, traffic));
            // `ending` is asked first: once it is there, nothing more of the client may reach the runner.
            match select(closing.clone(), copying).await {
                // What is still to come is the client's goodbye.
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
            // What the runner said before it went may still be on its way, a Close frame most of all.
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
        let _ = timeout(LINGER, tokio::io::copy(&mut from_client, &mut tokio::io::sink())).await;
    }
    outcome
}

/// Why no more is carried.
enum End {
    /// The client's Close frame was passed.
    ClientClosed,
    /// The client's side ended, or does not take or does not answer any more.
    ClientLost,
    /// The client sent what may not pass.
    InvalidClientFrame(FrameError),
    /// The runner's Close frame was passed.
    RunnerClosed,
    /// The runner's side ended without a Close frame, or does not take any more.
    RunnerLost,
    /// The runner sent what is no WebSocket.
    InvalidRunnerFrame,
    /// The gateway ends it.
    ByGateway(CloseReason),
}

/// The way to the client, where frames of our own may be put in.
struct ToClient<'a, W> {
    client: W,
    buffer: Box<[u8]>,
    scanner: FrameScanner,
    /// Whether what was written so far ends with a whole frame.
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

    /// Carries what comes from the runner, with Pings in between, until a frame ends after `ending`.
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
                // A client that sends no more because the gateway ends its connection is not lost.
                Ping::Unanswered if pending.is_none() => return End::ClientLost,
                Ping::Due if self.between_frames => match self.ping().await {
                    Ok(()) => continue,
                    Err(_) => return End::ClientLost,
                },
                // No Ping fits into a frame: the rest of the frame must be passed first.
                Ping::Due | Ping::Unanswered => None,
                Ping::NotBefore(until) => Some(until),
            };
            tokio::select! {
                biased;
                reason = &mut closing, if pending.is_none() => pending = Some(reason),
                () = sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {}
                read = runner.read(&mut self.buffer) => {
                    let Ok(length @ 1..) = read else { return pending.map_or(End::RunnerLost, End::ByGateway) };
                    match self.pass(length, &mut pending).await {
                        Ok(None) => {}
                        Ok(Some(end)) => return end,
                        Err(_) => return End::ClientLost,
                    }
                }
            }
        }
    }

    /// Passes what was read, and puts in what waits for a place between two frames.
    async fn pass(&mut self, length: usize, pending: &mut Option<CloseReason>) -> io::Result<Option<End>> {
        let Ok(scan) = self.scanner.scan(&self.buffer[..length]) else {
            return Ok(Some(End::InvalidRunnerFrame));
        };
        self.traffic.to_client(length);
        if scan.close.is_some() {
            // Nothing may follow a Close frame, so nothing is put in.
            self.write(0..length, self.scanner.at_boundary()).await?;
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
            send(&mut self.client, &self.buffer[range]).await?;
            self.keepalive.sent(Instant::now());
        }
        self.between_frames = ends_a_frame;
        Ok(())
    }

    async fn ping(&mut self) -> io::Result<()> {
        self.between_frames = false;
        send(&mut self.client, &close_frame::PING).await?;
        self.between_frames = true;
        self.keepalive.pinged(Instant::now());
        Ok(())
    }

    /// Says farewell, if a frame fits in, and that no more will come.
    async fn finish(&mut self, close: Option<Close>) {
        if let Some(Close { code, reason }) = close.filter(|_| self.between_frames) {
            let _ = send(&mut self.client, &close_frame::close(code, &reason)).await;
        }
        let _ = timeout(LINGER, self.client.shutdown()).await;
    }
}

/// Carries what comes from the client to the runner, until its Close frame or its end.
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
        if send(runner, &buffer[..length]).await.is_err() {
            return End::RunnerLost;
        }
        last_seen.update(Instant::now());
        if scan.close.is_some() {
            return End::ClientClosed;
        }
    }
}

async fn send(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    timeout(WRITE_DEADLINE, to.write_all(bytes)).await.map_err(io::Error::other)?
}

impl CloseReason {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Session(_) => Outcome::SessionEnded,
            Self::Drain => Outcome::Drained,
            Self::Revoked => Outcome::Revoked,
        }
    }

    /// What the client is told, whatever the code.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Session(end) => end.to_string(),
            Self::Drain => "the gateway is going away; connect again".to_owned(),
            Self::Revoked => "the token is not valid any more".to_owned(),
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
