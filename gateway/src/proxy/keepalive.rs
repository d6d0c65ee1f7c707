//! Decides when to ping a client, and when a Ping counts as unanswered. Pure: the caller supplies the time.
//!
//! Load balancers close idle connections, often after 60 s, and an idle Playwright client sends nothing. The gateway
//! therefore pings a client when one direction was idle for a while. The client's Pong shows that it is alive.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// A client is pinged when one direction was idle for this long.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);
/// A Ping counts as unanswered after this long. With [`PING_INTERVAL`], that is 60 s after the client's last byte.
pub const PONG_TIMEOUT: Duration = Duration::from_secs(40);

/// The keepalive of one client's connection.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// When bytes were last sent to the client.
    sent: Instant,
    /// When bytes were last received from the client.
    received: Instant,
    /// When the unanswered Ping was sent.
    pinged: Option<Instant>,
}

/// Whether a Ping is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ping {
    /// No. Check again at this time.
    NotBefore(Instant),
    /// Yes. Send it now, or as soon as it fits between two frames.
    Due,
    /// The last Ping was not answered: a viewer is lost, and a Playwright client is pinged again.
    Unanswered,
}

impl Keepalive {
    /// Starts for a connection that was established at `now`.
    pub fn new(now: Instant) -> Self {
        Self { sent: now, received: now, pinged: None }
    }

    /// Records that bytes were sent to the client.
    pub fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    /// Records that a Ping was sent.
    pub fn pinged(&mut self, now: Instant) {
        self.sent = now;
        self.pinged = Some(now);
    }

    /// Records that the client's last bytes were received at this time.
    pub fn received(&mut self, at: Instant) {
        self.received = self.received.max(at);
        self.pinged = self.pinged.filter(|pinged| *pinged > at);
    }

    /// Returns whether a Ping is due at `now`.
    pub fn next_ping(&self, now: Instant) -> Ping {
        let (due, then) = match self.pinged {
            // A Pong does not wake this task. Check again when the next Ping is due after a Pong.
            Some(pinged) if now < pinged + PING_INTERVAL => (pinged + PING_INTERVAL, Ping::Due),
            Some(pinged) => (pinged + PONG_TIMEOUT, Ping::Unanswered),
            None => (self.sent.min(self.received) + PING_INTERVAL, Ping::Due),
        };
        if now < due { Ping::NotBefore(due) } else { then }
    }
}

/// When the client's last byte was received. The task that reads from the client shares this value with the task that
/// sends Pings.
pub struct LastSeen {
    start: Instant,
    /// Nanoseconds since `start`. In a coarser unit, a Pong could appear older than its Ping.
    last: AtomicU64,
}

impl LastSeen {
    /// Starts for a connection that was established at `now`.
    pub fn new(now: Instant) -> Self {
        Self { start: now, last: AtomicU64::new(0) }
    }

    /// Records that bytes were received at `now`.
    pub fn update(&self, now: Instant) {
        let nanos = u64::try_from((now - self.start).as_nanos()).unwrap_or(u64::MAX);
        self.last.store(nanos, Ordering::Relaxed);
    }

    /// When the last byte was received.
    pub fn get(&self) -> Instant {
        self.start + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_silent_connection_is_pinged_after_20_s_and_unanswered_after_60() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(start);
        assert_eq!(keepalive.next_ping(start + 19 * SECOND), Ping::NotBefore(start + 20 * SECOND));
        assert_eq!(keepalive.next_ping(start + 20 * SECOND), Ping::Due);
        keepalive.pinged(start + 20 * SECOND);
        assert_eq!(keepalive.next_ping(start + 59 * SECOND), Ping::NotBefore(start + 60 * SECOND));
        assert_eq!(keepalive.next_ping(start + 60 * SECOND), Ping::Unanswered);
    }

    #[test]
    fn a_pong_restarts_the_ping_interval() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(start);
        keepalive.pinged(start + 20 * SECOND);
        keepalive.received(start + 21 * SECOND);
        assert_eq!(keepalive.next_ping(start + 22 * SECOND), Ping::NotBefore(start + 40 * SECOND));
    }

    #[test]
    fn a_pong_in_the_same_millisecond_as_its_ping_counts() {
        let start = Instant::now();
        let (last_seen, mut keepalive) = (LastSeen::new(start), Keepalive::new(start));
        let pinged = start + 20 * SECOND + Duration::from_micros(312);
        keepalive.pinged(pinged);
        last_seen.update(pinged + Duration::from_micros(187));
        keepalive.received(last_seen.get());
        assert_eq!(keepalive.next_ping(start + 61 * SECOND), Ping::Due, "the Pong counted, and the next Ping is due");
    }

    #[test]
    fn bytes_received_before_the_ping_do_not_answer_it() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(start);
        keepalive.pinged(start + 20 * SECOND);
        keepalive.received(start + 19 * SECOND);
        assert_eq!(keepalive.next_ping(start + 60 * SECOND), Ping::Unanswered);
    }

    #[test]
    fn traffic_in_one_direction_does_not_delay_the_ping() {
        let start = Instant::now();
        let (mut streaming, mut typing) = (Keepalive::new(start), Keepalive::new(start));
        for second in 1..=20 {
            streaming.sent(start + second * SECOND);
            typing.received(start + second * SECOND);
        }
        assert_eq!(
            streaming.next_ping(start + 20 * SECOND),
            Ping::Due,
            "a client that only receives must prove that it is alive"
        );
        assert_eq!(typing.next_ping(start + 20 * SECOND), Ping::Due, "a load balancer may monitor one direction only");
    }
}
