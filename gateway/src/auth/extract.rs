//! Extractors that stand for a right: who has one in the signature of a handler was allowed to ask for it, and no handler
//! can forget to check, because there is no other way to a session's name.

use crate::{
    Gateway,
    auth::{Credential, Grant, Member, Role, StaticTokens, admit, authorize, presented},
    cache::session::Key,
    error::Refusal,
    proxy::live_view::Offer,
};
use axum::extract::{FromRequestParts, Path};
use camofleet_auth::token::Role as Scope;
use camofleet_runtime::server::ConnectionHandle;
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Uri,
    header::{CONNECTION, HOST, HeaderName, ORIGIN, SEC_WEBSOCKET_KEY, UPGRADE},
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
    /// The pool that it is looked for in, when the path says one.
    pub worker: Option<String>,
    /// What, and by which token.
    pub grant: Grant,
}

/// The right to drive a session.
pub struct MayConnect(pub Right);

/// The right to look at a session's display, or more.
pub struct MayWatch(pub Right);

/// The right to see what there is: a viewer's, or more.
pub struct MaySee<T> {
    /// What was asked for.
    pub target: T,
    /// Who asks.
    pub who: Member,
}

/// The right to make, change and end sessions, and to give others access to them: an admin's.
pub struct MayManage<T>(pub T);

impl Right {
    /// Waits until the token that it came from does not give it any more.
    pub async fn revoked(&self, gateway: &Gateway) {
        revoked(gateway, self.grant.expires(), |tokens| tokens.honour(&self.grant)).await;
    }

    /// Asks for the first of `wanted` that the credential is good for.
    async fn of(
        parts: &mut Parts,
        gateway: &Arc<Gateway>,
        credential: Option<Credential>,
        wanted: &'static [Scope],
    ) -> Result<Self, Refusal> {
        let decision = gateway
            .tokens
            .borrow()
            .as_ref()
            .map(|tokens| authorize(tokens, &gateway.session_keys, credential.as_ref(), wanted));
        let grant = decision.ok_or(Refusal::Starting)?.map_err(Refusal::Denied)?;
        accepted(&parts.extensions);
        let Target { session, worker } = Target::of(Names::of(parts, gateway).await?, gateway)?;
        Ok(Self { session, worker, grant })
    }
}

/// Waits until that moment, in seconds since 1970-01-01 UTC, or until the static tokens do not give it any more.
pub(crate) async fn revoked(gateway: &Gateway, expires: Option<u64>, stands: impl Fn(&StaticTokens) -> bool) {
    let over = async {
        match expires {
            Some(moment) => tokio::time::sleep(until(moment)).await,
            None => std::future::pending().await,
        }
    };
    let mut tokens = gateway.tokens.subscribe();
    let taken = tokens.wait_for(|tokens| !tokens.as_ref().is_some_and(&stands));
    tokio::select! {
        () = over => {}
        taken = taken => drop(taken.expect("the sender lives in the gateway")),
    }
}

/// How long it is until that moment, in seconds since 1970-01-01 UTC.
fn until(moment: u64) -> Duration {
    let moment = UNIX_EPOCH + Duration::from_secs(moment);
    moment.duration_since(SystemTime::now()).unwrap_or_default()
}

/// The parameters of a path, as they came. A path without a namespace means the gateway's own.
#[derive(Deserialize)]
pub struct Names {
    namespace: Option<String>,
    worker: Option<String>,
    #[serde(alias = "id")]
    name: Option<String>,
}

impl Names {
    async fn of(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Refusal> {
        let names = Path::from_request_parts(parts, gateway).await;
        names.map(|Path(names)| names).map_err(|_| Refusal::NoSuchName)
    }

    /// The session that is named, if one is.
    pub(crate) fn session(&self, gateway: &Gateway) -> Option<Key> {
        Key::new(self.namespace.as_ref().unwrap_or(&gateway.namespace), self.name.as_ref()?)
    }
}

/// What a path stands for.
pub trait FromNames: Sized {
    /// It, or that nothing can be called so.
    fn of(names: Names, gateway: &Gateway) -> Result<Self, Refusal>;
}

/// The sessions and pools of one namespace.
pub struct Namespace(pub String);

/// A session, and the pool that it is looked for in, when the path says one.
pub struct Target {
    /// The session.
    pub session: Key,
    /// Name of the pool.
    pub worker: Option<String>,
}

impl FromNames for Namespace {
    fn of(names: Names, gateway: &Gateway) -> Result<Self, Refusal> {
        let namespace = names.namespace.unwrap_or_else(|| gateway.namespace.clone());
        if Key::new(&namespace, "any").is_some() { Ok(Self(namespace)) } else { Err(Refusal::NoSuchName) }
    }
}

impl FromNames for Target {
    fn of(names: Names, gateway: &Gateway) -> Result<Self, Refusal> {
        let session = names.session(gateway).ok_or(Refusal::NoSuchName)?;
        Ok(Self { session, worker: names.worker })
    }
}

/// What the request shows. A browser adds its cookie also to what another site made it send: what changes anything, and every
/// socket, must come from a page of the gateway's own.
fn credential(parts: &Parts) -> Result<Option<Credential>, Refusal> {
    let credential = presented(&parts.headers, &parts.uri);
    let only_reads = matches!(parts.method, Method::GET | Method::HEAD) && !parts.headers.contains_key(UPGRADE);
    match credential {
        Some(Credential::Cookie(_)) if !only_reads && !is_same_origin(&parts.headers) => Err(Refusal::ForeignPage),
        other => Ok(other),
    }
}

/// Whether a page of this host sent it. Not compared is the scheme, which a proxy that ends TLS changes.
pub(crate) fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let origin = text(ORIGIN).and_then(|origin| origin.parse::<Uri>().ok());
    match (origin.as_ref().and_then(Uri::authority), text(HOST)) {
        (Some(origin), Some(host)) => origin.as_str().eq_ignore_ascii_case(host),
        _ => false,
    }
}

fn member(parts: &Parts, gateway: &Gateway, needed: Role) -> Result<Member, Refusal> {
    let credential = credential(parts)?;
    let tokens = gateway.tokens.borrow();
    let tokens = tokens.as_ref().ok_or(Refusal::Starting)?;
    let member = admit(tokens, &gateway.session_keys, credential.as_ref(), needed).map_err(Refusal::Denied)?;
    accepted(&parts.extensions);
    Ok(member)
}

/// Exempts the connection of a request from what holds for unknown clients.
pub(crate) fn accepted(request: &Extensions) {
    if let Some(connection) = request.get::<ConnectionHandle>() {
        connection.authenticated();
    }
}

impl<T: FromNames> FromRequestParts<Arc<Gateway>> for MaySee<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Refusal> {
        let who = member(parts, gateway, Role::Viewer)?;
        Ok(Self { target: T::of(Names::of(parts, gateway).await?, gateway)?, who })
    }
}

impl<T: FromNames> FromRequestParts<Arc<Gateway>> for MayManage<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Refusal> {
        member(parts, gateway, Role::Admin)?;
        Ok(Self(T::of(Names::of(parts, gateway).await?, gateway)?))
    }
}

impl FromRequestParts<Arc<Gateway>> for MayConnect {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Refusal> {
        // A cookie is for pages, and pages do not drive browsers.
        let token = presented(&parts.headers, &parts.uri).filter(|shown| matches!(shown, Credential::Token(_)));
        let right = Right::of(parts, gateway, token, &[Scope::Connect]).await?;
        // A page that got hold of a token, or that a user was led to, cannot leave this header out.
        if parts.headers.contains_key(ORIGIN) {
            return Err(Refusal::Origin);
        }
        Ok(Self(right))
    }
}

impl FromRequestParts<Arc<Gateway>> for MayWatch {
    type Rejection = Refusal;

    /// Any page may ask that has a token to show; with a cookie, the gateway's own.
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Refusal> {
        let offer = Offer::of(&parts.headers);
        let credential = match offer.token.clone() {
            Some(token) => Some(Credential::Token(token)),
            None => credential(parts)?,
        };
        Right::of(parts, gateway, credential, offer.wanted()).await.map(Self)
    }
}

/// A WebSocket handshake (RFC 6455 section 4.2.1), whose connection can be taken over once it was answered.
pub struct Handshake {
    /// The request's headers.
    pub headers: HeaderMap,
    /// The client's connection.
    pub connection: Upgrading,
}

/// A client's connection that becomes a WebSocket once the handshake was answered. It counts as open for as long as this is there.
pub struct Upgrading {
    /// The connection itself.
    pub upgrade: OnUpgrade,
    _place: Option<ConnectionHandle>,
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
            Some(upgrade) if asks => {
                let place = parts.extensions.get::<ConnectionHandle>().cloned();
                Ok(Self { headers: parts.headers.clone(), connection: Upgrading { upgrade, _place: place } })
            }
            _ => Err(Refusal::NotWebSocket),
        }
    }
}
