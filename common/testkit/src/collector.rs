//! A trace collector for tests, which receives OTLP over HTTP and keeps the spans.

use anyhow::{Context, Result};
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode as Code},
};
use prost::Message;
use std::{
    fmt::Write,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch, task::AbortHandle};

/// Bounds the wait for spans. No test takes this long on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A running collector, which stops when it is dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: watch::Receiver<Vec<ReceivedSpan>>,
    serving: AbortHandle,
}

/// A span as the collector received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedSpan {
    /// Attribute `service.name` of the sender.
    pub service: String,
    /// Name of the operation.
    pub name: String,
    /// Trace id in hexadecimal digits.
    pub trace: String,
    /// Span id in hexadecimal digits.
    pub id: String,
    /// Span id of the parent. Empty for a root span.
    pub parent: String,
    /// Start and end, in nanoseconds since 1970-01-01 UTC.
    pub time: (u64, u64),
    /// Description of an error status.
    pub error: Option<String>,
    /// Keys and values, as text.
    pub attributes: Vec<(String, String)>,
}

impl Collector {
    /// Starts a collector on a free port of the loopback interface.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port for a collector")?;
        let address = listener.local_addr()?;
        let (sender, spans) = watch::channel(Vec::new());
        let router = Router::new().route("/v1/traces", post(receive)).with_state(sender);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Ok(Self { address, spans, serving })
    }

    /// Value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Spans of a trace that have been received so far.
    pub fn trace(&self, id: &str) -> Vec<ReceivedSpan> {
        spans_of_trace(&self.spans.borrow(), id)
    }

    /// Waits until a trace has spans with all these names, and returns all spans of the trace.
    ///
    /// # Errors
    /// The spans did not arrive within 60 s.
    pub async fn wait_for(&self, trace: &str, names: &[&str]) -> Result<Vec<ReceivedSpan>> {
        let has_all = |spans: &Vec<ReceivedSpan>| {
            let found = spans_of_trace(spans, trace);
            names.iter().all(|name| found.iter().any(|span| span.name == *name))
        };
        let mut spans = self.spans.clone();
        let waited = tokio::time::timeout(TIMEOUT, spans.wait_for(has_all)).await;
        let missing = || format!("trace {trace} lacks some of {names:?}; received {:#?}", self.spans.borrow());
        let spans = waited.with_context(missing)?.context("the collector ended")?;
        Ok(spans_of_trace(&spans, trace))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn spans_of_trace(spans: &[ReceivedSpan], trace: &str) -> Vec<ReceivedSpan> {
    spans.iter().filter(|span| span.trace == trace).cloned().collect()
}

async fn receive(State(spans): State<watch::Sender<Vec<ReceivedSpan>>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    for resource in request.resource_spans {
        let attributes = resource.resource.map(|resource| attributes_of(resource.attributes)).unwrap_or_default();
        let service = attributes.into_iter().find(|(key, _)| key == "service.name").map(|(_, name)| name);
        let service = service.unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.send_modify(|spans| spans.push(ReceivedSpan::new(service.clone(), span)));
        }
    }
    StatusCode::OK
}

impl ReceivedSpan {
    fn new(service: String, span: Span) -> Self {
        let failed = span.status.filter(|status| status.code == Code::Error as i32);
        Self {
            service,
            name: span.name,
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            time: (span.start_time_unix_nano, span.end_time_unix_nano),
            error: failed.map(|status| status.message),
            attributes: attributes_of(span.attributes),
        }
    }

    /// Value of an attribute.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(other, _)| other == key).map(|(_, value)| value.as_str())
    }
}

/// The only span with this name.
///
/// # Panics
/// No span or several spans have this name.
pub fn only_span<'a>(trace: &'a [ReceivedSpan], name: &str) -> &'a ReceivedSpan {
    let named: Vec<_> = trace.iter().filter(|span| span.name == name).collect();
    let [span] = named[..] else { panic!("not exactly one span {name}: {trace:#?}") };
    span
}

fn attributes_of(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
        hex
    })
}
