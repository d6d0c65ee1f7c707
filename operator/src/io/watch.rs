//! Watches the cluster for the core.

use crate::core::{
    Change, Event, Namespace, Node,
    runner::pod_read::{PartialPod, RUNNER_LABEL, RunnerPod},
};
use camofleet_auth::{
    keystore::{self, PUBLIC_KEYS_CONFIG_MAP, TrustedKeys, public_keys_secret},
    token::Issuer,
};
use camofleet_crds::{
    trimmed::Trimmed,
    v1alpha1::{BrowserSession, WorkerPool},
};
use camofleet_runtime::watch as caches;
use http::Request;
use http_body_util::BodyExt;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace as KubeNamespace, Node as KubeNode, NodeCondition, Secret},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client, Config, Resource, ResourceExt, api::ObjectMeta, client::Body, core::DeserializeGuard, runtime::watcher,
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc::UnboundedSender, watch},
    task::JoinSet,
};

/// Starts the watches of sessions, pools, runner pods, nodes, namespaces and public keys.
pub(super) fn start(config: &Config, namespace: &str, events: &UnboundedSender<Event>) -> Result<Watches, kube::Error> {
    // Watches have HTTP/2 connections of their own, because a watch starves behind a hundred creates on the same
    // connection.
    let sessions = Client::try_from(config.clone())?;
    let others = Client::try_from(config.clone())?;
    let (listed, listed_count) = watch::channel(0);
    let last_seen = LastSeen::default();
    let [sessions, pools, runners, nodes, namespaces, config_map, operator_key, gateway_key] = [
        ("BrowserSession", &sessions),
        ("WorkerPool", &others),
        ("Pod", &others),
        ("Node", &others),
        ("Namespace", &others),
        ("ConfigMap", &others),
        ("Secret/operator", &others),
        ("Secret/gateway", &others),
    ]
    .map(|(kind, client)| observed(client.clone(), last_seen.recorder(kind)));
    let mut tasks = JoinSet::new();
    let all = caches::config();
    let runner_pods = caches::config().labels(&format!("{}={}", RUNNER_LABEL.0, RUNNER_LABEL.1));
    let named = |name: &str| caches::config().fields(&format!("metadata.name={name}"));
    tasks.spawn(run_watch(
        Api::all(sessions),
        all.clone(),
        listed.clone(),
        |session: BrowserSession| Some(Arc::new(session)),
        sender(events, Event::Sessions),
    ));
    tasks.spawn(run_watch(
        Api::all(pools),
        all.clone(),
        listed.clone(),
        |pool: WorkerPool| Some(Arc::new(pool)),
        sender(events, Event::Pools),
    ));
    let runner = |pod: PartialPod| RunnerPod::read(&pod);
    tasks.spawn(run_watch(Api::all(runners), runner_pods, listed.clone(), runner, sender(events, Event::Pods)));
    let node = |node: PartialNode| Some(read_node(&node));
    tasks.spawn(run_watch(Api::all(nodes), all.clone(), listed.clone(), node, sender(events, Event::Nodes)));
    let namespace_read = |namespace: PartialNamespace| Some(read_namespace(namespace));
    tasks.spawn(run_watch(
        Api::all(namespaces),
        all,
        listed.clone(),
        namespace_read,
        sender(events, Event::Namespaces),
    ));
    let keys = Keys { trusted: Arc::default(), events: events.clone() };
    for (issuer, client) in [(Issuer::Operator, operator_key), (Issuer::Gateway, gateway_key)] {
        let parse_secret = move |secret: Secret| Some(keystore::keys_of_secret(&secret, issuer));
        let sender = keys.sender(move |trusted, keys| trusted.set_secret_keys(issuer, keys));
        let config = named(&public_keys_secret(issuer));
        tasks.spawn(run_watch(Api::namespaced(client, namespace), config, listed.clone(), parse_secret, sender));
    }
    let parse_config_map = |config_map: ConfigMap| Some(keystore::keys_of_config_map(&config_map));
    let sender = keys.sender(TrustedKeys::set_config_map_keys);
    tasks.spawn(run_watch(
        Api::namespaced(config_map, namespace),
        named(PUBLIC_KEYS_CONFIG_MAP),
        listed,
        parse_config_map,
        sender,
    ));
    Ok(Watches { _tasks: tasks, listed_count, last_seen })
}

/// The running watches, which stop when this is dropped.
pub(super) struct Watches {
    _tasks: JoinSet<()>,
    listed_count: watch::Receiver<usize>,
    last_seen: LastSeen,
}

/// Number of watches.
pub(super) const COUNT: usize = 8;

impl Watches {
    /// The number of watches that have received their first list.
    pub(super) fn listed_count(&self) -> watch::Receiver<usize> {
        self.listed_count.clone()
    }

    /// Time of the last data of each watch.
    pub(super) fn last_seen(&self) -> LastSeen {
        self.last_seen.clone()
    }
}

/// Time of the last data of each watch, by kind. It includes the API server's bookmarks, which the stream of events
/// does not contain. For objects that never change, they are the only sign that the watch works.
#[derive(Clone, Debug, Default)]
pub(super) struct LastSeen(Arc<Mutex<BTreeMap<&'static str, Instant>>>);

impl LastSeen {
    /// Time since the last data of each watch.
    pub(super) fn ages(&self) -> Vec<(&'static str, Duration)> {
        let last_seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last_seen.iter().map(|(kind, at)| (*kind, at.elapsed())).collect()
    }

    /// Returns a function that records data of the watch for this kind. The time starts now.
    fn recorder(&self, kind: &'static str) -> impl Fn() + Clone + Send + Sync + 'static {
        let last_seen = self.0.clone();
        let record = move || {
            last_seen.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, Instant::now());
        };
        record();
        record
    }
}

/// Wraps a client, and calls `on_data` for each successful response and each frame of its body.
fn observed(client: Client, on_data: impl Fn() + Clone + Send + Sync + 'static) -> Client {
    let namespace = client.default_namespace().to_owned();
    let calling = tower::service_fn(move |request: Request<Body>| {
        let (client, on_data) = (client.clone(), on_data.clone());
        async move {
            let response = client.send(request).await?;
            let is_success = response.status().is_success();
            let on_data = move || {
                if is_success {
                    on_data();
                }
            };
            on_data();
            Ok::<_, kube::Error>(response.map(|body| {
                body.map_frame(move |frame| {
                    on_data();
                    frame
                })
            }))
        }
    });
    Client::new(calling, namespace)
}

/// Returns whether all watches have read their first list.
pub(super) fn are_all_listed(count: usize) -> bool {
    count >= COUNT
}

/// Watches objects, and increments `listed` after their first complete list.
async fn run_watch<K, T>(
    api: Api<Trimmed<DeserializeGuard<K>>>,
    config: watcher::Config,
    listed: watch::Sender<usize>,
    parse: impl Fn(K) -> Option<T>,
    mut on_change: impl FnMut(Change<T>),
) where
    K: Resource + Clone + Debug + Send + DeserializeOwned + 'static,
    K::DynamicType: Default + Clone + Eq + Hash,
    T: Clone,
{
    let mut first = true;
    let changed = move |change| {
        let is_list = matches!(change, Change::Listed(_));
        on_change(change);
        if is_list && std::mem::take(&mut first) {
            listed.send_modify(|count| *count += 1);
        }
    };
    caches::follow(api, config, parse, changed).await;
}

fn sender<T: Send + 'static>(
    events: &UnboundedSender<Event>,
    event: impl Fn(Change<T>) -> Event + Send + 'static,
) -> impl FnMut(Change<T>) + Send + 'static {
    let events = events.clone();
    move |change| {
        // The receiver is dropped only when the process stops.
        let _ = events.send(event(change));
    }
}

/// The published public keys. Three watches update them, and the core receives the resulting trusted keys.
struct Keys {
    trusted: Arc<Mutex<TrustedKeys>>,
    events: UnboundedSender<Event>,
}

impl Keys {
    /// Returns a function that passes the keys of one object to `set_keys`. A deletion is ignored, because runners
    /// keep their keys until others are published.
    fn sender<T: Send + 'static>(
        &self,
        set_keys: impl Fn(&mut TrustedKeys, T) + Send + 'static,
    ) -> impl FnMut(Change<T>) + Send + 'static {
        let (trusted, events) = (self.trusted.clone(), self.events.clone());
        move |change| {
            let keys = match change {
                Change::Listed(all) => all.into_iter().next(),
                Change::Applied(keys) => Some(keys),
                Change::Deleted(_) => None,
            };
            if let Some(keys) = keys {
                let mut trusted = trusted.lock().unwrap_or_else(PoisonError::into_inner);
                set_keys(&mut trusted, keys);
                let keys = serde_json::to_string(&trusted.keys()).expect("a map of strings serializes");
                // Sent while the lock is held, so that the keys arrive in order.
                let _ = events.send(Event::Keys(keys));
            }
        }
    }
}

/// The fields of a node that the operator reads. A node also has large ones, such as the names of all its images.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = KubeNode)]
struct PartialNode {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PartialNodeSpec,
    #[serde(default)]
    status: PartialNodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PartialNodeSpec {
    unschedulable: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PartialNodeStatus {
    conditions: Vec<NodeCondition>,
    allocatable: BTreeMap<String, Quantity>,
}

fn read_node(node: &PartialNode) -> Node {
    Node {
        name: node.name_any(),
        ready: node.status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        cordoned: node.spec.unschedulable,
        cpus: node.status.allocatable.get("cpu").map_or(0, |cpus| whole_cpus(&cpus.0)),
    }
}

/// The fields of a namespace that the operator reads.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = KubeNamespace)]
struct PartialNamespace {
    metadata: ObjectMeta,
}

fn read_namespace(namespace: PartialNamespace) -> Namespace {
    Namespace { name: namespace.name_any(), labels: namespace.metadata.labels.unwrap_or_default() }
}

/// Whole CPUs in a quantity such as `2` or `1930m`, rounded down. 0 if it is neither.
fn whole_cpus(quantity: &str) -> usize {
    match quantity.strip_suffix('m') {
        Some(millis) => millis.parse::<usize>().unwrap_or(0) / 1000,
        None => quantity.parse().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;
    use serde_json::json;
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    #[tokio::test]
    async fn counts_successful_responses_as_activity() {
        for (status, expected) in [(200, 2), (403, 0)] {
            let server = tower::service_fn(move |_: Request<Body>| async move {
                Ok::<_, Infallible>(Response::builder().status(status).body(Body::from(b"{}".to_vec())).unwrap())
            });
            let calls = Arc::new(AtomicUsize::new(0));
            let counter = calls.clone();
            let client = observed(Client::new(server, "ns"), move || {
                counter.fetch_add(1, Ordering::Relaxed);
            });
            let answer = client.send(Request::new(Body::empty())).await.unwrap();
            assert_eq!(answer.into_body().collect_bytes().await.unwrap(), "{}");
            assert_eq!(calls.load(Ordering::Relaxed), expected, "status {status}");
        }
    }

    #[test]
    fn rounds_cpu_quantities_down() {
        assert_eq!([whole_cpus("2"), whole_cpus("1930m"), whole_cpus("500m"), whole_cpus("much")], [2, 1, 0, 0]);
    }

    #[tokio::test]
    async fn drops_metadata_that_is_never_read() {
        let labels: BTreeMap<String, String> =
            (0..20_000).map(|index| (format!("label-{index}"), "value".to_owned())).collect();
        let session = json!({
            "apiVersion": "camofleet.dev/v1alpha1", "kind": "BrowserSession", "spec": {},
            "metadata": {
                "namespace": "ns", "name": "a", "uid": "1", "resourceVersion": "7", "labels": labels,
                "annotations": { "note": "x".repeat(256 * 1024) },
                "managedFields": [{ "manager": "m".repeat(100_000), "operation": "Update" }],
            },
        });
        let list = json!({
            "apiVersion": "camofleet.dev/v1alpha1", "kind": "BrowserSessionList",
            "metadata": { "resourceVersion": "7" }, "items": [session],
        });
        let server = tower::service_fn(move |request: Request<Body>| {
            let list = list.to_string();
            async move {
                if request.uri().query().is_some_and(|query| query.contains("watch=")) {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(Response::new(Body::from(list.into_bytes())))
            }
        });
        let (shown, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let running = run_watch(
            Api::all(Client::new(server, "ns")),
            caches::config(),
            watch::channel(0).0,
            |session: BrowserSession| Some(Arc::new(session)),
            move |change| shown.send(change).unwrap(),
        );
        let change = tokio::select! {
            () = running => unreachable!("a watch runs forever"),
            change = seen.recv() => change.unwrap(),
        };
        let Change::Listed(sessions) = change else { panic!("the first change is a list: {change:?}") };
        let metadata = serde_json::to_value(&sessions[0].metadata).unwrap();
        assert_eq!(metadata, json!({ "namespace": "ns", "name": "a", "uid": "1", "resourceVersion": "7" }));
    }
}
