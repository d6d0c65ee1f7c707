//! The API's error responses. One error has no such body: `tunnel` forwards that of the Playwright server.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use camofleet_runner_api::{ErrorReason, ErrorResponse};

/// An error that a handler returns; it becomes a response with its [`ErrorResponse`] as the body.
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

/// The error for a valid token that does not permit the call.
pub(crate) fn forbidden(why: &str) -> ApiError {
    ErrorResponse { reason: ErrorReason::Forbidden, message: why.to_owned() }.into()
}
