//! Simulated kubelets: a pod bound to a node gets an address and runs; a deleted pod drains and is then removed. Node
//! heartbeats are omitted, because the node lifecycle controller that would check them does not run.

use super::{
    browsers::Browsers,
    runner::{PodIdentity, Runner},
    runners::Runners,
};
use anyhow::{Context, Result};
use camofleet_auth::token::PublicKeys;
use camofleet_runner::core::{DisplayKind, RunnerConfig};
use camofleet_runner_api::BrowserCounts;
use camofleet_runtime::watch::WatchBackoff;
use clap::ValueEnum;
use futures::{StreamExt, pin_mut};
use k8s_openapi::{
    api::core::v1::{Container, Node, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::Deserialize;
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Annotation with the public keys that a runner trusts. The operator sets it on runner pods.
const KEYS_ANNOTATION: &str = "camofleet.dev/public-keys";
/// Environment variable that the operator sets on a canary.
const SMOKE_TEST_VARIABLE: &str = "RUNNER_PROVE";
/// Label with the pool of a runner pod.
pub(super) const POOL_LABEL: &str = "camofleet.dev/pool";
/// Concurrent writes of all kubelets.
const WRITES: usize = 16;
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Number and size of the simulated nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// Number of nodes.
    pub count: usize,
    /// CPUs of each node. The operator launches at most twice as many runners at once as all nodes have
    /// CPUs.
    pub cpus: usize,
}

impl Nodes {
    /// Creates the Node objects.
    pub(super) async fn create(self, client: &Client) -> Result<()> {
        let nodes = Api::<Node>::all(client.clone());
        for index in 0..self.count {
            let name = format!("simulated-{index}");
            let room = json!({ "cpu": self.cpus.to_string(), "memory": "4096Gi", "ephemeral-storage": "100Ti", "pods": "4000" });
            let node = json!({
                "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
                "status": {
                    "capacity": room, "allocatable": room,
                    "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
                    "conditions": [{ "type": "Ready", "status": "True", "reason": "Simulated", "message": "",
                        "lastTransitionTime": Timestamp::now(), "lastHeartbeatTime": Timestamp::now() }],
                },
            });
            let node = serde_json::from_value(node).context("the Node document is invalid")?;
            nodes.create(&PostParams::default(), &node).await.with_context(|| format!("cannot create node {name}"))?;
        }
        Ok(())
    }
}

/// The fields of a [`Pod`] that a simulated node reads.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = Pod)]
struct WatchedPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: WatchedSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WatchedSpec {
    node_name: Option<String>,
    containers: Vec<Container>,
}

/// The kubelets of all nodes.
pub(super) struct Kubelet {
    /// For writes. The watch has its own client.
    client: Client,
    runners: Arc<Runners>,
    launch_time: Duration,
    writes: Arc<Semaphore>,
}

impl Kubelet {
    pub(super) fn new(client: Client, runners: Arc<Runners>, launch_time: Duration) -> Self {
        Self { client, runners, launch_time, writes: Arc::new(Semaphore::new(WRITES)) }
    }

    /// Watches all pods, or those of one namespace, until it is cancelled.
    pub(super) async fn run(self, watching: Client, namespace: Option<String>) {
        let pods: Api<WatchedPod> = match namespace {
            Some(namespace) => Api::namespaced(watching, &namespace),
            None => Api::all(watching),
        };
        let events = watcher(pods, watcher::Config::default()).backoff(WatchBackoff::default());
        pin_mut!(events);
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(pod)) => {
                    listed.extend(pod.uid());
                    self.reconcile_pod(&pod);
                }
                Ok(Event::InitDone) => self.runners.retain(&listed),
                Ok(Event::Apply(pod)) => self.reconcile_pod(&pod),
                Ok(Event::Delete(pod)) => self.runners.remove(&pod.uid().unwrap_or_default()),
                Err(_) => {} // the API server is down; the watch restarts after its back-off
            }
        }
    }

    fn reconcile_pod(&self, pod: &WatchedPod) {
        let (Some(uid), Some(node)) = (pod.uid(), pod.spec.node_name.clone()) else { return };
        let namespace = pod.namespace().unwrap_or_default();
        if self.runners.is_dead(&node) || !self.runners.runs_namespace(&namespace) {
            return;
        }
        let keys = || {
            let text = pod.annotations().get(KEYS_ANNOTATION);
            text.and_then(|text| serde_json::from_str::<PublicKeys>(text).ok()).unwrap_or_default()
        };
        let is_terminating = pod.metadata.deletion_timestamp.is_some();
        match (self.runners.get(&uid), is_terminating) {
            (Some(runner), true) => runner.drain(),
            (Some(runner), false) => runner.set_keys(keys()),
            (None, false) => {
                let container = pod.spec.containers.first().cloned().unwrap_or_default();
                let fault = self.runners.fault_of(container.image.as_deref().unwrap_or_default());
                let (config, browsers) = (read_config(&container), Browsers::new(self.launch_time, fault));
                let pool = pod.labels().get(POOL_LABEL).map(String::as_str).unwrap_or_default();
                let attack = self.runners.attack_of(&namespace, pool);
                let identity = PodIdentity { uid, namespace, name: pod.name_any(), node };
                let runner = self.runners.start(identity, config, browsers, keys());
                if let Some(attack) = attack {
                    runner.attack(attack);
                }
                tokio::spawn(run_pod(self.api(&runner.pod), Arc::clone(&self.writes), runner));
            }
            // The pod was deleted before it ran.
            (None, true) => {
                let (api, writes, name) = (self.api_in(&namespace), Arc::clone(&self.writes), pod.name_any());
                tokio::spawn(async move { delete_pod(&api, &writes, &name, &uid).await });
            }
        }
    }

    fn api(&self, pod: &PodIdentity) -> Api<Pod> {
        self.api_in(&pod.namespace)
    }

    fn api_in(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// The configuration of a runner, from the arguments and environment of its container.
fn read_config(container: &Container) -> RunnerConfig {
    let args = container.args.as_deref().unwrap_or_default();
    let number = |name: &str| -> u32 {
        let value = args.iter().find_map(|arg| arg.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    };
    let smoke_test = container.env.iter().flatten().find(|variable| variable.name == SMOKE_TEST_VARIABLE);
    let slots = number("slots").max(1);
    RunnerConfig {
        slots,
        max_total_sessions: number("sessions"),
        prewarm: BrowserCounts { headless: number("prewarm-headless"), headful: number("prewarm-headful") },
        smoke_test: smoke_test.and_then(|variable| DisplayKind::from_str(variable.value.as_deref()?, false).ok()),
        // Simulated launches use no CPU, so all slots may launch at once.
        max_concurrent_launches: slots,
        drain_timeout: Duration::from_secs(number("drain-timeout-seconds").into()),
    }
}

/// Runs a pod until its runner exits, and then removes it from the API server.
async fn run_pod(api: Api<Pod>, writes: Arc<Semaphore>, runner: Arc<Runner>) {
    let running = report_running(&api, &writes, &runner);
    let living = runner.run();
    pin_mut!(running, living);
    // The runner serves from the start and does not wait for the status update.
    tokio::select! {
        () = &mut living => {}
        () = &mut running => living.await,
    }
    if runner.is_powered() {
        delete_pod(&api, &writes, &runner.pod.name, &runner.pod.uid).await;
    }
}

async fn report_running(api: &Api<Pod>, writes: &Semaphore, runner: &Runner) {
    let (now, address) = (Timestamp::now(), runner.address.to_string());
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .map(|type_| json!({ "type": type_, "status": "True", "lastTransitionTime": now }));
    let status = json!({
        "metadata": { "uid": runner.pod.uid },
        "status": {
            "phase": "Running", "hostIP": "127.0.0.1", "podIP": address, "podIPs": [{ "ip": address }], "startTime": now,
            "conditions": conditions,
            "containerStatuses": [{ "name": "runner", "ready": true, "started": true, "restartCount": 0,
                "image": "simulated", "imageID": "simulated", "state": { "running": { "startedAt": now } } }],
        },
    });
    let (params, patch) = (PatchParams::default(), Patch::Strategic(status));
    write(writes, || async { api.patch_status(&runner.pod.name, &params, &patch).await.map(|_| ()) }).await;
}

async fn delete_pod(api: &Api<Pod>, writes: &Semaphore, name: &str, uid: &str) {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    write(writes, || async { api.delete(name, &params).await.map(|_| ()) }).await;
}

/// Retries a write until it succeeds or its pod no longer exists.
async fn write<F: Future<Output = kube::Result<()>>>(permits: &Semaphore, call: impl Fn() -> F) {
    loop {
        let permit = permits.acquire().await;
        let answer = call().await;
        drop(permit);
        match answer {
            Ok(()) => return,
            // The pod is gone, or another pod has its name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => return,
            Err(_) => tokio::time::sleep(RETRY_DELAY).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::EnvVar;

    #[test]
    fn parses_the_arguments_of_a_runner() {
        let args =
            ["--slots=4", "--sessions=0", "--prewarm-headless=3", "--prewarm-headful=1", "--drain-timeout-seconds=60"];
        let mut container = Container { args: Some(args.map(str::to_owned).into()), ..Container::default() };
        let expected = RunnerConfig {
            slots: 4,
            max_total_sessions: 0,
            prewarm: BrowserCounts { headless: 3, headful: 1 },
            smoke_test: None,
            max_concurrent_launches: 4,
            drain_timeout: Duration::from_secs(60),
        };
        assert_eq!(read_config(&container), expected);
        let smoke_test =
            EnvVar { name: SMOKE_TEST_VARIABLE.to_owned(), value: Some("headful".to_owned()), ..EnvVar::default() };
        container.env = Some(vec![smoke_test]);
        assert_eq!(read_config(&container), RunnerConfig { smoke_test: Some(DisplayKind::Headful), ..expected });
    }
}
