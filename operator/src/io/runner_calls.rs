//! Executes calls to runners, with metrics and spans.

use crate::core::{BindFailure, Event, Key, Uid};
use crate::io::{executor::Executor, traces::OpenSpan};
use camofleet_runner_api::BindRequest;
use camofleet_runtime::traces::{KeyValue, SpanKind};
use std::{net::IpAddr, time::Duration};
use tokio::time::Instant;

/// Time for which a failed call still counts as in progress. The core limits the calls in progress, so this limits the
/// log lines about a failing runner.
const FAILED_END_DELAY: Duration = Duration::from_secs(1);

impl Executor {
    /// Binds a session to a runner. `is_new` adds the call to the session's trace, because the session has not been
    /// Ready yet.
    pub(super) async fn bind(
        &self,
        session: Uid,
        (pod, key): (Uid, Key),
        address: IpAddr,
        request: BindRequest,
        is_new: bool,
    ) {
        let began = Instant::now();
        let span = is_new.then(|| self.traces.begin(&session, "bind", SpanKind::Client)).flatten();
        let header = span.as_ref().map(OpenSpan::traceparent);
        let answer = match self.leadership.epoch() {
            None => Err(BindFailure::Unknown("this process no longer leads".to_owned())),
            Some(epoch) => self.runners.bind(&session, &pod, (address, epoch), &request, header.as_deref()).await,
        };
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(BindFailure::NoFreeSlot) => "refused",
            Err(BindFailure::Invalid(_)) => "invalid",
            Err(BindFailure::Unknown(_)) => "unknown",
        };
        self.metrics.record_call("bind", outcome, began.elapsed());
        if let Some(span) = span {
            let attributes = [KeyValue::new("k8s.pod.uid", pod.clone()), KeyValue::new("camofleet.outcome", outcome)];
            span.end(attributes, answer.is_err().then(|| outcome.to_owned()));
        }
        match &answer {
            Ok(_) => tracing::debug!(session, namespace = key.namespace, pod = key.name, "bound the session"),
            Err(failure) => tracing::warn!(
                session,
                namespace = key.namespace,
                pod = key.name,
                ?failure,
                "could not bind the session"
            ),
        }
        self.send(Event::BindAnswered { session, pod, answer });
    }

    pub(super) async fn end(&self, session: Uid, (pod, key): (Uid, Key), address: IpAddr) {
        if let Some(epoch) = self.leadership.epoch() {
            let began = Instant::now();
            match self.runners.end(&session, &pod, (address, epoch)).await {
                Ok(()) => {
                    self.metrics.record_call("end", "ok", began.elapsed());
                    tracing::debug!(
                        session,
                        namespace = key.namespace,
                        pod = key.name,
                        "ended the session on its runner"
                    );
                }
                Err(error) => {
                    self.metrics.record_call("end", "failed", began.elapsed());
                    tracing::warn!(session, namespace = key.namespace, pod = key.name, %error, "could not end the session on its runner");
                    tokio::time::sleep(FAILED_END_DELAY).await;
                }
            }
        }
        self.send(Event::EndAnswered { session, pod });
    }
}
