//! Exports the runner's spans of a session's start, as children of the operator's span:
//!
//! ```text
//! bind (operator)
//! └── bind (runner)             the request
//!     ├── launch                of a cold browser, until clients can connect
//!     └── start_page            until it is loaded
//! ```

use camofleet_crds::v1alpha1::StartTier;
use camofleet_runner_api::{ErrorReason, RunnerState, Session, SessionPhase, StartPage};
use camofleet_runtime::traces::{KeyValue, Span, SpanKind, TraceContext, Tracer};
use std::{collections::HashMap, sync::Arc, time::SystemTime};

/// A traced request to bind a session.
#[derive(Clone, Debug)]
pub(crate) struct TracedBind {
    tracer: Arc<Tracer>,
    caller: TraceContext,
    context: TraceContext,
    start: SystemTime,
}

impl TracedBind {
    /// Starts the span of a request. Returns `None` when the runner exports no traces or the caller does not record
    /// this one.
    pub(crate) fn new(tracer: Option<&Arc<Tracer>>, traceparent: Option<&str>) -> Option<Self> {
        let tracer = tracer?.clone();
        let caller = TraceContext::parse(traceparent?)?;
        Some(Self { tracer, caller, context: caller.child(), start: SystemTime::now() })
    }

    /// Ends the span of the request, as failed if there is an error.
    pub(crate) fn finish(&self, uid: &str, error: Option<ErrorReason>) {
        self.tracer.record(Span {
            context: self.context,
            parent: Some(self.caller),
            name: "bind",
            kind: SpanKind::Server,
            start: self.start,
            end: SystemTime::now(),
            attributes: vec![KeyValue::new("camofleet.session.uid", uid.to_owned())],
            error: error.map(|reason| format!("{reason:?}")),
        });
    }

    fn record_phase(&self, name: &'static str, start: SystemTime, end: SystemTime, error: Option<&'static str>) {
        self.tracer.record(Span {
            context: self.context.child(),
            parent: Some(self.context),
            name,
            kind: SpanKind::Internal,
            start,
            end,
            attributes: Vec::new(),
            error: error.map(str::to_owned),
        });
    }
}

/// Traced sessions that are launching or loading their start page.
#[derive(Debug, Default)]
pub(crate) struct SessionStarts(HashMap<String, Start>);

#[derive(Debug)]
struct Start {
    bind: TracedBind,
    /// When the session became ready.
    ready: Option<SystemTime>,
}

impl SessionStarts {
    /// Tracks the start of a session. A repeated request does not replace the first one, and a finished start is not
    /// tracked.
    pub(crate) fn track(&mut self, session: &Session, bind: TracedBind) {
        let ready = match session.phase {
            SessionPhase::Starting => None,
            SessionPhase::Ready if session.start_page == StartPage::Loading => Some(SystemTime::now()),
            SessionPhase::Ready | SessionPhase::Ending | SessionPhase::Ended => return,
        };
        self.0.entry(session.uid.clone()).or_insert(Start { bind, ready });
    }

    /// Ends the spans of all phases that have finished.
    pub(crate) fn record_progress(&mut self, state: &RunnerState) {
        self.0.retain(|uid, start| {
            let Some(session) = state.session(uid) else { return false };
            let now = SystemTime::now();
            let ready = match (start.ready, session.phase) {
                (_, SessionPhase::Starting) => return true,
                (Some(ready), _) => ready,
                (None, phase) => {
                    if session.tier == StartTier::Cold {
                        let failed = (phase != SessionPhase::Ready).then_some("failed");
                        start.bind.record_phase("launch", start.bind.start, now, failed);
                    }
                    *start.ready.insert(now)
                }
            };
            match (&session.start_page, session.phase) {
                (StartPage::Loading, SessionPhase::Ready) => return true,
                (StartPage::Loaded, _) => start.bind.record_phase("start_page", ready, now, None),
                // The cause is omitted, because the browser's message can contain the page's address.
                (StartPage::Failed { .. }, _) => start.bind.record_phase("start_page", ready, now, Some("failed")),
                (StartPage::None | StartPage::Loading, _) => {}
            }
            false
        });
    }
}
