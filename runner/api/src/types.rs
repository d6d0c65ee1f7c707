//! Request and response types of the runner's HTTP API. All of them are JSON with camelCase fields.

use camofleet_crds::v1alpha1::{DEFAULT_RECONNECT_GRACE_SECONDS, Display, Engine, StartTier, StartUrlWait};
use serde::{Deserialize, Serialize};

/// The complete state of a runner: the response of `GET /v1/sessions`, and each line of `GET /v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunnerState {
    /// Identifies one run of the runner process. A new boot id in the same pod means that every earlier session is
    /// lost.
    pub boot_id: String,
    /// Increases with every change of this document. Comparable only within one boot id.
    pub generation: u64,
    /// The engine of the runner's browsers, once known.
    pub engine: Option<Engine>,
    /// Version that the browser reports (`153.7.0`); absent until the first launch succeeds.
    pub browser_version: Option<String>,
    /// Major and minor version of the Playwright server (`1.62`).
    pub playwright_version: String,
    /// True from SIGTERM on. A draining runner accepts no new session.
    pub draining: bool,
    /// Maximum number of concurrent sessions.
    pub slots: u32,
    /// Number of new sessions that the runner would accept now: its free slots, capped by what remains of its total.
    pub free: u32,
    /// True once the runner has accepted its total number of sessions. Stays true until the process exits.
    pub spent: bool,
    /// Prewarmed browsers that can be bound now.
    pub hot: BrowserCounts,
    /// Whether the smoke test has passed, if one is configured, and no prewarmed browser is missing. Each kind needs as
    /// many as are configured, and together at most as many as slots are `free`, so an occupied or spent runner is warm
    /// without any.
    pub warm: bool,
    /// Cause of the latest failed launch; absent once a launch has succeeded again.
    pub launch_error: Option<String>,
    /// Live sessions, and ended ones that the operator has not acknowledged.
    pub sessions: Vec<Session>,
}

impl RunnerState {
    /// Maximum number of sessions that a runner with that number of slots lists: one per slot, and as many ended ones
    /// that the operator has not acknowledged, plus 16. The operator binds no session to a runner that would exceed it,
    /// and rejects a state with a longer list.
    pub const fn max_sessions(slots: u32) -> usize {
        2 * slots as usize + 16
    }

    /// Maximum size of this document for a runner with that number of slots, in bytes of JSON: the runner's own
    /// fields, and for each session its fields and the last output of its browser.
    pub const fn max_bytes(slots: u32) -> usize {
        (32 << 10) + (8 << 10) * Self::max_sessions(slots)
    }

    /// Returns the session with that UID.
    pub fn session(&self, uid: &str) -> Option<&Session> {
        self.sessions.iter().find(|session| session.uid == uid)
    }
}

/// A number of prewarmed browsers of each kind: that are ready, or that are configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowserCounts {
    /// Browsers without a display.
    pub headless: u32,
    /// Browsers on a display, for `Headful` and `LiveView` sessions.
    pub headful: u32,
}

impl BrowserCounts {
    /// Returns how many of them can serve a session with this display.
    pub fn of(self, display: Display) -> u32 {
        match display {
            Display::Headless => self.headless,
            Display::Headful | Display::LiveView => self.headful,
        }
    }
}

/// A session as its runner reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// UID of the `BrowserSession`.
    pub uid: String,
    /// Namespace of the `BrowserSession`. Informational: the UID identifies the session.
    pub namespace: String,
    /// Name of the `BrowserSession`. Informational: the UID identifies the session.
    pub name: String,
    /// Phase of the session on this runner.
    pub phase: SessionPhase,
    /// Display of the session's browser.
    pub display: Display,
    /// Whether the session got a prewarmed browser.
    pub tier: StartTier,
    /// Progress of the start page.
    pub start_page: StartPage,
    /// Number of clients connected to the session's Playwright server.
    pub clients: u32,
    /// Reason and details of the end; present exactly when `phase` is `Ending` or `Ended`.
    pub end: Option<End>,
}

/// Response of `GET /v1/sessions/{uid}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionReport {
    /// The session as in [`RunnerState::sessions`].
    #[serde(flatten)]
    pub session: Session,
    /// Milliseconds since the last client activity; absent unless the session is `Ready`. [`RunnerState`] omits it,
    /// because it would otherwise change all the time.
    pub idle_milliseconds: Option<u64>,
}

/// Phase of a session on its runner. Phases only move forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SessionPhase {
    /// Its browser is being launched.
    Starting,
    /// Clients can connect.
    Ready,
    /// The session is being torn down and still occupies its slot.
    Ending,
    /// Everything but this entry has been removed. The entry remains until the operator acknowledges it.
    Ended,
}

/// Progress of the start page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all_fields = "camelCase")]
pub enum StartPage {
    /// The session has no start page, or `startUrlWait` is `None`, so the runner does not open it.
    #[default]
    None,
    /// The browser is loading the page.
    Loading,
    /// The page has reached the state that `startUrlWait` names.
    Loaded,
    /// The browser could not load the page.
    Failed {
        /// The browser's error.
        message: String,
    },
}

/// Reason and details of a session's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Machine-readable reason.
    pub reason: EndReason,
    /// Human-readable details: exit code, signal, the last lines of the browser's output.
    pub message: String,
}

/// Why a session ended, as its runner observed it. Each value except `Deleted` is also a reason of the condition
/// `Finished`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EndReason {
    /// The operator deleted the session. The operator publishes it as `RunnerLost` if its present leader did not make
    /// the call, because a former leader can have made it.
    Deleted,
    /// No activity for `idleTimeoutSeconds`.
    IdleTimeout,
    /// `maxLifetimeSeconds` passed.
    LifetimeExceeded,
    /// The browser could not be launched.
    LaunchFailed,
    /// The browser, its display or its Playwright server exited unexpectedly.
    BrowserCrashed,
    /// The runner was draining, and the drain deadline passed.
    RunnerDrained,
}

impl EndReason {
    /// Returns the name that JSON uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "Deleted",
            Self::IdleTimeout => "IdleTimeout",
            Self::LifetimeExceeded => "LifetimeExceeded",
            Self::LaunchFailed => "LaunchFailed",
            Self::BrowserCrashed => "BrowserCrashed",
            Self::RunnerDrained => "RunnerDrained",
        }
    }
}

/// Body of `PUT /v1/sessions/{uid}`: the session's spec with all defaults applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BindRequest {
    /// Namespace of the `BrowserSession`.
    pub namespace: String,
    /// Name of the `BrowserSession`.
    pub name: String,
    /// Display of the session's browser.
    pub display: Display,
    /// Seconds without activity after which the session ends; at least 1. A repeated `PUT` changes it.
    pub idle_timeout_seconds: u32,
    /// Seconds from the first `PUT` after which the session ends in any case; at least 1. A repeated `PUT` changes it.
    pub max_lifetime_seconds: u32,
    /// Page that the browser opens once the session is ready.
    pub start_url: Option<String>,
    /// State at which the start page counts as loaded.
    pub start_url_wait: StartUrlWait,
    /// Seconds for which the contexts of a lost client with a name are kept. The default is not sent, because runners
    /// of the previous version reject unknown fields.
    #[serde(default = "default_reconnect_grace", skip_serializing_if = "is_default_reconnect_grace")]
    pub reconnect_grace_seconds: u32,
}

fn default_reconnect_grace() -> u32 {
    DEFAULT_RECONNECT_GRACE_SECONDS.unsigned_abs()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_reconnect_grace(seconds: &u32) -> bool {
    *seconds == default_reconnect_grace()
}

/// What a Playwright client asks for beyond the contexts that it creates: the query parameters of
/// `GET /v1/sessions/{uid}/playwright`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientOptions {
    /// Whether the client is shown the initial page. If absent, only the first client of a session whose start page is
    /// opened is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<InitialPage>,
    /// Name by which the client gets its contexts back after its connection was lost. If absent, they are closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientName>,
}

/// Whether a client is shown the initial page of the default context, which one client holds at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitialPage {
    /// As it is.
    Open,
    /// Not at all.
    None,
    /// Empty, with cleared cookies and storage.
    New,
}

impl InitialPage {
    /// Returns the value in queries and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::None => "none",
            Self::New => "new",
        }
    }
}

/// Name of a client: 1 to 63 ASCII letters, digits, `.`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientName(String);

impl ClientName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ClientName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if (1..=63).contains(&name.len()) && name.bytes().all(is_valid) {
            Ok(Self(name))
        } else {
            Err("a client's name has 1 to 63 letters, digits, dots, underscores and hyphens")
        }
    }
}

impl From<ClientName> for String {
    fn from(name: ClientName) -> Self {
        name.0
    }
}

/// Response of `PUT /v1/sessions/{uid}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindResponse {
    /// Boot id of the responding runner process ([`RunnerState::boot_id`]).
    pub boot_id: String,
    /// Generation of a [`RunnerState`] that lists the session; after the first `PUT`, the first generation that does.
    pub generation: u64,
    /// Engine of the session's browser.
    pub engine: Engine,
    /// Version that the browser reports; absent until the runner's first launch succeeds.
    pub browser_version: Option<String>,
    /// Major and minor version of the Playwright server.
    pub playwright_version: String,
    /// The session's state after the call.
    pub session: Session,
}

/// Body of every response with a status of 400 or above, except errors that the runner forwards from the session's
/// Playwright server as plain text, such as 428.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorResponse {
    /// Machine-readable reason.
    pub reason: ErrorReason,
    /// Human-readable message: what is wrong, where, and what to do.
    pub message: String,
}

/// Why a runner rejected a call. It determines the status code ([`ErrorReason::status`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorReason {
    /// All slots are occupied, or the runner has served its total number of sessions.
    NoFreeSlot,
    /// The runner is draining and accepts no new session.
    Draining,
    /// The session's phase does not allow the call.
    WrongPhase,
    /// The runner has no session with that UID.
    UnknownSession,
    /// The path, the body or a header is invalid.
    Invalid,
    /// The token is missing, or not valid for this runner.
    Unauthorized,
    /// The token is valid but does not permit this call.
    Forbidden,
    /// The user's token permits a single connection and has been used.
    TokenUsed,
    /// A leader with a higher epoch has already called this runner.
    StaleEpoch,
    /// The session has reached its limit of Playwright clients and live-view clients.
    TooManyConnections,
    /// Another client holds the initial page.
    InitialPageHeld,
}

impl ErrorReason {
    /// Returns the HTTP status code.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorized | Self::TokenUsed => 401,
            Self::Forbidden | Self::StaleEpoch => 403,
            Self::UnknownSession => 404,
            Self::NoFreeSlot | Self::Draining | Self::WrongPhase | Self::InitialPageHeld => 409,
            Self::TooManyConnections => 429,
        }
    }
}
