//! Reads runner pods from the API server's objects.

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
/// Annotation with the public keys, mounted into the runner as a file.
pub const KEYS_ANNOTATION: &str = "camofleet.dev/public-keys";
pub(super) const ORDINAL_LABEL: &str = "camofleet.dev/ordinal";
pub(super) const REVISION_LABEL: &str = "camofleet.dev/revision";
pub(super) const CONTAINER: &str = "runner";
pub(super) const SLOTS_ARGUMENT: &str = "--slots=";
/// Upper bound of a pool's `slotsPerRunner`.
const MAX_SLOTS: u32 = 32;

/// The fields of a runner pod that decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerPod {
    /// UID.
    pub uid: Uid,
    /// Namespace and name.
    pub key: Key,
    /// Key and UID of the pool that controls the pod.
    pub pool: (Key, Uid),
    /// Number of the runner in its pool.
    pub ordinal: u32,
    /// Hash of the pod's shape.
    pub revision: String,
    /// Number of concurrent sessions, from the container's arguments, which never change.
    pub slots: u32,
    /// Value of the annotation with the public keys.
    pub keys: String,
    /// Name of the node, once the pod is scheduled.
    pub node: Option<String>,
    /// Address of the pod, once it has one.
    pub address: Option<IpAddr>,
    /// The `resourceVersion` as a number.
    pub version: u64,
    /// Creation time.
    pub created: Timestamp,
    /// The `deletionTimestamp`, which includes the grace period, if the pod was deleted.
    pub deletion_deadline: Option<Timestamp>,
    /// Phase of the pod.
    pub phase: PodPhase,
}

/// Phase of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// The container has not started yet.
    Pending(Option<PendingReason>),
    /// The container runs.
    Running,
    /// The container has terminated and does not restart.
    Terminated {
        /// Cause of the end, for conditions.
        message: String,
        /// Whether the kernel killed it for lack of memory.
        out_of_memory: bool,
    },
}

/// Why a pod is pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PendingReason {
    /// Its scheduling gates have not been removed.
    Gated,
    /// No node fits. The scheduler's message.
    Unschedulable(String),
    /// The image cannot be pulled or the container cannot be created. The kubelet's reason and message.
    Image(String),
}

/// A [`Pod`] with only the fields that the operator reads, to save memory.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = Pod)]
pub struct PartialPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PartialPodSpec,
    #[serde(default)]
    status: PartialPodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartialPodSpec {
    node_name: Option<String>,
    #[serde(default)]
    containers: Vec<PartialContainer>,
}

#[derive(Clone, Debug, Deserialize)]
struct PartialContainer {
    name: String,
    #[serde(default)]
    args: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartialPodStatus {
    phase: String,
    reason: Option<String>,
    message: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    conditions: Vec<PodCondition>,
    container_statuses: Vec<PartialContainerStatus>,
}

#[derive(Clone, Debug, Deserialize)]
struct PartialContainerStatus {
    name: String,
    #[serde(default)]
    state: ContainerState,
}

impl RunnerPod {
    /// Reads a pod. Returns `None` if its controller is not a `WorkerPool` of this API group. The core checks whether
    /// that pool exists ([`RunnerPod::belongs_to`]); until then the pod only claims to be a runner.
    pub fn read(pod: &PartialPod) -> Option<Self> {
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
            deletion_deadline: pod.meta().deletion_timestamp.as_ref().map(|time| time.0),
            phase: PodPhase::read(&pod.status),
        })
    }

    /// Returns whether this pool controls the pod. It compares namespace, name and UID, which excludes pods of other
    /// namespaces and of a deleted pool with the same name.
    pub fn belongs_to(&self, pool: &WorkerPool) -> bool {
        let (key, uid) = &self.pool;
        let meta = &pool.metadata;
        meta.uid.as_ref() == Some(uid)
            && meta.name.as_ref() == Some(&key.name)
            && meta.namespace.as_ref() == Some(&key.namespace)
    }

    /// Returns whether the container has terminated.
    pub fn is_terminated(&self) -> bool {
        matches!(self.phase, PodPhase::Terminated { .. })
    }
}

impl PartialPodSpec {
    /// The slots in the arguments that `pod_build` set. [`MAX_SLOTS`] if an admission webhook removed them.
    fn slots(&self) -> u32 {
        let runner = self.containers.iter().find(|container| container.name == CONTAINER);
        let arguments = runner.map_or(&[][..], |container| &container.args);
        let slots = arguments.iter().find_map(|argument| argument.strip_prefix(SLOTS_ARGUMENT)?.parse().ok());
        slots.unwrap_or(MAX_SLOTS).min(MAX_SLOTS)
    }
}

impl PodPhase {
    fn read(status: &PartialPodStatus) -> Self {
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
                format!("the container exited with code {} ({reason}){last_message}", ended.exit_code)
            }
            (None, Some(message)) => message.to_owned(),
            (None, None) => "the pod terminated without a reason or message".to_owned(),
        };
        Self::Terminated { message, out_of_memory: reason == Some("OOMKilled") }
    }

    fn pending_reason(conditions: &[PodCondition], state: Option<&ContainerState>) -> Option<PendingReason> {
        if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
            let reason = waiting.reason.as_deref().unwrap_or_default();
            let message = waiting.message.as_deref().unwrap_or_default();
            // Reasons from the kubelet: pkg/kubelet/images/types.go and kuberuntime_container.go.
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
