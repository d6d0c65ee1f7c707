//! Refusals as responses.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use camofleet_runner_api::{Refusal, RefusalReason};

/// A refusal as a response.
pub(crate) struct Refused(Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// The refusal of a valid token that is not for this.
pub(crate) fn forbidden(why: &str) -> Refused {
    Refusal { reason: RefusalReason::Forbidden, message: why.to_owned() }.into()
}
