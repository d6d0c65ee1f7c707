//! Extractors that stand for a right: who has one in the signature of a handler was allowed to ask for it, and no handler
//! can forget to check, because there is no other way to a session's name.

use crate::{
    Gateway,
    auth::{Grant, Role, StaticTokens, authorize, presented_token},
    refusal::Refusal,
    session::Key,
};
use axum::extract::{FromRequestParts, Path};
use http::{
    HeaderMap, Method,
    header::{CONNECTION, HeaderName, ORIGIN, SEC_WEBSOCKET_KEY, UPGRADE},
    request::Parts,
};
use hyper::upgrade::OnUpgrade;
use serde::Deserialize;
use std::sync::Arc;

/// The right to drive the session of this name.
pub struct MayConnect {
    session: Key,
    grant: Grant,
}

impl MayConnect {
    /// The session.
    pub fn session(&self) -> &Key {
        &self.session
    }

    /// Waits until the token that the right came from does not give it any more.
    pub async fn revoked(&self, gateway: &Gateway) {
        let mut tokens = gateway.tokens.subscribe();
        let stands = |tokens: &Option<StaticTokens>| tokens.as_ref().is_some_and(|tokens| tokens.honour(&self.grant));
        tokens.wait_for(|tokens| !stands(tokens)).await.expect("the sender lives in the gateway");
    }
}

/// The parameters of a path that names a session, as they came.
#[derive(Deserialize)]
pub(crate) struct Named {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl FromRequestParts<Arc<Gateway>> for MayConnect {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Refusal> {
        let token = presented_token(&parts.headers, &parts.uri);
        let decision = gateway.tokens.borrow().as_ref().map(|tokens| authorize(tokens, token.as_deref(), Role::Admin));
        let grant = decision.ok_or(Refusal::Starting)?.map_err(Refusal::Denied)?;
        // A page that got hold of a token, or that a user was led to, cannot leave this header out.
        if parts.headers.contains_key(ORIGIN) {
            return Err(Refusal::Origin);
        }
        let Path(Named { namespace, name }) =
            Path::from_request_parts(parts, gateway).await.map_err(|_| Refusal::NoSuchName)?;
        Ok(Self { session: Key::new(namespace, name).ok_or(Refusal::NoSuchName)?, grant })
    }
}

/// A WebSocket handshake (RFC 6455 section 4.2.1), whose connection can be taken over once it was answered.
pub struct Handshake {
    /// The request's headers.
    pub headers: HeaderMap,
    /// The client's connection.
    pub connection: OnUpgrade,
}

impl<S: Sync> FromRequestParts<S> for Handshake {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let lists = |name: HeaderName, word: &str| {
            let values = parts.headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
            values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
        };
        let asks = parts.method == Method::GET
            && lists(UPGRADE, "websocket")
            && lists(CONNECTION, "upgrade")
            && parts.headers.contains_key(SEC_WEBSOCKET_KEY);
        match parts.extensions.remove::<OnUpgrade>() {
            Some(connection) if asks => Ok(Self { headers: parts.headers.clone(), connection }),
            _ => Err(Refusal::NotWebSocket),
        }
    }
}
