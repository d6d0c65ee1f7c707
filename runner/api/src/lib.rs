//! What a runner says and takes over HTTP: the types of its API, the operator's client for it, and the scanner with which relays
//! follow WebSocket frames.
//!
//! The runner publishes one document, [`RunnerState`]: the whole truth about its slots and sessions, with a number that
//! grows with every change. A reader that misses some of them lacks nothing, so there is no replay and there are no gaps.

pub mod client;
pub mod frames;
mod types;

pub use types::*;

/// The header of a `PUT` that says where the runner's spans belong (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";
/// The port that a runner listens on, in every pod.
pub const PORT: u16 = 8070;
/// The port of a runner's `/healthz` and `/readyz`, in every pod. The kubelet has it for itself: clients that fill the other port
/// cannot have a runner restarted.
pub const PROBE_PORT: u16 = 8071;
/// A runner closes a connection on which no whole head of a request came for this long. Clients drop theirs sooner: a request
/// that meets the closing is lost, and it is not known whether it arrived. Connections that have carried an accepted token
/// are kept for longer.
pub const HEADER_READ_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
