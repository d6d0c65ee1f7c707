//! Operations on sessions: list, create, read, touch, delete and connect.

use crate::{
    auth::extract::{Handshake, MayConnect, MayManage, MayRead, Namespace, Target},
    cache::{
        session::{self, Key},
        sessions::SessionEnd,
    },
    error::{ApiError, InvalidRequest, Problem},
    kubernetes,
    proxy::{
        client_options::Options,
        playwright,
        runner_client::{self, RunnerError},
        upstream,
    },
    rest::{
        activity,
        body::ValidatedJson,
        compat, convert,
        documents::{CreateSession, Deleted, Session, SessionPath, Status},
        lookup,
    },
    state::Gateway,
};
use axum::{Json, extract::State, response::Response};
use camofleet_auth::token::Scope;
use http::StatusCode;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Oldest activity that a list returns without polling the runner.
const MAX_AGE_IN_LIST: Duration = Duration::from_secs(5);
/// Oldest activity that a read of one session returns without polling the runner.
const MAX_AGE_OF_ONE: Duration = Duration::from_secs(1);

/// Lists all sessions, including finished ones until their objects are deleted.
#[utoipa::path(
    get, path = "/sessions", tag = "sessions",
    responses(
        (status = 200, body = [Session], description = "The oldest session first"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 503, body = Problem),
    )
)]
pub async fn list(
    MayRead { target: Namespace(namespace), .. }: MayRead<Namespace>,
    State(gateway): State<Arc<Gateway>>,
) -> Json<Vec<Session>> {
    let keys = gateway.sessions.keys_in(&namespace);
    activity::refresh(&gateway, &keys, MAX_AGE_IN_LIST).await;
    Json(lookup::documents_in(&gateway, &namespace))
}

/// Creates a session and waits until clients can connect.
#[utoipa::path(
    post, path = "/sessions", tag = "sessions", request_body = CreateSession,
    responses(
        (status = 201, body = Session, description = "The session is Ready"),
        (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem, description = "The pool does not exist"),
        (status = 415, body = Problem), (status = 422, body = InvalidRequest),
        (
            status = 503, body = Problem,
            description = "The session did not become Ready in time and was deleted; try again after Retry-After",
        ),
    )
)]
pub async fn create(
    MayManage(Namespace(namespace)): MayManage<Namespace>,
    State(gateway): State<Arc<Gateway>>,
    ValidatedJson(request): ValidatedJson<CreateSession>,
) -> Result<(StatusCode, Json<Session>), ApiError> {
    require_pool(&gateway, &namespace, request.worker.as_deref()).await?;
    let name = uuid::Uuid::new_v4().to_string();
    let key = Key::new(&namespace, &name).ok_or(ApiError::NoSuchResource)?;
    let object =
        convert::browser_session(&name, &namespace, request).map_err(|field| ApiError::Invalid(vec![field]))?;
    // In a separate task, so that the session is deleted even if the client disconnects at any moment.
    let client_gone = CancellationToken::new();
    let created = gateway.shutdown.spawn(
        {
            let (gateway, client_gone) = (Arc::clone(&gateway), client_gone.clone());
            async move { create_and_wait(&gateway, &key, &object, &client_gone).await }
        }
        .in_current_span(),
    );
    let _cancels_when_dropped = client_gone.drop_guard();
    let session = created.await.map_err(|_| ApiError::Draining)??;
    Ok((StatusCode::CREATED, Json(lookup::to_document(&gateway, &session, None))))
}

/// Returns a session.
#[utoipa::path(
    get, path = "/sessions/{worker}/{id}", tag = "sessions",
    params(SessionPath),
    responses(
        (status = 200, body = Session),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem),
    )
)]
pub async fn get(
    MayRead { target, .. }: MayRead<Target>,
    State(gateway): State<Arc<Gateway>>,
) -> Result<Json<Session>, ApiError> {
    let session = lookup::find(&gateway, &target).await?;
    activity::refresh(&gateway, std::slice::from_ref(&target.session), MAX_AGE_OF_ONE).await;
    let mut document =
        lookup::document_of(&gateway, &target.session).unwrap_or_else(|| lookup::to_document(&gateway, &session, None));
    if session.may_be_queued() {
        let pool = lookup::pool_of(&gateway, &session);
        document.queue_position =
            pool.and_then(|pool| convert::sessions_ahead(&pool, &session.object, &gateway.sessions.objects()));
    }
    Ok(Json(document))
}

/// Resets the session's idle time.
#[utoipa::path(
    post, path = "/sessions/{worker}/{id}/touch", tag = "sessions",
    params(SessionPath),
    responses(
        (status = 200, body = Session),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 410, body = Problem, description = "The session has ended"), (status = 503, body = Problem),
    )
)]
pub async fn touch(
    MayManage(target): MayManage<Target>,
    State(gateway): State<Arc<Gateway>>,
) -> Result<Json<Session>, ApiError> {
    let session = lookup::find(&gateway, &target).await?;
    match &session.readiness {
        session::Readiness::Finished(finish) => {
            return Err(ApiError::SessionEnded(SessionEnd::Finished(finish.clone())));
        }
        // The idle time has not started yet.
        session::Readiness::NotReady(_) => {}
        session::Readiness::Ready(runner) => {
            let token = gateway.signer.hop_token(&runner.uid, session.uid(), Scope::Control, None);
            if let Err(error) = runner_client::touch(&runner.address, session.uid(), &token).await {
                let error = match error {
                    error @ RunnerError::UnexpectedStatus(_) => ApiError::RunnerRejected(error.to_string()),
                    other => ApiError::RunnerUnreachable(other.to_string()),
                };
                return Err(match gateway.sessions.watch(&target.session) {
                    Some(mut session) => upstream::session_end_or(&mut session, error).await,
                    None => error,
                });
            }
            activity::refresh(&gateway, std::slice::from_ref(&target.session), Duration::ZERO).await;
        }
    }
    Ok(Json(
        lookup::document_of(&gateway, &target.session).unwrap_or_else(|| lookup::to_document(&gateway, &session, None)),
    ))
}

/// Deletes a session, which ends its browser.
#[utoipa::path(
    delete, path = "/sessions/{worker}/{id}", tag = "sessions",
    params(SessionPath),
    responses(
        (status = 200, body = Deleted),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem),
    )
)]
pub async fn delete(
    MayManage(target): MayManage<Target>,
    State(gateway): State<Arc<Gateway>>,
) -> Result<Json<Deleted>, ApiError> {
    // Read from the API server, because a cache that lags could still have the former session of this name, and the
    // current session would not be deleted.
    let session = match lookup::read(&gateway, &target).await {
        Err(ApiError::UnparsableSession(..)) => lookup::find(&gateway, &target).await?,
        read => read?,
    };
    kubernetes::delete(&gateway.client, &target.session, Some(session.uid())).await?;
    Ok(Json(Deleted { id: target.session.name().to_owned(), status: Status::Terminating }))
}

/// Connects a Playwright client to the session, over WebSocket.
///
/// This is the path in `ws_endpoint`. `/ws/{namespace}/{name}` is equivalent.
#[utoipa::path(
    get, path = "/sessions/{worker}/{id}/ws", tag = "sessions",
    params(SessionPath),
    responses(
        (status = 101, description = "Connected to the session's Playwright server"),
        (status = 400, body = Problem, description = "A query parameter or header is invalid"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "Another client holds the initial page"),
        (status = 410, body = Problem, description = "The session has ended"),
        (status = 426, body = Problem, description = "The request is not a WebSocket handshake"),
        (status = 428, description = "The client has another minor version of Playwright than the session"),
        (status = 503, body = Problem),
    )
)]
pub async fn connect(
    access: MayConnect,
    options: Options,
    handshake: Handshake,
    gateway: State<Arc<Gateway>>,
) -> Result<Response, ApiError> {
    playwright::playwright(access, options, handshake, gateway).await
}

/// Rejects a session that no pool can serve, which would otherwise wait until its timeout.
async fn require_pool(gateway: &Gateway, namespace: &str, name: Option<&str>) -> Result<(), ApiError> {
    let Some(name) = name else {
        return if gateway.pools.any_may_serve(namespace) { Ok(()) } else { Err(ApiError::NoPools) };
    };
    let no_pool = || ApiError::NoPool(name.to_owned());
    let key = Key::new(namespace, name).ok_or_else(no_pool)?;
    let known = gateway.pools.get(&key).is_some();
    // The watch can lag behind the creation of the pool.
    if known || kubernetes::pool_exists(&gateway.client, &key).await? { Ok(()) } else { Err(no_pool()) }
}

/// Creates the session and waits until it is Ready. Deletes it if it does not become Ready.
async fn create_and_wait(
    gateway: &Gateway,
    key: &Key,
    object: &camofleet_crds::v1alpha1::BrowserSession,
    client_gone: &CancellationToken,
) -> Result<session::Session, ApiError> {
    let uid = match kubernetes::create(&gateway.client, key, object).await {
        Ok(uid) => uid,
        Err(error) => {
            if may_have_been_created(&error) {
                // Without a UID. That is safe, because the name is random and was not published.
                clean_up(gateway, key, None).await;
            }
            return Err(compat::translate_rejection(error));
        }
    };
    tracing::info!(session = uid, "created the session");
    let ready = tokio::select! {
        ready = wait_until_ready(gateway, key, &uid) => ready,
        () = client_gone.cancelled() => Err(ApiError::NotStarted("the client disconnected".to_owned())),
        () = gateway.shutdown.draining() => Err(ApiError::Draining),
    };
    if let Err(error) = &ready {
        tracing::info!(session = uid, %error, "deleted the session, because it did not become ready");
        clean_up(gateway, key, Some(&uid)).await;
    }
    ready
}

/// Whether the session may exist although the request to create it failed.
fn may_have_been_created(error: &ApiError) -> bool {
    match error {
        ApiError::ApiServerTimeout => true,
        ApiError::ApiServer(error) => !matches!(error.as_ref(), kube::Error::Api(status) if status.code < 500),
        _ => false,
    }
}

async fn clean_up(gateway: &Gateway, key: &Key, uid: Option<&str>) {
    if let Err(error) = kubernetes::delete(&gateway.client, key, uid).await {
        tracing::warn!(
            namespace = key.namespace(),
            name = key.name(),
            %error,
            "could not delete the session; if it exists, it ends by its idle timeout"
        );
    }
}

async fn wait_until_ready(gateway: &Gateway, key: &Key, uid: &str) -> Result<session::Session, ApiError> {
    let until_ready = async {
        let mut followed = gateway.sessions.wait_for_session(key, uid).await;
        let ready = followed.ready().await;
        ready.map(|_| followed.session()).map_err(|end| ApiError::NotStarted(end.to_string()))
    };
    let late = || {
        let state = gateway.sessions.watch(key).map_or("Pending", |session| session.state().as_str());
        ApiError::NotStarted(format!("its state is still {state} after {} s", gateway.ready_timeout.as_secs()))
    };
    timeout(gateway.ready_timeout, until_ready).await.unwrap_or_else(|_| Err(late()))
}
