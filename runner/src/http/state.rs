//! What all handlers share.

use crate::{
    http::{auth::Gate, tunnels::Tunnels},
    supervisor::driver::Runner,
};
use axum::extract::FromRef;
use camofleet_runtime::traces::Tracer;
use std::sync::Arc;

/// What every handler may use.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) gate: Arc<Gate>,
    pub(crate) runner: Runner,
    /// Where spans go, if anywhere.
    pub(crate) tracer: Option<Arc<Tracer>>,
    pub(crate) tunnels: Arc<Tunnels>,
}

impl FromRef<App> for Runner {
    fn from_ref(app: &App) -> Self {
        app.runner.clone()
    }
}
