//! Calls to runners, measured and traced.

use crate::core::{BindFailure, Event, Uid};
use crate::io::{executor::Executor, traces::OpenSpan};
use camofleet_runner_api::BindRequest;
use camofleet_runtime::traces::{KeyValue, SpanKind};
use std::{net::IpAddr, time::Duration};
use tokio::time::Instant;

/// How long a call that failed counts as being under way. The core limits those, and so what is logged of a runner that fails.
const FAILED_END_DELAY: Duration = Duration::from_secs(1);

impl Executor {
    /// Has a runner take a session. It is part of the session's trace when the session is on its way to Ready.
    pub(super) async fn bind(&self, session: Uid, pod: Uid, address: IpAddr, request: BindRequest, starts: bool) {
        let began = Instant::now();
        let span = starts.then(|| self.traces.begin(&session, "bind", SpanKind::Client)).flatten();
        let header = span.as_ref().map(OpenSpan::traceparent);
        let answer = match self.leadership.epoch() {
            None => Err(BindFailure::Unknown("this process leads no longer".to_owned())),
            Some(epoch) => self.runners.bind(&session, &pod, (address, epoch), &request, header.as_deref()).await,
        };
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(BindFailure::Refused) => "refused",
            Err(BindFailure::Invalid(_)) => "invalid",
            Err(BindFailure::Unknown(_)) => "unknown",
        };
        self.metrics.record_call("bind", outcome, began.elapsed());
        if let Some(span) = span {
            let attributes = [KeyValue::new("k8s.pod.uid", pod.clone()), KeyValue::new("camofleet.outcome", outcome)];
            span.end(attributes, answer.is_err().then(|| outcome.to_owned()));
        }
        match &answer {
            Ok(_) => tracing::debug!(session, pod, "bound the session"),
            Err(failure) => tracing::warn!(session, pod, ?failure, "could not bind the session"),
        }
        self.send(Event::BindAnswered { session, pod, answer });
    }

    pub(super) async fn end(&self, session: Uid, pod: Uid, address: IpAddr) {
        if let Some(epoch) = self.leadership.epoch() {
            let began = Instant::now();
            match self.runners.end(&session, &pod, (address, epoch)).await {
                Ok(()) => {
                    self.metrics.record_call("end", "ok", began.elapsed());
                    tracing::debug!(session, pod, "ended the session on its runner");
                }
                Err(error) => {
                    self.metrics.record_call("end", "failed", began.elapsed());
                    tracing::warn!(session, pod, %error, "could not end the session on its runner");
                    tokio::time::sleep(FAILED_END_DELAY).await;
                }
            }
        }
        self.send(Event::EndAnswered { session, pod });
    }
}
