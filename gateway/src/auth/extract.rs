//! Extractors that authorize requests. A handler with one of them in its signature runs only for clients that are
//! allowed its action. No handler can skip the check, because only these extractors yield the name of a session.

use crate::{
    auth::{
        credential::Credential,
        principal::{Action, Principal},
        subprotocol::Offer,
    },
    cache::session::Key,
    error::ApiError,
    state::Gateway,
};
use axum::extract::{FromRequestParts, Path};
use camofleet_auth::token::Scope;
use camofleet_runtime::server::ConnectionHandle;
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Uri,
    header::{CONNECTION, HOST, HeaderName, ORIGIN, SEC_WEBSOCKET_KEY, UPGRADE},
    request::Parts,
};
use hyper::upgrade::OnUpgrade;
use serde::Deserialize;
use std::sync::Arc;

/// Permission to connect to a session, carried from the extractor to the connection.
pub struct SessionAccess {
    session: Key,
    pool: Option<String>,
    principal: Principal,
    scope: Scope,
}

/// Permission to drive a session.
pub struct MayConnect(pub SessionAccess);

/// Permission to watch a session's display, and to type into it when the scope is [`Scope::Control`].
pub struct MayWatch(pub SessionAccess);

/// Permission to list and read sessions and pools.
pub struct MayRead<T> {
    /// The object or namespace that the path params.
    pub target: T,
    /// The client.
    pub principal: Principal,
}

/// Permission to create, touch and delete sessions, and to issue tokens for them.
pub struct MayManage<T>(pub T);

impl SessionAccess {
    /// Name of the session.
    pub fn session(&self) -> &Key {
        &self.session
    }

    /// Name of the pool that the path params. None: any.
    pub fn pool(&self) -> Option<&str> {
        self.pool.as_deref()
    }

    /// The scope that was granted.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Whether the permission is for the session with this UID.
    pub fn is_for(&self, uid: &str) -> bool {
        self.principal.is_for(uid)
    }

    /// Id of the client's session token when that allows a single connection.
    pub fn single_use_id(&self) -> Option<&str> {
        self.principal.single_use_id()
    }

    /// Waits until the client's credential no longer permits the connection.
    pub async fn revoked(&self, gateway: &Gateway) {
        gateway.auth.revoked(&self.principal, |now| now.allows(Action::Session(self.scope))).await;
    }

    /// Grants the first of the scopes in `wanted` that the credential permits.
    async fn grant(
        parts: &mut Parts,
        gateway: &Arc<Gateway>,
        credential: Option<Credential>,
        wanted: &'static [Scope],
    ) -> Result<Self, ApiError> {
        let principal = gateway.auth.authenticate(credential.as_ref())?;
        let scope = principal.first_scope(wanted).map_err(ApiError::Denied)?;
        mark_authenticated(&parts.extensions);
        let Target { session, pool } = Target::from_params(PathParams::extract(parts, gateway).await?, gateway)?;
        Ok(Self { session, pool, principal, scope })
    }
}

/// Parameters of a path. A path without a namespace means the gateway's own. The REST API calls the pool `worker` and
/// the session's name `id`, as the original Camo-fleet does.
#[derive(Deserialize)]
pub struct PathParams {
    namespace: Option<String>,
    #[serde(alias = "worker")]
    pool: Option<String>,
    #[serde(alias = "id")]
    name: Option<String>,
}

/// Stands for any pool in a path.
pub const ANY_POOL: &str = "-";

impl PathParams {
    async fn extract(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        let params = Path::from_request_parts(parts, gateway).await;
        params.map(|Path(params)| params).map_err(|_| ApiError::NoSuchResource)
    }

    /// The session that is named, if one is.
    pub(crate) fn session(&self, gateway: &Gateway) -> Option<Key> {
        Key::new(self.namespace.as_ref().unwrap_or(&gateway.namespace), self.name.as_ref()?)
    }
}

/// What a path stands for.
pub trait FromPathParams: Sized {
    /// It, or that nothing can be called so.
    fn from_params(params: PathParams, gateway: &Gateway) -> Result<Self, ApiError>;
}

/// The sessions and pools of one namespace.
pub struct Namespace(pub String);

/// A session, and the pool in which the path expects it.
pub struct Target {
    /// The session.
    pub session: Key,
    /// Name of the pool. None: any.
    pub pool: Option<String>,
}

impl FromPathParams for Namespace {
    fn from_params(params: PathParams, gateway: &Gateway) -> Result<Self, ApiError> {
        let namespace = params.namespace.unwrap_or_else(|| gateway.namespace.clone());
        if Key::new(&namespace, "any").is_some() { Ok(Self(namespace)) } else { Err(ApiError::NoSuchResource) }
    }
}

impl FromPathParams for Target {
    fn from_params(params: PathParams, gateway: &Gateway) -> Result<Self, ApiError> {
        let session = params.session(gateway).ok_or(ApiError::NoSuchResource)?;
        Ok(Self { session, pool: params.pool.filter(|pool| pool != ANY_POOL) })
    }
}

/// The request's credential. Browsers send the login cookie also with requests that a page of another host caused.
/// With a cookie, therefore, only a page of this host may change anything or open a socket.
fn credential(parts: &Parts) -> Result<Option<Credential>, ApiError> {
    let credential = Credential::from_request(&parts.headers, &parts.uri);
    let only_reads = matches!(parts.method, Method::GET | Method::HEAD) && !parts.headers.contains_key(UPGRADE);
    match credential {
        Some(Credential::Cookie(_)) if !only_reads && !is_same_origin(&parts.headers) => Err(ApiError::CrossOrigin),
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

/// The client, if it is allowed this action.
fn authorize(parts: &Parts, gateway: &Gateway, action: Action) -> Result<Principal, ApiError> {
    let principal = gateway.auth.authenticate(credential(parts)?.as_ref())?;
    principal.require(action).map_err(ApiError::Denied)?;
    mark_authenticated(&parts.extensions);
    Ok(principal)
}

/// Exempts the connection of a request from what holds for unknown clients.
pub(crate) fn mark_authenticated(request: &Extensions) {
    if let Some(connection) = request.get::<ConnectionHandle>() {
        connection.authenticated();
    }
}

impl<T: FromPathParams> FromRequestParts<Arc<Gateway>> for MayRead<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        let principal = authorize(parts, gateway, Action::Read)?;
        Ok(Self { target: T::from_params(PathParams::extract(parts, gateway).await?, gateway)?, principal })
    }
}

impl<T: FromPathParams> FromRequestParts<Arc<Gateway>> for MayManage<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        authorize(parts, gateway, Action::Manage)?;
        Ok(Self(T::from_params(PathParams::extract(parts, gateway).await?, gateway)?))
    }
}

impl FromRequestParts<Arc<Gateway>> for MayConnect {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        // Cookies are ignored: pages have them, and pages do not drive browsers.
        let token =
            Credential::from_request(&parts.headers, &parts.uri).filter(|shown| matches!(shown, Credential::Token(_)));
        let access = SessionAccess::grant(parts, gateway, token, &[Scope::Connect]).await?;
        // A page that got hold of a token cannot omit this header.
        if parts.headers.contains_key(ORIGIN) {
            return Err(ApiError::FromBrowserPage);
        }
        Ok(Self(access))
    }
}

impl FromRequestParts<Arc<Gateway>> for MayWatch {
    type Rejection = ApiError;

    /// With a token, any page may watch; with a cookie, only the gateway's own.
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        let offer = Offer::from_headers(&parts.headers);
        let credential = match offer.token() {
            Some(token) => Some(Credential::Token(token.to_owned())),
            None => credential(parts)?,
        };
        SessionAccess::grant(parts, gateway, credential, offer.scopes()).await.map(Self)
    }
}

/// A WebSocket handshake (RFC 6455 section 4.2.1), whose connection can be taken over once it was answered.
pub struct Handshake {
    /// The request's headers.
    pub headers: HeaderMap,
    /// The client's connection.
    pub connection: Upgrading,
}

/// A client's connection that becomes a WebSocket once the handshake was answered. It counts as open for as long as
/// this is there.
pub struct Upgrading {
    /// The connection itself.
    pub upgrade: OnUpgrade,
    _connection: Option<ConnectionHandle>,
}

impl<S: Sync> FromRequestParts<S> for Handshake {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let lists = |name: HeaderName, word: &str| {
            let values = parts.headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
            values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
        };
        let is_handshake = parts.method == Method::GET
            && lists(UPGRADE, "websocket")
            && lists(CONNECTION, "upgrade")
            && parts.headers.contains_key(SEC_WEBSOCKET_KEY);
        match parts.extensions.remove::<OnUpgrade>() {
            Some(upgrade) if is_handshake => {
                let connection = parts.extensions.get::<ConnectionHandle>().cloned();
                Ok(Self { headers: parts.headers.clone(), connection: Upgrading { upgrade, _connection: connection } })
            }
            _ => Err(ApiError::NotWebSocket),
        }
    }
}
