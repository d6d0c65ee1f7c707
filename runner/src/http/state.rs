//! Shared state of the HTTP handlers.

use crate::{
    http::{auth::Authenticator, tunnel_limiter::TunnelLimiter},
    supervisor::driver::RunnerHandle,
};
use axum::extract::FromRef;
use camofleet_runtime::traces::Tracer;
use std::sync::Arc;

#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) runner: RunnerHandle,
    /// Present if the runner exports traces.
    pub(crate) tracer: Option<Arc<Tracer>>,
    pub(crate) tunnels: Arc<TunnelLimiter>,
}

impl FromRef<AppState> for RunnerHandle {
    fn from_ref(app: &AppState) -> Self {
        app.runner.clone()
    }
}
