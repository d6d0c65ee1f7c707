//! The gateway of Camo-fleet: the endpoints through which clients reach their sessions. It authenticates clients,
//! finds the session's runner, and relays. It is stateless: any number of replicas can run, and each watches the
//! sessions.
//!
//! ```text
//! client ── server ── auth: who, allowed? ── proxy::upstream ── cache: which, Ready? ── proxy::runner_client ── runner
//!                                                └─────────── proxy::relay: bytes both ways ──────────────────────┘
//! ```
//!
//! [`auth`]: credentials, and what they permit. [`cache`]: sessions and pools, as a watch delivers them. [`proxy`]:
//! connections into sessions. [`rfb`]: the live view's protocol. [`rest`]: the REST API. [`server`]: the listeners.
//! [`kubernetes`]: the API server. [`state`]: what handlers share. [`shutdown`]: the end of the process. [`app`]: the
//! process, which wires the others.

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
