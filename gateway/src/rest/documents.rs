//! The documents of the REST API, in the shapes of the original Camo-fleet, with what was added to them. Their fields
//! and bounds are the OpenAPI document, and what comes in is checked against them.

use crate::auth::tokens::Role;
use camofleet_auth::token;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::{IntoParams, ToSchema};

/// Body of `POST /sessions`: what is left out, or null, is as the pool has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// Name of the pool. Left out: any pool that can serve the session.
    #[schema(min_length = 1, max_length = 50)]
    pub worker: Option<String>,
    /// Without a display. Ignored with `vnc`.
    pub headless: Option<bool>,
    /// On a display that can be watched.
    #[serde(default)]
    pub vnc: bool,
    /// The session ends after so many seconds in which nobody did anything in it.
    #[schema(minimum = 30, maximum = 86400)]
    pub idle_ttl_seconds: Option<i32>,
    /// The session ends after so many seconds whatever happens.
    #[schema(minimum = 60, maximum = 604_800)]
    pub max_lifetime_seconds: Option<i32>,
    /// Anything to find it by.
    pub labels: Option<BTreeMap<String, String>>,
    /// A page that is open when client and viewer come. A bare host gets `https://` before it; otherwise it is an http, https or
    /// data URL, or about:blank.
    #[schema(max_length = 2048)]
    pub start_url: Option<String>,
    /// When the start page counts as loaded; `none`: it is not navigated to. Left out: `load`.
    pub start_url_wait: Option<PageEvent>,
}

/// When a page counts as loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PageEvent {
    /// It is not navigated to.
    None,
    /// At the event `DOMContentLoaded`.
    DomContentLoaded,
    /// At the event `load`.
    Load,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Session {
    /// Name of its pool, once it has one; before, the one that was asked for, or empty.
    pub worker: String,
    /// Name of the `BrowserSession`.
    pub id: String,
    /// Namespace of the `BrowserSession`.
    pub namespace: String,
    /// Where it stands, in the original's words.
    pub status: Status,
    /// Where it stands, in the words of `kubectl get`: Pending, Queued, Starting, Ready or Finished.
    pub state: String,
    /// Why it stands there: a reason of its conditions.
    pub reason: Option<String>,
    /// The same for people.
    pub message: Option<String>,
    /// How many sessions its pool serves before it; known while it waits for the pool that it names, and only when this one
    /// session is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When clients could connect.
    pub ready_at: Option<Timestamp>,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
    /// When somebody last did something in it. Before that is known: when it began.
    pub last_seen_at: Timestamp,
    /// When it ends if nobody does anything.
    pub idle_at: Option<Timestamp>,
    /// When it ends whatever happens.
    pub deadline_at: Option<Timestamp>,
    /// Seconds without activity after which it ends; known once it has a pool, or when it was asked for.
    pub idle_ttl_seconds: Option<i32>,
    /// Whether it was bound to a browser that was hot already.
    pub hot_start: Option<bool>,
    /// The engine that runs, once one does: `firefox` or `camoufox`.
    pub browser: Option<String>,
    /// Version of the browser, as it reports it.
    pub browser_version: Option<String>,
    /// Major and minor of the Playwright server: clients must have the same.
    pub playwright_version: Option<String>,
    /// The pod that serves it.
    pub runner: Option<String>,
    /// Whether it has no display.
    pub headless: bool,
    /// What it was given to find it by.
    pub labels: BTreeMap<String, String>,
    /// Where Playwright connects: a path of this host.
    pub ws_endpoint: String,
    /// The same as a whole URL, once it is Ready.
    pub ws_url: Option<String>,
    /// Whether its display can be watched.
    pub vnc_enabled: bool,
    /// Where its display can be watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vnc: Option<Vnc>,
    /// The page that was to be opened.
    pub start_url: Option<String>,
    /// When the start page counts as loaded.
    pub start_url_wait: PageEvent,
    /// What became of the start page; known once it is Ready.
    pub start_page: Option<StartPage>,
    /// Clients that are connected; known once it is Ready.
    pub clients: Option<u32>,
}

/// Where a session stands, in the original's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// It waits for a browser.
    Init,
    /// Clients may connect.
    Ready,
    /// It is being deleted.
    Terminating,
    /// It is over.
    Dead,
}

/// Where a display can be watched, with a token that is good for looking and for an hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Vnc {
    /// RFB over a WebSocket.
    pub ws: String,
    /// The page.
    pub http: String,
    /// Always false: there is a token and no password.
    pub password_protected: bool,
}

/// What became of a start page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct StartPage {
    /// Where it stands.
    pub state: StartPageState,
    /// The browser's words, when it failed.
    pub message: Option<String>,
}

/// Where a start page stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StartPageState {
    /// None was asked for.
    None,
    /// It is being opened.
    Loading,
    /// It reached what `start_url_wait` names.
    Loaded,
    /// It could not be opened.
    Failed,
}

/// The names in the path of a session. `auth::extract::PathParams` reads them.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "they are only told of")]
pub struct SessionPath {
    /// Its pool, or `-`
    worker: String,
    #[allow(missing_docs)]
    id: String,
}

/// Answer of `DELETE /sessions/{worker}/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Deleted {
    /// Name of the `BrowserSession`.
    pub id: String,
    /// Always `TERMINATING`: its browser is being ended.
    pub status: Status,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Worker {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Whether it serves sessions.
    pub healthy: bool,
    /// How it is, in the original's shape.
    pub detail: WorkerDetail,
    /// Whether its sessions can be watched. They all can.
    pub supports_vnc: bool,
    /// How sessions are shown that do not say: Headless, Headful or LiveView.
    pub default_display: String,
    /// The engine that was asked for: Auto, Camoufox or Firefox.
    pub engine: String,
    /// Runners wished for.
    pub desired_replicas: i32,
    /// Runners that take sessions or serve them.
    pub ready_replicas: i32,
    /// Room for sessions.
    pub slots: Slots,
    /// Sessions that wait for it.
    pub queued: i32,
    /// How it is, in Kubernetes' words.
    pub conditions: Vec<Condition>,
}

/// A pool's room for sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Slots {
    /// Of all runners that answer.
    pub total: i32,
    /// With a session.
    pub used: i32,
    /// Free, with a browser that is hot.
    pub hot: i32,
    /// Free, their browser still being launched.
    pub starting: i32,
}

/// How a pool is, in the shape of the original's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WorkerDetail {
    /// `ok` or `degraded`.
    pub status: Health,
    /// Version of this gateway.
    pub version: String,
    /// What is true of it, by name of the condition.
    pub checks: BTreeMap<String, String>,
}

/// A condition of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Condition {
    /// Its name.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// One word for everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Every pool serves sessions.
    Ok,
    /// Some do not, or there is none.
    Degraded,
}

/// Answer of `GET /namespaces`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Namespaces {
    /// The gateway's own, which paths need not say.
    pub own: String,
    /// Those that have pools or sessions, and the gateway's own, by name.
    pub namespaces: BTreeSet<String>,
}

/// Answer of `GET /health`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct FleetHealth {
    /// One word for everything.
    pub status: Health,
    /// The pools.
    pub workers: Vec<Worker>,
}

/// Body of `POST /sessions/{worker}/{id}/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// What the token is good for.
    pub scope: Scope,
    /// How long, in seconds.
    #[serde(default = "default_ttl")]
    #[schema(minimum = 1, maximum = 86400)]
    pub ttl_seconds: u32,
    /// Whether for one connection only.
    #[serde(default)]
    pub single_use: bool,
}

fn default_ttl() -> u32 {
    3600
}

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To drive the browser by Playwright.
    Connect,
    /// To look at the display and type into it.
    Control,
    /// To look at the display.
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

/// A token for one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Shared {
    /// The token: for `Authorization: Bearer`, `?token=`, or the fragment of the live view's page.
    pub token: String,
    /// What it is good for.
    pub scope: Scope,
    /// UID of the session: it is good for no later one of the same name.
    pub session: String,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Whether it is good for one connection only.
    pub single_use: bool,
}

/// Body of `POST /login`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// One of the fleet's static tokens.
    #[schema(min_length = 1, max_length = 4096)]
    pub token: String,
}

/// Who is logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LoggedIn {
    /// `admin` or `viewer`; null when nobody is.
    pub role: Option<Role>,
}

/// Everything there is: the event `reset`, with which a stream begins.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Everything {
    /// All sessions.
    pub sessions: Vec<Session>,
    /// All pools.
    pub workers: Vec<Worker>,
}

/// What is gone: the events `session-gone` and `worker-gone`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Gone {
    /// Name of the `BrowserSession` or `WorkerPool`.
    pub id: String,
}
