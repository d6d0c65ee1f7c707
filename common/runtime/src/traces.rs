//! Exports spans by OTLP when the environment asks for it. A span is created when it ends.
//!
//! A trace follows one object: its id is the object's UID, and the id of its root span is the UID's second half. Each process that
//! knows the object derives both, so a process that takes over continues the trace of its predecessor. OpenTelemetry's API always
//! chooses ids itself, so this module builds the data that the SDK exports.

use opentelemetry::{
    InstrumentationScope, Key,
    trace::{SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, SpanExporter};
use opentelemetry_sdk::{
    Resource,
    trace::{
        BatchSpanProcessor, Config, IdGenerator, RandomIdGenerator, SamplingDecision, ShouldSample, SpanData,
        SpanEvents, SpanLinks, SpanProcessor,
    },
};
use std::{
    env,
    time::{Duration, SystemTime},
};

pub use opentelemetry::{KeyValue, trace::SpanKind};

/// The variables of the environment that ask for traces, and say where they go.
pub const ENDPOINTS: [&str; 2] = [OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT];
/// What is still to be sent when the process ends is given up after so long.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// The name that the SDK gives to a service without one.
const UNNAMED_SERVICE: &str = "unknown_service";

/// Where a span stands: its trace, which is recorded, and its own id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: TraceId,
    span: SpanId,
}

impl TraceContext {
    /// The root of the trace of the object with this UID. None: the UID is no UUID.
    pub fn root_of(uid: &str) -> Option<Self> {
        let digits: String = uid.chars().filter(|digit| *digit != '-').collect();
        let trace = TraceId::from_hex(&digits).ok().filter(|_| digits.len() == 32)?;
        let span = SpanId::from_bytes(*trace.to_bytes().last_chunk()?);
        (span != SpanId::INVALID).then_some(Self { trace, span })
    }

    /// A new place in the same trace.
    pub fn child(self) -> Self {
        Self { span: RandomIdGenerator::default().new_span_id(), ..self }
    }

    /// Reads the value of a `traceparent` header (W3C Trace Context). None: it is not of the form of version 00, or the trace is not
    /// recorded.
    pub fn parse(header: &str) -> Option<Self> {
        let of_digits = header.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let sized = version == "00" && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
        let context = Self { trace: TraceId::from_hex(trace).ok()?, span: SpanId::from_hex(span).ok()? };
        let valid = of_digits
            && sized
            && parts.next().is_none()
            && context.trace != TraceId::INVALID
            && context.span != SpanId::INVALID;
        (valid && flags.is_sampled()).then_some(context)
    }

    /// The value of that header.
    pub fn traceparent(self) -> String {
        format!("00-{}-{}-01", self.trace, self.span)
    }
}

/// A span that is over.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its place.
    pub context: TraceContext,
    /// The one that it is part of; none: it is the root.
    pub parent: Option<TraceContext>,
    /// What it is.
    pub name: &'static str,
    /// Whose side of a call it is.
    pub kind: SpanKind,
    /// When it began.
    pub start: SystemTime,
    /// When it was over.
    pub end: SystemTime,
    /// What is told of it. No token, and no address of a page.
    pub attributes: Vec<KeyValue>,
    /// What went wrong.
    pub error: Option<String>,
}

/// Why traces cannot be sent as the environment asks.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// It is none that this program speaks to.
    #[error(
        "{variable} is {endpoint}: spans are sent to http:// only; name a collector of the cluster, as in http://collector.example:4318, and have it pass them on"
    )]
    Endpoint {
        /// The variable that has it.
        variable: &'static str,
        /// Its value.
        endpoint: String,
    },
    /// Another setting is wrong.
    #[error("spans cannot be sent by OTLP: {0}")]
    Exporter(String),
}

/// Sends spans. It never waits for whoever takes them: what is too much for its queue is dropped.
#[derive(Debug)]
pub struct Tracer {
    processor: BatchSpanProcessor,
    sampler: Box<dyn ShouldSample>,
    scope: InstrumentationScope,
}

impl Tracer {
    /// As the environment asks (`OTEL_EXPORTER_OTLP_ENDPOINT` and what else OpenTelemetry defines). None: it does not.
    ///
    /// # Errors
    /// When what it asks for cannot be done.
    pub fn from_environment(
        service: &'static str,
        attributes: impl IntoIterator<Item = KeyValue>,
    ) -> Result<Option<Self>, TracingError> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let is = |name: &str, value: &str| set(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
        // That of traces alone comes before that of everything.
        let endpoint = ENDPOINTS.into_iter().rev().find_map(|name| Some((name, set(name)?)));
        let Some((variable, endpoint)) = endpoint else { return Ok(None) };
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        if !endpoint.starts_with("http://") {
            return Err(TracingError::Endpoint { variable, endpoint });
        }
        let exporter = SpanExporter::builder().with_http().build();
        let exporter = exporter.map_err(|error| TracingError::Exporter(error.to_string()))?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource(service, attributes));
        let Config { sampler, .. } = Config::default();
        Ok(Some(Self { processor, sampler, scope: InstrumentationScope::builder(service).build() }))
    }

    /// The root of the trace of the object with this UID, if that trace is recorded.
    pub fn root_of(&self, uid: &str) -> Option<TraceContext> {
        let root = TraceContext::root_of(uid)?;
        // The sampler takes the second half for a random number, and there a UUID says which kind of UUID it is.
        let mut bytes = root.trace.to_bytes();
        bytes.rotate_left(8);
        let trace = TraceId::from_bytes(bytes);
        // The samplers that the environment can choose do not read the name.
        let sampled = self.sampler.should_sample(None, trace, "", &SpanKind::Internal, &[], &[]);
        (sampled.decision == SamplingDecision::RecordAndSample).then_some(root)
    }

    /// Takes a span that is over, to be sent with others.
    pub fn record(&self, span: Span) {
        let Span { context, parent, name, kind, start, end, attributes, error } = span;
        let context = SpanContext::new(context.trace, context.span, TraceFlags::SAMPLED, false, TraceState::default());
        self.processor.on_end(SpanData {
            span_context: context,
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| parent.span),
            parent_span_is_remote: kind == SpanKind::Server,
            span_kind: kind,
            name: name.into(),
            start_time: start,
            end_time: end,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
    }

    /// Sends what is left, when the process ends. It blocks, but not for long.
    pub fn shutdown(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(%error, "could not send the last spans");
        }
    }
}

/// Who sends: what the environment says, and a name where it gives none.
fn resource(service: &'static str, attributes: impl IntoIterator<Item = KeyValue>) -> Resource {
    let detected = Resource::builder().build();
    let name = detected.get(&Key::from_static_str("service.name"));
    let named = name.is_some_and(|name| !name.as_str().starts_with(UNNAMED_SERVICE));
    let resource = Resource::builder().with_attributes(attributes);
    if named { resource.build() } else { resource.with_service_name(service).build() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::trace::{Sampler, SpanExporter};

    const UID: &str = "0b2f6a5e-7c1d-4e8f-9a3b-5c6d7e8f9a0b";

    #[derive(Debug)]
    struct DiscardingExporter;

    impl SpanExporter for DiscardingExporter {
        async fn export(&self, _: Vec<SpanData>) -> opentelemetry_sdk::error::OTelSdkResult {
            Ok(())
        }
    }

    fn tracer(sampler: Sampler) -> Tracer {
        let scope = InstrumentationScope::builder("test").build();
        Tracer { processor: BatchSpanProcessor::builder(DiscardingExporter).build(), sampler: Box::new(sampler), scope }
    }

    #[test]
    fn derives_the_trace_id_from_the_object_uid() {
        let root = TraceContext::root_of(UID).expect("it is a UUID");
        assert_eq!(root.traceparent(), "00-0b2f6a5e7c1d4e8f9a3b5c6d7e8f9a0b-9a3b5c6d7e8f9a0b-01");
        let below = root.child();
        assert!(below.trace == root.trace && below.span != root.span);
        for no_uuid in ["", "claim", "0b2f6a5e", "00000000-0000-0000-0000-000000000000", "ü".repeat(16).as_str()] {
            assert_eq!(TraceContext::root_of(no_uuid), None, "{no_uuid:?}");
        }
    }

    #[test]
    fn parses_valid_traceparent_headers_only() {
        let context = TraceContext::root_of(UID).expect("it is a UUID").child();
        assert_eq!(TraceContext::parse(&context.traceparent()), Some(context));
        let (trace, span) = ("0b2f6a5e7c1d4e8f9a3b5c6d7e8f9a0b", "9a3b5c6d7e8f9a0b");
        for wrong in [
            String::new(),
            "00".to_owned(),
            format!("00-{trace}-{span}-00"),
            format!("01-{trace}-{span}-01"),
            format!("00-{trace}-{span}-01-more"),
            format!("00-{trace}-{}-01", &span[1..]),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{trace}-{span}-+1"),
            format!("00-{trace}-gggggggggggggggg-01"),
        ] {
            assert_eq!(TraceContext::parse(&wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn samples_the_configured_share_of_objects() {
        let half = tracer(Sampler::TraceIdRatioBased(0.5));
        // UUIDs of version 4, of which the first eight bits are counted through.
        let uids = (0..=255_u8).map(|first| format!("{first:02x}2f6a5e-7c1d-4e8f-9a3b-5c6d7e8f9a0b"));
        assert_eq!(uids.filter(|uid| half.root_of(uid).is_some()).count(), 128);
        assert_eq!(tracer(Sampler::AlwaysOff).root_of(UID), None);
        assert_eq!(tracer(Sampler::AlwaysOn).root_of(UID), TraceContext::root_of(UID));
    }
}
