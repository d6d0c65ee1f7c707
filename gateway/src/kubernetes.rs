//! What the gateway asks of the API server: sessions and pools by watch, one session by name, the Secret with the
//! static tokens; and that sessions be made and deleted. Thin: what it reads goes into [`Sessions`], [`Pools`] and
//! [`StaticTokens`], where the decisions are.

use crate::{
    auth::{
        authenticator::Authenticator,
        tokens::{Role, StaticTokens},
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
/// How long to wait before the Secret is made again after that failed.
const CREATE_RETRY: Duration = Duration::from_secs(5);
/// How long the API server may take for one object.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What a watch keeps up to date.
trait Cache {
    type Object;
    /// The part of an object that is kept.
    fn trim(object: Self::Object) -> Self::Object;
    /// Takes the complete list. Says what changed by it.
    fn replace_all(&self, objects: Vec<(Key, Arc<Self::Object>)>) -> Vec<Key>;
    /// Whether that is news.
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

/// Keeps the cache of sessions up to date, for ever. `client` is to be used for nothing but watches: behind many
/// requests on one HTTP/2 connection, one was seen to starve.
pub async fn watch_sessions(client: Client, sessions: &Sessions, changes: &Changes) {
    mirror(client, sessions, |key| changes.record(Changed::Session(key))).await;
}

/// Keeps the cache of pools up to date, for ever. `client` as above.
pub async fn watch_pools(client: Client, pools: &Pools, changes: &Changes) {
    mirror(client, pools, |key| changes.record(Changed::Pool(key))).await;
}

async fn mirror<C: Cache>(client: Client, cache: &C, changed: impl Fn(Key))
where
    C::Object:
        Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    // Guarded: one object that this version cannot read must not keep the others from being seen.
    let api = Api::<Trimmed<DeserializeGuard<C::Object>>>::all(client);
    let apply = |change: Change<Arc<C::Object>>| match change {
        Change::All(objects) => {
            let objects = objects.into_iter().map(|object| (key_of(object.as_ref()), object)).collect();
            cache.replace_all(objects).into_iter().for_each(&changed);
        }
        Change::Applied(object) => {
            let key = key_of(object.as_ref());
            if cache.put(key.clone(), object) {
                changed(key);
            }
        }
        Change::Gone(object) => {
            let key = key_of(object.as_ref());
            cache.remove(&key);
            changed(key);
        }
    };
    watch::follow(api, watch::config(), |object| Some(Arc::new(C::trim(object))), apply).await;
}

/// Asks the API server itself for the session that has this name now, if there is one.
pub async fn get(client: &Client, key: &Key) -> Result<Option<BrowserSession>, ApiError> {
    let api = Api::<DeserializeGuard<BrowserSession>>::namespaced(client.clone(), key.namespace());
    match with_timeout(api.get_opt(key.name())).await? {
        Some(DeserializeGuard(Ok(object))) => Ok(Some(object)),
        Some(DeserializeGuard(Err(error))) => Err(ApiError::Unreadable(key.clone(), error.error)),
        None => Ok(None),
    }
}

/// Whether the API server has a pool of this name.
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
            // Its own rights, a quota, or an admission policy.
            kube::Error::Api(status) if status.is_forbidden() => ApiError::Forbidden(status.message),
            other => ApiError::ApiServer(Box::new(other)),
        }),
        Err(other) => Err(other),
    }
}

/// Deletes the session of this name, if it has this UID. One that is gone, or another by now, is as good as deleted.
pub async fn delete(client: &Client, key: &Key, uid: Option<&str>) -> Result<(), ApiError> {
    let api = Api::<BrowserSession>::namespaced(client.clone(), key.namespace());
    let preconditions = uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None });
    let parameters = DeleteParams { preconditions: preconditions, ..DeleteParams::default() };
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

/// The API server's answer, if it comes in time.
async fn with_timeout<T>(answer: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match timeout(REQUEST_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| ApiError::ApiServer(Box::new(error))),
        Err(_) => Err(ApiError::ApiServerTimeout),
    }
}

/// Keeps the static tokens as the Secret has them, for ever, and makes the Secret when it is not there.
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
            // Whoever deletes it wants other tokens.
            Event::Delete(_) => create_tokens(&api, auth).await,
        }
    }
}

fn apply_tokens(auth: &Authenticator, secret: &Secret) {
    let data = secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    let read = StaticTokens::parse(data);
    if read.is_empty() {
        tracing::warn!("Secret {TOKENS} holds no token under `admin` or `viewer`, so all requests are rejected");
    } else {
        tracing::info!(tokens = ?read, "read Secret {TOKENS}");
    }
    auth.set_tokens(Some(read));
}

/// Makes the Secret with one new token for each role. The watch tells of it, and of another replica's that was faster.
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
                tracing::error!(%error, "could not create Secret {TOKENS}, retrying; you can create it by hand")
            }
        }
        tokio::time::sleep(CREATE_RETRY).await;
    }
}

/// 256 random bits, fit for a URL.
fn new_token() -> String {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the system's random source works, or nothing does");
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn key_of(object: &impl ResourceExt) -> Key {
    Key::new(object.namespace().unwrap_or_default(), object.name_any()).expect("the API server checks names")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use std::{convert::Infallible, future};

    /// An API server with one object, which has a great deal of metadata.
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
            () = mirror(api_server(kind), cache, |_| {}) => unreachable!("it follows for ever"),
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
