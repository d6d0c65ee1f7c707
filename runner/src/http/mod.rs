//! The HTTP API for the operator and the gateway, including the tunnels into sessions.

pub(crate) mod auth;
mod error;
mod extract;
pub(crate) mod server;
pub(crate) mod state;
mod tunnel;
pub(crate) mod tunnel_limiter;
