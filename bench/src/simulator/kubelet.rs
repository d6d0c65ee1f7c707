//! What a node does: pods that are bound to it get an address and run, and pods that are deleted drain before they are gone.
//! The nodes' heartbeats are left out, and so is the controller that would miss them.

use super::{
    browsers::Browsers,
    runner::{PodIdentity, Runner},
    runners::Runners,
};
use anyhow::{Context, Result};
use camofleet_auth::token::PublicKeys;
use camofleet_runner::core::{Kind, Plan};
use camofleet_runner_api::Hot;
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

/// The annotation that the operator gives to runner pods.
const KEYS_ANNOTATION: &str = "camofleet.dev/public-keys";
/// The environment variable that the operator gives to a canary.
const PROVE_VARIABLE: &str = "RUNNER_PROVE";
/// The label that says of which pool a runner pod is.
pub(super) const POOL_LABEL: &str = "camofleet.dev/pool";
/// Writes at once, of all nodes.
const WRITES: usize = 16;
const WRITE_AGAIN: Duration = Duration::from_millis(200);

/// How many nodes there are, and what each has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// How many.
    pub count: usize,
    /// CPUs of each. The operator launches at most as many runners at once as there are.
    pub cpus: usize,
}

impl Nodes {
    /// Makes them.
    pub(super) async fn make(self, client: &Client) -> Result<()> {
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
            let node = serde_json::from_value(node).context("a node is not as it should be")?;
            nodes.create(&PostParams::default(), &node).await.with_context(|| format!("cannot make node {name}"))?;
        }
        Ok(())
    }
}

/// A [`Pod`] as far as a simulated node reads it.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = Pod)]
struct SeenPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SeenSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SeenSpec {
    node_name: Option<String>,
    containers: Vec<Container>,
}

/// The kubelets of all nodes.
pub(super) struct Kubelet {
    /// For writes; the watch has a client of its own.
    client: Client,
    runners: Arc<Runners>,
    launch_time: Duration,
    writes: Arc<Semaphore>,
}

impl Kubelet {
    pub(super) fn new(client: Client, runners: Arc<Runners>, launch_time: Duration) -> Self {
        Self { client, runners, launch_time, writes: Arc::new(Semaphore::new(WRITES)) }
    }

    /// Follows the pods, all or those of one namespace, until it is dropped.
    pub(super) async fn run(self, watching: Client, namespace: Option<String>) {
        let pods: Api<SeenPod> = match namespace {
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
                    self.see(&pod);
                }
                Ok(Event::InitDone) => self.runners.keep_only(&listed),
                Ok(Event::Apply(pod)) => self.see(&pod),
                Ok(Event::Delete(pod)) => self.runners.remove(&pod.uid().unwrap_or_default()),
                Err(_) => {} // the API server is down, and watched again after a pause
            }
        }
    }

    fn see(&self, pod: &SeenPod) {
        let (Some(uid), Some(node)) = (pod.uid(), pod.spec.node_name.clone()) else { return };
        let namespace = pod.namespace().unwrap_or_default();
        if self.runners.is_dead(&node) || !self.runners.has(&namespace) {
            return;
        }
        let keys = || {
            let text = pod.annotations().get(KEYS_ANNOTATION);
            text.and_then(|text| serde_json::from_str::<PublicKeys>(text).ok()).unwrap_or_default()
        };
        let is_leaving = pod.metadata.deletion_timestamp.is_some();
        match (self.runners.of_pod(&uid), is_leaving) {
            (Some(runner), true) => runner.drain(),
            (Some(runner), false) => runner.trust(keys()),
            (None, false) => {
                let container = pod.spec.containers.first().cloned().unwrap_or_default();
                let fault = self.runners.fault_of(container.image.as_deref().unwrap_or_default());
                let (plan, browsers) = (read_plan(&container), Browsers::new(self.launch_time, fault));
                let pool = pod.labels().get(POOL_LABEL).map(String::as_str).unwrap_or_default();
                let attack = self.runners.attack_of(&namespace, pool);
                let identity = PodIdentity { uid, namespace, name: pod.name_any(), node };
                let runner = self.runners.start(identity, plan, browsers, keys());
                if let Some(attack) = attack {
                    runner.attack(attack);
                }
                tokio::spawn(live(self.api(&runner.pod), Arc::clone(&self.writes), runner));
            }
            // Deleted before it ran.
            (None, true) => {
                let (api, writes, name) = (self.api_in(&namespace), Arc::clone(&self.writes), pod.name_any());
                tokio::spawn(async move { take_away(&api, &writes, &name, &uid).await });
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

/// The configuration that the operator gave to a runner.
fn read_plan(container: &Container) -> Plan {
    let args = container.args.as_deref().unwrap_or_default();
    let number = |name: &str| -> u32 {
        let value = args.iter().find_map(|arg| arg.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    };
    let prove = container.env.iter().flatten().find(|variable| variable.name == PROVE_VARIABLE);
    let slots = number("slots").max(1);
    Plan {
        slots,
        sessions: number("sessions"),
        prewarm: Hot { headless: number("prewarm-headless"), headful: number("prewarm-headful") },
        prove: prove.and_then(|variable| Kind::from_str(variable.value.as_deref()?, false).ok()),
        // Simulated browsers need no processors to launch.
        launches: slots,
        drain_timeout: Duration::from_secs(number("drain-timeout-seconds").into()),
    }
}

/// A pod's life on its node.
async fn live(api: Api<Pod>, writes: Arc<Semaphore>, runner: Arc<Runner>) {
    let running = tell_running(&api, &writes, &runner);
    let living = runner.live();
    pin_mut!(running, living);
    // It lives from the start: to be told running is not what it waits for.
    tokio::select! {
        () = &mut living => {}
        () = &mut running => living.await,
    }
    if runner.is_powered() {
        take_away(&api, &writes, &runner.pod.name, &runner.pod.uid).await;
    }
}

async fn tell_running(api: &Api<Pod>, writes: &Semaphore, runner: &Runner) {
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

async fn take_away(api: &Api<Pod>, writes: &Semaphore, name: &str, uid: &str) {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    write(writes, || async { api.delete(name, &params).await.map(|_| ()) }).await;
}

/// Writes until it is done, or there is nothing to be written to any more.
async fn write<F: Future<Output = kube::Result<()>>>(turns: &Semaphore, call: impl Fn() -> F) {
    loop {
        let turn = turns.acquire().await;
        let answer = call().await;
        drop(turn);
        match answer {
            Ok(()) => return,
            // Gone, or another pod of the same name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => return,
            Err(_) => tokio::time::sleep(WRITE_AGAIN).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::EnvVar;

    #[test]
    fn a_runners_arguments_are_read() {
        let args =
            ["--slots=4", "--sessions=0", "--prewarm-headless=3", "--prewarm-headful=1", "--drain-timeout-seconds=60"];
        let mut container = Container { args: Some(args.map(str::to_owned).into()), ..Container::default() };
        let expected = Plan {
            slots: 4,
            sessions: 0,
            prewarm: Hot { headless: 3, headful: 1 },
            prove: None,
            launches: 4,
            drain_timeout: Duration::from_secs(60),
        };
        assert_eq!(read_plan(&container), expected);
        let prove = EnvVar { name: PROVE_VARIABLE.to_owned(), value: Some("headful".to_owned()), ..EnvVar::default() };
        container.env = Some(vec![prove]);
        assert_eq!(read_plan(&container), Plan { prove: Some(Kind::Headful), ..expected });
    }
}
