//! Sets up the log: events go to stderr, as JSON unless stderr is a terminal.

use std::io::{self, IsTerminal};
use tracing_subscriber::{EnvFilter, filter::ParseError};

/// The filter that applies when `RUST_LOG` is unset or empty.
const DEFAULT_FILTER: &str = "info";

/// Logs from now on what `RUST_LOG` selects, or `info` when it is unset or empty. The fields of an event are keys of its JSON object;
/// those of the span around it are in `span`.
///
/// # Errors
/// `RUST_LOG` is invalid. Then `info` is logged.
///
/// # Panics
/// A logger is set up already.
pub fn init() -> Result<(), ParseError> {
    let directives = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let (filter, parsed) = match EnvFilter::try_new(directives.as_deref().unwrap_or(DEFAULT_FILTER)) {
        Ok(filter) => (filter, Ok(())),
        Err(error) => (EnvFilter::new(DEFAULT_FILTER), Err(error)),
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().flatten_event(true).with_span_list(false).init();
    }
    parsed
}
