//! The gateway of Camo-fleet: the doors through which clients reach their sessions. It authenticates them, finds the
//! session's runner and relays. It is stateless: any number of replicas can run, and each knows the sessions by a watch.
//!
//! ```text
//! client ── server ── auth: who, and may they ── proxy::upstream ── cache: which one, Ready? ── proxy::runner_client ── runner
//!                                                     └──────────── proxy::relay: bytes both ways ─────────────────────┘
//! ```
//!
//! [`auth`]: credentials, and what they permit. [`cache`]: sessions and pools, as a watch tells them. [`proxy`]: connections into sessions.
//! [`rfb`]: the live view's protocol. [`rest`]: the REST API. [`server`]: the listeners. [`kubernetes`]: the API server. [`app`]: the process.

pub mod app;
pub mod auth;
pub mod cache;
pub mod config;
pub mod error;
pub mod kubernetes;
pub mod metrics;
pub mod proxy;
pub mod rest;
pub mod rfb;
pub mod server;

use crate::auth::authenticator::Authenticator;
use crate::cache::changes::Feed;
use crate::cache::pools::Pools;
use crate::cache::sessions::Sessions;
use crate::metrics::Metrics;
use crate::server::listener::{self, SoleAddress};
use camofleet_auth::token::{Issuer, PublicKeys, Signer};
use camofleet_runtime::{client_address::TrustedProxies, server::Server};
use std::{path::PathBuf, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What every request needs.
pub struct Gateway {
    /// Namespace that the REST API means when nothing is said.
    pub namespace: String,
    /// The sessions, as the watch tells them.
    pub sessions: Sessions,
    /// The pools, as the watch tells them.
    pub pools: Pools,
    /// What changed of both.
    pub feed: Feed,
    /// Authenticates clients.
    pub auth: Authenticator,
    /// For single questions to the API server.
    pub client: kube::Client,
    /// Signs hop tokens and session tokens.
    pub signer: Signer,
    /// Serves clients: what they can hold, and what they do hold.
    pub server: Server,
    /// Detects a proxy before the gateway that is not among the trusted ones.
    pub sole_address: SoleAddress,
    /// What is counted.
    pub metrics: Metrics,
    /// The UI's build.
    pub ui: PathBuf,
    /// How long a client waits for its session to become Ready.
    pub patience: Duration,
    /// Cancelled when the process is told to go: no longer ready.
    pub leaving: CancellationToken,
    /// Cancelled a moment later: nothing is accepted any more, and what is open ends.
    pub draining: CancellationToken,
    /// Connections and relays.
    pub tasks: TaskTracker,
}

impl Gateway {
    /// A gateway that knows nothing yet.
    pub fn new(client: kube::Client, namespace: String, signer: Signer, ui: PathBuf) -> Self {
        let keys = PublicKeys([(Issuer::Gateway, vec![signer.public_key().clone()])].into());
        Self {
            namespace,
            sessions: Sessions::default(),
            pools: Pools::default(),
            feed: Feed::default(),
            auth: Authenticator::new(keys),
            client,
            signer,
            ui,
            server: listener::server(TrustedProxies::default()),
            sole_address: SoleAddress::default(),
            metrics: Metrics::default(),
            patience: Duration::from_secs(60),
            leaving: CancellationToken::new(),
            draining: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// What keeps the gateway from being ready, if anything does.
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.leaving.is_cancelled() {
            Some("going away")
        } else if !self.sessions.is_read() {
            Some("the sessions were not read yet")
        } else if !self.pools.is_read() {
            Some("the pools were not read yet")
        } else if !self.auth.is_ready() {
            Some("the tokens were not read yet")
        } else {
            None
        }
    }
}
