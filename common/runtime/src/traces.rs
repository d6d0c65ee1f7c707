//! Exports spans by OTLP if the environment configures it. A span is created when it ends.
//!
//! Each object has one trace: the trace id is the object's UID, and the id of the root span is the second half of the
//! UID. Every process derives both from the object, so a new leader continues the trace of the previous one.
//! OpenTelemetry's API generates all ids itself, so this module builds the data that the SDK exports.

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

/// Environment variables that enable traces and set the collector's endpoint.
pub const ENDPOINTS: [&str; 2] = [OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT];
/// Maximum time to send the remaining spans when the process ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// Default service name of the SDK.
const UNNAMED_SERVICE: &str = "unknown_service";

/// Trace id and span id of a span in a sampled trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: TraceId,
    span: SpanId,
}

impl TraceContext {
    /// Context of the root span of the object with this UID. None if the UID is not a UUID.
    pub fn root_of(uid: &str) -> Option<Self> {
        let digits: String = uid.chars().filter(|digit| *digit != '-').collect();
        let trace = TraceId::from_hex(&digits).ok().filter(|_| digits.len() == 32)?;
        let span = SpanId::from_bytes(*trace.to_bytes().last_chunk()?);
        (span != SpanId::INVALID).then_some(Self { trace, span })
    }

    /// A new span in the same trace.
    pub fn child(self) -> Self {
        Self { span: RandomIdGenerator::default().new_span_id(), ..self }
    }

    /// Parses a `traceparent` header (W3C Trace Context). None if the header does not follow version 00, or the trace
    /// is not sampled.
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

    /// Value of the `traceparent` header.
    pub fn traceparent(self) -> String {
        format!("00-{}-{}-01", self.trace, self.span)
    }
}

/// A finished span.
#[derive(Clone, Debug)]
pub struct Span {
    /// Trace id and span id.
    pub context: TraceContext,
    /// Parent span. None for the root.
    pub parent: Option<TraceContext>,
    /// Name of the operation.
    pub name: &'static str,
    /// Client or server side of a call, or internal.
    pub kind: SpanKind,
    /// Start by the clock of the caller.
    pub start: SystemTime,
    /// End by the clock of the caller.
    pub end: SystemTime,
    /// Attributes. They must not contain tokens or page URLs.
    pub attributes: Vec<KeyValue>,
    /// Error status with this description. None leaves the status unset.
    pub error: Option<String>,
}

/// The tracing configuration in the environment is invalid.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// The endpoint's scheme is not supported.
    #[error(
        "{variable} is {endpoint}: only http:// endpoints are supported; use a collector in the cluster, such as http://collector.example:4318, that forwards the spans"
    )]
    Endpoint {
        /// Name of the environment variable.
        variable: &'static str,
        /// Value of the environment variable.
        endpoint: String,
    },
    /// Another setting is invalid.
    #[error("cannot set up the OTLP exporter: {0}")]
    Exporter(String),
}

/// Sends spans to a collector in batches. Recording never blocks: when the queue is full, spans are dropped.
#[derive(Debug)]
pub struct Tracer {
    processor: BatchSpanProcessor,
    sampler: Box<dyn ShouldSample>,
    scope: InstrumentationScope,
}

impl Tracer {
    /// Builds a tracer from OpenTelemetry's environment variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and others). None if
    /// they do not enable traces.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub fn from_environment(
        service: &'static str,
        attributes: impl IntoIterator<Item = KeyValue>,
    ) -> Result<Option<Self>, TracingError> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let is = |name: &str, value: &str| set(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
        // The endpoint for traces takes precedence over the one for all signals.
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

    /// Context of the root span of the object with this UID. None if its trace is not sampled.
    pub fn root_of(&self, uid: &str) -> Option<TraceContext> {
        let root = TraceContext::root_of(uid)?;
        // The sampler reads the second half as a random number, but a UUID has its variant bits there. The first half
        // is random enough.
        let mut bytes = root.trace.to_bytes();
        bytes.rotate_left(8);
        let trace = TraceId::from_bytes(bytes);
        // The samplers that the environment can select ignore the name.
        let sampled = self.sampler.should_sample(None, trace, "", &SpanKind::Internal, &[], &[]);
        (sampled.decision == SamplingDecision::RecordAndSample).then_some(root)
    }

    /// Queues a finished span for export.
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

    /// Sends the remaining spans at the end of the process. Blocks for 2 s at most.
    pub fn shutdown(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(%error, "could not send the last spans");
        }
    }
}

/// Resource attributes from the environment, with `service` as the default service name.
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
        let root = TraceContext::root_of(UID).expect("a valid UUID");
        assert_eq!(root.traceparent(), "00-0b2f6a5e7c1d4e8f9a3b5c6d7e8f9a0b-9a3b5c6d7e8f9a0b-01");
        let child = root.child();
        assert!(child.trace == root.trace && child.span != root.span);
        for no_uuid in ["", "claim", "0b2f6a5e", "00000000-0000-0000-0000-000000000000", "ü".repeat(16).as_str()] {
            assert_eq!(TraceContext::root_of(no_uuid), None, "{no_uuid:?}");
        }
    }

    #[test]
    fn parses_valid_traceparent_headers_only() {
        let context = TraceContext::root_of(UID).expect("a valid UUID").child();
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
        // Version 4 UUIDs with all values of the first eight bits.
        let uids = (0..=255_u8).map(|first| format!("{first:02x}2f6a5e-7c1d-4e8f-9a3b-5c6d7e8f9a0b"));
        assert_eq!(uids.filter(|uid| half.root_of(uid).is_some()).count(), 128);
        assert_eq!(tracer(Sampler::AlwaysOff).root_of(UID), None);
        assert_eq!(tracer(Sampler::AlwaysOn).root_of(UID), TraceContext::root_of(UID));
    }
}
