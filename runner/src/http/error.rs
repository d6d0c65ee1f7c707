//! Refusals as responses.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use camofleet_runner_api::{ErrorReason, ErrorResponse};

/// A refusal as a response.
pub(crate) struct ApiError(ErrorResponse);

impl From<ErrorResponse> for ApiError {
    fn from(error: ErrorResponse) -> Self {
        Self(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// The refusal of a valid token that is not for this.
pub(crate) fn forbidden(why: &str) -> ApiError {
    ErrorResponse { reason: ErrorReason::Forbidden, message: why.to_owned() }.into()
}
