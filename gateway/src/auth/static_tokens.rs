//! Static tokens, which are kept in the Secret `camofleet-tokens` and have a role each.

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use camofleet_auth::token::Login;
use serde::Serialize;
use std::{collections::BTreeMap, fmt};
use utoipa::ToSchema;

/// What the holder of a static token is allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read the REST API and view displays.
    Viewer,
    /// Everything.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 2] = [Self::Viewer, Self::Admin];

    /// The key in the Secret's data.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }
}

/// SHA-256 of a static token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(super) fn of(token: &[u8]) -> Self {
        Self(digest(&SHA256, token).as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }

    /// The hash in a login. None when the login is malformed.
    pub(super) fn from_login(login: &Login) -> Option<Self> {
        let hash = BASE64_URL_SAFE_NO_PAD.decode(&login.token_hash).ok()?;
        hash.try_into().ok().map(Self)
    }
}

/// The valid static tokens. Only their hashes are kept in memory.
#[derive(Clone, Default)]
pub struct StaticTokens(Vec<(TokenHash, Role)>);

impl StaticTokens {
    /// Parses a Secret's data. The key is the role, the value has one token per line. Other keys are ignored.
    pub fn parse<'a>(data: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let by_role: BTreeMap<&str, &[u8]> = data.into_iter().collect();
        let tokens_of = |role: Role| by_role.get(role.as_str()).copied().unwrap_or_default();
        let roles = Role::ALL.into_iter();
        Self(roles.flat_map(|role| lines(tokens_of(role)).map(move |line| (TokenHash::of(line), role))).collect())
    }

    /// Returns the role of the token with this hash: the higher role when the token is listed under both.
    ///
    /// Compares every hash in constant time, so that the duration reveals nothing about a token.
    pub(super) fn role_of(&self, presented: TokenHash) -> Option<Role> {
        let matching = self.0.iter().filter(|(known, _)| verify_slices_are_equal(&known.0, &presented.0).is_ok());
        matching.map(|(_, role)| *role).max()
    }

    /// Returns a login for the holder of this token, and the token's role. None when the token is invalid. `expires`:
    /// Unix time in seconds.
    pub fn login(&self, token: &str, expires: u64) -> Option<(Login, Role)> {
        let hash = TokenHash::of(token.as_bytes());
        let role = self.role_of(hash)?;
        Some((Login { token_hash: BASE64_URL_SAFE_NO_PAD.encode(hash.0), expires }, role))
    }

    /// Whether there are no static tokens, so that no client can authenticate with one.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(data: &[(&str, &str)]) -> StaticTokens {
        StaticTokens::parse(data.iter().map(|(key, value)| (*key, value.as_bytes())))
    }

    #[test]
    fn each_line_of_a_secret_key_is_a_token_of_that_role() {
        let tokens = tokens(&[("admin", "a1\n  a2 \r\n\n"), ("viewer", "v1\na2\n"), ("root", "r1")]);
        let role_of = |token: &str| tokens.role_of(TokenHash::of(token.as_bytes()));
        assert_eq!(role_of("a1"), Some(Role::Admin));
        assert_eq!(role_of("a2"), Some(Role::Admin), "the higher role applies");
        assert_eq!(role_of("v1"), Some(Role::Viewer));
        for unknown in ["r1", "", " a2", "a1\n  a2", "a"] {
            assert_eq!(role_of(unknown), None, "{unknown:?}");
        }
        assert!(self::tokens(&[("admin", "\n \n")]).is_empty());
    }

    #[test]
    fn debug_output_hides_tokens() {
        assert!(!format!("{:?}", tokens(&[("admin", "secret")])).contains("secret"));
    }
}
