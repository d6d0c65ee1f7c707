//! What handlers take from requests. A handler gets its session's UID only from one of these extractors, each of which has checked
//! the token: none can forget to.

use crate::{
    core::Term,
    http::{
        error::{ApiError, forbidden},
        state::AppState,
    },
};
use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use camofleet_auth::token::{Caller, Scope};
use camofleet_runner_api::{ErrorReason, ErrorResponse};

const OPERATORS_CALL: &str = "this call is the operator's";

/// The operator, about no session.
pub(crate) struct Operator;

/// Anybody with a token.
pub(crate) struct AnyCaller;

/// The operator in this term, about the session with this UID.
pub(crate) struct OperatorOnSession(pub(crate) String, pub(crate) Term);

/// The operator or the gateway, about the session with this UID.
pub(crate) struct AnyCallerOnSession(pub(crate) String);

/// The gateway, for a connection to the session with this UID in this scope.
pub(crate) struct GatewayOnSession {
    pub(crate) uid: String,
    pub(crate) scope: Scope,
    /// Id of the user's token, when that is good for one connection only.
    pub(crate) single_use_id: Option<String>,
}

impl FromRequestParts<AppState> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        match app.authenticator.authenticate(parts)? {
            Caller::Operator { .. } => Ok(Self),
            Caller::Gateway { .. } => Err(forbidden(OPERATORS_CALL)),
        }
    }
}

impl FromRequestParts<AppState> for AnyCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        match app.authenticator.authenticate(parts)? {
            Caller::Operator { .. } | Caller::Gateway { .. } => Ok(Self),
        }
    }
}

impl FromRequestParts<AppState> for OperatorOnSession {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        match app.authenticator.authenticate(parts)? {
            Caller::Operator { epoch } => Ok(Self(uid(parts, app).await?, app.authenticator.term(epoch))),
            Caller::Gateway { .. } => Err(forbidden(OPERATORS_CALL)),
        }
    }
}

impl FromRequestParts<AppState> for AnyCallerOnSession {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let caller = app.authenticator.authenticate(parts)?;
        let uid = uid(parts, app).await?;
        match caller {
            Caller::Operator { .. } => Ok(Self(uid)),
            Caller::Gateway { session, .. } if session == uid => Ok(Self(uid)),
            Caller::Gateway { .. } => Err(forbidden("the token is for another session")),
        }
    }
}

impl FromRequestParts<AppState> for GatewayOnSession {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let caller = app.authenticator.authenticate(parts)?;
        let uid = uid(parts, app).await?;
        match caller {
            Caller::Gateway { session, scope, once: single_use_id } if session == uid => {
                Ok(Self { uid, scope, single_use_id })
            }
            Caller::Gateway { .. } => Err(forbidden("the token is for another session")),
            Caller::Operator { .. } => Err(forbidden("only the gateway connects to sessions")),
        }
    }
}

async fn uid(parts: &mut Parts, app: &AppState) -> Result<String, ApiError> {
    let path = Path::<String>::from_request_parts(parts, app).await;
    path.map(|Path(uid)| uid)
        .map_err(|error| ErrorResponse { reason: ErrorReason::Invalid, message: error.to_string() }.into())
}
