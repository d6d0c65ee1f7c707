//! Finds sessions in the cache or at the API server, and shows them as documents.

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

/// How long, in seconds, the token lasts at least with which a document says that its session can be watched.
const VIEW_TOKEN_TTL: u64 = 3600;
/// Its end is a multiple of this, in seconds, so that the same session is told with the same token for a while: a page
/// that shows it need not load it anew.
const VIEW_TOKEN_STEP: u64 = 900;

/// Every session of a namespace as a document, the oldest first.
pub fn documents_in(gateway: &Gateway, namespace: &str) -> Vec<Session> {
    let keys = gateway.sessions.keys_in(namespace);
    let mut sessions: Vec<_> = keys.iter().filter_map(|key| document_of(gateway, key)).collect();
    sessions.sort_by(|one, other| (one.created_at, &one.id).cmp(&(other.created_at, &other.id)));
    sessions
}

/// A session that the watch told of, as a document.
pub fn document_of(gateway: &Gateway, key: &Key) -> Option<Session> {
    let (session, activity) = gateway.sessions.get(key)?;
    Some(to_document(gateway, &session, activity.as_ref()))
}

/// A session as a document.
pub fn to_document(gateway: &Gateway, session: &session::Session, activity: Option<&Activity>) -> Session {
    let pool = pool_of(gateway, session);
    let view_token = session.has_live_view().then(|| view_token(gateway, session.uid()));
    let (pool, view_token) = (pool.as_deref(), view_token.as_deref());
    SessionSources { session, activity, pool, view_token, queue_position: None, own_namespace: &gateway.namespace }
        .document()
}

/// The pool that serves it, or that it names.
pub fn pool_of(gateway: &Gateway, session: &session::Session) -> Option<Arc<WorkerPool>> {
    gateway.pools.get(&session.pool()?)
}

/// The session that is asked for, as the watch told of it, else as the API server has it.
pub async fn find(gateway: &Gateway, target: &Target) -> Result<session::Session, ApiError> {
    match gateway.sessions.get(&target.session) {
        Some((session, _)) => require_pool(session, target),
        None => read(gateway, target).await,
    }
}

/// The session that is asked for, as the API server has it.
pub async fn read(gateway: &Gateway, target: &Target) -> Result<session::Session, ApiError> {
    let object = kubernetes::get(&gateway.client, &target.session).await?;
    let object = object.ok_or_else(|| ApiError::NoSession(target.session.clone()))?;
    require_pool(session::Session::new(object), target)
}

/// The session, unless it is looked for in a pool that is not its own.
fn require_pool(session: session::Session, target: &Target) -> Result<session::Session, ApiError> {
    if session.is_in_pool(target.pool.as_deref()) {
        Ok(session)
    } else {
        Err(ApiError::NoSession(target.session.clone()))
    }
}

/// A token for looking at the session with this UID, told to somebody who may look at all.
fn view_token(gateway: &Gateway, uid: &str) -> String {
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
    let expires = (now + VIEW_TOKEN_TTL).div_ceil(VIEW_TOKEN_STEP) * VIEW_TOKEN_STEP;
    gateway.signer.session_token(SessionToken { session: uid.to_owned(), scope: Scope::View, expires, once: None })
}
