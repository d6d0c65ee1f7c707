//! Calls runners and streams their reports.

use crate::core::{BindFailure, Event, Key, Report, Uid};
use crate::io::{clock::Clock, election::Leadership, throttle::Throttle};
use camofleet_auth::token::Signer;
use camofleet_runner_api::{
    BindRequest, BindResponse, ErrorReason,
    client::{CallError, EncodedState, RunnerClient},
};
use camofleet_runtime::backoff::ExponentialBackoff;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, task::AbortHandle};

/// Backoff after a failed stream. It starts short, because the runner may be starting.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// Client of all runners.
pub(super) struct Runners {
    client: RunnerClient,
    tokens: Tokens,
    reports: Arc<Reports>,
}

/// Issues the tokens of calls to runners.
#[derive(Clone)]
struct Tokens {
    signer: Arc<Signer>,
    clock: Clock,
}

impl Tokens {
    fn of(&self, pod: &Uid, epoch: u64) -> String {
        self.signer.operator_token(pod, epoch, self.clock.now().wall.into())
    }
}

/// The newest report of each streamed runner that the core has not taken yet, and whether the runner has stopped
/// responding since. A report has the runner's whole state, so only the newest one matters, and a runner that reports
/// faster than the core takes uses no more memory.
#[derive(Default)]
pub(super) struct Reports {
    streams: Mutex<Streams>,
    arrived: Notify,
}

#[derive(Default)]
struct Streams {
    /// The stream of each runner, by pod. The number distinguishes the current stream from an aborted one whose task
    /// still runs.
    tasks: HashMap<Uid, (u64, AbortHandle)>,
    /// Number of the latest stream.
    last_number: u64,
    newest: HashMap<Uid, Vec<Event>>,
}

impl Reports {
    /// Returns once an event has arrived, which may have been taken since.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes all events: for each runner at most a report and then `RunnerUnreachable`.
    pub(super) fn take(&self) -> Vec<Event> {
        self.lock().newest.drain().flat_map(|(_, events)| events).collect()
    }

    fn post(&self, number: u64, pod: &Uid, event: Event) {
        let mut streams = self.lock();
        if streams.tasks.get(pod).is_some_and(|(current, _)| *current == number) {
            let newest = streams.newest.entry(pod.clone()).or_default();
            // The next report replaces `RunnerUnreachable`. The reverse is not the case, because the last report can
            // contain the ends of sessions.
            let is_report = |event: &Event| matches!(event, Event::RunnerReported { .. });
            newest.retain(|former| is_report(former) && !is_report(&event));
            newest.push(event);
            self.arrived.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runners {
    pub(super) fn new(signer: Signer, clock: Clock) -> Self {
        let tokens = Tokens { signer: Arc::new(signer), clock };
        Self { client: RunnerClient::default(), tokens, reports: Arc::default() }
    }

    /// Reports of the streamed runners.
    pub(super) fn reports(&self) -> Arc<Reports> {
        self.reports.clone()
    }

    /// Binds a session to a runner, in the term of this epoch. `trace` is the call's `traceparent`.
    pub(super) async fn bind(
        &self,
        session: &Uid,
        pod: &Uid,
        (address, epoch): (IpAddr, u64),
        request: &BindRequest,
        trace: Option<&str>,
    ) -> Result<BindResponse, BindFailure> {
        let token = self.tokens.of(pod, epoch);
        self.client.bind(address, &token, session, request, trace).await.map_err(bind_failure)
    }

    /// Ends a session on a runner, or acknowledges its end, in the term of this epoch.
    pub(super) async fn end(&self, session: &Uid, pod: &Uid, (address, epoch): (IpAddr, u64)) -> Result<(), CallError> {
        self.client.end(address, &self.tokens.of(pod, epoch), session).await
    }

    /// Starts the stream of a runner's reports. Events of an earlier stream that the core has not taken are dropped.
    pub(super) fn start_stream(&self, (pod, key): (Uid, Key), address: IpAddr, slots: u32, leadership: Leadership) {
        self.stop_stream(&pod);
        let mut streams = self.reports.lock();
        streams.last_number += 1;
        let stream = ReportStream {
            client: self.client.clone(),
            tokens: self.tokens.clone(),
            leadership,
            reports: self.reports.clone(),
            number: streams.last_number,
            pod: pod.clone(),
            key,
            address,
            slots,
            throttle: Throttle::of(slots),
        };
        let task = (stream.number, tokio::spawn(stream.run()).abort_handle());
        streams.tasks.insert(pod, task);
    }

    pub(super) fn stop_stream(&self, pod: &Uid) {
        let mut streams = self.reports.lock();
        streams.newest.remove(pod);
        if let Some((_, task)) = streams.tasks.remove(pod) {
            task.abort();
        }
    }
}

/// Streams the reports of one runner.
struct ReportStream {
    client: RunnerClient,
    tokens: Tokens,
    leadership: Leadership,
    reports: Arc<Reports>,
    number: u64,
    pod: Uid,
    key: Key,
    address: IpAddr,
    slots: u32,
    throttle: Throttle,
}

impl ReportStream {
    async fn run(mut self) {
        let mut failures: u32 = 0;
        // The core stops the stream when this process loses leadership. Until then, the end of the term stops it.
        while let Some(epoch) = self.leadership.epoch() {
            let (cause, answered) = self.read_reports(epoch).await;
            tracing::debug!(
                namespace = self.key.namespace,
                pod = self.key.name,
                cause,
                "lost the event stream of a runner"
            );
            self.reports.post(self.number, &self.pod, Event::RunnerUnreachable { pod: self.pod.clone() });
            failures = if answered { 1 } else { failures.saturating_add(1) };
            tokio::time::sleep(BACKOFF.after(failures)).await;
        }
    }

    /// Posts the runner's reports until the stream ends. Returns the cause, and whether there was a report.
    async fn read_reports(&mut self, epoch: u64) -> (String, bool) {
        let mut answered = false;
        let states = match self.client.events(self.address, &self.tokens.of(&self.pod, epoch), self.slots).await {
            Ok(states) => states,
            Err(error) => return (error.to_string(), answered),
        };
        let take = |state: EncodedState| {
            let state = state.decode().map_err(|error| error.to_string())?;
            let report = Report::new(state, self.slots).map_err(|error| {
                tracing::warn!(namespace = self.key.namespace, pod = self.key.name, %error, "rejected a runner's report");
                error.to_string()
            })?;
            answered = true;
            self.reports.post(self.number, &self.pod, Event::RunnerReported { pod: self.pod.clone(), report });
            Ok(())
        };
        let cause = self.throttle.forward(states, take).await;
        (cause, answered)
    }
}

/// Classifies a failed bind: the session was not bound, or it is unknown whether it was.
fn bind_failure(error: CallError) -> BindFailure {
    match error {
        CallError::Rejected(response) => match response.reason {
            ErrorReason::NoFreeSlot | ErrorReason::Draining => BindFailure::NoFreeSlot,
            ErrorReason::Invalid => BindFailure::Invalid(response.message),
            // The session was bound before and has ended. The runner's report has the reason.
            ErrorReason::WrongPhase
            // The runner may not have the current keys or epoch yet, and the session may have been bound before.
            | ErrorReason::UnknownSession
            | ErrorReason::Unauthorized
            | ErrorReason::TokenUsed
            | ErrorReason::Forbidden
            | ErrorReason::StaleEpoch
            // Only tunnels can be rejected for this reason.
            | ErrorReason::TooManyConnections
            | ErrorReason::InitialPageHeld => BindFailure::Unknown(response.message),
        },
        CallError::InvalidResponse(_) | CallError::Unreachable(_) => BindFailure::Unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_runner_api::{ErrorResponse, RunnerState};

    /// Report of a runner without sessions.
    fn report(generation: u64) -> Event {
        let state = RunnerState { boot_id: "boot".into(), generation, slots: 1, ..RunnerState::default() };
        Event::RunnerReported { pod: "pod".into(), report: Report::new(state, 1).unwrap() }
    }

    #[tokio::test]
    async fn keeps_only_the_newest_report_and_none_of_a_stopped_follower() {
        let (reports, pod) = (Reports::default(), "pod".to_owned());
        let task = || tokio::spawn(std::future::pending::<()>()).abort_handle();
        reports.lock().tasks.insert(pod.clone(), (1, task()));
        for generation in 0..1000 {
            reports.post(1, &pod, report(generation));
        }
        reports.arrived().await;
        let taken = reports.take();
        assert_eq!(format!("{taken:?}"), format!("{:?}", [report(999)]));
        assert!(reports.take().is_empty());
        reports.lock().tasks.insert(pod.clone(), (2, task()));
        reports.post(1, &pod, report(1000));
        assert!(reports.take().is_empty(), "the stream was stopped");
    }

    #[tokio::test]
    async fn delivers_the_last_report_before_the_loss_of_the_stream() {
        let (reports, pod) = (Reports::default(), "pod".to_owned());
        let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
        reports.lock().tasks.insert(pod.clone(), (1, task));
        let unreachable = || Event::RunnerUnreachable { pod: pod.clone() };
        let taken = || format!("{:?}", reports.take());
        for event in [report(1), report(2), unreachable(), unreachable()] {
            reports.post(1, &pod, event);
        }
        assert_eq!(taken(), format!("{:?}", [report(2), unreachable()]));
        for event in [unreachable(), report(3)] {
            reports.post(1, &pod, event);
        }
        assert_eq!(taken(), format!("{:?}", [report(3)]), "the runner responds again");
    }

    #[test]
    fn an_ended_session_is_not_a_failed_launch() {
        let meaning = |reason| bind_failure(CallError::Rejected(ErrorResponse { reason, message: "words".to_owned() }));
        let unknown = BindFailure::Unknown("words".to_owned());
        assert_eq!(meaning(ErrorReason::WrongPhase), unknown);
        assert_eq!(meaning(ErrorReason::StaleEpoch), unknown);
        assert_eq!(meaning(ErrorReason::Draining), BindFailure::NoFreeSlot);
        assert_eq!(meaning(ErrorReason::Invalid), BindFailure::Invalid("words".to_owned()));
    }
}
