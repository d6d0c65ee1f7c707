use super::{
    browser::{Display, Engine},
    pool::WorkerPool,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A `BrowserSession` requests a browser for one tenant. Apply it, wait for the condition `Ready`, and connect
/// Playwright to `status.wsEndpoint`.
///
/// After creation, only `idleTimeoutSeconds` and `maxLifetimeSeconds` can be changed.
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
    printcolumn(name = "Pool", type_ = "string", json_path = ".status.pool", description = "Pool that serves the session"),
    printcolumn(name = "Engine", type_ = "string", json_path = ".status.engine", description = "Engine of the browser"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = 1, description = "Reason of the Ready condition"),
    printcolumn(name = "Runner", type_ = "string", json_path = ".status.runner.name", priority = 1, description = "Runner pod that serves the session"),
    printcolumn(name = "Tier", type_ = "string", json_path = ".status.startTier", priority = 1, description = "Hot if the browser was prewarmed, Cold if it was launched for the session"),
    printcolumn(name = "WsEndpoint", type_ = "string", json_path = ".status.wsEndpoint", priority = 1, description = "URL for Playwright, which also needs a token"),
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
    validation = Rule::new("self.spec.reconnectGraceSeconds == oldSelf.spec.reconnectGraceSeconds")
        .message("reconnectGraceSeconds cannot be changed: create another session").field_path(".spec.reconnectGraceSeconds"),
    validation = Rule::new("has(self.spec.startUrl) == has(oldSelf.spec.startUrl) && (!has(self.spec.startUrl) || self.spec.startUrl == oldSelf.spec.startUrl)")
        .message("startUrl cannot be changed: navigate with your client, or create another session").field_path(".spec.startUrl"),
    validation = Rule::new("self.spec.startUrlWait == oldSelf.spec.startUrlWait")
        .message("startUrlWait cannot be changed: create another session").field_path(".spec.startUrlWait")
)]
#[serde(rename_all = "camelCase")]
pub struct BrowserSessionSpec {
    /// Pool that serves the session. If unset, the operator selects one from the pools of the session's namespace and
    /// those of the operator's namespace that allow it: a pool with a prewarmed browser of the right kind, then the one
    /// with most free slots, then the first by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_ref: Option<PoolRef>,
    /// Browser engine that the session requires: Camoufox, the anti-detect build of Firefox, or the stock Firefox.
    /// Defaults to the engine of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Display of the browser: none (Headless), one that cannot be viewed (Headful), or one that can be viewed and
    /// controlled (LiveView). Defaults to the pool's `sessionDefaults.display`, and then to Headless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<Display>,
    /// Seconds without client activity after which the session ends. Pings and the activity of pages do not count.
    /// Defaults to the pool's `sessionDefaults.idleTimeoutSeconds`, and then to 300. Can be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 86400))]
    pub idle_timeout_seconds: Option<i32>,
    /// Seconds after which the session ends regardless of activity. Defaults to the pool's
    /// `sessionDefaults.maxLifetimeSeconds`, and then to 14400 (4 hours), but never more than the pool's
    /// `limits.maxLifetimeSeconds`. Can be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 604_800))]
    pub max_lifetime_seconds: Option<i32>,
    /// Priority in the queue. Sessions with a higher priority are served first. The pool's `limits.maxPriority`, 0 by
    /// default, is the maximum. Defaults to 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,
    /// Tenant that the session counts for. Tenants share a pool by their weights. Defaults to the session's namespace.
    /// Any other tenant must be listed in the pool's `limits.allowedTenants`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub tenant: Option<String>,
    /// Seconds that the session waits for a slot before it finishes with the reason `QueueTimeout`. With 0 it finishes
    /// at once unless a slot is free. Defaults to 300.
    #[serde(default = "default_queue_timeout")]
    #[schemars(range(min = 0, max = 86400))]
    pub queue_timeout_seconds: i32,
    /// Seconds after which a finished session is deleted. Defaults to 300.
    #[serde(default = "default_ttl")]
    #[schemars(range(min = 0, max = 604_800))]
    pub ttl_seconds_after_finished: i32,
    /// Seconds for which the session keeps the contexts of a client whose connection was lost, so that the client can
    /// reconnect to them. Applies to clients with a name (`?client=NAME`). With 0 they are closed at once. Defaults to
    /// 60.
    #[serde(default = "default_reconnect_grace")]
    #[schemars(range(min = 0, max = 3600))]
    pub reconnect_grace_seconds: i32,
    /// URL of the initial page: an http, https or data URL, or about:blank. The first client, and later clients that
    /// ask for the page (`?page=open`), find it as `contexts()[0].pages()[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self == 'about:blank' || self.matches('^(?i)(https?://[^/?#]|data:)')")
        .message("startUrl must be an http://, https:// or data: URL, or about:blank; write the scheme out, as in https://example.org"))]
    pub start_url: Option<String>,
    /// Event after which the initial page counts as loaded: `DOMContentLoaded` (DomContentLoaded) or `load` (Load).
    /// With None the browser does not navigate to the page. Loading the page never delays the condition `Ready`.
    /// Defaults to Load.
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
            reconnect_grace_seconds: DEFAULT_RECONNECT_GRACE_SECONDS,
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

fn default_reconnect_grace() -> i32 {
    DEFAULT_RECONNECT_GRACE_SECONDS
}

/// `reconnectGraceSeconds` if the session does not set it.
pub const DEFAULT_RECONNECT_GRACE_SECONDS: i32 = 60;
/// `idleTimeoutSeconds` if neither the session nor its pool sets it.
pub const DEFAULT_IDLE_TIMEOUT_SECONDS: i32 = 300;
/// `maxLifetimeSeconds` if neither the session nor its pool sets it.
pub const DEFAULT_MAX_LIFETIME_SECONDS: i32 = 14_400;

impl BrowserSession {
    /// Display of the session if `pool` serves it.
    pub fn display_for(&self, pool: &WorkerPool) -> Display {
        self.spec.display.or(pool.spec.session_defaults.display).unwrap_or_default()
    }

    /// Idle timeout of the session if `pool` serves it, in seconds.
    pub fn idle_timeout_for(&self, pool: &WorkerPool) -> i32 {
        let requested = self.spec.idle_timeout_seconds.or(pool.spec.session_defaults.idle_timeout_seconds);
        requested.unwrap_or(DEFAULT_IDLE_TIMEOUT_SECONDS)
    }

    /// Maximum lifetime of the session if `pool` serves it, in seconds. Never exceeds the pool's limit.
    pub fn max_lifetime_for(&self, pool: &WorkerPool) -> i32 {
        let requested = self.spec.max_lifetime_seconds.or(pool.spec.session_defaults.max_lifetime_seconds);
        let requested = requested.unwrap_or(DEFAULT_MAX_LIFETIME_SECONDS);
        pool.spec.limits.max_lifetime_seconds.map_or(requested, |limit| requested.min(limit))
    }

    /// Tenant that the session counts for.
    pub fn tenant(&self) -> &str {
        self.spec.tenant.as_deref().or(self.metadata.namespace.as_deref()).unwrap_or_default()
    }

    /// Namespace of the pool that serves the session, else of the pool in `poolRef`, else of the session.
    pub fn pool_namespace(&self) -> &str {
        let named = self.spec.pool_ref.as_ref().and_then(|pool| pool.namespace.as_deref());
        let own = self.metadata.namespace.as_deref().unwrap_or_default();
        match &self.status {
            Some(status) if status.pool.is_some() => status.pool_namespace.as_deref().unwrap_or(own),
            _ => named.unwrap_or(own),
        }
    }

    /// The published state, or `Pending` before the first status.
    pub fn state(&self) -> SessionState {
        self.status.as_ref().map_or(SessionState::Pending, |status| status.state)
    }
}

/// Reference to a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PoolRef {
    /// Name of the `WorkerPool`.
    #[schemars(length(min = 1, max = 50))]
    pub name: String,
    /// Namespace of the `WorkerPool`, whose `allowedNamespaces` must include the session's namespace. Defaults to the
    /// session's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// Event after which the initial page counts as loaded.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StartUrlWait {
    /// The browser does not navigate to the page.
    None,
    /// The event `DOMContentLoaded`.
    DomContentLoaded,
    /// The event `load`.
    #[default]
    Load,
}

/// Observed state of a session.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BrowserSessionStatus {
    /// Generation of the spec that this status reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Summary of the conditions in one word, for display. Programs should read the conditions.
    #[serde(default)]
    pub state: SessionState,
    /// Conditions of types `Scheduled`, `Ready`, `Finished` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
    /// Name of the pool that serves the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Namespace of the pool, if it differs from the session's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_namespace: Option<String>,
    /// Runner pod that serves the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerRef>,
    /// Engine of the browser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Version that the browser reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub browser_version: Option<String>,
    /// Major and minor version of the Playwright server. Clients need the same version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playwright_version: Option<String>,
    /// Hot if the browser was prewarmed, Cold if it was launched for the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_tier: Option<StartTier>,
    /// URL for Playwright's `firefox.connect()`. Clients add their token, which the URL does not contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ws_endpoint: Option<String>,
    /// URLs of the live view. Set if the display is LiveView.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnc: Option<LiveViewUrls>,
    /// Time at which the session got a slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_time: Option<MicroTime>,
    /// Time at which clients could first connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_time: Option<MicroTime>,
    /// Time at which `maxLifetimeSeconds` ends the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_time: Option<MicroTime>,
    /// Time at which the session finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_time: Option<MicroTime>,
}

/// URLs of a live view. They do not contain a token.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LiveViewUrls {
    /// Page for people. Append `#token=` and a token.
    pub url: String,
    /// WebSocket for programs, which carries RFB.
    pub ws_endpoint: String,
}

/// Summary of a session's conditions in one word.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// The operator has not processed the session yet.
    #[default]
    Pending,
    /// The session waits for a slot.
    Queued,
    /// The browser is being launched.
    Starting,
    /// Clients can connect.
    Ready,
    /// The session has ended, or was rejected.
    Finished,
}

impl SessionState {
    /// The serialized name.
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

/// How a session got its browser.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Without a description here, optional fields of this type keep their own (kube-core's `OptionalEnum` would replace
// it).
#[schemars(description = "")]
pub enum StartTier {
    /// The browser was prewarmed.
    Hot,
    /// The browser was launched for the session.
    Cold,
}

/// Reference to a runner pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RunnerRef {
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Address of the runner's API as `ip:port`.
    pub address: String,
}
