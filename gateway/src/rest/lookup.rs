//! Finds sessions in the cache or at the API server, and converts them to documents.

use crate::{
    auth::extract::Target,
    cache::{
        activity::Activity,
        session::{self, Key},
    },
    error::ApiError,
    kubernetes,
    rest::{convert::SessionSources, documents::Session},
    state::Gateway,
};
use camofleet_auth::token::{Scope, SessionToken};
use camofleet_crds::v1alpha1::WorkerPool;
use k8s_openapi::jiff::Timestamp;
use std::sync::Arc;

/// Shortest lifetime of the view token in a session's document, in seconds.
const VIEW_TOKEN_TTL: u64 = 3600;
/// A view token expires at a multiple of this, in seconds. Documents of one session therefore contain the same token
/// for a while, and a page does not reload the live view.
const VIEW_TOKEN_STEP: u64 = 900;

/// The documents of all sessions of a namespace, the oldest session first.
pub fn documents_in(gateway: &Gateway, namespace: &str) -> Vec<Session> {
    let keys = gateway.sessions.keys_in(namespace);
    let mut sessions: Vec<_> = keys.iter().filter_map(|key| document_of(gateway, key)).collect();
    sessions.sort_by(|one, other| (one.created_at, &one.id).cmp(&(other.created_at, &other.id)));
    sessions
}

/// The document of a session in the cache.
pub fn document_of(gateway: &Gateway, key: &Key) -> Option<Session> {
    let (session, activity) = gateway.sessions.get(key)?;
    Some(to_document(gateway, &session, activity.as_ref()))
}

/// Converts a session to a document.
pub fn to_document(gateway: &Gateway, session: &session::Session, activity: Option<&Activity>) -> Session {
    let pool = pool_of(gateway, session);
    let view_token = session.has_live_view().then(|| view_token(gateway, session.uid()));
    let (pool, view_token) = (pool.as_deref(), view_token.as_deref());
    SessionSources { session, activity, pool, view_token, sessions_ahead: None, own_namespace: &gateway.namespace }
        .document()
}

/// The pool that serves the session, or else the pool in its spec.
pub fn pool_of(gateway: &Gateway, session: &session::Session) -> Option<Arc<WorkerPool>> {
    gateway.pools.get(&session.pool()?)
}

/// Finds the session in the cache, or else at the API server.
pub async fn find(gateway: &Gateway, target: &Target) -> Result<session::Session, ApiError> {
    match gateway.sessions.get(&target.session) {
        Some((session, _)) => require_pool(session, target),
        None => read(gateway, target).await,
    }
}

/// Reads the session from the API server, bypassing the cache.
pub async fn read(gateway: &Gateway, target: &Target) -> Result<session::Session, ApiError> {
    let object = kubernetes::get(&gateway.client, &target.session).await?;
    let object = object.ok_or_else(|| ApiError::NoSession(target.session.clone()))?;
    require_pool(session::Session::new(object), target)
}

/// Checks that the session is in the pool that the path names.
fn require_pool(session: session::Session, target: &Target) -> Result<session::Session, ApiError> {
    if session.is_in_pool(target.pool.as_deref()) {
        Ok(session)
    } else {
        Err(ApiError::NoSession(target.session.clone()))
    }
}

/// Signs a view token for the session with this UID.
fn view_token(gateway: &Gateway, uid: &str) -> String {
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
    let expires = (now + VIEW_TOKEN_TTL).div_ceil(VIEW_TOKEN_STEP) * VIEW_TOKEN_STEP;
    gateway.signer.session_token(SessionToken {
        session: uid.to_owned(),
        scope: Scope::View,
        expires,
        single_use_id: None,
    })
}
