//! The runner's HTTP API: its request and response types, the operator's client, and a WebSocket frame scanner for
//! relays.
//!
//! A runner publishes one document, [`RunnerState`], which holds the complete state of its slots and sessions and a
//! generation that grows with every change. Because each document is complete, a reader that skips some of them loses
//! nothing, and the API needs no replay.

pub mod client;
pub mod frames;
mod types;

pub use types::*;

/// Request header of `PUT /v1/sessions/{uid}` with the parent of the runner's spans (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";
/// Port of a runner's API, the same in every pod.
pub const PORT: u16 = 8070;
/// Port of a runner's `/healthz` and `/readyz`, the same in every pod. It is separate from [`PORT`], so that clients
/// that exhaust the API's connections cannot fail the kubelet's probes and get the runner restarted.
pub const PROBE_PORT: u16 = 8071;
/// Time after which a runner closes a connection that has not delivered a complete request head. Clients close idle
/// connections earlier, because a request that races with the runner's close fails without a sign of whether it
/// arrived. Connections that have carried an accepted token stay open longer.
pub const HEADER_READ_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
