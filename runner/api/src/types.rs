//! The documents of the runner's HTTP API. All of them are JSON, in camelCase.

use camofleet_crds::v1alpha1::{Display, EngineName, StartUrlWait};
use serde::{Deserialize, Serialize};

/// Everything that a runner knows of itself: the answer of `GET /v1/sessions`, and each line of `GET /v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunnerState {
    /// One run of one runner process. Another boot id in the same pod means that every session of the former is lost.
    pub boot_id: String,
    /// Grows with every change of this document, within one boot id.
    pub generation: u64,
    /// The engine whose browsers run here, once known.
    pub engine: Option<EngineName>,
    /// As the browser reports it (`153.7.0`), once one was launched.
    pub browser_version: Option<String>,
    /// Major and minor of the Playwright server (`1.62`).
    pub playwright_version: String,
    /// True from SIGTERM on: no session is taken any more.
    pub draining: bool,
    /// How many sessions there is room for at once.
    pub slots: u32,
    /// How many sessions a `PUT` would be granted now: free slots, within what is left of the runner's total.
    pub free: u32,
    /// True when this runner will never take a session again, because it served as many as it may.
    pub spent: bool,
    /// Prewarmed browsers that can be bound now.
    pub hot: Hot,
    /// True once the prewarmed browsers that were asked for are there (or none were asked for).
    pub warm: bool,
    /// Why the latest launch failed; absent once one succeeded again.
    pub launch_error: Option<String>,
    /// The sessions that run here, and the ended ones that the operator has not acknowledged.
    pub sessions: Vec<Session>,
}

impl RunnerState {
    /// The most sessions that a runner of that many slots lists: one in each slot, and ended ones that wait for the operator's
    /// acknowledgement. The operator gives a runner no more than that, so a longer list is not an honest one.
    pub const fn max_sessions(slots: u32) -> usize {
        2 * slots as usize + 16
    }

    /// The largest document of a runner of that many slots, in bytes of JSON: its own fields, and the last output of a browser
    /// with each session.
    pub const fn max_bytes(slots: u32) -> usize {
        (32 << 10) + (8 << 10) * Self::max_sessions(slots)
    }

    /// The session of that UID, if it is listed.
    pub fn session(&self, uid: &str) -> Option<&Session> {
        self.sessions.iter().find(|session| session.uid == uid)
    }
}

/// Prewarmed browsers by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hot {
    /// Browsers without a display.
    pub headless: u32,
    /// Browsers on a display; they serve `Headful` and `LiveView`.
    pub headful: u32,
}

impl Hot {
    /// How many of them serve sessions of this display.
    pub fn of(self, display: Display) -> u32 {
        match display {
            Display::Headless => self.headless,
            Display::Headful | Display::LiveView => self.headful,
        }
    }
}

/// One session as its runner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// UID of the `BrowserSession`.
    pub uid: String,
    /// Namespace of the `BrowserSession`, for people who read logs.
    pub namespace: String,
    /// Name of the `BrowserSession`, for people who read logs.
    pub name: String,
    /// Where it stands.
    pub phase: SessionPhase,
    /// How its browser is shown.
    pub display: Display,
    /// Whether a prewarmed browser was bound.
    pub tier: Tier,
    /// The start page, as far as it was opened.
    pub start_page: StartPage,
    /// Clients connected to its Playwright server now.
    pub clients: u32,
    /// Why and how it ended; present exactly when `phase` is `Ending` or `Ended`.
    pub end: Option<End>,
}

/// Answer of `GET /v1/sessions/{uid}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionReport {
    /// The session, as it is listed.
    #[serde(flatten)]
    pub session: Session,
    /// How long ago somebody did something in it, in milliseconds; absent while its idle time does not run. It is not part
    /// of the list, or that would change all the time.
    pub idle_milliseconds: Option<u64>,
}

/// Where a session stands. It only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SessionPhase {
    /// Its browser is being launched.
    Starting,
    /// Clients may connect.
    Ready,
    /// It is being taken down and still holds its slot.
    Ending,
    /// Nothing of it is left but this entry, until the operator acknowledges it.
    Ended,
}

/// Whether a prewarmed browser was bound or one was launched for the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// A prewarmed browser was bound.
    Hot,
    /// The browser was launched for the session.
    Cold,
}

/// What became of the start page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all_fields = "camelCase")]
pub enum StartPage {
    /// None was asked for, or it is not to be navigated.
    #[default]
    None,
    /// It is being opened.
    Loading,
    /// It reached what `startUrlWait` names.
    Loaded,
    /// It could not be opened.
    Failed {
        /// The browser's words.
        message: String,
    },
}

/// Why and how a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// For programs.
    pub reason: EndReason,
    /// For people: exit code, signal, the last lines of what the browser said.
    pub message: String,
}

/// Why a session ended, as far as a runner can know it. Each is also a reason of the condition `Finished`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EndReason {
    /// The operator asked for it.
    Deleted,
    /// No activity for `idleTimeoutSeconds`.
    IdleTimeout,
    /// `maxLifetimeSeconds` passed.
    LifetimeExceeded,
    /// The browser could not be launched.
    LaunchFailed,
    /// The browser, its display or its Playwright server ended by itself.
    BrowserCrashed,
    /// The runner was told to go and the drain deadline passed.
    RunnerDrained,
}

impl EndReason {
    /// The same word as in JSON.
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

/// Body of `PUT /v1/sessions/{uid}`: what the session asks for, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BindRequest {
    /// Namespace of the `BrowserSession`.
    pub namespace: String,
    /// Name of the `BrowserSession`.
    pub name: String,
    /// How the browser is shown.
    pub display: Display,
    /// Seconds without activity after which the session ends. A repeated `PUT` changes it.
    pub idle_timeout_seconds: u32,
    /// Seconds after which the session ends whatever happens, counted from the first `PUT`. A repeated `PUT` changes it.
    pub max_lifetime_seconds: u32,
    /// Page to open.
    pub start_url: Option<String>,
    /// When the start page counts as loaded.
    pub start_url_wait: StartUrlWait,
}

/// Answer of `PUT /v1/sessions/{uid}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindAnswer {
    /// Run of the runner process that answered.
    pub boot_id: String,
    /// Generation of a [`RunnerState`] that lists the session: after the first `PUT` the first that does.
    pub generation: u64,
    /// The engine whose browser serves the session.
    pub engine: EngineName,
    /// As the browser reports it; absent while a cold browser is launched.
    pub browser_version: Option<String>,
    /// Major and minor of the Playwright server.
    pub playwright_version: String,
    /// The session.
    pub session: Session,
}

/// Body of every answer of 400 and above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorResponse {
    /// For programs.
    pub reason: ErrorReason,
    /// For people: what was wrong, where, and what to do.
    pub message: String,
}

/// Why a runner refused a call. The status code follows from it ([`ErrorReason::status`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorReason {
    /// Every slot is taken, or the runner served as many sessions as it may.
    NoFreeSlot,
    /// The runner was told to go.
    Draining,
    /// The session is not in a state in which this can be asked.
    WrongPhase,
    /// No such session here.
    UnknownSession,
    /// The body or a header is not what this call takes.
    Invalid,
    /// No token, or one that is not valid here.
    Unauthorized,
    /// The token is valid, but not for this call.
    Forbidden,
    /// The user's token is good for one connection, and was used before.
    TokenUsed,
    /// A leader of a higher epoch has called before.
    StaleEpoch,
    /// The session has as many clients and viewers as it may.
    TooManyConnections,
}

impl ErrorReason {
    /// The HTTP status that carries it.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorized | Self::TokenUsed => 401,
            Self::Forbidden | Self::StaleEpoch => 403,
            Self::UnknownSession => 404,
            Self::NoFreeSlot | Self::Draining | Self::WrongPhase => 409,
            Self::TooManyConnections => 429,
        }
    }
}
