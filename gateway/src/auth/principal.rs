//! Identifies principals and decides which actions they are allowed. Every permission decision is made here.

use crate::auth::{
    credential::Credential,
    static_tokens::{Role, StaticTokens, TokenHash},
};
use camofleet_auth::token::{PublicKeys, Scope, SessionToken, TokenError};
use std::fmt;

/// An action that a client can perform through the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to a session with this scope.
    Session(Scope),
    /// List and read sessions and pools.
    Read,
    /// Create, touch and delete sessions, and issue session tokens.
    Manage,
}

/// The holder of a valid credential.
#[derive(Clone, PartialEq, Eq)]
pub struct Principal(Identity);

#[derive(Clone, PartialEq, Eq)]
enum Identity {
    /// A static token, or a login with one.
    Static {
        token: TokenHash,
        role: Role,
        /// Expiry of the login, as Unix time in seconds. None for the token itself.
        expires: Option<u64>,
    },
    Session(SessionToken),
}

/// Why a request is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The request has no credential.
    NoToken,
    /// The token is neither a static token nor signed by the gateway.
    UnknownToken,
    /// The session token or login has expired.
    Expired,
    /// The token permits a single connection and was used before.
    AlreadyUsed,
    /// The token is valid, but has none of these scopes.
    Scope(&'static [Scope]),
    /// The token is valid for a session with another UID. That session may have had the same name.
    OtherSession,
    /// The token is valid, but does not permit this action.
    Action(Action),
}

impl Principal {
    /// Identifies the holder of a credential. `tokens`: the current static tokens. `keys`: the public keys of session
    /// tokens and logins.
    ///
    /// # Errors
    /// When the credential is missing or invalid.
    pub fn authenticate(
        tokens: &StaticTokens,
        keys: &PublicKeys,
        credential: Option<&Credential>,
    ) -> Result<Self, Denied> {
        let holder = |token, expires| {
            tokens
                .role_of(token)
                .map(|role| Self(Identity::Static { token, role, expires }))
                .ok_or(Denied::UnknownToken)
        };
        match credential.ok_or(Denied::NoToken)? {
            Credential::Token(text) => holder(TokenHash::of(text.as_bytes()), None).or_else(|_| {
                keys.verify_session_token(text)
                    .map(|token| Self(Identity::Session(token)))
                    .map_err(|error| denied(&error))
            }),
            Credential::Cookie(text) => {
                let login = keys.verify_login(text).map_err(|error| denied(&error))?;
                let token = TokenHash::from_login(&login).ok_or(Denied::UnknownToken)?;
                holder(token, Some(login.expires))
            }
        }
    }

    /// Whether the principal is allowed this action. A connection to a session ([`Action::Session`]) also requires
    /// [`Self::covers_session`], which `proxy::upstream` checks once it knows the session's UID.
    pub fn allows(&self, action: Action) -> bool {
        match &self.0 {
            Identity::Static { role: Role::Admin, .. } => true,
            Identity::Static { role: Role::Viewer, .. } => {
                matches!(action, Action::Read | Action::Session(Scope::View))
            }
            Identity::Session(token) => match token.scope {
                Scope::Connect => action == Action::Session(Scope::Connect),
                Scope::Control => matches!(action, Action::Session(Scope::Control | Scope::View)),
                Scope::View => action == Action::Session(Scope::View),
            },
        }
    }

    /// Checks that the principal is allowed this action.
    ///
    /// # Errors
    /// When the action is not allowed.
    pub fn require(&self, action: Action) -> Result<(), Denied> {
        if self.allows(action) { Ok(()) } else { Err(Denied::Action(action)) }
    }

    /// Returns the first of these scopes that the principal is allowed.
    ///
    /// # Errors
    /// When it is allowed none of them.
    pub fn first_scope(&self, wanted: &'static [Scope]) -> Result<Scope, Denied> {
        wanted.iter().copied().find(|scope| self.allows(Action::Session(*scope))).ok_or(Denied::Scope(wanted))
    }

    /// Whether the principal's credential covers the session with this UID. A static token covers every session, a
    /// session token exactly one.
    pub fn covers_session(&self, uid: &str) -> bool {
        match &self.0 {
            Identity::Static { .. } => true,
            Identity::Session(token) => token.session == uid,
        }
    }

    /// Returns the principal with the current role of its static token. None when the static token was revoked. Holders
    /// of session tokens do not depend on static tokens.
    pub fn with_current_role(&self, tokens: &StaticTokens) -> Option<Self> {
        match &self.0 {
            Identity::Static { token, expires, .. } => {
                let (token, expires) = (*token, *expires);
                tokens.role_of(token).map(|role| Self(Identity::Static { token, role, expires }))
            }
            Identity::Session(_) => Some(self.clone()),
        }
    }

    /// When the credential expires, as Unix time in seconds. None: never.
    pub fn expires(&self) -> Option<u64> {
        match &self.0 {
            Identity::Static { expires, .. } => *expires,
            Identity::Session(token) => Some(token.expires),
        }
    }

    /// The role of the principal's static token. None for the holder of a session token.
    pub fn role(&self) -> Option<Role> {
        match &self.0 {
            Identity::Static { role, .. } => Some(*role),
            Identity::Session(_) => None,
        }
    }

    /// Id of a session token that permits a single connection. None for other credentials.
    pub fn single_use_id(&self) -> Option<&str> {
        match &self.0 {
            Identity::Static { .. } => None,
            Identity::Session(token) => token.single_use_id.as_deref(),
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Identity::Static { role, .. } => write!(out, "Principal({role:?})"),
            Identity::Session(token) => write!(out, "Principal({:?} of one session)", token.scope),
        }
    }
}

fn denied(error: &TokenError) -> Denied {
    if error.is_expiry() { Denied::Expired } else { Denied::UnknownToken }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_auth::token::{Issuer, Login, Signer, new_private_key};
    use std::time::{SystemTime, UNIX_EPOCH};

    fn tokens(data: &[(&str, &str)]) -> StaticTokens {
        StaticTokens::parse(data.iter().map(|(key, value)| (*key, value.as_bytes())))
    }

    fn signer() -> Signer {
        Signer::from_pkcs8(Issuer::Gateway, &new_private_key()).unwrap()
    }

    #[test]
    fn a_permission_ends_when_its_static_token_loses_the_role() {
        let credential = Credential::Token("a".into());
        let principal =
            Principal::authenticate(&tokens(&[("admin", "a\nb")]), &PublicKeys::default(), Some(&credential)).unwrap();
        assert_eq!(principal.first_scope(&[Scope::Connect]), Ok(Scope::Connect));
        let is_allowed = |data: &[(&str, &str)]| {
            principal.with_current_role(&tokens(data)).is_some_and(|now| now.allows(Action::Session(Scope::Connect)))
        };
        assert!(is_allowed(&[("admin", "b\na"), ("viewer", "c")]));
        assert!(!is_allowed(&[("admin", "b")]), "the token was removed");
        assert!(!is_allowed(&[("viewer", "a")]), "the token has a lower role");
        assert!(!is_allowed(&[]));
        assert_eq!(format!("{principal:?}"), "Principal(Admin)");
    }

    #[test]
    fn a_static_token_is_granted_the_first_scope_of_its_role() {
        let tokens = tokens(&[("admin", "a"), ("viewer", "v")]);
        let scope = |token: Option<&str>, wanted| {
            let credential = token.map(|token| Credential::Token(token.into()));
            Principal::authenticate(&tokens, &PublicKeys::default(), credential.as_ref())?.first_scope(wanted)
        };
        assert_eq!(scope(Some("a"), &[Scope::Connect]), Ok(Scope::Connect));
        assert_eq!(scope(Some("a"), &[Scope::Control, Scope::View]), Ok(Scope::Control));
        assert_eq!(scope(Some("a"), &[Scope::View]), Ok(Scope::View), "grants no more than the requested scope");
        assert_eq!(scope(Some("v"), &[Scope::Control, Scope::View]), Ok(Scope::View));
        assert_eq!(scope(Some("v"), &[Scope::Connect]), Err(Denied::Scope(&[Scope::Connect])));
        assert_eq!(scope(Some("x"), &[Scope::View]), Err(Denied::UnknownToken));
        assert_eq!(scope(Some(""), &[Scope::View]), Err(Denied::UnknownToken));
        assert_eq!(scope(None, &[Scope::View]), Err(Denied::NoToken));
    }

    #[test]
    fn a_session_token_grants_its_scope_for_its_session_until_it_expires() {
        let (signer, now) = (signer(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
        let keys = PublicKeys([(Issuer::Gateway, vec![signer.public_key().clone()])].into());
        let token = |scope, expires| SessionToken { session: "uid-1".into(), scope, expires, single_use_id: None };
        let authenticated = |scope, expires| {
            let credential = Credential::Token(signer.session_token(token(scope, expires)));
            Principal::authenticate(&StaticTokens::default(), &keys, Some(&credential))
        };
        let scope = |has, wanted| authenticated(has, now + 60)?.first_scope(wanted);
        assert_eq!(scope(Scope::Connect, &[Scope::Connect]), Ok(Scope::Connect));
        assert_eq!(scope(Scope::Control, &[Scope::Control, Scope::View]), Ok(Scope::Control));
        assert_eq!(scope(Scope::Control, &[Scope::View]), Ok(Scope::View));
        assert_eq!(scope(Scope::View, &[Scope::Control, Scope::View]), Ok(Scope::View));
        let wanted: [&[Scope]; 3] = [&[Scope::Connect], &[Scope::Control], &[Scope::View]];
        let [connect, control, view] = wanted;
        for (held, wanted) in
            [(Scope::View, control), (Scope::View, connect), (Scope::Control, connect), (Scope::Connect, view)]
        {
            assert_eq!(scope(held, wanted), Err(Denied::Scope(wanted)));
        }
        assert_eq!(authenticated(Scope::View, now - 1), Err(Denied::Expired));
        let principal = authenticated(Scope::View, now + 60).unwrap();
        assert!(principal.covers_session("uid-1") && !principal.covers_session("uid-2"));
        assert_eq!(
            principal.with_current_role(&StaticTokens::default()),
            Some(principal),
            "a session token does not depend on the Secret"
        );
        let other_key = Credential::Token(self::signer().session_token(token(Scope::View, now + 60)));
        let denied = Principal::authenticate(&StaticTokens::default(), &keys, Some(&other_key));
        assert_eq!(denied, Err(Denied::UnknownToken));
    }

    #[test]
    fn a_login_is_valid_only_as_a_cookie_and_while_its_static_token_is_valid() {
        let (signer, now) = (signer(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
        let keys = PublicKeys([(Issuer::Gateway, vec![signer.public_key().clone()])].into());
        let tokens = tokens(&[("admin", "a"), ("viewer", "v")]);
        assert_eq!(tokens.login("x", now + 60), None);
        let (login, role) = tokens.login("v", now + 60).unwrap();
        assert_eq!(role, Role::Viewer);
        let text = signer.login(login.clone());
        let cookie = Credential::Cookie(text.clone());
        let role_for = |tokens: &StaticTokens, credential: &Credential, action| {
            let principal = Principal::authenticate(tokens, &keys, Some(credential))?;
            principal.require(action).map(|()| principal.role().unwrap())
        };
        assert_eq!(role_for(&tokens, &cookie, Action::Read), Ok(Role::Viewer));
        assert_eq!(role_for(&tokens, &cookie, Action::Manage), Err(Denied::Action(Action::Manage)));
        let principal = Principal::authenticate(&tokens, &keys, Some(&cookie)).unwrap();
        assert_eq!((principal.first_scope(&[Scope::View]), principal.expires()), (Ok(Scope::View), Some(now + 60)));
        let token = Credential::Token("v".into());
        assert_eq!(Principal::authenticate(&tokens, &keys, Some(&token)).unwrap().expires(), None);
        let without = self::tokens(&[("admin", "a")]);
        assert_eq!(
            role_for(&without, &cookie, Action::Read),
            Err(Denied::UnknownToken),
            "its static token was removed"
        );
        assert_eq!(role_for(&tokens, &Credential::Token(text), Action::Read), Err(Denied::UnknownToken));
        assert_eq!(role_for(&tokens, &Credential::Cookie("v".into()), Action::Read), Err(Denied::UnknownToken));
        let ended = Credential::Cookie(signer.login(Login { expires: now - 1, ..login }));
        assert_eq!(role_for(&tokens, &ended, Action::Read), Err(Denied::Expired));
    }

    #[test]
    fn a_session_token_has_no_role() {
        let (signer, now) = (signer(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
        let keys = PublicKeys([(Issuer::Gateway, vec![signer.public_key().clone()])].into());
        let token =
            SessionToken { session: "uid".into(), scope: Scope::Connect, expires: now + 60, single_use_id: None };
        let text = signer.session_token(token);
        let role_for = |credential| {
            let principal = Principal::authenticate(&tokens(&[("admin", "a")]), &keys, Some(&credential))?;
            principal.require(Action::Read).map(|()| principal.role())
        };
        assert_eq!(role_for(Credential::Token(text.clone())), Err(Denied::Action(Action::Read)));
        assert_eq!(role_for(Credential::Cookie(text)), Err(Denied::UnknownToken));
        assert_eq!(role_for(Credential::Token("a".into())), Ok(Some(Role::Admin)));
    }
}
