//! Sets up logging to stderr, as JSON unless stderr is a terminal.

use std::io::{self, IsTerminal};
use tracing::Subscriber;
use tracing_flat_json::FlatJsonLayer;
use tracing_subscriber::{
    EnvFilter, Layer, filter::ParseError, fmt::MakeWriter, layer::SubscriberExt, registry::LookupSpan,
    util::SubscriberInitExt,
};

/// Filter if `RUST_LOG` is unset or empty.
const DEFAULT_FILTER: &str = "info";

/// Installs the global logger with the filter in `RUST_LOG`, or `info` if that is unset or empty.
///
/// # Errors
/// `RUST_LOG` is invalid. The logger is installed with `info`.
///
/// # Panics
/// A global logger is already installed.
pub fn init() -> Result<(), ParseError> {
    let directives = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let (filter, parsed) = match EnvFilter::try_new(directives.as_deref().unwrap_or(DEFAULT_FILTER)) {
        Ok(filter) => (filter, Ok(())),
        Err(error) => (EnvFilter::new(DEFAULT_FILTER), Err(error)),
    };
    let format = if io::stderr().is_terminal() {
        tracing_subscriber::fmt::layer().with_writer(io::stderr).boxed()
    } else {
        json(io::stderr).boxed()
    };
    tracing_subscriber::registry().with(format).with(filter).init();
    parsed
}

/// The JSON format: one object per line, with the fields of the event and of its spans as top-level keys.
pub fn json<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    FlatJsonLayer::new(writer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn writes_event_and_span_fields_as_keys_of_one_object() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::registry().with(json(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", name = "demo", session = tracing::field::Empty).entered();
            span.record("session", "uid-1");
            tracing::info!(status = 200, "answered");
        });
        let line: Value = serde_json::from_slice(&buffer.0.lock().unwrap()).unwrap();
        let object = line.as_object().unwrap();
        let keys: Vec<_> = object.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["code.file.path", "code.line.number", "level", "message", "name", "session", "status", "timestamp"]
        );
        assert_eq!(
            (&line["message"], &line["name"], &line["session"]),
            (&"answered".into(), &"demo".into(), &"uid-1".into())
        );
        assert_eq!(line["status"], 200);
    }
}
