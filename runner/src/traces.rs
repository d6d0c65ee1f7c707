//! The runner's spans of a session's start, below the operator's of its call:
//!
//! ```text
//! bind (of the operator)
//! └── bind (of the runner)      the request
//!     ├── launch                of a cold browser, until clients may connect
//!     └── start page            until it is loaded
//! ```

use camofleet_runner_api::{RefusalReason, RunnerState, Session, SessionPhase, StartPage, Tier};
use camofleet_runtime::traces::{KeyValue, Span, SpanKind, TraceContext, Tracer};
use std::{collections::HashMap, sync::Arc, time::SystemTime};

/// A request to bind a session that is traced.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    tracer: Arc<Tracer>,
    caller: TraceContext,
    context: TraceContext,
    start: SystemTime,
}

impl Request {
    /// One that comes now with that header. None: nobody wants to know, or it is not one of those that are recorded.
    pub(crate) fn new(tracer: Option<&Arc<Tracer>>, traceparent: Option<&str>) -> Option<Self> {
        let tracer = tracer?.clone();
        let caller = TraceContext::parse(traceparent?)?;
        Some(Self { tracer, caller, context: caller.child(), start: SystemTime::now() })
    }

    /// It is answered; refused, where there is a reason for that.
    pub(crate) fn answered(&self, uid: &str, refused: Option<RefusalReason>) {
        self.tracer.record(Span {
            context: self.context,
            parent: Some(self.caller),
            name: "bind",
            kind: SpanKind::Server,
            start: self.start,
            end: SystemTime::now(),
            attributes: vec![KeyValue::new("camofleet.session.uid", uid.to_owned())],
            error: refused.map(|reason| format!("{reason:?}")),
        });
    }

    fn part(&self, name: &'static str, start: SystemTime, end: SystemTime, error: Option<&'static str>) {
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

/// Sessions that are traced and not all ready yet.
#[derive(Debug, Default)]
pub(crate) struct Starts(HashMap<String, Start>);

#[derive(Debug)]
struct Start {
    request: Request,
    /// When clients could connect, once they can.
    ready: Option<SystemTime>,
}

impl Starts {
    /// A session was bound by that request, or was by an earlier one: then its start is over, or that one's.
    pub(crate) fn bound(&mut self, session: &Session, request: Request) {
        let ready = match session.phase {
            SessionPhase::Starting => None,
            SessionPhase::Ready if session.start_page == StartPage::Loading => Some(SystemTime::now()),
            SessionPhase::Ready | SessionPhase::Ending | SessionPhase::Ended => return,
        };
        self.0.entry(session.uid.clone()).or_insert(Start { request, ready });
    }

    /// Tells what is over.
    pub(crate) fn look(&mut self, state: &RunnerState) {
        self.0.retain(|uid, start| {
            let Some(session) = state.session(uid) else { return false };
            let now = SystemTime::now();
            let ready = match (start.ready, session.phase) {
                (_, SessionPhase::Starting) => return true,
                (Some(ready), _) => ready,
                (None, phase) => {
                    if session.tier == Tier::Cold {
                        let failed = (phase != SessionPhase::Ready).then_some("failed");
                        start.request.part("launch", start.request.start, now, failed);
                    }
                    *start.ready.insert(now)
                }
            };
            match (&session.start_page, session.phase) {
                (StartPage::Loading, SessionPhase::Ready) => return true,
                (StartPage::Loaded, _) => start.request.part("start page", ready, now, None),
                // Why is the session's to tell: the words may have the page's address.
                (StartPage::Failed { .. }, _) => start.request.part("start page", ready, now, Some("failed")),
                (StartPage::None | StartPage::Loading, _) => {}
            }
            false
        });
    }
}
