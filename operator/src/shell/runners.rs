//! Calls to runners.

use super::{Shell, clock::Clock, lease::Leadership, traces::Begun};
use crate::core::{BindFailure, Input, Uid};
use camofleet_runner_api::{
    BindRequest, RefusalReason,
    client::{CallError, RunnerClient},
    token::Signer,
    traces::{KeyValue, SpanKind},
};
use futures::StreamExt;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc::UnboundedSender, task::AbortHandle};

/// How soon a runner that does not answer is tried again: at first often, since it may be starting.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A call that failed is answered after so long, so that its repetition is no storm.
const FAILED_END_PAUSE: Duration = Duration::from_secs(1);

/// The runners' clients.
pub(super) struct Runners {
    client: RunnerClient,
    tokens: Tokens,
    followed: Mutex<HashMap<Uid, AbortHandle>>,
}

/// What calls to runners carry.
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

impl Runners {
    pub(super) fn new(signer: Signer, clock: Clock) -> Self {
        let tokens = Tokens { signer: Arc::new(signer), clock };
        Self { client: RunnerClient::default(), tokens, followed: Mutex::default() }
    }

    pub(super) fn follow(&self, pod: Uid, address: IpAddr, leadership: Leadership, inputs: UnboundedSender<Input>) {
        let task =
            tokio::spawn(follow(self.client.clone(), self.tokens.clone(), pod.clone(), address, leadership, inputs));
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = followed.insert(pod, task.abort_handle()) {
            former.abort();
        }
    }

    pub(super) fn unfollow(&self, pod: &Uid) {
        if let Some(task) = self.followed.lock().unwrap_or_else(PoisonError::into_inner).remove(pod) {
            task.abort();
        }
    }
}

async fn follow(
    client: RunnerClient,
    tokens: Tokens,
    pod: Uid,
    address: IpAddr,
    leadership: Leadership,
    inputs: UnboundedSender<Input>,
) {
    let mut pause = FIRST_PAUSE;
    // The core stops it when it leads no longer; until it did, the clock decides.
    while let Some(epoch) = leadership.epoch() {
        let cause = match client.events(address, &tokens.of(&pod, epoch)).await {
            Ok(states) => {
                let mut states = std::pin::pin!(states);
                let mut cause = "it closed its event stream".to_owned();
                while let Some(state) = states.next().await {
                    match state {
                        Ok(state) => {
                            pause = FIRST_PAUSE;
                            let _ = inputs.send(Input::Runner { pod: pod.clone(), state });
                        }
                        Err(error) => cause = error.to_string(),
                    }
                }
                cause
            }
            Err(error) => error.to_string(),
        };
        tracing::debug!(pod, cause, "a runner does not answer");
        let _ = inputs.send(Input::Silent { pod: pod.clone() });
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why a session was not bound, or may have been.
fn what_it_means(error: CallError) -> BindFailure {
    match error {
        CallError::Refused(refusal) => match refusal.reason {
            RefusalReason::NoFreeSlot | RefusalReason::Draining => BindFailure::Refused,
            RefusalReason::Invalid => BindFailure::Invalid(refusal.message),
            // It was bound before and has ended: the runner's list tells of what.
            RefusalReason::WrongPhase
            // Keys or terms that have not got there yet: the session may have been bound before.
            | RefusalReason::UnknownSession
            | RefusalReason::Unauthorized
            | RefusalReason::TokenUsed
            | RefusalReason::Forbidden
            | RefusalReason::StaleEpoch => BindFailure::Unknown(refusal.message),
        },
        CallError::Garbage(_) | CallError::Unreachable(_) => BindFailure::Unknown(error.to_string()),
    }
}

impl Shell {
    /// Has a runner take a session. It is part of the session's trace when the session is on its way to Ready.
    pub(super) async fn bind(&self, session: Uid, pod: Uid, address: IpAddr, request: BindRequest, starts: bool) {
        let began = Instant::now();
        let span = starts.then(|| self.traces.begin(&session, "bind", SpanKind::Client)).flatten();
        let header = span.as_ref().map(Begun::header);
        let answer = match self.leadership.epoch() {
            None => Err(BindFailure::Unknown("this process leads no longer".to_owned())),
            Some(epoch) => {
                let token = self.runners.tokens.of(&pod, epoch);
                let call = self.runners.client.bind(address, &token, &session, &request, header.as_deref());
                call.await.map_err(what_it_means)
            }
        };
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(BindFailure::Refused) => "refused",
            Err(BindFailure::Invalid(_)) => "invalid",
            Err(BindFailure::Unknown(_)) => "unknown",
        };
        self.metrics.called("bind", outcome, began.elapsed());
        if let Some(span) = span {
            let attributes = [KeyValue::new("k8s.pod.uid", pod.clone()), KeyValue::new("camofleet.outcome", outcome)];
            span.end(attributes, answer.is_err().then(|| outcome.to_owned()));
        }
        match &answer {
            Ok(_) => tracing::debug!(session, pod, "bound"),
            Err(failure) => tracing::warn!(session, pod, ?failure, "cannot bind"),
        }
        self.tell(Input::BindAnswered { session, pod, answer });
    }

    pub(super) async fn end(&self, session: Uid, pod: Uid, address: IpAddr) {
        if let Some(epoch) = self.leadership.epoch() {
            let token = self.runners.tokens.of(&pod, epoch);
            let began = Instant::now();
            match self.runners.client.end(address, &token, &session).await {
                Ok(()) => {
                    self.metrics.called("end", "ok", began.elapsed());
                    tracing::debug!(session, pod, "ended or acknowledged");
                }
                Err(error) => {
                    self.metrics.called("end", "failed", began.elapsed());
                    tracing::warn!(session, pod, %error, "cannot end");
                    tokio::time::sleep(FAILED_END_PAUSE).await;
                }
            }
        }
        self.tell(Input::EndAnswered { session, pod });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_runner_api::Refusal;

    #[test]
    fn a_session_that_has_ended_on_its_runner_did_not_fail_to_launch() {
        let meaning = |reason| what_it_means(CallError::Refused(Refusal { reason, message: "words".to_owned() }));
        let unknown = BindFailure::Unknown("words".to_owned());
        assert_eq!(meaning(RefusalReason::WrongPhase), unknown);
        assert_eq!(meaning(RefusalReason::StaleEpoch), unknown);
        assert_eq!(meaning(RefusalReason::Draining), BindFailure::Refused);
        assert_eq!(meaning(RefusalReason::Invalid), BindFailure::Invalid("words".to_owned()));
    }
}
