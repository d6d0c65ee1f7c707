//! What somebody may do, by their token: a static one of the Secret, which gives a role, or a session token that the gateway
//! signed, which gives one scope of one session. In place of a static token a browser has a login, which is good for as long as
//! that token is. Pure: the tokens that are good and what came go in, a grant comes out.

pub mod extract;

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use axum::extract::Query;
use axum_extra::extract::CookieJar;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use camofleet_auth::token::{Login, PublicKeys, Role as Scope, SessionToken, TokenError};
use http::{HeaderMap, Uri, header::AUTHORIZATION};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};
use utoipa::ToSchema;

/// What the holder of a static token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
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

    fn gives(self) -> &'static [Scope] {
        match self {
            Self::Admin => &[Scope::Connect, Scope::Control, Scope::View],
            Self::Viewer => &[Scope::View],
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

    /// The role that the token with this hash gives; the higher one when it is listed for both.
    ///
    /// All hashes are compared, and each in constant time: how long it takes tells nothing about a token.
    fn role_of(&self, presented: &[u8; 32]) -> Option<Role> {
        let matching = self.0.iter().filter(|(known, _)| verify_slices_are_equal(known, presented).is_ok());
        matching.map(|(_, role)| *role).max()
    }

    /// Whether what was granted would be granted again. Its time is another matter: [`Grant::expires`].
    pub fn honour(&self, grant: &Grant) -> bool {
        match &grant.basis {
            Basis::Static(holder) => {
                self.role_of(&holder.token).is_some_and(|role| role.gives().contains(&grant.scope))
            }
            Basis::Session(_) => true,
        }
    }

    /// The login, until then, of who has that token, with the token's role. None when it is no token that is good now.
    pub fn login(&self, token: &str, expires: u64) -> Option<(Login, Role)> {
        let hash = hash(token.as_bytes());
        let role = self.role_of(&hash)?;
        Some((Login { of: BASE64_URL_SAFE_NO_PAD.encode(hash), expires }, role))
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

/// The cookie with a browser's login.
pub const LOGIN_COOKIE: &str = "camofleet_login";

/// What a request shows to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A token, which somebody put there on purpose.
    Token(String),
    /// A login, which a browser adds by itself, whoever made it send the request.
    Cookie(String),
}

/// What a request shows: a token, else a cookie.
pub fn presented(headers: &HeaderMap, uri: &Uri) -> Option<Credential> {
    let cookie = || CookieJar::from_headers(headers).get(LOGIN_COOKIE).map(|cookie| cookie.value().to_owned());
    presented_token(headers, uri).map(Credential::Token).or_else(|| cookie().map(Credential::Cookie))
}

/// The token that a request carries: `Authorization: Bearer` (RFC 6750), else `?token=` for those who cannot set headers.
fn presented_token(headers: &HeaderMap, uri: &Uri) -> Option<String> {
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
    /// The session token was good until a moment that is over.
    Expired,
    /// The token is good for one connection, and was used before.
    Used,
    /// The token is good, but for none of these.
    NotFor(&'static [Scope]),
    /// The token is good, but for another session: it may have had this name before.
    OtherSession,
    /// The token is good, but who asks for this needs that role at least.
    Needs(Role),
}

/// What somebody was allowed, and by which token: a connection is good for as long as that is.
#[derive(Clone, PartialEq, Eq)]
pub struct Grant {
    /// What it is.
    pub scope: Scope,
    basis: Basis,
}

#[derive(Clone, PartialEq, Eq)]
enum Basis {
    Static(Holder),
    Session(SessionToken),
}

/// Who has a static token, or logged in with one.
#[derive(Clone, PartialEq, Eq)]
struct Holder {
    /// Its hash.
    token: [u8; 32],
    /// When the login is over, in seconds since 1970-01-01 UTC. None: no login, but the token itself.
    expires: Option<u64>,
}

impl Grant {
    /// The session token that it came by, unless it was a static one, which is good for every session.
    pub fn session_token(&self) -> Option<&SessionToken> {
        match &self.basis {
            Basis::Static(_) => None,
            Basis::Session(token) => Some(token),
        }
    }

    /// When it is over in any case, in seconds since 1970-01-01 UTC.
    pub fn expires(&self) -> Option<u64> {
        match &self.basis {
            Basis::Static(holder) => holder.expires,
            Basis::Session(token) => Some(token.expires),
        }
    }

    /// Whether it is for the session with this UID.
    pub fn is_for(&self, uid: &str) -> bool {
        self.session_token().is_none_or(|token| token.session == uid)
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Grant({:?})", self.scope)
    }
}

/// Lets who shows this do the first of the things in `wanted` that it is good for, or says why none of them. `keys`: those that
/// sign session tokens and logins.
pub fn authorize(
    tokens: &StaticTokens,
    keys: &PublicKeys,
    presented: Option<&Credential>,
    wanted: &'static [Scope],
) -> Result<Grant, Denied> {
    let (basis, gives) = match identify(tokens, keys, presented)? {
        Identity::Holder(holder, role) => (Basis::Static(holder), role.gives()),
        Identity::Guest(token) => {
            let gives = given_by(token.scope);
            (Basis::Session(token), gives)
        }
    };
    let scope = wanted.iter().find(|scope| gives.contains(scope)).ok_or(Denied::NotFor(wanted))?;
    Ok(Grant { scope: *scope, basis })
}

/// The role of who shows this, when it is that one at least. A session token gives none.
pub fn admit(
    tokens: &StaticTokens,
    keys: &PublicKeys,
    presented: Option<&Credential>,
    needed: Role,
) -> Result<Member, Denied> {
    match identify(tokens, keys, presented)? {
        Identity::Holder(holder, role) if role >= needed => Ok(Member { role, holder }),
        Identity::Holder(..) | Identity::Guest(_) => Err(Denied::Needs(needed)),
    }
}

/// Somebody with a role.
#[derive(Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub role: Role,
    holder: Holder,
}

impl Member {
    /// Whether the token that it came by still gives it.
    pub fn stands(&self, tokens: &StaticTokens) -> bool {
        tokens.role_of(&self.holder.token) == Some(self.role)
    }

    /// When it is over in any case, in seconds since 1970-01-01 UTC.
    pub fn expires(&self) -> Option<u64> {
        self.holder.expires
    }
}

enum Identity {
    Holder(Holder, Role),
    Guest(SessionToken),
}

fn identify(tokens: &StaticTokens, keys: &PublicKeys, presented: Option<&Credential>) -> Result<Identity, Denied> {
    let holder =
        |token: [u8; 32], expires| tokens.role_of(&token).map(|role| Identity::Holder(Holder { token, expires }, role));
    match presented.ok_or(Denied::NoToken)? {
        Credential::Token(text) => match holder(hash(text.as_bytes()), None) {
            Some(holder) => Ok(holder),
            None => keys.verify_session_token(text).map(Identity::Guest).map_err(|error| denied(&error)),
        },
        Credential::Cookie(text) => {
            let login = keys.verify_login(text).map_err(|error| denied(&error))?;
            let token = BASE64_URL_SAFE_NO_PAD.decode(login.of).ok().and_then(|hash| hash.try_into().ok());
            token.and_then(|token| holder(token, Some(login.expires))).ok_or(Denied::UnknownToken)
        }
    }
}

/// What a session token of that scope is good for.
fn given_by(scope: Scope) -> &'static [Scope] {
    match scope {
        Scope::Connect => &[Scope::Connect],
        Scope::Control => &[Scope::Control, Scope::View],
        Scope::View => &[Scope::View],
    }
}

fn denied(error: &TokenError) -> Denied {
    if error.is_expiry() { Denied::Expired } else { Denied::UnknownToken }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_auth::token::{Issuer, Signer, new_private_key};
    use std::time::{SystemTime, UNIX_EPOCH};

    fn tokens(data: &[(&str, &str)]) -> StaticTokens {
        StaticTokens::parse(data.iter().map(|(key, value)| (*key, value.as_bytes())))
    }

    #[test]
    fn each_line_of_the_secret_is_a_token_of_its_keys_role() {
        let tokens = tokens(&[("admin", "a1\n  a2 \r\n\n"), ("viewer", "v1\na2\n"), ("root", "r1")]);
        let role_of = |token: &str| tokens.role_of(&hash(token.as_bytes()));
        assert_eq!(role_of("a1"), Some(Role::Admin));
        assert_eq!(role_of("a2"), Some(Role::Admin), "the higher role counts");
        assert_eq!(role_of("v1"), Some(Role::Viewer));
        for stranger in ["r1", "", " a2", "a1\n  a2", "a"] {
            assert_eq!(role_of(stranger), None, "{stranger:?}");
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
        let shown = Credential::Token("a".into());
        let grant =
            authorize(&tokens(&[("admin", "a\nb")]), &PublicKeys::default(), Some(&shown), &[Scope::Connect]).unwrap();
        let honoured = |data: &[(&str, &str)]| tokens(data).honour(&grant);
        assert!(honoured(&[("admin", "b\na"), ("viewer", "c")]));
        assert!(!honoured(&[("admin", "b")]), "it was taken out");
        assert!(!honoured(&[("viewer", "a")]), "it may less now");
        assert!(!honoured(&[]));
        assert_eq!(format!("{grant:?}"), "Grant(Connect)");
    }

    fn signer() -> Signer {
        Signer::from_pkcs8(Issuer::Gateway, &new_private_key()).unwrap()
    }

    #[test]
    fn the_role_decides() {
        let tokens = tokens(&[("admin", "a"), ("viewer", "v")]);
        let scope = |token: Option<&str>, wanted| {
            let shown = token.map(|token| Credential::Token(token.into()));
            authorize(&tokens, &PublicKeys::default(), shown.as_ref(), wanted).map(|grant| grant.scope)
        };
        assert_eq!(scope(Some("a"), &[Scope::Connect]), Ok(Scope::Connect));
        assert_eq!(scope(Some("a"), &[Scope::Control, Scope::View]), Ok(Scope::Control));
        assert_eq!(scope(Some("a"), &[Scope::View]), Ok(Scope::View), "no more than was asked for");
        assert_eq!(scope(Some("v"), &[Scope::Control, Scope::View]), Ok(Scope::View));
        assert_eq!(scope(Some("v"), &[Scope::Connect]), Err(Denied::NotFor(&[Scope::Connect])));
        assert_eq!(scope(Some("x"), &[Scope::View]), Err(Denied::UnknownToken));
        assert_eq!(scope(Some(""), &[Scope::View]), Err(Denied::UnknownToken));
        assert_eq!(scope(None, &[Scope::View]), Err(Denied::NoToken));
    }

    #[test]
    fn a_session_token_gives_its_scope_of_its_session_until_it_expires() {
        let (signer, now) = (signer(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
        let keys = PublicKeys([(Issuer::Gateway, vec![signer.public_key().clone()])].into());
        let asked = |scope, expires, wanted| {
            let token = SessionToken { session: "uid-1".into(), scope, expires, once: None };
            let shown = Credential::Token(signer.session_token(token));
            authorize(&StaticTokens::default(), &keys, Some(&shown), wanted)
        };
        let scope = |has, wanted| asked(has, now + 60, wanted).map(|grant| grant.scope);
        assert_eq!(scope(Scope::Connect, &[Scope::Connect]), Ok(Scope::Connect));
        assert_eq!(scope(Scope::Control, &[Scope::Control, Scope::View]), Ok(Scope::Control));
        assert_eq!(scope(Scope::Control, &[Scope::View]), Ok(Scope::View));
        assert_eq!(scope(Scope::View, &[Scope::Control, Scope::View]), Ok(Scope::View));
        let wanted: [&[Scope]; 3] = [&[Scope::Connect], &[Scope::Control], &[Scope::View]];
        let [connect, control, view] = wanted;
        for (has, wanted) in
            [(Scope::View, control), (Scope::View, connect), (Scope::Control, connect), (Scope::Connect, view)]
        {
            assert_eq!(scope(has, wanted), Err(Denied::NotFor(wanted)));
        }
        assert_eq!(asked(Scope::View, now - 1, &[Scope::View]), Err(Denied::Expired));
        let grant = asked(Scope::View, now + 60, &[Scope::View]).unwrap();
        assert!(grant.is_for("uid-1") && !grant.is_for("uid-2"));
        assert!(StaticTokens::default().honour(&grant), "it does not depend on the Secret");
        let strangers = Credential::Token(self::signer().session_token(grant.session_token().unwrap().clone()));
        let denied = authorize(&StaticTokens::default(), &keys, Some(&strangers), &[Scope::View]);
        assert_eq!(denied, Err(Denied::UnknownToken));
    }

    #[test]
    fn a_login_is_good_while_its_token_is_and_only_as_a_cookie() {
        let (signer, now) = (signer(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
        let keys = PublicKeys([(Issuer::Gateway, vec![signer.public_key().clone()])].into());
        let tokens = tokens(&[("admin", "a"), ("viewer", "v")]);
        assert_eq!(tokens.login("x", now + 60), None);
        let (login, role) = tokens.login("v", now + 60).unwrap();
        assert_eq!(role, Role::Viewer);
        let text = signer.login(login.clone());
        let cookie = Credential::Cookie(text.clone());
        let admitted = |tokens: &StaticTokens, shown: &Credential, role| {
            admit(tokens, &keys, Some(shown), role).map(|member| member.role)
        };
        assert_eq!(admitted(&tokens, &cookie, Role::Viewer), Ok(Role::Viewer));
        assert_eq!(admitted(&tokens, &cookie, Role::Admin), Err(Denied::Needs(Role::Admin)));
        let grant = authorize(&tokens, &keys, Some(&cookie), &[Scope::View]).unwrap();
        assert_eq!((grant.scope, grant.expires()), (Scope::View, Some(now + 60)));
        assert_eq!(admit(&tokens, &keys, Some(&cookie), Role::Viewer).unwrap().expires(), Some(now + 60));
        let token = Credential::Token("v".into());
        assert_eq!(admit(&tokens, &keys, Some(&token), Role::Viewer).unwrap().expires(), None);
        let without = self::tokens(&[("admin", "a")]);
        assert_eq!(admitted(&without, &cookie, Role::Viewer), Err(Denied::UnknownToken), "its token was taken out");
        assert_eq!(admitted(&tokens, &Credential::Token(text), Role::Viewer), Err(Denied::UnknownToken));
        assert_eq!(admitted(&tokens, &Credential::Cookie("v".into()), Role::Viewer), Err(Denied::UnknownToken));
        let ended = Credential::Cookie(signer.login(Login { expires: now - 1, ..login }));
        assert_eq!(admitted(&tokens, &ended, Role::Viewer), Err(Denied::Expired));
    }

    #[test]
    fn a_session_token_gives_no_role() {
        let (signer, now) = (signer(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
        let keys = PublicKeys([(Issuer::Gateway, vec![signer.public_key().clone()])].into());
        let token = SessionToken { session: "uid".into(), scope: Scope::Connect, expires: now + 60, once: None };
        let text = signer.session_token(token);
        let admitted = |shown| admit(&tokens(&[("admin", "a")]), &keys, Some(&shown), Role::Viewer).map(|it| it.role);
        assert_eq!(admitted(Credential::Token(text.clone())), Err(Denied::Needs(Role::Viewer)));
        assert_eq!(admitted(Credential::Cookie(text)), Err(Denied::UnknownToken));
        assert_eq!(admitted(Credential::Token("a".into())), Ok(Role::Admin));
    }

    #[test]
    fn a_cookie_counts_when_no_token_is_shown() {
        let shown = |headers: &[(&str, &str)], uri: &str| {
            let pairs = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            presented(&pairs.collect(), &uri.parse().unwrap())
        };
        let cookie = ("cookie", "other=1; camofleet_login=abc");
        assert_eq!(shown(&[cookie], "/api/sessions"), Some(Credential::Cookie("abc".into())));
        assert_eq!(shown(&[cookie], "/api/sessions?token=t"), Some(Credential::Token("t".into())));
        assert_eq!(shown(&[cookie, ("authorization", "Bearer t")], "/"), Some(Credential::Token("t".into())));
        assert_eq!(shown(&[("cookie", "other=1")], "/"), None);
    }
}
