//! What all handlers share.

use crate::{
    http::{auth::Authenticator, tunnel_limiter::TunnelLimiter},
    supervisor::driver::RunnerHandle,
};
use axum::extract::FromRef;
use camofleet_runtime::traces::Tracer;
use std::sync::Arc;

/// What every handler may use.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) runner: RunnerHandle,
    /// Where spans go, if anywhere.
    pub(crate) tracer: Option<Arc<Tracer>>,
    pub(crate) tunnels: Arc<TunnelLimiter>,
}

impl FromRef<AppState> for RunnerHandle {
    fn from_ref(app: &AppState) -> Self {
        app.runner.clone()
    }
}
