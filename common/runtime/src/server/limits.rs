//! Limits on the connections of one listener: how many are open, and how long each step of one takes.

use std::time::Duration;

/// Limits of one listener. The durations apply to unauthenticated connections, except `authenticated_idle_timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of open connections, including upgraded ones. Beyond it, the server sheds a connection, or
    /// refuses the new one if none can be shed.
    pub connections: usize,
    /// Maximum number of unauthenticated connections, and also of unauthenticated requests behind trusted proxies.
    /// Beyond it, the server sheds the oldest one of the address with most.
    pub unauthenticated: usize,
    /// Maximum number of unauthenticated connections or requests per address (for IPv6, per /64). Beyond it, the server
    /// sheds the oldest one of that address.
    pub unauthenticated_per_address: usize,
    /// Maximum duration from the accept to the end of the first request head.
    pub first_head_timeout: Duration,
    /// Maximum duration from the end of a request head to the end of the response, including the request body.
    pub exchange_timeout: Duration,
    /// Maximum duration from the end of a response to the end of the next request head.
    pub idle_timeout: Duration,
    /// Like `idle_timeout`, for authenticated connections and those of trusted proxies.
    pub authenticated_idle_timeout: Duration,
    /// Whether a connection can carry several requests.
    pub keep_alive: bool,
}

impl Limits {
    /// Limits for listeners of probes and metrics, which have no authentication: short exchanges, and one request per
    /// connection. The address limit leaves connections for the kubelet and Prometheus while one pod opens as many as
    /// it can.
    pub const PROBES: Self = Self {
        connections: 128,
        unauthenticated: 64,
        unauthenticated_per_address: 16,
        first_head_timeout: Duration::from_secs(5),
        exchange_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(1),
        authenticated_idle_timeout: Duration::from_secs(1),
        keep_alive: false,
    };
}
