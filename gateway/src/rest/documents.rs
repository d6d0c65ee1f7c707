//! The documents of the REST API: those of the original Camo-fleet, with additional fields. The OpenAPI document is
//! generated from these types and their bounds, and request bodies are validated against it.

use crate::auth::static_tokens::Role;
use camofleet_auth::token;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::{IntoParams, ToSchema};

/// Body of `POST /sessions`. For a field that is omitted or null, the pool's default applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// Name of the pool. If omitted, any pool that can serve the session.
    #[schema(min_length = 1, max_length = 50)]
    pub worker: Option<String>,
    /// Whether the browser runs without a display. Ignored if `vnc` is true.
    pub headless: Option<bool>,
    /// Whether the session has a live view.
    #[serde(default)]
    pub vnc: bool,
    /// The session ends after this many seconds without activity of a client: `idleTimeoutSeconds` of the
    /// `BrowserSession`.
    #[schema(minimum = 30, maximum = 86400)]
    pub idle_ttl_seconds: Option<i32>,
    /// The session ends after this many seconds, regardless of activity.
    #[schema(minimum = 60, maximum = 604_800)]
    pub max_lifetime_seconds: Option<i32>,
    /// The contexts of a lost client with a name are kept for this many seconds. If omitted, 60.
    #[schema(minimum = 0, maximum = 3600)]
    pub reconnect_grace_seconds: Option<i32>,
    /// Labels of any text, by which to identify the session.
    pub labels: Option<BTreeMap<String, String>>,
    /// Page to open when the session becomes Ready, which does not wait for the page: an http, https or data URL, or
    /// about:blank. `https://` is added to a bare host.
    #[schema(max_length = 2048)]
    pub start_url: Option<String>,
    /// The event at which the start page counts as loaded. If omitted, `load`. With `none`, the session does not open
    /// the page.
    pub start_url_wait: Option<PageEvent>,
}

/// The event at which a page counts as loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PageEvent {
    /// The page is not opened.
    None,
    /// `DOMContentLoaded`.
    DomContentLoaded,
    /// `load`.
    Load,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Session {
    /// Name of the pool that serves the session, or else of the requested pool, or empty.
    pub worker: String,
    /// Name of the `BrowserSession`.
    pub id: String,
    /// Namespace of the `BrowserSession`.
    pub namespace: String,
    /// Status as in the Python Camo-fleet: INIT, READY, TERMINATING or DEAD. `state` is more precise.
    pub status: Status,
    /// State of the `BrowserSession`: Pending, Queued, Starting, Ready or Finished.
    pub state: String,
    /// Reason of the condition `Ready`, for programs.
    pub reason: Option<String>,
    /// Message of the condition `Ready`, for people.
    pub message: Option<String>,
    /// Number of sessions that the pool will serve before this one, not counting sessions that name no pool. Present
    /// only while the session waits for the pool that it names, and only in the response for a single session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u32>,
    /// When the session was created.
    pub created_at: Timestamp,
    /// When the session became Ready.
    pub ready_at: Option<Timestamp>,
    /// When the session finished.
    pub finished_at: Option<Timestamp>,
    /// When a client was last active. Until that is known, when the session became Ready or was created.
    pub last_seen_at: Timestamp,
    /// When the session ends if no client is active.
    pub idle_at: Option<Timestamp>,
    /// When the session ends regardless of activity.
    pub deadline_at: Option<Timestamp>,
    /// Idle timeout in seconds (`idleTimeoutSeconds` of the `BrowserSession`). Null until the session has a pool,
    /// unless the request set it.
    pub idle_ttl_seconds: Option<i32>,
    /// For how many seconds the contexts of a lost client with a name are kept.
    pub reconnect_grace_seconds: i32,
    /// Whether the session was bound to a prewarmed browser.
    pub hot_start: Option<bool>,
    /// The running engine: `firefox` or `camoufox`.
    pub browser: Option<String>,
    /// Version of the browser, as the browser reports it.
    pub browser_version: Option<String>,
    /// Major and minor version of the Playwright server. Clients must have the same.
    pub playwright_version: Option<String>,
    /// Name of the runner pod that serves the session.
    pub runner: Option<String>,
    /// Whether the browser runs without a display.
    pub headless: bool,
    /// Labels from the request.
    pub labels: BTreeMap<String, String>,
    /// Path on this host where Playwright connects.
    pub ws_endpoint: String,
    /// Complete URL where Playwright connects. Null unless the session is Ready.
    pub ws_url: Option<String>,
    /// Whether the session has a live view.
    pub vnc_enabled: bool,
    /// URLs of the live view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vnc: Option<Vnc>,
    /// Start page from the request.
    pub start_url: Option<String>,
    /// The event at which the start page counts as loaded.
    pub start_url_wait: PageEvent,
    /// State of the start page. Null until the runner reports it.
    pub start_page: Option<StartPage>,
    /// Number of connected clients. Null until the runner reports it.
    pub clients: Option<u32>,
}

/// Status of a session, as in the Python Camo-fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// The session waits for a browser.
    Init,
    /// Clients can connect.
    Ready,
    /// The session is being deleted.
    Terminating,
    /// The session has finished.
    Dead,
}

/// URLs of the live view, with a token that permits viewing for at least an hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Vnc {
    /// WebSocket URL for RFB.
    pub ws: String,
    /// URL of the live view's page.
    pub http: String,
    /// Always false, because the token replaces a password.
    pub password_protected: bool,
}

/// A session's start page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct StartPage {
    /// State of the page.
    pub state: StartPageState,
    /// Error message of the browser, if the page failed.
    pub message: Option<String>,
}

/// The state of a start page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StartPageState {
    /// The session has no start page.
    None,
    /// The page is loading.
    Loading,
    /// The page reached the event in `start_url_wait`.
    Loaded,
    /// The page could not be loaded.
    Failed,
}

/// Path parameters of a session, for the OpenAPI document. `auth::extract::PathParams` parses them.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only documents the parameters")]
pub struct SessionPath {
    /// Name of the session's pool, or `-` for any pool
    worker: String,
    /// Name of the `BrowserSession`
    id: String,
}

/// Response of `DELETE /sessions/{worker}/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Deleted {
    /// Name of the `BrowserSession`.
    pub id: String,
    /// Always `TERMINATING`: the browser is being ended.
    pub status: Status,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Worker {
    /// Name of the `WorkerPool`.
    pub name: String,
    /// Namespace of the `WorkerPool`.
    pub namespace: String,
    /// Whether the pool is Ready.
    pub healthy: bool,
    /// Health in the format of the Python Camo-fleet.
    pub detail: WorkerDetail,
    /// Always true: every pool supports the live view.
    pub supports_vnc: bool,
    /// Display of sessions that do not set one: Headless, Headful or LiveView.
    pub default_display: String,
    /// Engine in the pool's spec: Auto, Camoufox or Firefox.
    pub engine: String,
    /// Desired number of runners.
    pub desired_replicas: i32,
    /// Number of runners that serve or accept sessions.
    pub ready_replicas: i32,
    /// Slots of the pool's runners.
    pub slots: Slots,
    /// Number of waiting sessions that the pool accepts, including sessions that name no pool.
    pub queued: i32,
    /// Conditions of the `WorkerPool`.
    pub conditions: Vec<Condition>,
}

/// Number of slots for sessions in a pool, of the runners that respond, are not being removed and are not the canary of
/// a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Slots {
    /// All slots.
    pub total: i32,
    /// Slots with a session.
    pub used: i32,
    /// Free slots with a prewarmed browser.
    pub hot: i32,
    /// Other free slots of runners whose prewarmed browsers are not all running.
    pub starting: i32,
}

/// Health of a pool in the format of the Python Camo-fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WorkerDetail {
    /// `ok` or `degraded`.
    pub status: Health,
    /// Version of the gateway.
    pub version: String,
    /// Reason and message of the conditions `Ready` and `Stalled`, by type of the condition.
    pub checks: BTreeMap<String, String>,
}

/// A condition of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Condition {
    /// Type of the condition.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// Reason, for programs.
    pub reason: String,
    /// Message, for people.
    pub message: String,
}

/// Health of a pool, or of all pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// The pool is Ready, or all pools are.
    Ok,
    /// A pool is not Ready, or there are no pools.
    Degraded,
}

/// Response of `GET /namespaces`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Namespaces {
    /// The gateway's own namespace, which paths can omit.
    pub own: String,
    /// The gateway's own namespace and all that have pools or sessions, sorted by name.
    pub namespaces: BTreeSet<String>,
}

/// Response of `GET /health`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct FleetHealth {
    /// Health of all pools together.
    pub status: Health,
    /// The pools.
    pub workers: Vec<Worker>,
}

/// Body of `POST /sessions/{worker}/{id}/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What the token permits.
    pub scope: Scope,
    /// Lifetime of the token, in seconds.
    #[serde(default = "default_ttl")]
    #[schema(minimum = 1, maximum = 86400)]
    pub ttl_seconds: u32,
    /// Whether the token permits only one connection.
    #[serde(default)]
    pub single_use: bool,
}

fn default_ttl() -> u32 {
    3600
}

/// What a session token permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Connect with Playwright.
    Connect,
    /// View the display and send input.
    Control,
    /// View the display.
    View,
}

impl From<Scope> for token::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Connect => Self::Connect,
            Scope::Control => Self::Control,
            Scope::View => Self::View,
        }
    }
}

/// A session token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct IssuedToken {
    /// The token, for `Authorization: Bearer`, `?token=`, or the URL fragment of the live view's page.
    pub token: String,
    /// What the token permits.
    pub scope: Scope,
    /// UID of the session. The token is not valid for a later session with the same name.
    pub session: String,
    /// When the token expires.
    pub expires_at: Timestamp,
    /// Whether the token permits only one connection.
    pub single_use: bool,
}

/// Body of `POST /login`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// A static token of the fleet.
    #[schema(min_length = 1, max_length = 4096)]
    pub token: String,
}

/// Response of login, `whoami` and logout: the role of the authenticated client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LoggedIn {
    /// `admin` or `viewer`. Null after a logout.
    pub role: Option<Role>,
}

/// Data of the event `reset`, with which a stream begins.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Snapshot {
    /// All sessions.
    pub sessions: Vec<Session>,
    /// All pools.
    pub workers: Vec<Worker>,
}

/// Data of the events `session-gone` and `worker-gone`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Deletion {
    /// Name of the `BrowserSession` or `WorkerPool`.
    pub id: String,
}
