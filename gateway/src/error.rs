//! The errors of requests: each has a status code and a sentence for the client, sent as `{"detail": "…"}`. Causes
//! that only the administrator of the cluster may see are logged.

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

/// Seconds after which another attempt makes sense.
const RETRY_AFTER_SECONDS: u16 = 5;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Who asks is not known, or may not do this.
    #[error("{}", denied_message(*.0))]
    Denied(Denied),
    /// A page of a browser asks. Nobody has said yet which pages may.
    #[error("pages may not connect here (the request has an Origin header): connect from a program")]
    FromBrowserPage,
    /// A page of another host asks, and a browser added the cookie by itself.
    #[error(
        "this was asked by a page of another host (its Origin is not this host): use this host's own pages, or a token"
    )]
    CrossOrigin,
    /// The request is no WebSocket handshake.
    #[error(
        "this address takes WebSocket connections only: /ws/… is for Playwright's firefox.connect(), /vnc/… for the live view"
    )]
    NotWebSocket,
    /// What was sent is not what this call takes.
    #[error("{1}")]
    BadBody(StatusCode, String),
    /// What was sent can be read, and fields of it are wrong.
    #[error("{} of the request are wrong", .0.len())]
    Invalid(Vec<InvalidField>),
    /// The cluster does not let the gateway do this.
    #[error("the cluster does not allow it: {0}")]
    Forbidden(String),
    /// There is no pool of that name.
    #[error("Worker not found: there is no pool `{0}`")]
    NoPool(String),
    /// There is no pool at all.
    #[error("No workers configured: there is no pool in this namespace; make a WorkerPool")]
    NoPools,
    /// A session that was asked for did not become Ready, and is ended.
    #[error("the session did not become ready, and is ended: {0}")]
    NotStarted(String),
    /// The session has no display that can be looked at.
    #[error("the session has no live view: make one with `display: LiveView`")]
    NoLiveView,
    /// There is no session of that name.
    #[error("Session not found: there is no session {0}")]
    NoSession(Key),
    /// Nothing can have that name.
    #[error("there is nothing here that can have this name: see /api/openapi.json, or /ws/<namespace>/<name>")]
    NoSuchResource,
    /// Nothing is known yet of who may do what.
    #[error("this gateway has not read its tokens yet")]
    TokensNotSynced,
    /// The session is over.
    #[error("{0}")]
    SessionEnded(SessionEnd),
    /// It did not become Ready while the client waited.
    #[error("the session is not ready: it is {}", .0.as_str())]
    NotReady(SessionState),
    /// The gateway is told to go.
    #[error("this gateway is going away: connect again")]
    Draining,
    /// The API server cannot be asked whether the session exists.
    #[error("the cluster's API server cannot be asked now")]
    ApiServer(#[source] Box<kube::Error>),
    /// The API server does not answer.
    #[error("the cluster's API server does not answer now")]
    ApiServerTimeout,
    /// The object is not as its CRD says.
    #[error("this gateway cannot read session {0}: is it older than the custom resources?")]
    Unreadable(Key, String),
    /// The session's runner does not answer.
    #[error("the session's runner does not answer")]
    RunnerUnreachable(String),
    /// The runner does not take the gateway's token, or does not know the session.
    #[error("the session's runner refused the gateway: {0}")]
    RunnerRefused(String),
}

fn denied_message(denied: Denied) -> String {
    match denied {
        Denied::NoToken => {
            "no token: send `Authorization: Bearer <token>`, or add `?token=<token>` to the URL".to_owned()
        }
        Denied::UnknownToken => "the token is not valid".to_owned(),
        Denied::Expired => "the token has expired: ask for a new one".to_owned(),
        Denied::AlreadyUsed => {
            "the token was good for one connection, and was used before: ask for a new one".to_owned()
        }
        Denied::Scope(scopes) => {
            let scopes: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
            format!("the token may not do this: it takes one with the scope {}, or an admin's", scopes.join(" or "))
        }
        Denied::OtherSession => "the token is for another session".to_owned(),
        Denied::Action(Action::Read) => "the token may not do this: it takes an admin's or a viewer's".to_owned(),
        Denied::Action(Action::Manage | Action::Session(_)) => {
            "the token may not do this: it takes an admin's".to_owned()
        }
    }
}

impl ApiError {
    /// The status code.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Denied(Denied::NoToken | Denied::UnknownToken | Denied::Expired | Denied::AlreadyUsed) => {
                StatusCode::UNAUTHORIZED
            }
            Self::Denied(Denied::Scope(_) | Denied::OtherSession | Denied::Action(_))
            | Self::FromBrowserPage
            | Self::CrossOrigin
            | Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotWebSocket => StatusCode::UPGRADE_REQUIRED,
            Self::NoSession(_) | Self::NoSuchResource | Self::NoPool(_) => StatusCode::NOT_FOUND,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::SessionEnded(_) => StatusCode::GONE,
            Self::NoLiveView => StatusCode::CONFLICT,
            Self::BadBody(status, _) => *status,
            Self::Unreadable(..) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotReady(_)
            | Self::NotStarted(_)
            | Self::NoPools
            | Self::TokensNotSynced
            | Self::Draining
            | Self::ApiServer(_)
            | Self::ApiServerTimeout
            | Self::RunnerUnreachable(_)
            | Self::RunnerRefused(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Denied(Denied::NoToken | Denied::UnknownToken | Denied::Expired | Denied::AlreadyUsed) => {
                Outcome::Unauthorized
            }
            Self::Denied(Denied::Scope(_) | Denied::OtherSession | Denied::Action(_))
            | Self::FromBrowserPage
            | Self::CrossOrigin
            | Self::Forbidden(_) => Outcome::Forbidden,
            Self::NotWebSocket => Outcome::NotWebSocket,
            Self::NoLiveView => Outcome::NoLiveView,
            Self::BadBody(..) | Self::Invalid(_) => Outcome::BadRequest,
            Self::NoSession(_) | Self::NoSuchResource | Self::NoPool(_) => Outcome::NotFound,
            Self::SessionEnded(_) => Outcome::Gone,
            Self::NotReady(_) | Self::NotStarted(_) | Self::NoPools | Self::TokensNotSynced => Outcome::NotReady,
            Self::Draining => Outcome::Draining,
            Self::ApiServer(_) | Self::ApiServerTimeout | Self::Unreadable(..) => Outcome::ApiServer,
            Self::RunnerUnreachable(_) => Outcome::RunnerUnreachable,
            Self::RunnerRefused(_) => Outcome::RunnerRefused,
        }
    }

    fn log_cause(&self) {
        match self {
            Self::ApiServer(error) => tracing::warn!(%error, "could not reach the API server"),
            Self::ApiServerTimeout => tracing::warn!("timed out waiting for the API server"),
            Self::Unreadable(_, error) => tracing::error!(error, "could not read the session"),
            Self::RunnerUnreachable(error) => tracing::warn!(error, "could not reach the runner"),
            Self::Forbidden(error) => tracing::warn!(error, "the API server refused the gateway"),
            Self::RunnerRefused(error) => tracing::warn!(error, "the runner refused the gateway"),
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

/// Body of every answer of 400 and above but 422.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// What was wrong, where, and what to do.
    pub detail: String,
}

/// Body of a 422: what of the request is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InvalidRequest {
    /// One for each field that is wrong.
    pub detail: Vec<InvalidField>,
}

/// A field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InvalidField {
    /// Where it is: `body`, then the names of fields and the numbers of items down to it.
    pub loc: Vec<String>,
    /// What is wrong with it.
    pub msg: String,
    /// The rule that it breaks.
    #[serde(rename = "type")]
    pub type_: String,
}
