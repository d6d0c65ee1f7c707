//! The gateway of Camo-fleet: authenticates clients, finds the session's runner, and relays the traffic between them.
//! The gateway is stateless: any number of replicas can run, and each watches the sessions.
//!
//! ```text
//! client ── server ── auth: who, allowed? ── proxy::upstream ── cache: which, Ready? ── proxy::runner_client ── runner
//!                                                └─────────── proxy::relay: bytes both ways ──────────────────────┘
//! ```
//!
//! - [`auth`]: authentication and authorization
//! - [`cache`]: sessions and pools, fed by watches
//! - [`proxy`]: connections into sessions
//! - [`rfb`]: the filter for the live view's protocol
//! - [`rest`]: the REST API
//! - [`server`]: the listeners and the dashboard's files
//! - [`kubernetes`]: requests to the API server
//! - [`state`]: the state that handlers share
//! - [`shutdown`]: graceful shutdown
//! - [`app`]: starts and stops the process

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
pub mod shutdown;
pub mod state;

pub use state::Gateway;
