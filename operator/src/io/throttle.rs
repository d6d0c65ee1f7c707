//! Throttles the reports of one runner. The pool's owner chooses the runner image, so a runner is not trusted to limit
//! its reports. They are read, parsed and forwarded at a bounded rate, and only the newest of those that arrive faster
//! is kept.

use camofleet_runner_api::{
    RunnerState,
    client::{CallError, EncodedState},
};
use futures::{Stream, StreamExt};
use std::{pin::pin, time::Duration};
use tokio::time::Instant;

/// States that are read at most while one waits until it is due. A correct runner sends at most 20 states per
/// second and slot, which is fewer per interval for any number of slots.
const MAX_STATES_READ_AHEAD: usize = 32;

/// Rate limit for the states of one runner: a burst and then a steady rate, both by its number of slots.
#[derive(Debug)]
pub(super) struct Throttle {
    interval: Duration,
    burst: Duration,
    /// Due time of the next state without the burst.
    next: Instant,
    /// Bytes after which no further state is read in an interval: the size of the largest valid state. The state that
    /// crosses this limit is still read, so an interval reads less than twice as many bytes.
    max_bytes_read_ahead: usize,
}

impl Throttle {
    /// The rate is 2 per second plus 1 per slot, because a session changes its runner's state about six times.
    pub(super) fn of(slots: u32) -> Self {
        let interval = Duration::from_secs(1) / (2 + slots);
        let burst = interval * (8 + 2 * slots);
        Self { interval, burst, next: Instant::now(), max_bytes_read_ahead: RunnerState::max_bytes(slots) }
    }

    /// Forwards the newest state whenever one is due, until the stream ends or `take` rejects a state. Returns the
    /// cause. While a state waits, newer ones replace it without being parsed. Beyond [`MAX_STATES_READ_AHEAD`],
    /// reading stops and back-pressure reaches the runner.
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
            while end.is_none() && count < MAX_STATES_READ_AHEAD && bytes < self.max_bytes_read_ahead {
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

    /// Due time of a state that arrived now.
    fn due(&mut self) -> Instant {
        self.next = self.next.max(Instant::now()) + self.interval;
        self.next - self.burst
    }
}

fn closed() -> String {
    "the runner closed its event stream".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use std::{cell::Cell, future::Future};

    const SLOTS: u32 = 1;
    /// Reports per second, and the burst before that.
    const RATE: u32 = 2 + SLOTS;
    const BURST: u64 = 8 + 2 * SLOTS as u64;

    fn state(generation: u64, padding: usize) -> EncodedState {
        let launch_error = Some("x".repeat(padding));
        EncodedState::from(&RunnerState { generation, slots: SLOTS, launch_error, ..RunnerState::default() })
    }

    /// Sends states with increasing generations, each after the future from `rest`, and counts them.
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
        assert_eq!(lag, 0, "each forwarded state is the newest");
        assert!(sent.get() >= 1199, "all states are read: {sent:?}");
        assert!((60 * u64::from(RATE)..=60 * u64::from(RATE) + BURST + 1).contains(&taken), "{taken}");
    }

    #[tokio::test(start_paused = true)]
    async fn limits_the_reads_from_a_flooding_runner() {
        let largest = RunnerState::max_bytes(SLOTS);
        for (padding, per_interval) in [(0, MAX_STATES_READ_AHEAD as u64), (largest - 1024, 2)] {
            let (sent, mut taken) = (Cell::new(0), 0);
            let states = endless(&sent, padding, || std::future::ready(()));
            let take = |_| {
                taken += 1;
                Ok(())
            };
            let _ = tokio::time::timeout(Duration::from_secs(60), Throttle::of(SLOTS).forward(states, take)).await;
            let most = 60 * u64::from(RATE) + BURST + 1;
            assert!((60..=most).contains(&taken), "{taken} forwarded");
            assert!(sent.get() <= (most + 1) * per_interval, "{sent:?} read for {taken}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn forwards_the_last_state_on_schedule_before_the_stream_ends() {
        for (last, cause) in [
            (None, "the runner closed its event stream"),
            (Some(Err(CallError::Unreachable("gone".to_owned()))), "the runner could not be reached: gone"),
        ] {
            let mut taken = Vec::new();
            let states = stream::iter((1..=100).map(|generation| Ok(state(generation, 0))).chain(last));
            let mut throttle = Throttle::of(SLOTS);
            // Use up the burst.
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
            assert_eq!(begun.elapsed().as_millis(), 1334, "four intervals, although the stream ended earlier");
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
