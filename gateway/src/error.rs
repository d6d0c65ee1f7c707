//! The errors of requests. The client receives a status code and a sentence, as `{"detail": "…"}`. Causes that only
//! the cluster's administrator should see are logged.

use crate::{
    auth::principal::{Action, Denied},
    cache::{session::Key, sessions::SessionEnd},
    metrics::Outcome,
};
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use camofleet_crds::v1alpha1::SessionState;
use http::{
    HeaderValue, StatusCode,
    header::{RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE},
};
use serde::Serialize;
use utoipa::ToSchema;

/// Value of `Retry-After`, in seconds.
const RETRY_AFTER_SECONDS: u16 = 5;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The client is not authenticated, or its credential does not permit the request.
    #[error("{}", denied_message(*.0))]
    Denied(Denied),
    /// A web page sent the request, and no origin is allowed to connect to `/ws`.
    #[error("web pages cannot connect to /ws (the request has an Origin header): connect from a Playwright client")]
    OriginNotAllowed,
    /// A page of another origin sent the request, and the browser added the login cookie.
    #[error("the request comes from a page of another origin: use a page of this host, or send a token")]
    CrossOrigin,
    /// A query parameter or header of `/ws` is invalid.
    #[error("{0}")]
    InvalidClientOption(String),
    /// Another client holds the initial page.
    #[error("{0}")]
    InitialPageHeld(String),
    /// The request is not a WebSocket handshake.
    #[error(
        "this URL accepts only WebSocket connections: use /ws/… with Playwright's firefox.connect(), and /vnc/… with \
         the live view"
    )]
    NotWebSocket,
    /// The body cannot be read: its type, syntax, size or arrival time.
    #[error("{1}")]
    BadBody(StatusCode, String),
    /// The body is valid JSON, but some of its fields are invalid.
    #[error("{} fields of the request are invalid", .0.len())]
    Invalid(Vec<InvalidField>),
    /// The API server denied the gateway's request: RBAC, a quota or an admission policy.
    #[error("the Kubernetes API server denied the request: {0}")]
    Forbidden(String),
    /// The namespace has no pool with this name. The words before the colon are kept from the Python Camo-fleet
    /// (docs/rest.md).
    #[error("Worker not found: there is no pool `{0}` in this namespace")]
    NoPool(String),
    /// No pool can serve the namespace. The words before the colon are kept from the Python Camo-fleet.
    #[error("No workers configured: no pool serves this namespace; create a WorkerPool")]
    NoPools,
    /// The session was created, did not become Ready, and was deleted.
    #[error("the session did not become ready and was deleted: {0}")]
    NotStarted(String),
    /// The session's display is not `LiveView`.
    #[error("the session has no live view: create a session with `display: LiveView`")]
    NoLiveView,
    /// No session has this name, or it is not in the pool that the path names. The words before the colon are kept from
    /// the Python Camo-fleet.
    #[error("Session not found: there is no session {0}")]
    NoSession(Key),
    /// No route matches the path, or it contains an invalid object name.
    #[error("no resource matches this path: see /api/openapi.json for the REST API, or use /ws/<namespace>/<name>")]
    NoSuchResource,
    /// The static tokens were not read yet, so no client can be authenticated.
    #[error("the gateway has not read its static tokens yet: try again")]
    TokensNotSynced,
    /// The session finished or was deleted.
    #[error("{0}")]
    SessionEnded(SessionEnd),
    /// The session did not become Ready while the client waited.
    #[error("the session is not ready: its state is {}", .0.as_str())]
    NotReady(SessionState),
    /// The gateway shuts down.
    #[error("the gateway is shutting down: connect again")]
    Draining,
    /// A request to the API server failed.
    #[error("a request to the Kubernetes API server failed: try again")]
    ApiServer(#[source] Box<kube::Error>),
    /// The API server did not answer within 5 s.
    #[error("the Kubernetes API server did not answer in time: try again")]
    ApiServerTimeout,
    /// The object does not match the gateway's version of the CRD.
    #[error("the gateway cannot parse session {0}: upgrade the gateway to the version of the installed CRDs")]
    UnparsableSession(Key, String),
    /// No connection to the session's runner, or no answer.
    #[error("the session's runner did not answer: try again")]
    RunnerUnreachable(String),
    /// The runner rejected the gateway's token, or does not have the session.
    #[error("the session's runner rejected the gateway's request: {0}")]
    RunnerRejected(String),
}

fn denied_message(denied: Denied) -> String {
    match denied {
        Denied::NoToken => {
            "the request has no token: send `Authorization: Bearer <token>`, or add `?token=<token>` to the URL"
                .to_owned()
        }
        Denied::UnknownToken => "the token is not valid".to_owned(),
        Denied::Expired => "the token has expired: request a new one".to_owned(),
        Denied::AlreadyUsed => "the token allows a single connection and was used before: request a new one".to_owned(),
        Denied::Scope(scopes) => {
            let scopes: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
            format!(
                "the token does not permit this: use a token with the scope {}, or an admin token",
                scopes.join(" or ")
            )
        }
        Denied::OtherSession => "the token is for another session".to_owned(),
        Denied::Action(Action::Read) => {
            "the token does not permit this: use an admin token or a viewer token".to_owned()
        }
        Denied::Action(Action::Manage | Action::Session(_)) => {
            "the token does not permit this: use an admin token".to_owned()
        }
    }
}

impl ApiError {
    /// The HTTP status code.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Denied(Denied::NoToken | Denied::UnknownToken | Denied::Expired | Denied::AlreadyUsed) => {
                StatusCode::UNAUTHORIZED
            }
            Self::Denied(Denied::Scope(_) | Denied::OtherSession | Denied::Action(_))
            | Self::OriginNotAllowed
            | Self::CrossOrigin
            | Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotWebSocket => StatusCode::UPGRADE_REQUIRED,
            Self::NoSession(_) | Self::NoSuchResource | Self::NoPool(_) => StatusCode::NOT_FOUND,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::SessionEnded(_) => StatusCode::GONE,
            Self::NoLiveView | Self::InitialPageHeld(_) => StatusCode::CONFLICT,
            Self::InvalidClientOption(_) => StatusCode::BAD_REQUEST,
            Self::BadBody(status, _) => *status,
            Self::UnparsableSession(..) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotReady(_)
            | Self::NotStarted(_)
            | Self::NoPools
            | Self::TokensNotSynced
            | Self::Draining
            | Self::ApiServer(_)
            | Self::ApiServerTimeout
            | Self::RunnerUnreachable(_)
            | Self::RunnerRejected(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Denied(Denied::NoToken | Denied::UnknownToken | Denied::Expired | Denied::AlreadyUsed) => {
                Outcome::Unauthorized
            }
            Self::Denied(Denied::Scope(_) | Denied::OtherSession | Denied::Action(_))
            | Self::OriginNotAllowed
            | Self::CrossOrigin
            | Self::Forbidden(_) => Outcome::Forbidden,
            Self::NotWebSocket => Outcome::NotWebSocket,
            Self::NoLiveView => Outcome::NoLiveView,
            Self::BadBody(..) | Self::Invalid(_) | Self::InvalidClientOption(_) => Outcome::BadRequest,
            Self::InitialPageHeld(_) => Outcome::InitialPageHeld,
            Self::NoSession(_) | Self::NoSuchResource | Self::NoPool(_) => Outcome::NotFound,
            Self::SessionEnded(_) => Outcome::Gone,
            Self::NotReady(_) | Self::NotStarted(_) | Self::NoPools | Self::TokensNotSynced => Outcome::NotReady,
            Self::Draining => Outcome::Draining,
            Self::ApiServer(_) | Self::ApiServerTimeout | Self::UnparsableSession(..) => Outcome::ApiServer,
            Self::RunnerUnreachable(_) => Outcome::RunnerUnreachable,
            Self::RunnerRejected(_) => Outcome::RunnerRefused,
        }
    }

    fn log_cause(&self) {
        match self {
            Self::ApiServer(error) => tracing::warn!(%error, "request to the API server failed"),
            Self::ApiServerTimeout => tracing::warn!("request to the API server timed out"),
            Self::UnparsableSession(_, error) => tracing::error!(error, "could not parse the session"),
            Self::RunnerUnreachable(error) => tracing::warn!(error, "could not reach the runner"),
            Self::Forbidden(error) => tracing::warn!(error, "API server denied the request"),
            Self::RunnerRejected(error) => tracing::warn!(error, "runner rejected the request"),
            _ => {}
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log_cause();
        let (status, outcome) = (self.status(), self.outcome());
        let mut response = match &self {
            Self::Invalid(fields) => (status, Json(InvalidRequest { detail: fields.clone() })).into_response(),
            _ => (status, Json(Problem { detail: self.to_string() })).into_response(),
        };
        response.extensions_mut().insert(outcome);
        let headers = response.headers_mut();
        match (&self, status) {
            (Self::Denied(Denied::NoToken), _) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="camofleet""#));
            }
            (Self::Denied(Denied::UnknownToken | Denied::Expired | Denied::AlreadyUsed), _) => {
                let challenge = r#"Bearer realm="camofleet", error="invalid_token""#;
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            (_, StatusCode::UPGRADE_REQUIRED) => {
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            }
            (_, StatusCode::SERVICE_UNAVAILABLE) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
            }
            _ => {}
        }
        response
    }
}

/// Body of every error response of the gateway itself, except 422. Errors that the runner reports to a client of `/ws`
/// or `/vnc` (428, or 429 at the session's limit of connections) and those of the listener's limits (429, 431) have
/// other bodies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// What is wrong, where, and what to do.
    pub detail: String,
}

/// Body of a 422 response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InvalidRequest {
    /// The invalid fields of the request.
    pub detail: Vec<InvalidField>,
}

/// An invalid field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InvalidField {
    /// Path of the field: `body`, then field names and list indices.
    pub loc: Vec<String>,
    /// What is wrong with the field.
    pub msg: String,
    /// The rule that the field violates: a JSON Schema keyword, or a reason of the Kubernetes API server.
    #[serde(rename = "type")]
    pub type_: String,
}
