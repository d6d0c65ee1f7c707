//! The state that the handlers of all requests share.

use crate::{
    auth::authenticator::Authenticator,
    cache::{changes::Changes, pools::Pools, sessions::Sessions},
    metrics::Metrics,
    server::clients::Clients,
    shutdown::Shutdown,
};
use camofleet_auth::token::{Issuer, PublicKeys, Signer};
use camofleet_runtime::client_address::TrustedProxies;
use std::time::Duration;

/// How long a client waits for its session to become Ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// The state of one replica.
pub struct Gateway {
    /// Namespace of the release. The REST API uses it for paths without a namespace.
    pub namespace: String,
    /// The sessions of all namespaces.
    pub sessions: Sessions,
    /// The pools of all namespaces.
    pub pools: Pools,
    /// Changes of sessions and pools, for the event streams of the REST API.
    pub changes: Changes,
    /// Authenticates clients.
    pub auth: Authenticator,
    /// Signs hop tokens, session tokens and logins.
    pub signer: Signer,
    /// For single requests to the API server. Watches use a client of their own.
    pub client: kube::Client,
    /// Connections to the public listener.
    pub clients: Clients,
    /// Counters, gauges and histograms.
    pub metrics: Metrics,
    /// How long a client waits for its session to become Ready: 60 s, except in tests.
    pub ready_timeout: Duration,
    /// Coordinates graceful shutdown.
    pub shutdown: Shutdown,
}

impl Gateway {
    /// Starts without sessions, pools and static tokens, and trusts no proxies.
    pub fn new(client: kube::Client, namespace: String, signer: Signer) -> Self {
        let keys = PublicKeys([(Issuer::Gateway, vec![signer.public_key().clone()])].into());
        Self {
            namespace,
            sessions: Sessions::default(),
            pools: Pools::default(),
            changes: Changes::default(),
            auth: Authenticator::new(keys),
            signer,
            client,
            clients: Clients::new(TrustedProxies::default()),
            metrics: Metrics::default(),
            ready_timeout: READY_TIMEOUT,
            shutdown: Shutdown::default(),
        }
    }

    /// Returns why the readiness probe fails, or None when the gateway is ready.
    pub fn unready_reason(&self) -> Option<&'static str> {
        if self.shutdown.has_begun() {
            Some("shutting down")
        } else if !self.sessions.has_synced() {
            Some("the session cache has not synced yet")
        } else if !self.pools.has_synced() {
            Some("the pool cache has not synced yet")
        } else if !self.auth.is_ready() {
            Some("the static tokens were not read yet")
        } else {
            None
        }
    }
}
