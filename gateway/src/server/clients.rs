//! Limits the clients of the public listener, and detects a proxy that `gateway.trustedProxies` does not name.

use axum::Router;
use camofleet_runtime::{
    client_address::TrustedProxies,
    server::{Counts, Limits, Server},
};
use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Limits of the public listener. Load balancers and ingresses keep an idle connection for 60 s (AWS, nginx). They
/// return a 502 when a request meets a connection that the gateway is closing, so the gateway keeps an authenticated
/// connection longer than they do.
const LIMITS: Limits = Limits {
    connections: 16_384,
    unauthenticated: 1024,
    unauthenticated_per_address: 128,
    first_head_timeout: Duration::from_secs(10),
    exchange_timeout: Duration::from_secs(60),
    idle_timeout: Duration::from_secs(10),
    authenticated_idle_timeout: Duration::from_secs(75),
    keep_alive: true,
};
/// The number of consecutive requests from one address after which that address is reported as a possible proxy.
const REPORTED_REQUESTS: u32 = 200;

/// The clients of the public listener.
pub struct Clients {
    server: Server,
    proxy_detector: ProxyDetector,
}

impl Clients {
    /// Accepts clients that connect directly or through these proxies.
    pub fn new(proxies: TrustedProxies) -> Self {
        Self { server: Server::new("public", LIMITS, proxies.clone()), proxy_detector: ProxyDetector::new(proxies) }
    }

    /// Counts of open, shed and refused connections.
    pub fn counts(&self) -> Counts {
        self.server.counts()
    }

    /// Serves clients until `shutdown` is cancelled. Each connection runs in a task of `tasks`.
    pub(super) async fn serve(
        &self,
        listener: TcpListener,
        router: Router,
        shutdown: CancellationToken,
        tasks: TaskTracker,
    ) {
        self.server.serve(listener, router, shutdown, tasks).await;
    }

    /// Counts a request, to detect a proxy that is not trusted. Logs a warning once per process, when 200 consecutive
    /// requests came from one address.
    pub(super) fn count_request(&self, client: IpAddr) {
        if self.proxy_detector.suspects(client) {
            tracing::warn!(
                %client,
                requests = REPORTED_REQUESTS,
                "received many consecutive requests from one address: if it belongs to a proxy or load balancer, all its \
                 clients share one limit; add it to the chart's value gateway.trustedProxies"
            );
        }
    }
}

/// Detects a proxy that `gateway.trustedProxies` does not name. All requests of its clients come from one address, so
/// the clients share the limits of that address.
#[derive(Debug)]
struct ProxyDetector {
    proxies: TrustedProxies,
    latest: Mutex<ConsecutiveRequests>,
}

/// The latest consecutive requests from one address.
#[derive(Debug, Default)]
struct ConsecutiveRequests {
    client: Option<IpAddr>,
    requests: u32,
    is_reported: bool,
}

impl ProxyDetector {
    /// `proxies`: the trusted proxies. Their own requests, such as health checks, are ignored, because their addresses
    /// have no limit.
    fn new(proxies: TrustedProxies) -> Self {
        Self { proxies, latest: Mutex::default() }
    }

    /// Counts a request. Returns true once per process, for the request that completes the first 200 consecutive ones
    /// from one address.
    fn suspects(&self, client: IpAddr) -> bool {
        if self.proxies.contains(client) {
            return false;
        }
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.client != Some(client) {
            (latest.client, latest.requests) = (Some(client), 0);
        }
        latest.requests = latest.requests.saturating_add(1);
        let is_suspect = latest.requests == REPORTED_REQUESTS && !latest.is_reported;
        latest.is_reported |= is_suspect;
        is_suspect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_a_suspected_proxy_once() {
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let reports = |requests: &[IpAddr]| {
            let detector = ProxyDetector::new(TrustedProxies::new(vec![IpAddr::from([10, 0, 0, 1]).into()]));
            requests.iter().filter(|client| detector.suspects(**client)).count()
        };
        let run = vec![one; REPORTED_REQUESTS as usize];
        assert_eq!(reports(&run[1..]), 0, "one request too few");
        assert_eq!(reports(&run), 1);
        assert_eq!(reports(&[&run[..], &run[..]].concat()), 1, "a longer run");
        assert_eq!(reports(&[&run[1..], &[other][..], &run[1..]].concat()), 0, "two runs, each one request too short");
        assert_eq!(
            reports(&[&[other, one, other][..], &run[..]].concat()),
            1,
            "a run after requests from several addresses"
        );
        assert_eq!(reports(&[&run[..], &[other][..], &run[..]].concat()), 1, "a second run");
        assert_eq!(reports(&[one, other].repeat(REPORTED_REQUESTS as usize)), 0, "two alternating addresses");
        let proxy = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(reports(&vec![proxy; REPORTED_REQUESTS as usize]), 0, "a trusted proxy's health checks");
        assert_eq!(reports(&[proxy, one].repeat(REPORTED_REQUESTS as usize)), 1, "one address between health checks");
    }
}
