//! Issues session tokens, which give other people temporary access to one session.

use crate::{
    auth::extract::{MayManage, Target},
    error::{ApiError, InvalidRequest, Problem},
    rest::{
        body::ValidatedJson,
        documents::{IssuedToken, SessionPath, TokenRequest},
        lookup,
    },
    state::Gateway,
};
use aws_lc_rs::rand;
use axum::{Json, extract::State, response::IntoResponse};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use camofleet_auth::token::{Scope, SessionToken};
use http::StatusCode;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

/// Creates a session token.
#[utoipa::path(
    post, path = "/sessions/{worker}/{id}/tokens", tag = "sessions", request_body = TokenRequest,
    params(SessionPath),
    responses(
        (status = 201, body = IssuedToken, description = "The token, which is not stored and cannot be read again"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 415, body = Problem), (status = 422, body = InvalidRequest), (status = 503, body = Problem),
    )
)]
pub async fn create_token(
    MayManage(target): MayManage<Target>,
    State(gateway): State<Arc<Gateway>>,
    ValidatedJson(request): ValidatedJson<TokenRequest>,
) -> Result<impl IntoResponse, ApiError> {
    // Read from the API server, because a cache that lags could still have the former session of this name, and the
    // token would be for that session.
    let session = lookup::read(&gateway, &target).await?;
    let expires_at = Timestamp::from_second(Timestamp::now().as_second()).expect("the current time is in range")
        + SignedDuration::from_secs(request.ttl_seconds.into());
    let token = gateway.signer.session_token(SessionToken {
        session: session.uid().to_owned(),
        scope: request.scope.into(),
        expires: u64::try_from(expires_at.as_second()).unwrap_or_default(),
        single_use_id: request.single_use.then(token_id),
    });
    let (uid, scope) = (session.uid().to_owned(), Scope::from(request.scope).as_str());
    tracing::info!(session = uid, scope, %expires_at, single_use = request.single_use, "created a session token");
    let issued = IssuedToken { token, scope: request.scope, session: uid, expires_at, single_use: request.single_use };
    Ok((StatusCode::CREATED, Json(issued)))
}

/// A random id of 96 bits, which is unique among the tokens of one session.
fn token_id() -> String {
    let mut bytes = [0; 12];
    rand::fill(&mut bytes).expect("the system's random source works");
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
