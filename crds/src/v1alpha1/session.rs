use super::{EngineChoice, WorkerPool};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A browser for one tenant: apply it, wait until it is Ready, and connect Playwright to `status.wsEndpoint`.
///
/// Only `idleTimeoutSeconds` and `maxLifetimeSeconds` can be changed later; for anything else make another session.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "camofleet.dev",
    version = "v1alpha1",
    kind = "BrowserSession",
    namespaced,
    status = "BrowserSessionStatus",
    shortname = "bs",
    category = "camofleet",
    derive = "PartialEq",
    selectable = ".spec.poolRef.name",
    selectable = ".status.state",
    selectable = ".status.pool",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state", description = "Pending, Queued, Starting, Ready or Finished"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".status.pool", description = "The pool whose runner serves it"),
    printcolumn(name = "Engine", type_ = "string", json_path = ".status.engine", description = "The engine that runs"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = 1, description = "What it waits for, or why it is over"),
    printcolumn(name = "Runner", type_ = "string", json_path = ".status.runner.name", priority = 1, description = "The pod that serves it"),
    printcolumn(name = "Tier", type_ = "string", json_path = ".status.startTier", priority = 1, description = "Hot: a prewarmed browser was bound"),
    printcolumn(name = "WsEndpoint", type_ = "string", json_path = ".status.wsEndpoint", priority = 1, description = "Where Playwright connects, with a token"),
    validation = Rule::new("has(self.spec.poolRef) == has(oldSelf.spec.poolRef) && (!has(self.spec.poolRef) || self.spec.poolRef == oldSelf.spec.poolRef)")
        .message("poolRef cannot be changed: create another session with the pool you want").field_path(".spec.poolRef"),
    validation = Rule::new("has(self.spec.engine) == has(oldSelf.spec.engine) && (!has(self.spec.engine) || self.spec.engine == oldSelf.spec.engine)")
        .message("engine cannot be changed: create another session with the engine you want").field_path(".spec.engine"),
    validation = Rule::new("has(self.spec.display) == has(oldSelf.spec.display) && (!has(self.spec.display) || self.spec.display == oldSelf.spec.display)")
        .message("display cannot be changed: create another session with the display you want").field_path(".spec.display"),
    validation = Rule::new("self.spec.priority == oldSelf.spec.priority")
        .message("priority cannot be changed: create another session with the priority you want").field_path(".spec.priority"),
    validation = Rule::new("has(self.spec.tenant) == has(oldSelf.spec.tenant) && (!has(self.spec.tenant) || self.spec.tenant == oldSelf.spec.tenant)")
        .message("tenant cannot be changed: create another session for that tenant").field_path(".spec.tenant"),
    validation = Rule::new("self.spec.queueTimeoutSeconds == oldSelf.spec.queueTimeoutSeconds")
        .message("queueTimeoutSeconds cannot be changed: delete the session to stop waiting").field_path(".spec.queueTimeoutSeconds"),
    validation = Rule::new("self.spec.ttlSecondsAfterFinished == oldSelf.spec.ttlSecondsAfterFinished")
        .message("ttlSecondsAfterFinished cannot be changed: delete the session when you no longer need it").field_path(".spec.ttlSecondsAfterFinished"),
    validation = Rule::new("has(self.spec.startUrl) == has(oldSelf.spec.startUrl) && (!has(self.spec.startUrl) || self.spec.startUrl == oldSelf.spec.startUrl)")
        .message("startUrl cannot be changed: navigate with your client, or create another session").field_path(".spec.startUrl"),
    validation = Rule::new("self.spec.startUrlWait == oldSelf.spec.startUrlWait")
        .message("startUrlWait cannot be changed: create another session").field_path(".spec.startUrlWait")
)]
#[serde(rename_all = "camelCase")]
pub struct BrowserSessionSpec {
    /// The pool to be served by. Absent: of the pools of its namespace, and those of the operator's namespace that allow it, the
    /// one that suits best: one with a hot browser of the right kind, then the one with most free slots, then the first by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_ref: Option<PoolRef>,
    /// Require an engine. Absent: whatever the pool runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineName>,
    /// How the browser is shown. Absent: the pool's default, else Headless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<Display>,
    /// The session ends after so many seconds in which no client did anything (pings and the page's own doings do not
    /// count). Absent: the pool's default, else 300. Can be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 86400))]
    pub idle_timeout_seconds: Option<i32>,
    /// The session ends after so many seconds whatever happens. Absent: the pool's default, else 14400. Can be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 604_800))]
    pub max_lifetime_seconds: Option<i32>,
    /// Of those who wait, the higher are served first. The pool says how high it may be (`limits.maxPriority`, 0 unless set).
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,
    /// On whose account it runs: tenants share a pool fairly. Absent: the namespace. Another one must be among the pool's
    /// `limits.allowedTenants`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub tenant: Option<String>,
    /// Wait so many seconds for a free slot, then end as `QueueTimeout`. 0: fail at once when there is none.
    #[serde(default = "default_queue_timeout")]
    #[schemars(range(min = 0, max = 86400))]
    pub queue_timeout_seconds: i32,
    /// The object is deleted so many seconds after it finished.
    #[serde(default = "default_ttl")]
    #[schemars(range(min = 0, max = 604_800))]
    pub ttl_seconds_after_finished: i32,
    /// A page that is open when client and viewer come: `contexts()[0].pages()[0]`. http, https, data or about:blank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self == 'about:blank' || self.matches('^(?i)(https?://[^/?#]|data:)')")
        .message("startUrl must be an http://, https:// or data: URL, or about:blank; write the scheme out, as in https://example.org"))]
    pub start_url: Option<String>,
    /// When the start page counts as loaded. None: the page is not navigated. It never delays Ready.
    #[serde(default)]
    pub start_url_wait: StartUrlWait,
}

impl Default for BrowserSessionSpec {
    fn default() -> Self {
        Self {
            pool_ref: None,
            engine: None,
            display: None,
            idle_timeout_seconds: None,
            max_lifetime_seconds: None,
            priority: 0,
            tenant: None,
            queue_timeout_seconds: default_queue_timeout(),
            ttl_seconds_after_finished: default_ttl(),
            start_url: None,
            start_url_wait: StartUrlWait::default(),
        }
    }
}

fn default_queue_timeout() -> i32 {
    300
}

fn default_ttl() -> i32 {
    300
}

/// Idle time of sessions of whose pool says nothing, in seconds.
pub const DEFAULT_IDLE_TIMEOUT_SECONDS: i32 = 300;
/// Longest life of sessions of whose pool says nothing, in seconds.
pub const DEFAULT_MAX_LIFETIME_SECONDS: i32 = 14_400;

impl BrowserSession {
    /// How the session is shown when that pool serves it.
    pub fn display_in(&self, pool: &WorkerPool) -> Display {
        self.spec.display.or(pool.spec.session_defaults.display).unwrap_or_default()
    }

    /// The session's idle time in that pool, in seconds.
    pub fn idle_timeout_in(&self, pool: &WorkerPool) -> i32 {
        let requested = self.spec.idle_timeout_seconds.or(pool.spec.session_defaults.idle_timeout_seconds);
        requested.unwrap_or(DEFAULT_IDLE_TIMEOUT_SECONDS)
    }

    /// The session's longest life in that pool, in seconds: never more than the pool's limit.
    pub fn max_lifetime_in(&self, pool: &WorkerPool) -> i32 {
        let requested = self.spec.max_lifetime_seconds.or(pool.spec.session_defaults.max_lifetime_seconds);
        let requested = requested.unwrap_or(DEFAULT_MAX_LIFETIME_SECONDS);
        pool.spec.limits.max_lifetime_seconds.map_or(requested, |limit| requested.min(limit))
    }

    /// On whose account it runs.
    pub fn tenant(&self) -> &str {
        self.spec.tenant.as_deref().or(self.metadata.namespace.as_deref()).unwrap_or_default()
    }

    /// Namespace of the pool that serves it, else of the one that it names, else its own.
    pub fn pool_namespace(&self) -> &str {
        let named = self.spec.pool_ref.as_ref().and_then(|pool| pool.namespace.as_deref());
        let own = self.metadata.namespace.as_deref().unwrap_or_default();
        match &self.status {
            Some(status) if status.pool.is_some() => status.pool_namespace.as_deref().unwrap_or(own),
            _ => named.unwrap_or(own),
        }
    }

    /// Its state, `Pending` when nobody has looked at it yet.
    pub fn state(&self) -> SessionState {
        self.status.as_ref().map_or(SessionState::Pending, |status| status.state)
    }
}

/// Names a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PoolRef {
    /// Name of a `WorkerPool`.
    #[schemars(length(min = 1, max = 50))]
    pub name: String,
    /// Its namespace, which must have allowed the session's (`allowedNamespaces`). Absent: the session's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// A browser engine.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EngineName {
    /// The anti-detect Firefox, driven by Juggler.
    Camoufox,
    /// Stock Firefox, driven by WebDriver BiDi.
    Firefox,
}

impl EngineName {
    /// Whether a pool of that choice can have it.
    pub fn is_served_by(self, choice: EngineChoice) -> bool {
        match choice {
            // What Auto found is known from the first runner on; until then either may be.
            EngineChoice::Auto => true,
            EngineChoice::Camoufox => self == Self::Camoufox,
            EngineChoice::Firefox => self == Self::Firefox,
        }
    }
}

/// How a browser is shown.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Display {
    /// Without a display.
    #[default]
    Headless,
    /// On a display that nobody sees.
    Headful,
    /// On a display that can be watched.
    LiveView,
}

/// When a start page counts as loaded.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StartUrlWait {
    /// It is not navigated to.
    None,
    /// At the event `DOMContentLoaded`.
    DomContentLoaded,
    /// At the event `load`.
    #[default]
    Load,
}

/// What became of a session.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BrowserSessionStatus {
    /// The generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions in one word, for people. Programs read the conditions.
    #[serde(default)]
    pub state: SessionState,
    /// `Scheduled`, `Ready`, `Finished` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
    /// The pool that serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Namespace of that pool, when it is not the session's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_namespace: Option<String>,
    /// The pod that serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerRef>,
    /// The engine that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineName>,
    /// As the browser reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub browser_version: Option<String>,
    /// Major and minor of the Playwright server: clients must have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playwright_version: Option<String>,
    /// Whether a prewarmed browser was bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_tier: Option<StartTier>,
    /// Where Playwright's `firefox.connect()` goes, with a token that is not part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ws_endpoint: Option<String>,
    /// Where its display can be looked at, when it is a `LiveView`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnc: Option<LiveViewRef>,
    /// When a slot was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_time: Option<MicroTime>,
    /// When clients could connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_time: Option<MicroTime>,
    /// When `maxLifetimeSeconds` ends it at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_time: Option<MicroTime>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_time: Option<MicroTime>,
}

/// Addresses of a live view. They hold no token.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LiveViewRef {
    /// The page, for people: with `#token=` and a token behind it.
    pub url: String,
    /// RFB over a WebSocket, for programs.
    pub ws_endpoint: String,
}

/// The conditions of a session in one word.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// Nobody has looked at it yet.
    #[default]
    Pending,
    /// It waits for a slot.
    Queued,
    /// Its browser is being launched.
    Starting,
    /// Clients may connect.
    Ready,
    /// It is over.
    Finished,
}

impl SessionState {
    /// The same word as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Queued => "Queued",
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::Finished => "Finished",
        }
    }
}

/// Whether a prewarmed browser was bound.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartTier {
    /// A prewarmed browser was bound.
    Hot,
    /// The browser was launched for the session.
    Cold,
}

/// A runner pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RunnerRef {
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Its address as `ip:port`.
    pub address: String,
}
