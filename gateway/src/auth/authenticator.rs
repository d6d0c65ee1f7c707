//! Authenticates clients against the current static tokens and the keys that sign session tokens and logins.

use crate::{
    auth::{
        credential::Credential,
        principal::{Denied, Principal},
        static_tokens::{Role, StaticTokens},
    },
    error::ApiError,
};
use camofleet_auth::token::{Login, PublicKeys};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Authenticates clients.
pub struct Authenticator {
    /// None before the Secret is read.
    tokens: watch::Sender<Option<StaticTokens>>,
    keys: PublicKeys,
}

impl Authenticator {
    /// Starts without static tokens. `keys`: the public keys of session tokens and logins.
    pub fn new(keys: PublicKeys) -> Self {
        Self { tokens: watch::Sender::default(), keys }
    }

    /// Whether the static tokens were read. Until then, every request is rejected.
    pub fn is_ready(&self) -> bool {
        self.tokens.borrow().is_some()
    }

    /// Replaces the static tokens. None: unknown, so every request is rejected.
    pub fn set_tokens(&self, tokens: Option<StaticTokens>) {
        self.tokens.send_replace(tokens);
    }

    /// Identifies the holder of a credential.
    ///
    /// # Errors
    /// When the credential is missing or invalid, or the static tokens were not read yet.
    pub fn authenticate(&self, credential: Option<&Credential>) -> Result<Principal, ApiError> {
        let tokens = self.tokens.borrow();
        let tokens = tokens.as_ref().ok_or(ApiError::TokensNotSynced)?;
        Principal::authenticate(tokens, &self.keys, credential).map_err(ApiError::Denied)
    }

    /// Returns a login for the holder of a static token, and the token's role. `expires`: Unix time in seconds.
    ///
    /// # Errors
    /// When the token is invalid, or the static tokens were not read yet.
    pub fn login(&self, token: &str, expires: u64) -> Result<(Login, Role), ApiError> {
        let tokens = self.tokens.borrow();
        let tokens = tokens.as_ref().ok_or(ApiError::TokensNotSynced)?;
        tokens.login(token, expires).ok_or(ApiError::Denied(Denied::UnknownToken))
    }

    /// Waits until the credential expires, its static token is revoked, or `holds` returns false for the principal
    /// with its token's current role.
    pub async fn wait_until_invalid(&self, principal: &Principal, holds: impl Fn(&Principal) -> bool) {
        let expired = async {
            match principal.expires() {
                Some(moment) => tokio::time::sleep(until(moment)).await,
                None => std::future::pending().await,
            }
        };
        let is_valid = |tokens: &StaticTokens| principal.with_current_role(tokens).is_some_and(|now| holds(&now));
        let mut tokens = self.tokens.subscribe();
        let revoked = tokens.wait_for(|tokens| !tokens.as_ref().is_some_and(is_valid));
        tokio::select! {
            () = expired => {}
            revoked = revoked => drop(revoked.expect("the sender lives in self")),
        }
    }
}

/// Duration until a Unix time in seconds. Zero when the time has passed.
fn until(moment: u64) -> Duration {
    let moment = UNIX_EPOCH + Duration::from_secs(moment);
    moment.duration_since(SystemTime::now()).unwrap_or_default()
}
