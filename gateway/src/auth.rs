//! Who somebody is, by static tokens. Pure: what the Secret holds and what the request brought go in, a role comes out.

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use axum::extract::Query;
use http::{HeaderMap, Uri, header::AUTHORIZATION};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt};

/// What the holder of a static token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look, and nothing else.
    Viewer,
    /// Everything.
    Admin,
}

impl Role {
    /// Every role, as data keys of the Secret.
    pub const ALL: [Self; 2] = [Self::Viewer, Self::Admin];

    /// The data key of its tokens in the Secret.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }
}

/// The tokens that are good now. Only their hashes are kept.
#[derive(Clone, Default)]
pub struct StaticTokens(Vec<([u8; 32], Role)>);

impl StaticTokens {
    /// The tokens in a Secret's data: key = role, value = one token a line. Keys that are no roles are left out.
    pub fn parse<'a>(data: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let by_role: BTreeMap<&str, &[u8]> = data.into_iter().collect();
        let tokens_of = |role: Role| by_role.get(role.as_str()).copied().unwrap_or_default();
        Self(
            Role::ALL.into_iter().flat_map(|role| lines(tokens_of(role)).map(move |line| (hash(line), role))).collect(),
        )
    }

    /// The role that a token gives; the higher one when it is listed for both.
    ///
    /// Hashes are compared, all of them and each in constant time: how long it takes tells nothing about a token.
    pub fn role_of(&self, token: &str) -> Option<Role> {
        self.role_of_hash(&hash(token.as_bytes()))
    }

    fn role_of_hash(&self, presented: &[u8; 32]) -> Option<Role> {
        let matching = self.0.iter().filter(|(known, _)| verify_slices_are_equal(known, presented).is_ok());
        matching.map(|(_, role)| *role).max()
    }

    /// Whether what was granted would be granted again.
    pub fn honour(&self, grant: &Grant) -> bool {
        self.role_of_hash(&grant.token).is_some_and(|role| role >= grant.needed)
    }

    /// Whether nobody can come in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for StaticTokens {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "StaticTokens({} tokens)", self.0.len())
    }
}

fn lines(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
}

fn hash(token: &[u8]) -> [u8; 32] {
    digest(&SHA256, token).as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// The token that a request carries: `Authorization: Bearer` (RFC 6750), else `?token=` for those who cannot set headers.
pub fn presented_token(headers: &HeaderMap, uri: &Uri) -> Option<String> {
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

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No token came.
    NoToken,
    /// The token is none of those that are good now.
    UnknownToken,
    /// The token is good, but not for this.
    RoleTooLow {
        /// The role that is asked for.
        needed: Role,
    },
}

/// What somebody was allowed, and by which token: a connection is good for as long as [`StaticTokens::honour`] says so.
#[derive(Clone, PartialEq, Eq)]
pub struct Grant {
    /// The token's hash.
    token: [u8; 32],
    needed: Role,
}

impl fmt::Debug for Grant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Grant({})", self.needed.as_str())
    }
}

/// Lets the holder of that token do what needs that role, or says why not.
pub fn authorize(tokens: &StaticTokens, presented: Option<&str>, needed: Role) -> Result<Grant, Denied> {
    let token = hash(presented.ok_or(Denied::NoToken)?.as_bytes());
    let role = tokens.role_of_hash(&token).ok_or(Denied::UnknownToken)?;
    if role >= needed { Ok(Grant { token, needed }) } else { Err(Denied::RoleTooLow { needed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(data: &[(&str, &str)]) -> StaticTokens {
        StaticTokens::parse(data.iter().map(|(key, value)| (*key, value.as_bytes())))
    }

    #[test]
    fn each_line_of_the_secret_is_a_token_of_its_keys_role() {
        let tokens = tokens(&[("admin", "a1\n  a2 \r\n\n"), ("viewer", "v1\na2\n"), ("root", "r1")]);
        assert_eq!(tokens.role_of("a1"), Some(Role::Admin));
        assert_eq!(tokens.role_of("a2"), Some(Role::Admin), "the higher role counts");
        assert_eq!(tokens.role_of("v1"), Some(Role::Viewer));
        for stranger in ["r1", "", " a2", "a1\n  a2", "a"] {
            assert_eq!(tokens.role_of(stranger), None, "{stranger:?}");
        }
        assert!(self::tokens(&[("admin", "\n \n")]).is_empty());
    }

    #[test]
    fn tokens_are_not_shown() {
        assert!(!format!("{:?}", tokens(&[("admin", "secret")])).contains("secret"));
    }

    #[test]
    fn a_token_is_taken_from_the_header_else_from_the_query() {
        let taken = |header: Option<&str>, uri: &str| {
            let headers = header.map(|value| (AUTHORIZATION, value.parse().unwrap())).into_iter().collect();
            presented_token(&headers, &uri.parse().unwrap())
        };
        assert_eq!(taken(Some("Bearer abc"), "/ws/a/b?token=other").as_deref(), Some("abc"));
        assert_eq!(taken(Some("bearer  abc"), "/ws/a/b").as_deref(), Some("abc"));
        assert_eq!(taken(None, "/ws/a/b?x=1&token=a%2Bb").as_deref(), Some("a+b"));
        assert_eq!(taken(Some("Basic abc"), "/ws/a/b?token=q").as_deref(), Some("q"));
        assert_eq!(taken(Some("Bearer"), "/ws/a/b"), None);
        assert_eq!(taken(None, "/ws/a/b?token=a&token=b"), None, "two tokens are none");
    }

    #[test]
    fn what_was_granted_holds_while_its_token_gives_the_role() {
        let grant = authorize(&tokens(&[("admin", "a\nb")]), Some("a"), Role::Admin).unwrap();
        let honoured = |data: &[(&str, &str)]| tokens(data).honour(&grant);
        assert!(honoured(&[("admin", "b\na"), ("viewer", "c")]));
        assert!(!honoured(&[("admin", "b")]), "it was taken out");
        assert!(!honoured(&[("viewer", "a")]), "it may less now");
        assert!(!honoured(&[]));
        assert_eq!(format!("{grant:?}"), "Grant(admin)");
    }

    #[test]
    fn the_role_decides() {
        let tokens = tokens(&[("admin", "a"), ("viewer", "v")]);
        let granted = |token, needed| authorize(&tokens, Some(token), needed).is_ok();
        assert!(granted("a", Role::Admin) && granted("a", Role::Viewer) && granted("v", Role::Viewer));
        assert_eq!(authorize(&tokens, Some("v"), Role::Admin), Err(Denied::RoleTooLow { needed: Role::Admin }));
        assert_eq!(authorize(&tokens, Some("x"), Role::Viewer), Err(Denied::UnknownToken));
        assert_eq!(authorize(&tokens, None, Role::Viewer), Err(Denied::NoToken));
        assert_eq!(authorize(&StaticTokens::default(), Some(""), Role::Viewer), Err(Denied::UnknownToken));
    }
}
