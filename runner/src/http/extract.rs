//! Extractors that authorize requests, after the [`Authenticator`](super::auth::Authenticator) has verified the token.
//! A handler gets a session's UID only from one of them, so no handler can skip the check.

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

const OPERATOR_ONLY: &str = "only the operator can make this call";

/// A call of the operator that concerns no session.
pub(crate) struct Operator;

/// A call of the operator or the gateway that concerns no session.
pub(crate) struct AnyCaller;

/// A call of the operator in this term on the session with this UID.
pub(crate) struct OperatorOnSession(pub(crate) String, pub(crate) Term);

/// A call of the operator or the gateway on the session with this UID.
pub(crate) struct AnyCallerOnSession(pub(crate) String);

/// A call of the gateway with a hop token for this session.
pub(crate) struct GatewayOnSession {
    pub(crate) uid: String,
    pub(crate) scope: Scope,
    /// Id of the user's token, if that permits a single connection.
    pub(crate) single_use_id: Option<String>,
}

impl FromRequestParts<AppState> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        match app.authenticator.authenticate(parts)? {
            Caller::Operator { .. } => Ok(Self),
            Caller::Gateway { .. } => Err(forbidden(OPERATOR_ONLY)),
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
            Caller::Gateway { .. } => Err(forbidden(OPERATOR_ONLY)),
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
            Caller::Gateway { session, scope, single_use_id } if session == uid => {
                Ok(Self { uid, scope, single_use_id })
            }
            Caller::Gateway { .. } => Err(forbidden("the token is for another session")),
            Caller::Operator { .. } => Err(forbidden("only the gateway can connect to sessions")),
        }
    }
}

async fn uid(parts: &mut Parts, app: &AppState) -> Result<String, ApiError> {
    let path = Path::<String>::from_request_parts(parts, app).await;
    path.map(|Path(uid)| uid)
        .map_err(|error| ErrorResponse { reason: ErrorReason::Invalid, message: error.to_string() }.into())
}
