//! The HTTP API for operator and gateway, and the tunnels into sessions.

pub(crate) mod auth;
pub(crate) mod server;
pub(crate) mod tunnel;
