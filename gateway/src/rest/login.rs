//! Logins of browsers: exchanges a static token for a cookie that scripts cannot read.

use crate::{
    auth::{
        credential::LOGIN_COOKIE,
        extract::{MayRead, Namespace, is_same_origin, mark_authenticated},
    },
    error::{ApiError, InvalidRequest, Problem},
    rest::{
        body::ValidatedJson,
        documents::{LoggedIn, Login},
    },
    state::Gateway,
};
use axum::{Json, extract::State};
use axum_extra::extract::{
    CookieJar,
    cookie::{Cookie, SameSite},
};
use http::{
    Extensions, HeaderMap,
    header::{HeaderName, ORIGIN},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

/// Lifetime of a login, regardless of activity.
const LOGIN_LIFETIME: SignedDuration = SignedDuration::from_hours(12);

/// Exchanges a static token for a login cookie, which is valid for 12 hours and no longer than the token.
#[utoipa::path(
    post, path = "/login", tag = "login", request_body = Login, security(()),
    responses(
        (status = 200, body = LoggedIn),
        (status = 401, body = Problem, description = "The token is not a static token of the fleet"),
        (status = 403, body = Problem, description = "The request comes from a page of another origin"),
        (status = 415, body = Problem), (status = 422, body = InvalidRequest), (status = 503, body = Problem),
    )
)]
pub async fn login(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    extensions: Extensions,
    cookies: CookieJar,
    ValidatedJson(request): ValidatedJson<Login>,
) -> Result<(CookieJar, Json<LoggedIn>), ApiError> {
    require_same_origin(&headers)?;
    let ends = Timestamp::now() + LOGIN_LIFETIME;
    let expires = u64::try_from(ends.as_second()).unwrap_or_default();
    let (login, role) = gateway.auth.login(request.token.trim(), expires)?;
    mark_authenticated(&extensions);
    let mut cookie = cookie(gateway.signer.login(login), &headers);
    cookie.set_max_age(std::time::Duration::from_secs(LOGIN_LIFETIME.unsigned_abs().as_secs()).try_into().ok());
    Ok((cookies.add(cookie), Json(LoggedIn { role: Some(role) })))
}

/// Returns the role of the client's credential.
#[utoipa::path(
    get, path = "/login", tag = "login",
    responses(
        (status = 200, body = LoggedIn),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 503, body = Problem),
    )
)]
pub async fn whoami(MayRead { principal, .. }: MayRead<Namespace>) -> Json<LoggedIn> {
    Json(LoggedIn { role: principal.role() })
}

/// Removes the login cookie.
#[utoipa::path(
    post, path = "/logout", tag = "login", security(()),
    responses(
        (status = 200, body = LoggedIn),
        (status = 403, body = Problem, description = "The request comes from a page of another origin"),
    )
)]
pub async fn logout(headers: HeaderMap, cookies: CookieJar) -> Result<(CookieJar, Json<LoggedIn>), ApiError> {
    require_same_origin(&headers)?;
    Ok((cookies.remove(cookie(String::new(), &headers)), Json(LoggedIn { role: None })))
}

fn require_same_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    if !headers.contains_key(ORIGIN) || is_same_origin(headers) { Ok(()) } else { Err(ApiError::CrossOrigin) }
}

fn cookie(value: String, headers: &HeaderMap) -> Cookie<'static> {
    Cookie::build((LOGIN_COOKIE, value))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(is_https(headers))
        .build()
}

/// Whether the browser uses HTTPS, to the gateway or to a proxy in front of it.
fn is_https(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let by_proxy = text(HeaderName::from_static("x-forwarded-proto")).is_some_and(|scheme| scheme == "https");
    by_proxy || text(ORIGIN).is_some_and(|origin| origin.starts_with("https://"))
}
