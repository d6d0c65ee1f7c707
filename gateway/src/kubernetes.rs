//! Requests to the API server: watches sessions, pools and the Secret with the static tokens; reads, creates and
//! deletes single sessions. The watches feed [`Sessions`], [`Pools`] and [`StaticTokens`], which make the decisions.

use crate::{
    auth::{
        authenticator::Authenticator,
        static_tokens::{Role, StaticTokens},
    },
    cache::{
        changes::{Changed, Changes},
        pools::{Pools, without_template},
        session::{Key, Session},
        sessions::Sessions,
    },
    error::ApiError,
};
use aws_lc_rs::rand;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use camofleet_crds::{
    trimmed::Trimmed,
    v1alpha1::{BrowserSession, WorkerPool},
};
use camofleet_runtime::watch::{self, Change};
use futures::StreamExt;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams, Preconditions},
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, fmt::Debug, pin::pin, sync::Arc, time::Duration};
use tokio::time::timeout;

/// The Secret with the static tokens, in the release's namespace.
pub const TOKENS: &str = "camofleet-tokens";
/// Delay before another attempt to create the Secret.
const CREATE_RETRY: Duration = Duration::from_secs(5);
/// Timeout of a request for one object.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A cache that a watch keeps up to date.
trait Cache {
    type Object;
    /// Removes the parts of an object that the gateway does not read.
    fn trim(object: Self::Object) -> Self::Object;
    /// Replaces the content with a complete list. Returns the keys of objects that changed or are gone.
    fn replace_all(&self, objects: Vec<(Key, Arc<Self::Object>)>) -> Vec<Key>;
    /// Inserts or replaces an object. Returns whether it changed.
    fn put(&self, key: Key, object: Arc<Self::Object>) -> bool;
    fn remove(&self, key: &Key);
}

impl Cache for Sessions {
    type Object = BrowserSession;

    fn trim(object: BrowserSession) -> BrowserSession {
        object
    }

    fn replace_all(&self, objects: Vec<(Key, Arc<BrowserSession>)>) -> Vec<Key> {
        self.replace_all(objects.into_iter().map(|(key, object)| (key, Session::new(object))).collect())
    }

    fn put(&self, key: Key, object: Arc<BrowserSession>) -> bool {
        self.put(key, Session::new(object))
    }

    fn remove(&self, key: &Key) {
        self.remove(key);
    }
}

impl Cache for Pools {
    type Object = WorkerPool;

    fn trim(object: WorkerPool) -> WorkerPool {
        without_template(object)
    }

    fn replace_all(&self, objects: Vec<(Key, Arc<WorkerPool>)>) -> Vec<Key> {
        self.replace_all(objects)
    }

    fn put(&self, key: Key, object: Arc<WorkerPool>) -> bool {
        self.put(key, object)
    }

    fn remove(&self, key: &Key) {
        self.remove(key);
    }
}

/// Keeps the cache of sessions up to date, forever. Do not use `client` for anything but watches: a watch that shared
/// its HTTP/2 connection with many requests was seen to starve.
pub async fn watch_sessions(client: Client, sessions: &Sessions, changes: &Changes) {
    mirror(client, sessions, |key| changes.record(Changed::Session(key))).await;
}

/// Keeps the cache of pools up to date, forever. `client` as in [`watch_sessions`].
pub async fn watch_pools(client: Client, pools: &Pools, changes: &Changes) {
    mirror(client, pools, |key| changes.record(Changed::Pool(key))).await;
}

async fn mirror<C: Cache>(client: Client, cache: &C, changed: impl Fn(Key))
where
    C::Object:
        Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    // `DeserializeGuard`: an object that this version cannot parse must not hide the other objects.
    let api = Api::<Trimmed<DeserializeGuard<C::Object>>>::all(client);
    let apply = |change: Change<Arc<C::Object>>| match change {
        Change::Listed(objects) => {
            let objects = objects.into_iter().map(|object| (key_of(object.as_ref()), object)).collect();
            cache.replace_all(objects).into_iter().for_each(&changed);
        }
        Change::Applied(object) => {
            let key = key_of(object.as_ref());
            if cache.put(key.clone(), object) {
                changed(key);
            }
        }
        Change::Deleted(object) => {
            let key = key_of(object.as_ref());
            cache.remove(&key);
            changed(key);
        }
    };
    watch::follow(api, watch::config(), |object| Some(Arc::new(C::trim(object))), apply).await;
}

/// Reads the session that currently has this name, bypassing the cache.
pub async fn get(client: &Client, key: &Key) -> Result<Option<BrowserSession>, ApiError> {
    let api = Api::<DeserializeGuard<BrowserSession>>::namespaced(client.clone(), key.namespace());
    match with_timeout(api.get_opt(key.name())).await? {
        Some(DeserializeGuard(Ok(object))) => Ok(Some(object)),
        Some(DeserializeGuard(Err(error))) => Err(ApiError::UnparsableSession(key.clone(), error.error)),
        None => Ok(None),
    }
}

/// Returns whether the API server has a pool with this name.
pub async fn pool_exists(client: &Client, key: &Key) -> Result<bool, ApiError> {
    let api = Api::<WorkerPool>::namespaced(client.clone(), key.namespace());
    Ok(with_timeout(api.get_metadata_opt(key.name())).await?.is_some())
}

/// Creates a session, and returns its UID.
pub async fn create(client: &Client, key: &Key, session: &BrowserSession) -> Result<String, ApiError> {
    let api = Api::<BrowserSession>::namespaced(client.clone(), key.namespace());
    match with_timeout(api.create(&PostParams::default(), session)).await {
        Ok(created) => Ok(created.uid().unwrap_or_default()),
        Err(ApiError::ApiServer(error)) => Err(match *error {
            // RBAC, a quota, or an admission policy.
            kube::Error::Api(status) if status.is_forbidden() => ApiError::Forbidden(status.message),
            other => ApiError::ApiServer(Box::new(other)),
        }),
        Err(other) => Err(other),
    }
}

/// Deletes the session with this name. With a UID, only a session with that UID is deleted. Succeeds also when the
/// session is gone or another session has taken its name.
pub async fn delete(client: &Client, key: &Key, uid: Option<&str>) -> Result<(), ApiError> {
    let api = Api::<BrowserSession>::namespaced(client.clone(), key.namespace());
    let preconditions = uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None });
    let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
    match with_timeout(api.delete(key.name(), &parameters)).await {
        Ok(_) => Ok(()),
        Err(ApiError::ApiServer(error)) => match *error {
            kube::Error::Api(status) if status.is_not_found() || status.is_conflict() => Ok(()),
            kube::Error::Api(status) if status.is_forbidden() => Err(ApiError::Forbidden(status.message)),
            other => Err(ApiError::ApiServer(Box::new(other))),
        },
        Err(other) => Err(other),
    }
}

async fn with_timeout<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(response) => response.map_err(|error| ApiError::ApiServer(Box::new(error))),
        Err(_) => Err(ApiError::ApiServerTimeout),
    }
}

/// Keeps the static tokens in sync with the Secret, forever, and creates the Secret when it does not exist.
pub async fn watch_tokens(client: Client, namespace: &str, auth: &Authenticator) {
    let api = Api::<Secret>::namespaced(client, namespace);
    let only_ours = watcher::Config::default().fields(&format!("metadata.name={TOKENS}"));
    let mut events = pin!(watch::events(api.clone(), only_ours));
    let mut listed = None;
    while let Some(event) = events.next().await {
        match event {
            Event::Init => listed = None,
            Event::InitApply(secret) => listed = Some(secret),
            Event::InitDone => match listed.take() {
                Some(secret) => apply_tokens(auth, &secret),
                None => create_tokens(&api, auth).await,
            },
            Event::Apply(secret) => apply_tokens(auth, &secret),
            // An administrator deletes the Secret to replace its tokens.
            Event::Delete(_) => create_tokens(&api, auth).await,
        }
    }
}

fn apply_tokens(auth: &Authenticator, secret: &Secret) {
    let data = secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    let read = StaticTokens::parse(data);
    if read.is_empty() {
        tracing::warn!(
            "found no token under `admin` or `viewer` in Secret {TOKENS}, so no client can authenticate with a static token"
        );
    } else {
        tracing::info!(tokens = ?read, "read Secret {TOKENS}");
    }
    auth.set_tokens(Some(read));
}

/// Creates the Secret with one new token for each role. The watch delivers the new Secret, or the Secret of another
/// replica that was faster.
async fn create_tokens(api: &Api<Secret>, auth: &Authenticator) {
    // The deletion of the Secret revokes its tokens.
    if auth.is_ready() {
        auth.set_tokens(Some(StaticTokens::default()));
    }
    let data = Role::ALL.map(|role| (role.as_str().to_owned(), ByteString(new_token().into_bytes())));
    let secret = Secret {
        metadata: ObjectMeta { name: Some(TOKENS.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from(data)),
        ..Secret::default()
    };
    loop {
        match api.create(&PostParams::default(), &secret).await {
            Ok(_) => return tracing::info!("created Secret {TOKENS} with one token for each role"),
            Err(kube::Error::Api(status)) if status.is_already_exists() => return,
            Err(error) => {
                tracing::error!(%error, "could not create Secret {TOKENS}, retrying; create it by hand to continue");
            }
        }
        tokio::time::sleep(CREATE_RETRY).await;
    }
}

/// A token of 256 random bits, safe in a URL.
fn new_token() -> String {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the system's random source works");
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn key_of(object: &impl ResourceExt) -> Key {
    Key::new(object.namespace().unwrap_or_default(), object.name_any()).expect("the API server validates names")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use std::{convert::Infallible, future};

    /// An API server with one object that has a lot of metadata.
    fn api_server(kind: &'static str) -> Client {
        let labels: BTreeMap<String, String> =
            (0..20_000).map(|index| (format!("label-{index}"), "value".to_owned())).collect();
        let object = json!({
            "apiVersion": "camofleet.dev/v1alpha1", "kind": kind, "spec": {},
            "metadata": {
                "namespace": "ns", "name": "a", "uid": "1", "resourceVersion": "7", "labels": labels,
                "annotations": { "note": "x".repeat(256 * 1024), "camofleet.dev/labels": "{}" },
                "managedFields": [{ "manager": "m".repeat(100_000), "operation": "Update" }],
            },
        });
        let list = json!({
            "apiVersion": "camofleet.dev/v1alpha1", "kind": format!("{kind}List"),
            "metadata": { "resourceVersion": "7" }, "items": [object],
        });
        let server = tower::service_fn(move |request: Request<Body>| {
            let list = list.to_string();
            async move {
                if request.uri().query().is_some_and(|query| query.contains("watch=")) {
                    future::pending::<()>().await;
                }
                Ok::<_, Infallible>(Response::new(Body::from(list.into_bytes())))
            }
        });
        Client::new(server, "ns")
    }

    async fn read<C: Cache>(cache: &C, kind: &'static str, has_synced: impl Fn() -> bool)
    where
        C::Object: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'static,
    {
        let reading = async {
            while !has_synced() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = mirror(api_server(kind), cache, |_| {}) => unreachable!("a watch never ends"),
            () = reading => {}
        }
    }

    #[tokio::test]
    async fn caches_drop_unused_metadata() {
        let (sessions, pools, key) = (Sessions::default(), Pools::default(), Key::new("ns", "a").unwrap());
        read(&sessions, "BrowserSession", || sessions.has_synced()).await;
        read(&pools, "WorkerPool", || pools.has_synced()).await;
        let session = serde_json::to_value(&sessions.get(&key).unwrap().0.object.metadata).unwrap();
        let pool = serde_json::to_value(&pools.get(&key).unwrap().metadata).unwrap();
        let expected = json!({
            "namespace": "ns", "name": "a", "uid": "1", "resourceVersion": "7",
            "annotations": { "camofleet.dev/labels": "{}" },
        });
        assert_eq!([session, pool], [expected.clone(), expected] as [Value; 2]);
    }

    #[test]
    fn new_tokens_are_random_and_url_safe() {
        let token = new_token();
        assert_eq!(token.len(), 43);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_ne!(token, new_token());
    }
}
