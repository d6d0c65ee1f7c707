//! Runner pods: what is read from one.

use crate::core::ids::{Key, Uid, version};
use camofleet_crds::v1alpha1::WorkerPool;
use k8s_openapi::{
    api::core::v1::{ContainerState, Pod, PodCondition},
    jiff::Timestamp,
};
use kube::{Resource, ResourceExt, api::ObjectMeta};
use serde::Deserialize;
use std::net::IpAddr;

/// Label with the name of the pool.
pub const POOL_LABEL: &str = "camofleet.dev/pool";
/// Label and value that every runner pod has.
pub const RUNNER_LABEL: (&str, &str) = ("app.kubernetes.io/name", "camofleet-runner");
/// Annotation with the public keys, which the runner sees as a file.
pub const KEYS_ANNOTATION: &str = "camofleet.dev/public-keys";
pub(super) const ORDINAL_LABEL: &str = "camofleet.dev/ordinal";
pub(super) const REVISION_LABEL: &str = "camofleet.dev/revision";
pub(super) const CONTAINER: &str = "runner";
pub(super) const SLOTS_ARGUMENT: &str = "--slots=";
/// The most slots that a pool's `slotsPerRunner` may ask for.
const MAX_SLOTS: u32 = 32;

/// What of a runner pod matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerPod {
    /// Its UID.
    pub uid: Uid,
    /// Its namespace and name.
    pub key: Key,
    /// The pool that it was made for, and that pool's UID.
    pub pool: (Key, Uid),
    /// Which of the pool's runners it is.
    pub ordinal: u32,
    /// Hash of the shape that it was made in.
    pub revision: String,
    /// Sessions that it serves at once, by its container's arguments: they cannot change once the pod is there.
    pub slots: u32,
    /// The public keys that it was told.
    pub keys: String,
    /// The node that it runs on.
    pub node: Option<String>,
    /// Its address, once it has one.
    pub address: Option<IpAddr>,
    /// The API server's version of it.
    pub version: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When it will be killed, if it was deleted.
    pub killed_at: Option<Timestamp>,
    /// How it fares.
    pub phase: PodPhase,
}

/// How a pod fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// Its container does not run yet.
    Pending(Option<PendingReason>),
    /// Its container runs.
    Running,
    /// Its container ended, for good.
    Terminated {
        /// How, for people.
        message: String,
        /// Whether it was killed for memory.
        out_of_memory: bool,
    },
}

/// Why a pod does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PendingReason {
    /// The scheduler does not look at it before its scheduling gates are removed.
    Gated,
    /// No node takes it.
    Unschedulable(String),
    /// Its image cannot be pulled or its container cannot be made.
    Image(String),
}

/// A [`Pod`] without what nobody here reads, which is most of it.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = Pod)]
pub struct SeenPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SeenSpec,
    #[serde(default)]
    status: SeenStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeenSpec {
    node_name: Option<String>,
    #[serde(default)]
    containers: Vec<SeenArguments>,
}

#[derive(Clone, Debug, Deserialize)]
struct SeenArguments {
    name: String,
    #[serde(default)]
    args: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SeenStatus {
    phase: String,
    reason: Option<String>,
    message: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    conditions: Vec<PodCondition>,
    container_statuses: Vec<SeenContainer>,
}

#[derive(Clone, Debug, Deserialize)]
struct SeenContainer {
    name: String,
    #[serde(default)]
    state: ContainerState,
}

impl RunnerPod {
    /// Reads a pod; none when its controller is not a `WorkerPool` of this API group. Whether there is such a pool is the core's to
    /// know ([`RunnerPod::belongs_to`]): until then it is a pod that claims to be a runner.
    pub fn read(pod: &SeenPod) -> Option<Self> {
        let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true))?;
        let (group, _version) = owner.api_version.split_once('/')?;
        if group != WorkerPool::group(&()) || owner.kind != WorkerPool::kind(&()) {
            return None;
        }
        let namespace = pod.namespace()?;
        Some(Self {
            uid: pod.uid()?,
            key: Key { namespace: namespace.clone(), name: pod.name_any() },
            pool: (Key { namespace, name: owner.name.clone() }, owner.uid.clone()),
            ordinal: pod.labels().get(ORDINAL_LABEL)?.parse().ok()?,
            revision: pod.labels().get(REVISION_LABEL)?.clone(),
            slots: pod.spec.slots(),
            keys: pod.annotations().get(KEYS_ANNOTATION).cloned().unwrap_or_default(),
            node: pod.spec.node_name.clone(),
            address: pod.status.pod_ip.as_ref().and_then(|ip| ip.parse().ok()),
            version: version(pod),
            created: pod.creation_timestamp().map_or(Timestamp::MIN, |time| time.0),
            killed_at: pod.meta().deletion_timestamp.as_ref().map(|time| time.0),
            phase: PodPhase::read(&pod.status),
        })
    }

    /// Whether its controller is this pool: by namespace, name and UID, so that a pod of another namespace, or of a former pool
    /// of that name, is not.
    pub fn belongs_to(&self, pool: &WorkerPool) -> bool {
        let (key, uid) = &self.pool;
        let meta = &pool.metadata;
        meta.uid.as_ref() == Some(uid)
            && meta.name.as_ref() == Some(&key.name)
            && meta.namespace.as_ref() == Some(&key.namespace)
    }

    /// Whether it ended for good.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, PodPhase::Terminated { .. })
    }
}

impl SeenSpec {
    /// Slots by the arguments that `pod_build` made; the most that a pool may ask for when an admission webhook removed them.
    fn slots(&self) -> u32 {
        let runner = self.containers.iter().find(|container| container.name == CONTAINER);
        let arguments = runner.map_or(&[][..], |container| &container.args);
        let slots = arguments.iter().find_map(|argument| argument.strip_prefix(SLOTS_ARGUMENT)?.parse().ok());
        slots.unwrap_or(MAX_SLOTS).min(MAX_SLOTS)
    }
}

impl PodPhase {
    fn read(status: &SeenStatus) -> Self {
        let container = status.container_statuses.iter().find(|container| container.name == CONTAINER);
        let state = container.map(|container| &container.state);
        match status.phase.as_str() {
            "Failed" | "Succeeded" => Self::terminated(status.message.as_deref().or(status.reason.as_deref()), state),
            "Running" => Self::Running,
            _ => Self::Pending(Self::pending_reason(&status.conditions, state)),
        }
    }

    fn terminated(pod_message: Option<&str>, state: Option<&ContainerState>) -> Self {
        let ended = state.and_then(|state| state.terminated.as_ref());
        let reason = ended.and_then(|ended| ended.reason.as_deref());
        let message = match (ended, pod_message) {
            (Some(ended), _) => {
                let reason = reason.unwrap_or("no reason given");
                let last_message =
                    ended.message.as_deref().map(|message| format!(": {}", message.trim())).unwrap_or_default();
                format!("its container ended with exit code {} ({reason}){last_message}", ended.exit_code)
            }
            (None, Some(message)) => message.to_owned(),
            (None, None) => "its pod ended, and nothing says why".to_owned(),
        };
        Self::Terminated { message, out_of_memory: reason == Some("OOMKilled") }
    }

    fn pending_reason(conditions: &[PodCondition], state: Option<&ContainerState>) -> Option<PendingReason> {
        if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
            let reason = waiting.reason.as_deref().unwrap_or_default();
            let message = waiting.message.as_deref().unwrap_or_default();
            // kubelet: pkg/kubelet/images/types.go and kuberuntime_container.go name these.
            let image = reason.contains("Image")
                || matches!(reason, "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError");
            return image.then(|| PendingReason::Image(format!("{reason}: {message}")));
        }
        let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
        match scheduled.reason.as_deref().filter(|_| scheduled.status == "False") {
            Some("SchedulingGated") => Some(PendingReason::Gated),
            Some("Unschedulable") => Some(PendingReason::Unschedulable(scheduled.message.clone().unwrap_or_default())),
            Some(_) | None => None,
        }
    }
}
