//! What handlers take from requests. A handler gets its session's UID only from one of these extractors, each of which has checked
//! the token: none can forget to.

use crate::{
    core::Term,
    http::{
        error::{Refused, forbidden},
        state::App,
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
pub(crate) struct Anyone;

/// The operator in this term, about the session with this UID.
pub(crate) struct OperatorOn(pub(crate) String, pub(crate) Term);

/// The operator or the gateway, about the session with this UID.
pub(crate) struct About(pub(crate) String);

/// The gateway, for a connection to the session with this UID in this scope.
pub(crate) struct Hop {
    pub(crate) uid: String,
    pub(crate) scope: Scope,
    /// Id of the user's token, when that is good for one connection only.
    pub(crate) once: Option<String>,
}

impl FromRequestParts<App> for Operator {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refused> {
        match app.gate.admit(parts)? {
            Caller::Operator { .. } => Ok(Self),
            Caller::Gateway { .. } => Err(forbidden(OPERATORS_CALL)),
        }
    }
}

impl FromRequestParts<App> for Anyone {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refused> {
        match app.gate.admit(parts)? {
            Caller::Operator { .. } | Caller::Gateway { .. } => Ok(Self),
        }
    }
}

impl FromRequestParts<App> for OperatorOn {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refused> {
        match app.gate.admit(parts)? {
            Caller::Operator { epoch } => Ok(Self(uid(parts, app).await?, app.gate.term(epoch))),
            Caller::Gateway { .. } => Err(forbidden(OPERATORS_CALL)),
        }
    }
}

impl FromRequestParts<App> for About {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refused> {
        let caller = app.gate.admit(parts)?;
        let uid = uid(parts, app).await?;
        match caller {
            Caller::Operator { .. } => Ok(Self(uid)),
            Caller::Gateway { session, .. } if session == uid => Ok(Self(uid)),
            Caller::Gateway { .. } => Err(forbidden("the token is for another session")),
        }
    }
}

impl FromRequestParts<App> for Hop {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refused> {
        let caller = app.gate.admit(parts)?;
        let uid = uid(parts, app).await?;
        match caller {
            Caller::Gateway { session, scope, once } if session == uid => Ok(Self { uid, scope, once }),
            Caller::Gateway { .. } => Err(forbidden("the token is for another session")),
            Caller::Operator { .. } => Err(forbidden("only the gateway connects to sessions")),
        }
    }
}

async fn uid(parts: &mut Parts, app: &App) -> Result<String, Refused> {
    let path = Path::<String>::from_request_parts(parts, app).await;
    path.map(|Path(uid)| uid)
        .map_err(|error| ErrorResponse { reason: ErrorReason::Invalid, message: error.to_string() }.into())
}
