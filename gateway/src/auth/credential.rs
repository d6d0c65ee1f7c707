//! Reads a request's credential: a token or a login cookie.

use axum::extract::Query;
use axum_extra::extract::CookieJar;
use http::{HeaderMap, Uri, header::AUTHORIZATION};
use serde::Deserialize;

/// Name of the cookie with a browser's login.
pub const LOGIN_COOKIE: &str = "camofleet_login";

/// The credential of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A static token or a session token, which the client sent explicitly.
    Token(String),
    /// A login. Browsers add it to every request to this host, including requests caused by a page of another host.
    Cookie(String),
}

impl Credential {
    /// Returns the request's token, or its login cookie when it has no token.
    pub fn from_request(headers: &HeaderMap, uri: &Uri) -> Option<Self> {
        let cookie = || CookieJar::from_headers(headers).get(LOGIN_COOKIE).map(|cookie| cookie.value().to_owned());
        token(headers, uri).map(Self::Token).or_else(|| cookie().map(Self::Cookie))
    }
}

/// Reads `Authorization: Bearer` (RFC 6750), or else `?token=`, for clients that cannot set headers.
fn token(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    #[derive(Deserialize)]
    struct InQuery {
        token: Option<String>,
    }
    let bearer = || {
        let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    };
    bearer().or_else(|| Query::<InQuery>::try_from_uri(uri).ok()?.0.token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_token_from_the_header_before_the_query() {
        let token_of = |header: Option<&str>, uri: &str| {
            let headers = header.map(|value| (AUTHORIZATION, value.parse().unwrap())).into_iter().collect();
            token(&headers, &uri.parse().unwrap())
        };
        assert_eq!(token_of(Some("Bearer abc"), "/ws/a/b?token=other").as_deref(), Some("abc"));
        assert_eq!(token_of(Some("bearer  abc"), "/ws/a/b").as_deref(), Some("abc"));
        assert_eq!(token_of(None, "/ws/a/b?x=1&token=a%2Bb").as_deref(), Some("a+b"));
        assert_eq!(token_of(Some("Basic abc"), "/ws/a/b?token=q").as_deref(), Some("q"));
        assert_eq!(token_of(Some("Bearer"), "/ws/a/b"), None);
        assert_eq!(token_of(None, "/ws/a/b?token=a&token=b"), None, "a repeated parameter is rejected");
    }

    #[test]
    fn uses_the_login_cookie_only_without_a_token() {
        let credential = |headers: &[(&str, &str)], uri: &str| {
            let pairs = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            Credential::from_request(&pairs.collect(), &uri.parse().unwrap())
        };
        let cookie = ("cookie", "other=1; camofleet_login=abc");
        assert_eq!(credential(&[cookie], "/api/sessions"), Some(Credential::Cookie("abc".into())));
        assert_eq!(credential(&[cookie], "/api/sessions?token=t"), Some(Credential::Token("t".into())));
        assert_eq!(credential(&[cookie, ("authorization", "Bearer t")], "/"), Some(Credential::Token("t".into())));
        assert_eq!(credential(&[("cookie", "other=1")], "/"), None);
    }
}
