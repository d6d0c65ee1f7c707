//! Extractors that stand for a right: who has one in the signature of a handler was allowed to ask for it, and no handler
//! can forget to check, because there is no other way to a session's name.

use crate::{
    Gateway,
    auth::{Denied, Grant, StaticTokens, authorize, presented_token},
    live_view::Offer,
    refusal::Refusal,
    session::Key,
};
use axum::extract::{FromRequestParts, Path};
use camofleet_runner_api::token::Role as Scope;
use http::{
    HeaderMap, Method,
    header::{CONNECTION, HeaderName, ORIGIN, SEC_WEBSOCKET_KEY, UPGRADE},
    request::Parts,
};
use hyper::upgrade::OnUpgrade;
use serde::Deserialize;
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What somebody may do with the session of this name.
pub struct Right {
    /// The session.
    pub session: Key,
    /// What, and by which token.
    pub grant: Grant,
}

/// The right to drive a session.
pub struct MayConnect(pub Right);

/// The right to look at a session's display, or more.
pub struct MayWatch(pub Right);

/// The right to give others access to a session.
pub struct MayShare(pub Right);

impl Right {
    /// Waits until the token that it came from does not give it any more.
    pub async fn revoked(&self, gateway: &Gateway) {
        match self.grant.session_token() {
            Some(token) => tokio::time::sleep(until(token.expires)).await,
            None => {
                let mut tokens = gateway.tokens.subscribe();
                let stands =
                    |tokens: &Option<StaticTokens>| tokens.as_ref().is_some_and(|tokens| tokens.honour(&self.grant));
                tokens.wait_for(|tokens| !stands(tokens)).await.expect("the sender lives in the gateway");
            }
        }
    }

    /// Asks for the first of `wanted` that the token is good for.
    async fn of(
        parts: &mut Parts,
        gateway: &Arc<Gateway>,
        token: Option<&str>,
        wanted: &'static [Scope],
    ) -> Result<Self, Refusal> {
        let decision =
            gateway.tokens.borrow().as_ref().map(|tokens| authorize(tokens, &gateway.session_keys, token, wanted));
        let grant = decision.ok_or(Refusal::Starting)?.map_err(Refusal::Denied)?;
        let Path(Named { namespace, name }) =
            Path::from_request_parts(parts, gateway).await.map_err(|_| Refusal::NoSuchName)?;
        Ok(Self { session: Key::new(namespace, name).ok_or(Refusal::NoSuchName)?, grant })
    }
}

/// How long it is until that moment, in seconds since 1970-01-01 UTC.
fn until(moment: u64) -> Duration {
    let moment = UNIX_EPOCH + Duration::from_secs(moment);
    moment.duration_since(SystemTime::now()).unwrap_or_default()
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
        let right = Right::of(parts, gateway, token.as_deref(), &[Scope::Connect]).await?;
        // A page that got hold of a token, or that a user was led to, cannot leave this header out.
        if parts.headers.contains_key(ORIGIN) {
            return Err(Refusal::Origin);
        }
        Ok(Self(right))
    }
}

impl FromRequestParts<Arc<Gateway>> for MayWatch {
    type Rejection = Refusal;

    /// Any page may ask that has a token to show: nothing that a browser adds by itself lets anybody in.
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Refusal> {
        let offer = Offer::of(&parts.headers);
        let token = offer.token.clone().or_else(|| presented_token(&parts.headers, &parts.uri));
        Right::of(parts, gateway, token.as_deref(), offer.wanted()).await.map(Self)
    }
}

impl FromRequestParts<Arc<Gateway>> for MayShare {
    type Rejection = Refusal;

    /// Only who may do everything with every session: a session token cannot beget others.
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Refusal> {
        let token = presented_token(&parts.headers, &parts.uri);
        let right = Right::of(parts, gateway, token.as_deref(), &[Scope::Connect]).await?;
        match right.grant.session_token() {
            None => Ok(Self(right)),
            Some(_) => Err(Refusal::Denied(Denied::NotForSharing)),
        }
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
