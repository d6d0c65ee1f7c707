//! The watches: everything that the core is told of the cluster.

use crate::core::{
    Change, Input, Node,
    pods::{RUNNER_LABEL, RunnerPod},
};
use camofleet_crds::v1alpha1::{BrowserSession, WorkerPool};
use camofleet_runner_api::keystore::{self, PUBLIC_KEYS};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node as KubeNode, Pod};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, sync::Arc};
use tokio::{
    sync::{mpsc::UnboundedSender, watch},
    task::JoinSet,
};

/// Follows sessions, pools, runner pods, nodes and the public keys. The receiver says how many of them were read whole.
pub(super) fn start(config: &Config, namespace: &str, inputs: &UnboundedSender<Input>) -> Result<Watches, kube::Error> {
    // A watch shares its HTTP/2 connection with nothing that is written: behind a hundred creates it would starve.
    let sessions = Client::try_from(config.clone())?;
    let others = Client::try_from(config.clone())?;
    let (read, watched) = watch::channel(0);
    let mut tasks = JoinSet::new();
    let all = watcher::Config::default();
    let runners = watcher::Config::default().labels(&format!("{}={}", RUNNER_LABEL.0, RUNNER_LABEL.1));
    let keys = watcher::Config::default().fields(&format!("metadata.name={PUBLIC_KEYS}"));
    tasks.spawn(follow(
        Api::all(sessions),
        all.clone(),
        read.clone(),
        sender(inputs, |session: BrowserSession| Some(Arc::new(session)), Input::Sessions),
    ));
    tasks.spawn(follow(
        Api::all(others.clone()),
        all.clone(),
        read.clone(),
        sender(inputs, |pool: WorkerPool| Some(Arc::new(pool)), Input::Pools),
    ));
    tasks.spawn(follow(
        Api::all(others.clone()),
        runners,
        read.clone(),
        sender(inputs, |pod: Pod| RunnerPod::read(&pod), Input::Pods),
    ));
    tasks.spawn(follow(
        Api::all(others.clone()),
        all,
        read.clone(),
        sender(inputs, |node: KubeNode| Some(read_node(&node)), Input::Nodes),
    ));
    tasks.spawn(follow(Api::namespaced(others, namespace), keys, read, keys_sender(inputs)));
    Ok(Watches { _tasks: tasks, watched })
}

/// The running watches: they stop when this is dropped.
pub(super) struct Watches {
    _tasks: JoinSet<()>,
    watched: watch::Receiver<usize>,
}

const KINDS: usize = 5;

impl Watches {
    /// Whether everything was read once.
    pub(super) fn warm(&self) -> watch::Receiver<usize> {
        self.watched.clone()
    }
}

/// Whether that many watches are all.
pub(super) fn is_warm(read: usize) -> bool {
    read >= KINDS
}

async fn follow<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    read: watch::Sender<usize>,
    mut tell: impl FnMut(Change<K>),
) where
    K: Resource + Clone + Debug + Send + DeserializeOwned + 'static,
    K::DynamicType: Default + Clone + Eq + std::hash::Hash,
    DeserializeGuard<K>: Resource<DynamicType = K::DynamicType>,
{
    let mut listed = Vec::new();
    let mut first = true;
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => listed.extend(decoded(object)),
            Ok(watcher::Event::InitDone) => {
                tell(Change::All(std::mem::take(&mut listed)));
                if std::mem::take(&mut first) {
                    read.send_modify(|read| *read += 1);
                }
            }
            Ok(watcher::Event::Apply(object)) => {
                if let Some(object) = decoded(object) {
                    tell(Change::Applied(object));
                }
            }
            Ok(watcher::Event::Delete(object)) => {
                if let Some(object) = decoded(object) {
                    tell(Change::Gone(object));
                }
            }
            Err(error) => tracing::warn!(%error, "a watch was broken and goes on after a pause"),
        }
    }
}

/// One object that cannot be understood does not stop the others.
fn decoded<K: Resource>(object: DeserializeGuard<K>) -> Option<K> {
    match object.0 {
        Ok(mut object) => {
            // Half of an object's metadata, and nobody here reads it.
            object.meta_mut().managed_fields = None;
            Some(object)
        }
        Err(invalid) => {
            let name = invalid.metadata.name.unwrap_or_default();
            tracing::error!(name, error = %invalid.error, "an object cannot be understood and is left alone: correct or delete it");
            None
        }
    }
}

fn sender<K, T: Send + 'static>(
    inputs: &UnboundedSender<Input>,
    read: impl Fn(K) -> Option<T> + Send + 'static,
    input: impl Fn(Change<T>) -> Input + Send + 'static,
) -> impl FnMut(Change<K>) + Send + 'static {
    let inputs = inputs.clone();
    move |change| {
        let change = match change {
            Change::All(all) => Some(Change::All(all.into_iter().filter_map(&read).collect())),
            Change::Applied(object) => read(object).map(Change::Applied),
            Change::Gone(object) => read(object).map(Change::Gone),
        };
        if let Some(change) = change {
            // Nobody listens any more only when the process stops.
            let _ = inputs.send(input(change));
        }
    }
}

fn keys_sender(inputs: &UnboundedSender<Input>) -> impl FnMut(Change<ConfigMap>) + Send + 'static {
    let inputs = inputs.clone();
    move |change| {
        let published = match change {
            Change::All(all) => all.into_iter().next(),
            Change::Applied(published) => Some(published),
            // Runners go on with the keys that they have.
            Change::Gone(_) => None,
        };
        if let Some(published) = published {
            let keys = serde_json::to_string(&keystore::public_keys(&published)).expect("a map of strings serializes");
            let _ = inputs.send(Input::Keys(keys));
        }
    }
}

fn read_node(node: &KubeNode) -> Node {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let cpus = status.and_then(|status| status.allocatable.as_ref()).and_then(|allocatable| allocatable.get("cpu"));
    Node {
        name: node.name_any(),
        ready: conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        cordoned: node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)),
        cpus: cpus.map_or(0, |cpus| whole_cpus(&cpus.0)),
    }
}

/// Whole CPUs of a quantity such as `2` or `1930m`.
fn whole_cpus(quantity: &str) -> usize {
    match quantity.strip_suffix('m') {
        Some(millis) => millis.parse::<usize>().unwrap_or(0) / 1000,
        None => quantity.parse().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::whole_cpus;

    #[test]
    fn a_quantity_of_cpus_is_read_in_whole_ones() {
        assert_eq!([whole_cpus("2"), whole_cpus("1930m"), whole_cpus("500m"), whole_cpus("much")], [2, 1, 0, 0]);
    }
}
