//! Paces the reports of one runner. A runner's image is its pool owner's choice, so what it sends is read, parsed and handed on
//! only so often; of what comes faster only the newest is kept.

use camofleet_runner_api::{
    RunnerState,
    client::{CallError, EncodedState},
};
use futures::{Stream, StreamExt};
use std::{pin::pin, time::Duration};
use tokio::time::Instant;

/// States that are read while one waits for its time. An honest runner sends at most 20 a second for each slot, which are fewer
/// than that in an interval whatever its slots.
const MAX_READ_AHEAD: usize = 32;

/// How many states of one runner are taken: some at once, and then so many a second, both by its slots.
#[derive(Debug)]
pub(super) struct Throttle {
    interval: Duration,
    burst: Duration,
    /// When the next state is due by the interval alone.
    next: Instant,
    /// Nothing more is read in an interval once so many bytes were. It is the size of the largest state.
    read_ahead: usize,
}

impl Throttle {
    /// A session changes its runner's state half a dozen times in its life.
    pub(super) fn of(slots: u32) -> Self {
        let interval = Duration::from_secs(1) / (2 + slots);
        let burst = interval * (8 + 2 * slots);
        Self { interval, burst, next: Instant::now(), read_ahead: RunnerState::max_bytes(slots) }
    }

    /// Hands on the newest state whenever one is due, until the stream ends or one is rejected; returns why it ended. While a
    /// state waits for its time, newer ones replace it unread. What is beyond [`MAX_READ_AHEAD`] waits in the connection, and the
    /// runner with it.
    pub(super) async fn forward(
        &mut self,
        states: impl Stream<Item = Result<EncodedState, CallError>>,
        mut take: impl FnMut(EncodedState) -> Result<(), String>,
    ) -> String {
        let mut states = pin!(states);
        let mut end = None;
        while end.is_none() {
            let mut newest = match states.next().await {
                Some(Ok(state)) => state,
                Some(Err(error)) => return error.to_string(),
                None => return closed(),
            };
            let due = self.due();
            let (mut count, mut bytes) = (1, newest.size());
            while end.is_none() && count < MAX_READ_AHEAD && bytes < self.read_ahead {
                let next = tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(due) => break,
                    next = states.next() => next,
                };
                match next {
                    Some(Ok(state)) => {
                        count += 1;
                        bytes += state.size();
                        newest = state;
                    }
                    Some(Err(error)) => end = Some(error.to_string()),
                    None => end = Some(closed()),
                }
            }
            tokio::time::sleep_until(due).await;
            if let Err(rejected) = take(newest) {
                return rejected;
            }
        }
        end.unwrap_or_default()
    }

    /// When the state that came now may be handed on.
    fn due(&mut self) -> Instant {
        self.next = self.next.max(Instant::now()) + self.interval;
        self.next - self.burst
    }
}

fn closed() -> String {
    "it closed its event stream".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use std::{cell::Cell, future::Future};

    const SLOTS: u32 = 1;
    /// Reports a second, and those at once before that.
    const RATE: u32 = 2 + SLOTS;
    const BURST: u64 = 8 + 2 * SLOTS as u64;

    fn state(generation: u64, padding: usize) -> EncodedState {
        let launch_error = Some("x".repeat(padding));
        EncodedState::from(&RunnerState { generation, slots: SLOTS, launch_error, ..RunnerState::default() })
    }

    /// Sends states with growing generations, each after what `rest` awaits, and counts them.
    fn endless<F: Future<Output = ()>>(
        sent: &Cell<u64>,
        padding: usize,
        rest: impl Fn() -> F,
    ) -> impl Stream<Item = Result<EncodedState, CallError>> {
        stream::unfold(rest, move |rest| async move {
            rest().await;
            sent.set(sent.get() + 1);
            Some((Ok(state(sent.get(), padding)), rest))
        })
    }

    fn generation(state: &EncodedState) -> u64 {
        state.decode().unwrap().generation
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_runner_is_never_more_than_an_interval_behind() {
        let (sent, mut lag, mut taken) = (Cell::new(0), 0, 0);
        let states = endless(&sent, 0, || tokio::time::sleep(Duration::from_millis(50)));
        let take = |state| {
            lag = lag.max(sent.get() - generation(&state));
            taken += 1;
            Ok(())
        };
        let _ = tokio::time::timeout(Duration::from_secs(60), Throttle::of(SLOTS).forward(states, take)).await;
        assert_eq!(lag, 0, "each is the newest that was sent");
        assert!(sent.get() >= 1199, "all are read: {sent:?}");
        assert!((60 * u64::from(RATE)..=60 * u64::from(RATE) + BURST + 1).contains(&taken), "{taken}");
    }

    #[tokio::test(start_paused = true)]
    async fn limits_the_reads_from_a_flooding_runner() {
        let largest = RunnerState::max_bytes(SLOTS);
        for (padding, per_interval) in [(0, MAX_READ_AHEAD as u64), (largest - 1024, 2)] {
            let (sent, mut taken) = (Cell::new(0), 0);
            let states = endless(&sent, padding, || std::future::ready(()));
            let take = |_| {
                taken += 1;
                Ok(())
            };
            let _ = tokio::time::timeout(Duration::from_secs(60), Throttle::of(SLOTS).forward(states, take)).await;
            let most = 60 * u64::from(RATE) + BURST + 1;
            assert!((60..=most).contains(&taken), "{taken} handed on");
            assert!(sent.get() <= (most + 1) * per_interval, "{sent:?} read for {taken}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn forwards_the_last_state_on_schedule_before_the_stream_ends() {
        for (last, cause) in [
            (None, "it closed its event stream"),
            (Some(Err(CallError::Unreachable("gone".to_owned()))), "the runner could not be reached: gone"),
        ] {
            let mut taken = Vec::new();
            let states = stream::iter((1..=100).map(|generation| Ok(state(generation, 0))).chain(last));
            let mut throttle = Throttle::of(SLOTS);
            // All that may come at once has come.
            for _ in 0..BURST {
                throttle.due();
            }
            let begun = Instant::now();
            let take = |state| {
                taken.push(generation(&state));
                Ok(())
            };
            assert_eq!(throttle.forward(states, take).await, cause);
            assert_eq!(taken, [32, 64, 96, 100]);
            assert_eq!(begun.elapsed().as_millis(), 1334, "four intervals, though the stream ended before");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_state_ends_the_stream() {
        let sent = Cell::new(0);
        let states = endless(&sent, 0, std::future::pending);
        let states = stream::iter([Ok(state(1, 0))]).chain(states);
        assert_eq!(Throttle::of(SLOTS).forward(states, |_| Err("no".to_owned())).await, "no");
    }
}
