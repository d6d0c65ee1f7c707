//! Records the operator's spans of a session's start:
//!
//! ```text
//! session.start        from the first observation of the session until its status is Ready or Finished
//! ├── queue            from the first observation until the session got a slot
//! ├── bind             the call to the runner, which adds spans below it
//! └── publish          each write of the status until then
//! ```

use crate::core::{Interval, Key, Observation};
use crate::io::{clock::Clock, metrics::tier_label};
use camofleet_crds::v1alpha1::BrowserSession;
use camofleet_runtime::traces::{KeyValue, Span, SpanKind, TraceContext, Tracer};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use std::sync::Arc;

/// Records spans if traces are enabled.
#[derive(Clone, Debug)]
pub(super) struct Traces {
    tracer: Option<Arc<Tracer>>,
    clock: Clock,
}

/// A started span in the trace of a session.
#[derive(Debug)]
pub(super) struct OpenSpan {
    tracer: Arc<Tracer>,
    root: TraceContext,
    context: TraceContext,
    name: &'static str,
    kind: SpanKind,
    clock: Clock,
    start: Timestamp,
}

impl Traces {
    pub(super) fn new(tracer: Option<Arc<Tracer>>, clock: Clock) -> Self {
        Self { tracer, clock }
    }

    /// Starts a span below the root of the session's trace. `None` if the session is not traced.
    pub(super) fn begin(&self, session: &str, name: &'static str, kind: SpanKind) -> Option<OpenSpan> {
        let tracer = self.tracer.clone()?;
        let root = tracer.root_of(session)?;
        let clock = self.clock.clone();
        let start = clock.now().wall;
        Some(OpenSpan { tracer, root, context: root.child(), name, kind, clock, start })
    }

    /// Records the span that an observation of the core completes, if any.
    pub(super) fn observe(&self, observation: &Observation) {
        let Some(tracer) = &self.tracer else { return };
        match observation {
            Observation::Assigned { session, pool, priority, waited: Some(waited) } => {
                let Some(root) = tracer.root_of(session) else { return };
                let attributes = pool_attributes(Some(pool))
                    .chain([KeyValue::new("camofleet.session.priority", i64::from(*priority))]);
                tracer.record(span(root.child(), Some(root), "queue", *waited, attributes));
            }
            Observation::Ready { session, pool, tier, started: Some(started) } => {
                let tier = KeyValue::new("camofleet.session.start_tier", tier_label(*tier));
                let attributes = pool_attributes(pool.as_ref()).chain([tier]);
                record_root(tracer, session, *started, attributes, None);
            }
            Observation::Ended { session, reason, started: Some(started) } => {
                record_root(tracer, session, *started, [], Some(reason.clone()));
            }
            // This leader did not observe the whole interval.
            Observation::Assigned { waited: None, .. }
            | Observation::Ready { started: None, .. }
            | Observation::Ended { started: None, .. } => {}
            // `OpenSpan` records the call.
            Observation::Bound { .. } => {}
            // These observations are not about the start of a session.
            Observation::Pruned { .. } | Observation::Reverted { .. } => {}
        }
    }
}

impl OpenSpan {
    /// Header for the callee, which records its spans below this one.
    pub(super) fn traceparent(&self) -> String {
        self.context.traceparent()
    }

    /// Ends and records the span.
    pub(super) fn end(self, attributes: impl IntoIterator<Item = KeyValue>, error: Option<String>) {
        let Self { tracer, root, context, name, kind, clock, start } = self;
        tracer.record(Span {
            context,
            parent: Some(root),
            name,
            kind,
            start: start.into(),
            end: clock.now().wall.into(),
            attributes: attributes.into_iter().collect(),
            error,
        });
    }
}

fn record_root(
    tracer: &Tracer,
    session: &BrowserSession,
    started: Interval,
    attributes: impl IntoIterator<Item = KeyValue>,
    error: Option<String>,
) {
    let uid = session.uid().unwrap_or_default();
    let Some(root) = tracer.root_of(&uid) else { return };
    // `creationTimestamp` has whole seconds, so the trace starts with the first observation, and has the creation as an
    // attribute.
    let created = session.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    let of_session = [
        KeyValue::new("camofleet.session.uid", uid),
        KeyValue::new("camofleet.session.namespace", session.namespace().unwrap_or_default()),
        KeyValue::new("camofleet.session.name", session.name_any()),
        KeyValue::new("camofleet.session.created", created.unwrap_or_default()),
    ];
    let attributes = of_session.into_iter().chain(attributes);
    tracer.record(Span { error, ..span(root, None, "session.start", started, attributes) });
}

fn span(
    context: TraceContext,
    parent: Option<TraceContext>,
    name: &'static str,
    interval: Interval,
    attributes: impl IntoIterator<Item = KeyValue>,
) -> Span {
    Span {
        context,
        parent,
        name,
        kind: SpanKind::Internal,
        start: interval.from.wall.into(),
        end: interval.to.wall.into(),
        attributes: attributes.into_iter().collect(),
        error: None,
    }
}

fn pool_attributes(pool: Option<&Key>) -> impl Iterator<Item = KeyValue> {
    let names = pool.map(|Key { namespace, name }| {
        [
            KeyValue::new("camofleet.pool.namespace", namespace.clone()),
            KeyValue::new("camofleet.pool.name", name.clone()),
        ]
    });
    names.into_iter().flatten()
}
