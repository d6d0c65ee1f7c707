//! `POST /api/namespaces/{namespace}/sessions/{name}/tokens`: access to one session for somebody else, for a time.

use crate::{Gateway, kubernetes, refusal::Refusal, rights::MayShare};
use aws_lc_rs::rand;
use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use camofleet_runner_api::token::{Role as Scope, SessionToken};
use http::{StatusCode, header::CACHE_CONTROL};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How long a token is good for when nothing is said, in seconds.
const DEFAULT_TTL: u32 = 3600;
/// The longest time, in seconds: it cannot be taken back alone.
const MAX_TTL: u32 = 24 * 3600;

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// What the token is good for.
    scope: Scope,
    /// How long, in seconds: 1 to 86400.
    #[serde(default = "default_ttl")]
    ttl_seconds: u32,
    /// Whether for one connection only.
    #[serde(default)]
    single_use: bool,
}

fn default_ttl() -> u32 {
    DEFAULT_TTL
}

/// What is given.
#[derive(Debug, Serialize)]
struct Shared {
    /// The token: for `Authorization: Bearer`, `?token=`, or the fragment of the live view's page.
    token: String,
    scope: Scope,
    /// UID of the session: it is good for no later one of the same name.
    session: String,
    expires_at: Timestamp,
    single_use: bool,
}

/// Mints a token.
pub async fn share(
    MayShare(right): MayShare,
    State(gateway): State<Arc<Gateway>>,
    asked: Result<Json<Share>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(asked) = asked.map_err(|error| Refusal::BadBody(error.status(), error.body_text()))?;
    if !(1..=MAX_TTL).contains(&asked.ttl_seconds) {
        let words = format!("ttl_seconds: it is {}, and must be 1 to {MAX_TTL}", asked.ttl_seconds);
        return Err(Refusal::BadBody(StatusCode::UNPROCESSABLE_ENTITY, words));
    }
    let key = &right.session;
    // The API server itself: a watch that lags would mint for the former session of this name.
    let uid = kubernetes::uid_of(&gateway.client, key).await?.ok_or_else(|| Refusal::NoSession(key.clone()))?;
    let expires_at = Timestamp::from_second(Timestamp::now().as_second()).expect("now is a time")
        + SignedDuration::from_secs(asked.ttl_seconds.into());
    let token = gateway.signer.session_token(SessionToken {
        session: uid.clone(),
        scope: asked.scope,
        expires: u64::try_from(expires_at.as_second()).unwrap_or_default(),
        once: asked.single_use.then(token_id),
    });
    tracing::info!(session = uid, scope = asked.scope.as_str(), %expires_at, single_use = asked.single_use, "shared");
    let shared = Shared { token, scope: asked.scope, session: uid, expires_at, single_use: asked.single_use };
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(shared)).into_response())
}

/// 96 random bits: among the tokens of one session no two are the same.
fn token_id() -> String {
    let mut bytes = [0; 12];
    rand::fill(&mut bytes).expect("the system's random source works, or nothing does");
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
