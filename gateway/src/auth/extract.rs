//! Axum extractors that authorize requests. A handler with one of them in its signature runs only for permitted
//! clients. No handler can skip the check, because only these extractors provide the name of a session.

use crate::{
    auth::{
        credential::Credential,
        principal::{Action, Principal},
        subprotocol::RequestedSubprotocols,
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

/// A granted permission to connect to a session, which the connection keeps.
pub struct SessionAccess {
    session: Key,
    pool: Option<String>,
    principal: Principal,
    scope: Scope,
}

/// Permission to connect to a session with Playwright.
pub struct MayConnect(pub SessionAccess);

/// Permission to view a session's display, and to send input when the scope is [`Scope::Control`].
pub struct MayView(pub SessionAccess);

/// Permission to list and read sessions and pools.
pub struct MayRead<T> {
    /// The session or namespace in the path.
    pub target: T,
    /// The authenticated client.
    pub principal: Principal,
}

/// Permission to create, touch and delete sessions, and to issue tokens for them.
pub struct MayManage<T>(pub T);

impl SessionAccess {
    /// Namespace and name of the session.
    pub fn session(&self) -> &Key {
        &self.session
    }

    /// Name of the pool in the path. None: any pool.
    pub fn pool(&self) -> Option<&str> {
        self.pool.as_deref()
    }

    /// The granted scope.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Whether the permission covers the session with this UID. The extractors cannot check it, because the path has
    /// only the session's name, so `proxy::upstream` does.
    pub fn covers_session(&self, uid: &str) -> bool {
        self.principal.covers_session(uid)
    }

    /// Id of a session token that permits a single connection. None for other credentials.
    pub fn single_use_id(&self) -> Option<&str> {
        self.principal.single_use_id()
    }

    /// Waits until the client's credential no longer permits the connection: it has expired, was revoked, or has a role
    /// without this scope.
    pub async fn wait_until_invalid(&self, gateway: &Gateway) {
        gateway.auth.wait_until_invalid(&self.principal, |now| now.allows(Action::Session(self.scope))).await;
    }

    /// Grants the first of the scopes in `wanted` that the credential permits, for whichever session it covers.
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

/// Path parameters. Without a namespace, the gateway's own applies. Paths of the REST API have the original
/// Camo-fleet's `worker` for the pool and `id` for the session's name.
#[derive(Deserialize)]
pub struct PathParams {
    namespace: Option<String>,
    #[serde(alias = "worker")]
    pool: Option<String>,
    #[serde(alias = "id")]
    name: Option<String>,
}

/// The path segment that matches any pool.
pub const ANY_POOL: &str = "-";

impl PathParams {
    async fn extract(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        let params = Path::from_request_parts(parts, gateway).await;
        params.map(|Path(params)| params).map_err(|_| ApiError::NoSuchResource)
    }

    /// The session in the path. None when the path has no session, or its name is invalid.
    pub(crate) fn session(&self, gateway: &Gateway) -> Option<Key> {
        Key::new(self.namespace.as_ref().unwrap_or(&gateway.namespace), self.name.as_ref()?)
    }
}

/// A resource that is identified by path parameters.
pub trait FromPathParams: Sized {
    /// Parses the parameters.
    ///
    /// # Errors
    /// When a name is missing or invalid.
    fn from_params(params: PathParams, gateway: &Gateway) -> Result<Self, ApiError>;
}

/// The namespace whose sessions and pools a request is about.
pub struct Namespace(pub String);

/// The session and the pool in a path.
pub struct Target {
    /// Namespace and name of the session.
    pub session: Key,
    /// Name of the pool. None: any pool.
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

/// Reads the request's credential. With a cookie, only a page of the same origin may change anything or open a
/// WebSocket, because browsers send the cookie also with requests caused by pages of other hosts.
fn credential(parts: &Parts) -> Result<Option<Credential>, ApiError> {
    let credential = Credential::from_request(&parts.headers, &parts.uri);
    let only_reads = matches!(parts.method, Method::GET | Method::HEAD) && !parts.headers.contains_key(UPGRADE);
    match credential {
        Some(Credential::Cookie(_)) if !only_reads && !is_same_origin(&parts.headers) => Err(ApiError::CrossOrigin),
        other => Ok(other),
    }
}

/// Whether `Origin` matches `Host`. The scheme is not compared, because a proxy that terminates TLS changes it.
pub(crate) fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let origin = text(ORIGIN).and_then(|origin| origin.parse::<Uri>().ok());
    match (origin.as_ref().and_then(Uri::authority), text(HOST)) {
        (Some(origin), Some(host)) => origin.as_str().eq_ignore_ascii_case(host),
        _ => false,
    }
}

/// Authenticates the client and checks that it is allowed this action.
fn authorize(parts: &Parts, gateway: &Gateway, action: Action) -> Result<Principal, ApiError> {
    let principal = gateway.auth.authenticate(credential(parts)?.as_ref())?;
    principal.require(action).map_err(ApiError::Denied)?;
    mark_authenticated(&parts.extensions);
    Ok(principal)
}

/// Marks the request's connection as authenticated, which exempts it from the limits for unauthenticated connections.
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
        // Cookies are ignored, because they come from pages, and pages must not drive browsers.
        let token =
            Credential::from_request(&parts.headers, &parts.uri).filter(|it| matches!(it, Credential::Token(_)));
        let access = SessionAccess::grant(parts, gateway, token, &[Scope::Connect]).await?;
        // A page that obtained a token cannot omit this header.
        if parts.headers.contains_key(ORIGIN) {
            return Err(ApiError::OriginNotAllowed);
        }
        Ok(Self(access))
    }
}

impl FromRequestParts<Arc<Gateway>> for MayView {
    type Rejection = ApiError;

    /// With a token, a page of any origin may connect; with a cookie, only a page of the same origin.
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        let requested = RequestedSubprotocols::from_headers(&parts.headers);
        let credential = match requested.token() {
            Some(token) => Some(Credential::Token(token.to_owned())),
            None => credential(parts)?,
        };
        SessionAccess::grant(parts, gateway, credential, requested.scopes()).await.map(Self)
    }
}

/// A client's WebSocket handshake (RFC 6455 section 4.2.1).
pub struct Handshake {
    /// The request's headers.
    pub headers: HeaderMap,
    /// The connection, which is upgraded after the response.
    pub connection: Upgrading,
}

/// A client's connection that becomes a WebSocket after the response to its handshake. The listener counts the
/// connection as open until this value is dropped.
pub struct Upgrading {
    /// Resolves to the connection.
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
