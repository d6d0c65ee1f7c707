//! The relay between two in-memory streams with a paused clock: frames, Pings, and every way to end a connection.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use camofleet_gateway::{
    cache::session::FinishedReason,
    cache::sessions::SessionEnd,
    metrics::{Outcome, Traffic},
    proxy::relay::{CloseReason, relay},
};
use futures::{SinkExt, StreamExt};
use proptest::prelude::*;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, advance, sleep_until},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Bytes, Message, protocol::Role},
};

const SECOND: Duration = Duration::from_secs(1);
const PING: [u8; 2] = [0x89, 0];

/// The peers of a running relay.
struct RelayFixture {
    client: DuplexStream,
    runner: DuplexStream,
    closing: oneshot::Sender<CloseReason>,
    client_death: oneshot::Sender<()>,
    outcome: JoinHandle<Outcome>,
}

fn start_relay() -> RelayFixture {
    start_relay_with_buffer(1 << 20)
}

fn start_relay_with_buffer(buffer: usize) -> RelayFixture {
    let (client, client_peer) = duplex(buffer);
    let (runner, runner_peer) = duplex(buffer);
    let (closing, closed) = oneshot::channel();
    let (client_death, client_died) = oneshot::channel();
    let outcome = tokio::spawn(async move {
        let (closed, client_died) = (sent(closed), sent(client_died));
        relay(split(client_peer).into(), split(runner_peer).into(), closed, client_died, &Traffic::default()).await
    });
    RelayFixture { client, runner, closing, client_death, outcome }
}

/// Resolves to the value that is sent, if one is.
async fn sent<T>(receiver: oneshot::Receiver<T>) -> T {
    match receiver.await {
        Ok(value) => value,
        Err(_) => std::future::pending().await,
    }
}

/// Encodes a frame (RFC 6455 section 5.2), masked like a client's if `mask` is set.
fn frame(opcode: u8, mask: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    let masked = if mask { 0x80 } else { 0 };
    match u8::try_from(payload.len()) {
        Ok(short @ ..126) => bytes.push(masked | short),
        _ => {
            bytes.push(masked | 0x7e);
            bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    let key = if mask { [1, 2, 3, 4] } else { [0; 4] };
    if mask {
        bytes.extend(key);
    }
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]));
    bytes
}

fn close(mask: bool, code: u16, reason: &str) -> Vec<u8> {
    frame(8, mask, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

async fn expect(stream: &mut DuplexStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).await.expect("more bytes");
    assert_eq!(bytes, expected);
}

async fn expect_end(stream: &mut DuplexStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "unexpected bytes: {rest:?}");
}

/// Runs all tasks until they wait, without advancing the clock.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn relays_bytes_unchanged_both_ways() {
    let RelayFixture { mut client, mut runner, outcome, .. } = start_relay();
    let (up, down) = (frame(1, true, b"to the runner"), frame(2, false, &[7; 300]));
    client.write_all(&up).await.unwrap();
    expect(&mut runner, &up).await;
    for part in down.chunks(7) {
        runner.write_all(part).await.unwrap();
        expect(&mut client, part).await;
    }
    assert!(!outcome.is_finished());
}

#[tokio::test(start_paused = true)]
async fn forwards_close_frames_from_either_side() {
    let RelayFixture { mut client, mut runner, outcome, .. } = start_relay();
    client.write_all(&close(true, 1000, "done")).await.unwrap();
    expect(&mut runner, &close(true, 1000, "done")).await;
    runner.write_all(&close(false, 1000, "")).await.unwrap();
    drop(runner);
    expect(&mut client, &close(false, 1000, "")).await;
    expect_end(&mut client).await;
    drop(client);
    assert_eq!(outcome.await.unwrap(), Outcome::ClientClosed);

    let RelayFixture { mut client, mut runner, outcome, .. } = start_relay();
    runner.write_all(&close(false, 4001, "why")).await.unwrap();
    expect(&mut client, &close(false, 4001, "why")).await;
    client.write_all(&close(true, 4001, "")).await.unwrap();
    expect(&mut runner, &close(true, 4001, "")).await;
    drop((client, runner));
    assert_eq!(outcome.await.unwrap(), Outcome::RunnerClosed);
}

#[tokio::test(start_paused = true)]
async fn a_lost_client_drops_the_runners_side_without_a_close_frame() {
    let RelayFixture { mut client, mut runner, outcome, .. } = start_relay();
    client.write_all(&frame(1, true, b"last words")).await.unwrap();
    drop(client);
    expect(&mut runner, &frame(1, true, b"last words")).await;
    expect_end(&mut runner).await;
    assert_eq!(outcome.await.unwrap(), Outcome::ClientLost);
}

#[tokio::test(start_paused = true)]
async fn keeps_pinging_a_quiet_client_that_does_not_answer() {
    let start = Instant::now();
    let RelayFixture { mut client, mut runner, outcome, .. } = start_relay();
    for seconds in [20, 60, 100, 140] {
        expect(&mut client, &PING).await;
        assert_eq!(start.elapsed().as_secs(), seconds);
    }
    let late = frame(1, true, b"paused in a debugger");
    client.write_all(&late).await.unwrap();
    expect(&mut runner, &late).await;
    assert!(!outcome.is_finished());
}

#[tokio::test(start_paused = true)]
async fn keeps_an_idle_client_that_answers_pings() {
    let RelayFixture { mut client, mut runner, outcome, .. } = start_relay();
    let pong = frame(10, true, b"");
    for _ in 0..200 {
        expect(&mut client, &PING).await;
        client.write_all(&pong).await.unwrap();
        expect(&mut runner, &pong).await;
    }
    assert!(!outcome.is_finished());
}

#[tokio::test(start_paused = true)]
async fn keeps_a_reading_tungstenite_client_through_an_idle_hour() {
    let RelayFixture { client, runner, outcome, .. } = start_relay();
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let mut runner = WebSocketStream::from_raw_socket(runner, Role::Server, None).await;
    // Ends between two Pings.
    let end = Instant::now() + 3610 * SECOND;
    let (mut pings, mut pongs) = (0, 0);
    loop {
        tokio::select! {
            biased;
            // tungstenite answers a Ping when it is read.
            Some(message) = client.next() => pings += u32::from(message.unwrap() == Message::Ping(Bytes::new())),
            Some(message) = runner.next() => pongs += u32::from(message.unwrap() == Message::Pong(Bytes::new())),
            () = sleep_until(end) => break,
        }
    }
    assert!(pings >= 3600 / 20 - 1, "{pings} pings");
    assert!(pongs >= pings - 1, "{pongs} of {pings} Pings were answered");
    runner.send(Message::text("at last")).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::text("at last"));
    assert!(!outcome.is_finished());

    // A client that stops reading, like a suspended process, continues later.
    runner.send(Message::text("meanwhile")).await.unwrap();
    sleep_until(end + 3600 * SECOND).await;
    while client.next().await.unwrap().unwrap() != Message::text("meanwhile") {}
    client.send(Message::text("resumed")).await.unwrap();
    while runner.next().await.unwrap().unwrap() != Message::text("resumed") {}
    assert!(!outcome.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_ping_waits_for_the_end_of_a_frame() {
    let RelayFixture { mut client, mut runner, .. } = start_relay();
    let (first, second) = (frame(2, false, &[1; 200]), frame(1, false, b"next"));
    runner.write_all(&first[..50]).await.unwrap();
    expect(&mut client, &first[..50]).await;
    advance(30 * SECOND).await;
    settle().await;
    runner.write_all(&[&first[50..], &second].concat()).await.unwrap();
    expect(&mut client, &first[50..]).await;
    expect(&mut client, &second).await;
    expect(&mut client, &PING).await;
}

#[tokio::test(start_paused = true)]
async fn inserts_a_ping_before_an_incomplete_second_frame() {
    let RelayFixture { mut client, mut runner, .. } = start_relay();
    let (first, second) = (frame(2, false, &[1; 200]), frame(1, false, b"next"));
    runner.write_all(&first[..50]).await.unwrap();
    expect(&mut client, &first[..50]).await;
    advance(30 * SECOND).await;
    settle().await;
    runner.write_all(&[&first[50..], &second[..3]].concat()).await.unwrap();
    expect(&mut client, &first[50..]).await;
    expect(&mut client, &PING).await;
    expect(&mut client, &second[..3]).await;
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_client_that_reads_nothing_until_it_dies() {
    let frames: Vec<_> = (0..100).map(|number| frame(2, false, &[number; 100])).collect();
    let paused = || {
        let RelayFixture { client, mut runner, client_death, outcome, .. } = start_relay_with_buffer(100);
        let frames = frames.clone();
        let runner = tokio::spawn(async move {
            let written = runner.write_all(&frames.concat()).await;
            (runner, written)
        });
        (client, runner, client_death, outcome)
    };

    let (mut client, runner, _client_death, outcome) = paused();
    advance(3600 * SECOND).await;
    for frame in &frames {
        expect(&mut client, frame).await;
    }
    let (mut runner, written) = runner.await.unwrap();
    written.unwrap();
    client.write_all(&close(true, 1000, "")).await.unwrap();
    expect(&mut runner, &close(true, 1000, "")).await;
    drop(runner);
    assert_eq!(outcome.await.unwrap(), Outcome::ClientClosed);

    let (client, runner, client_death, outcome) = paused();
    advance(3600 * SECOND).await;
    client_death.send(()).unwrap();
    assert_eq!(outcome.await.unwrap(), Outcome::ClientLost);
    runner.await.unwrap().1.unwrap_err();
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_drain_sends_a_close_frame_to_the_client_only() {
    let RelayFixture { mut client, mut runner, closing, outcome, .. } = start_relay();
    closing.send(CloseReason::Drain).unwrap();
    let close_frame = close(false, 1001, "the gateway is shutting down; connect again");
    expect(&mut client, &close_frame).await;
    expect_end(&mut client).await;
    // The client's answer must not reach the runner, which would treat it as a close by the client.
    let _ = client.write_all(&close(true, 1001, "")).await;
    drop(client);
    expect_end(&mut runner).await;
    assert_eq!(outcome.await.unwrap(), Outcome::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_drain_completes_the_current_frame_before_closing() {
    let RelayFixture { mut client, mut runner, closing, outcome, .. } = start_relay();
    let (whole, next) = (frame(2, false, &[1; 200]), frame(1, false, b"next"));
    runner.write_all(&whole[..50]).await.unwrap();
    expect(&mut client, &whole[..50]).await;
    closing.send(CloseReason::Drain).unwrap();
    settle().await;
    runner.write_all(&[&whole[50..], &next[..2]].concat()).await.unwrap();
    expect(&mut client, &whole[50..]).await;
    expect(&mut client, &close(false, 1001, "the gateway is shutting down; connect again")).await;
    expect_end(&mut client).await;
    drop(client);
    assert_eq!(outcome.await.unwrap(), Outcome::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_drain_times_out_waiting_for_the_end_of_a_frame() {
    let RelayFixture { mut client, mut runner, closing, outcome, .. } = start_relay();
    let whole = frame(2, false, &[1; 200]);
    runner.write_all(&whole[..50]).await.unwrap();
    expect(&mut client, &whole[..50]).await;
    let start = Instant::now();
    closing.send(CloseReason::Drain).unwrap();
    expect_end(&mut client).await;
    assert_eq!(start.elapsed().as_secs(), 5);
    drop(client);
    assert_eq!(outcome.await.unwrap(), Outcome::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_sends_nothing_after_its_token_is_revoked() {
    let RelayFixture { mut client, mut runner, closing, outcome, .. } = start_relay_with_buffer(100);
    // More bytes than the client's buffer holds, so the relay blocks while it writes them.
    runner.write_all(&frame(2, false, &[0; 1000])[..300]).await.unwrap();
    settle().await;
    let start = Instant::now();
    closing.send(CloseReason::Revoked).unwrap();
    settle().await;
    client.write_all(&frame(1, true, b"drive on")).await.unwrap();
    expect_end(&mut runner).await;
    assert_eq!(start.elapsed().as_secs(), 5);
    drop(client);
    assert_eq!(outcome.await.unwrap(), Outcome::Revoked);
}

#[tokio::test(start_paused = true)]
async fn closes_with_the_reason_when_the_session_ends() {
    let RelayFixture { mut client, mut runner, closing, outcome, .. } = start_relay();
    let finish = FinishedReason { reason: "IdleTimeout".into(), message: "nothing for 30 s".into() };
    closing.send(CloseReason::Session(SessionEnd::Finished(finish))).unwrap();
    expect(&mut client, &close(false, 1001, "the session has ended: IdleTimeout: nothing for 30 s")).await;
    expect_end(&mut client).await;
    expect_end(&mut runner).await;
    drop(client);
    assert_eq!(outcome.await.unwrap(), Outcome::SessionEnded);
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_clients_close_frame_when_the_session_ends_meanwhile() {
    let RelayFixture { mut client, mut runner, closing, outcome, .. } = start_relay();
    let (close_frame, answer) = (close(false, 1000, "closed by the server"), close(true, 1000, ""));
    runner.write_all(&close_frame).await.unwrap();
    expect(&mut client, &close_frame).await;
    let start = Instant::now();
    closing.send(CloseReason::Session(SessionEnd::Deleted)).unwrap();
    settle().await;
    client.write_all(&answer).await.unwrap();
    expect(&mut runner, &answer).await;
    drop(client);
    assert_eq!(outcome.await.unwrap(), Outcome::RunnerClosed);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn replaces_the_runners_1001_with_the_end_reason() {
    let RelayFixture { mut client, mut runner, closing, outcome, .. } = start_relay();
    let last = frame(1, false, b"last words");
    runner.write_all(&[&last[..], &close(false, 1001, "Browser closed")].concat()).await.unwrap();
    expect(&mut client, &last).await;
    advance(SECOND).await;
    closing.send(CloseReason::Session(SessionEnd::Deleted)).unwrap();
    expect(&mut client, &close(false, 1001, "the session was deleted")).await;
    expect_end(&mut client).await;
    drop(client);
    assert_eq!(outcome.await.unwrap(), Outcome::SessionEnded);
}

#[tokio::test(start_paused = true)]
async fn forwards_the_runners_1001_if_no_end_reason_arrives() {
    let start = Instant::now();
    let RelayFixture { mut client, mut runner, closing, outcome, .. } = start_relay();
    runner.write_all(&close(false, 1001, "Browser closed")).await.unwrap();
    expect(&mut client, &close(false, 1001, "Browser closed")).await;
    assert_eq!(start.elapsed().as_secs(), 2);
    drop((client, runner));
    assert_eq!(outcome.await.unwrap(), Outcome::RunnerClosed);
    drop(closing);
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_end_reason_when_the_runner_disconnects_first() {
    let RelayFixture { mut client, runner, closing, outcome, .. } = start_relay();
    drop(runner);
    advance(SECOND).await;
    closing.send(CloseReason::Session(SessionEnd::Deleted)).unwrap();
    expect(&mut client, &close(false, 1001, "the session was deleted")).await;
    drop(client);
    assert_eq!(outcome.await.unwrap(), Outcome::SessionEnded);
}

#[tokio::test(start_paused = true)]
async fn closes_with_1011_when_the_runner_is_lost() {
    let RelayFixture { mut client, runner, outcome, closing, .. } = start_relay();
    drop(runner);
    expect(&mut client, &close(false, 1011, "the connection to the session's runner was lost; connect again")).await;
    expect_end(&mut client).await;
    drop((client, closing));
    assert_eq!(outcome.await.unwrap(), Outcome::RunnerLost);
}

#[tokio::test(start_paused = true)]
async fn sends_no_close_frame_inside_an_unfinished_frame() {
    let RelayFixture { mut client, mut runner, outcome, closing, .. } = start_relay();
    runner.write_all(&frame(2, false, &[1; 200])[..50]).await.unwrap();
    drop(runner);
    expect(&mut client, &frame(2, false, &[1; 200])[..50]).await;
    expect_end(&mut client).await;
    drop((client, closing));
    assert_eq!(outcome.await.unwrap(), Outcome::RunnerLost);
}

#[tokio::test(start_paused = true)]
async fn closes_a_client_that_sends_invalid_frames() {
    let too_long = [0x82, 0xff, 0, 0, 0, 0, 0x10, 0, 0, 1, 1, 2, 3, 4];
    for (bytes, code) in [(b"GET /json HTTP/1.1\r\n".as_slice(), 1002_u16), (&too_long, 1009)] {
        let RelayFixture { mut client, mut runner, outcome, .. } = start_relay();
        client.write_all(bytes).await.unwrap();
        expect_end(&mut runner).await;
        let mut head = [0; 4];
        client.read_exact(&mut head).await.unwrap();
        assert_eq!((head[0], u16::from_be_bytes([head[2], head[3]])), (0x88, code));
        drop(client);
        assert_eq!(outcome.await.unwrap(), Outcome::ProtocolError);
    }
}

#[tokio::test(start_paused = true)]
async fn drops_invalid_frames_of_the_runner() {
    let RelayFixture { mut client, mut runner, outcome, .. } = start_relay();
    runner.write_all(b"not frames").await.unwrap();
    expect_end(&mut client).await;
    drop(client);
    assert_eq!(outcome.await.unwrap(), Outcome::ProtocolError);
}

/// Splits a stream into its frames. The last frame must be complete.
fn split_frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (header, length) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            short => (2, usize::from(short)),
        };
        let (frame, rest) = bytes.split_at(header + length);
        frames.push(frame.to_vec());
        bytes = rest;
    }
    frames
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pings_never_break_a_frame(
        frames in prop::collection::vec((0_u8..3, 0_usize..400), 1..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let sent: Vec<Vec<u8>> = frames.iter().map(|(opcode, length)| frame(*opcode, false, &vec![0x89; *length])).collect();
        let stream = sent.concat();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).chain([0, stream.len()]).collect();
        at.sort_unstable();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let received = runtime.block_on(async {
            let RelayFixture { mut client, mut runner, closing, outcome, .. } = start_relay();
            for part in at.windows(2) {
                runner.write_all(&stream[part[0]..part[1]]).await.unwrap();
                settle().await;
                // A Ping becomes due after each chunk, and the client answers each time.
                advance(25 * SECOND).await;
                client.write_all(&frame(10, true, b"")).await.unwrap();
                settle().await;
            }
            drop((runner, closing));
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.unwrap();
            drop(client);
            assert_eq!(outcome.await.unwrap(), Outcome::RunnerLost);
            received
        });
        let (pings, others): (Vec<_>, Vec<_>) = split_frames(&received).into_iter().partition(|frame| *frame == PING);
        prop_assert_eq!(&others[..others.len() - 1], &sent[..], "all frames arrive, followed by the Close frame");
        prop_assert!(!pings.is_empty());
    }
}
