//! When a client is asked for a sign of life, and when it is given up. Pure: the caller brings the clock.
//!
//! Load balancers cut connections that are silent (often after 60 s), and an idle Playwright client says nothing at all.
//! So a Ping goes to the client when nothing was sent or nothing was heard for a while; its Pong is the sign of life.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// After so long without a byte in either direction, the client is pinged.
pub const QUIET: Duration = Duration::from_secs(20);
/// So long a client may leave a Ping unanswered. With [`QUIET`] before it, 60 s without a sign make a client lost.
pub const ANSWER: Duration = Duration::from_secs(40);

/// The state of one client's connection.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// When bytes were last sent to the client.
    sent: Instant,
    /// When bytes last came from the client.
    heard: Instant,
    /// When the Ping was sent that nothing was heard since.
    asked: Option<Instant>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Nothing before that moment.
    Wait(Instant),
    /// Send a Ping, as soon as one fits between two frames.
    Ask,
    /// The client is lost.
    GiveUp,
}

impl Pulse {
    /// A connection that was made now.
    pub fn new(now: Instant) -> Self {
        Self { sent: now, heard: now, asked: None }
    }

    /// Bytes were sent to the client.
    pub fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    /// A Ping was sent.
    pub fn asked(&mut self, now: Instant) {
        self.sent = now;
        self.asked = Some(now);
    }

    /// Bytes came from the client, the last of them at that moment.
    pub fn heard(&mut self, at: Instant) {
        self.heard = self.heard.max(at);
        self.asked = self.asked.filter(|asked| *asked > at);
    }

    /// What is to be done now.
    pub fn beat(&self, now: Instant) -> Beat {
        let (due, then) = match self.asked {
            // An answer wakes nobody, so it is looked for when the next Ping would be due after it.
            Some(asked) if now < asked + QUIET => (asked + QUIET, Beat::Ask),
            Some(asked) => (asked + ANSWER, Beat::GiveUp),
            None => (self.sent.min(self.heard) + QUIET, Beat::Ask),
        };
        if now < due { Beat::Wait(due) } else { then }
    }
}

/// When the client was last heard, told by one direction to the other.
pub struct Heard {
    start: Instant,
    /// Nanoseconds since `start`. In a coarser unit a Pong could seem to have come before its Ping.
    last: AtomicU64,
}

impl Heard {
    /// Of a connection that was made now.
    pub fn new(now: Instant) -> Self {
        Self { start: now, last: AtomicU64::new(0) }
    }

    /// Bytes came from the client.
    pub fn mark(&self, now: Instant) {
        let nanos = u64::try_from((now - self.start).as_nanos()).unwrap_or(u64::MAX);
        self.last.store(nanos, Ordering::Relaxed);
    }

    /// When the last of them came.
    pub fn at(&self) -> Instant {
        self.start + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_silent_connection_is_pinged_after_20_s_and_lost_after_60() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        assert_eq!(pulse.beat(start + 19 * SECOND), Beat::Wait(start + 20 * SECOND));
        assert_eq!(pulse.beat(start + 20 * SECOND), Beat::Ask);
        pulse.asked(start + 20 * SECOND);
        assert_eq!(pulse.beat(start + 59 * SECOND), Beat::Wait(start + 60 * SECOND));
        assert_eq!(pulse.beat(start + 60 * SECOND), Beat::GiveUp);
    }

    #[test]
    fn an_answer_starts_the_time_anew() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        pulse.asked(start + 20 * SECOND);
        pulse.heard(start + 21 * SECOND);
        assert_eq!(pulse.beat(start + 22 * SECOND), Beat::Wait(start + 40 * SECOND));
    }

    #[test]
    fn an_answer_within_the_millisecond_of_the_ping_is_one() {
        let start = Instant::now();
        let (heard, mut pulse) = (Heard::new(start), Pulse::new(start));
        let asked = start + 20 * SECOND + Duration::from_micros(312);
        pulse.asked(asked);
        heard.mark(asked + Duration::from_micros(187));
        pulse.heard(heard.at());
        assert_eq!(pulse.beat(start + 61 * SECOND), Beat::Ask, "it answered, and is asked again");
    }

    #[test]
    fn what_was_heard_before_the_ping_is_no_answer() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        pulse.asked(start + 20 * SECOND);
        pulse.heard(start + 19 * SECOND);
        assert_eq!(pulse.beat(start + 60 * SECOND), Beat::GiveUp);
    }

    #[test]
    fn one_direction_at_work_does_not_stand_for_the_other() {
        let start = Instant::now();
        let (mut streaming, mut typing) = (Pulse::new(start), Pulse::new(start));
        for second in 1..=20 {
            streaming.sent(start + second * SECOND);
            typing.heard(start + second * SECOND);
        }
        assert_eq!(
            streaming.beat(start + 20 * SECOND),
            Beat::Ask,
            "a client that only listens must show that it is there"
        );
        assert_eq!(typing.beat(start + 20 * SECOND), Beat::Ask, "a load balancer may look at one direction only");
    }
}
