//! Translates the vocabulary of the original Camo-fleet: `worker` for a pool, its session states, its two booleans for
//! the display, and its field names. Outside the REST API, only the path parameters in `auth::extract::PathParams` use
//! this vocabulary.

use crate::{
    auth::extract::ANY_POOL,
    error::{ApiError, InvalidField},
    rest::documents::{Condition, Health, Slots, Status, Worker, WorkerDetail},
};
use camofleet_crds::{
    conditions::{self, READY, STALLED},
    v1alpha1::{BrowserSession, Display, EngineChoice, SessionState, WorkerPool},
};
use kube::ResourceExt;

/// The status of a session in the Python Camo-fleet.
pub fn status(object: &BrowserSession) -> Status {
    match object.state() {
        SessionState::Finished => Status::Dead,
        _ if object.metadata.deletion_timestamp.is_some() => Status::Terminating,
        SessionState::Ready => Status::Ready,
        SessionState::Pending | SessionState::Queued | SessionState::Starting => Status::Init,
    }
}

/// The display for a request's `vnc` and `headless`. None: the pool's default.
pub fn display(vnc: bool, headless: Option<bool>) -> Option<Display> {
    match (vnc, headless) {
        (true, _) => Some(Display::LiveView),
        (false, Some(true)) => Some(Display::Headless),
        (false, Some(false)) => Some(Display::Headful),
        (false, None) => None,
    }
}

/// The path where Playwright connects to a session. `pool` can be empty.
pub fn ws_endpoint(namespace: &str, own_namespace: &str, pool: &str, id: &str) -> String {
    let base = if namespace == own_namespace { "/api".to_owned() } else { format!("/api/namespaces/{namespace}") };
    format!("{base}/sessions/{}/{id}/ws", if pool.is_empty() { ANY_POOL } else { pool })
}

/// The field of a request from which this field of a `BrowserSession` was set.
fn request_field(path: &str) -> &str {
    match path {
        "spec.poolRef" | "spec.poolRef.name" => "worker",
        "spec.display" => "headless",
        "spec.idleTimeoutSeconds" => "idle_ttl_seconds",
        "spec.maxLifetimeSeconds" => "max_lifetime_seconds",
        "spec.reconnectGraceSeconds" => "reconnect_grace_seconds",
        "spec.startUrl" => "start_url",
        "spec.startUrlWait" => "start_url_wait",
        "metadata.annotations" => "labels",
        other => other,
    }
}

/// Translates the API server's rejection of an invalid session to the fields of the request. Other errors are returned
/// unchanged.
pub fn translate_rejection(error: ApiError) -> ApiError {
    match error {
        ApiError::ApiServer(error) => match *error {
            kube::Error::Api(status) if status.is_invalid() => ApiError::Invalid(invalid_fields(&status)),
            other => ApiError::ApiServer(Box::new(other)),
        },
        other => other,
    }
}

fn invalid_fields(status: &kube::core::Status) -> Vec<InvalidField> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .map(|cause| InvalidField {
            loc: vec!["body".to_owned(), request_field(&cause.field).to_owned()],
            msg: cause.message.clone(),
            type_: cause.reason.clone(),
        })
        .collect()
}

/// Converts a pool to a worker document of the Python Camo-fleet.
pub fn worker(pool: &WorkerPool) -> Worker {
    let status = pool.status.clone().unwrap_or_default();
    let healthy = conditions::is_true(&status.conditions, READY);
    let conditions: Vec<_> = status
        .conditions
        .into_iter()
        .map(|it| Condition { type_: it.type_, status: it.status, reason: it.reason, message: it.message })
        .collect();
    let check = |it: &Condition| {
        let is_shown = it.type_ == READY || it.type_ == STALLED;
        is_shown.then(|| (it.type_.clone(), format!("{}: {}", it.reason, it.message)))
    };
    Worker {
        name: pool.name_any(),
        namespace: pool.namespace().unwrap_or_default(),
        healthy,
        detail: WorkerDetail {
            status: if healthy { Health::Ok } else { Health::Degraded },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            checks: conditions.iter().filter_map(check).collect(),
        },
        supports_vnc: true,
        default_display: match pool.spec.session_defaults.display.unwrap_or_default() {
            Display::Headless => "Headless",
            Display::Headful => "Headful",
            Display::LiveView => "LiveView",
        }
        .to_owned(),
        engine: match pool.spec.engine {
            EngineChoice::Auto => "Auto",
            EngineChoice::Camoufox => "Camoufox",
            EngineChoice::Firefox => "Firefox",
        }
        .to_owned(),
        desired_replicas: status.desired_replicas,
        ready_replicas: status.ready_replicas,
        slots: Slots {
            total: status.slots.total,
            used: status.slots.used,
            hot: status.slots.hot,
            starting: status.slots.starting,
        },
        queued: status.queued,
        conditions,
    }
}
