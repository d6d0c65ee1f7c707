//! Builds the runner pods of a pool.

use crate::core::runner::pod_read::{
    CONTAINER, KEYS_ANNOTATION, ORDINAL_LABEL, POOL_LABEL, REVISION_LABEL, RUNNER_LABEL, SLOTS_ARGUMENT,
};
use camofleet_crds::v1alpha1::{
    AllowedNamespaces, CurrentRevision, Disruption, EngineChoice, Limits, MAX_TEMPLATE_BYTES, Rollout, RunnerTemplate,
    WorkerPool, WorkerPoolSpec,
};
use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource,
        EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector, Pod, PodSecurityContext, PodSpec, Probe,
        ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};
use kube::{Resource, ResourceExt, api::ObjectMeta};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt::Write, sync::Arc};

/// Names of the container ports.
const API_PORT: &str = "http";
const PROBE_PORT: &str = "probes";
const KEYS_FOLDER: &str = "/etc/camofleet";
/// Time after the drain deadline in which a runner ends its browsers and waits for the operator to acknowledge the
/// ends.
const GRACE_AFTER_DRAIN_SECONDS: i32 = 15;

/// Settings of the operator's installation that all runner pods share.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Image of runners whose pool's template names no image.
    pub runner_image: String,
    /// Base of all published URLs, without a trailing slash.
    pub public_url: String,
    /// The operator's namespace. A session that names no pool may use its pools if they allow the session's namespace.
    pub namespace: String,
    /// Environment variables of all runners, such as the trace endpoint. A pool's template overrides them. They are
    /// part of the shape.
    pub runner_environment: Vec<(String, String)>,
}

/// The shape of a pool's pods: everything in the pod that does not differ between the pool's runners.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Hash of the shape, which its pods carry as a label.
    pub revision: String,
    /// A pool whose spec has the shape.
    pool: Arc<WorkerPool>,
    probe_port: ProbePort,
}

/// The port on which runners answer the kubelet's probes. An older runner image does not listen on the probe port and
/// would never become ready there, so the current shape keeps the port with which its runners became warm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum ProbePort {
    /// The API port. Shapes published before this field existed use it.
    #[default]
    Api,
    /// The probe port, which clients cannot exhaust with connections. Published shapes call it `Own`.
    #[serde(rename = "Own")]
    Probe,
}

/// A published shape. It is a spec with additional fields, so that an operator of the previous version can read it.
#[derive(Serialize, Deserialize)]
struct PublishedShape {
    #[serde(flatten)]
    spec: WorkerPoolSpec,
    #[serde(default, rename = "probes")]
    probe_port: ProbePort,
}

impl Shape {
    /// The shape of a pool's spec.
    pub fn of(pool: &Arc<WorkerPool>, installation: &Installation) -> Self {
        Self { revision: revision(pool, installation), pool: pool.clone(), probe_port: ProbePort::Probe }
    }

    /// The shape in a pool's status. `None` if there is none or it cannot be parsed.
    pub fn published(pool: &WorkerPool) -> Option<Self> {
        let current = pool.status.as_ref()?.current_revision.as_ref()?;
        let PublishedShape { spec, probe_port } = serde_json::from_str(&current.shape).ok()?;
        if spec.template.oversized_bytes.is_some() {
            return None;
        }
        let shaped = WorkerPool { metadata: pool.metadata.clone(), spec, status: None };
        Some(Self { revision: current.revision.clone(), pool: Arc::new(shaped), probe_port })
    }

    /// Why no pod can be created in this shape: its template was too large to keep. `None` if pods can be created.
    pub fn rejection(&self) -> Option<String> {
        let bytes = self.pool.spec.template.oversized_bytes?;
        Some(format!(
            "spec.template has {bytes} bytes as JSON; at most {MAX_TEMPLATE_BYTES} are allowed. Shorten its \
             environment, annotations, volumes or affinity. Until then the operator creates no runner from it, and \
             existing runners continue to serve"
        ))
    }

    /// The shape for the pool's status. Fields that do not affect pods are reset, and the default image is filled in.
    pub fn to_publish(&self, installation: &Installation) -> CurrentRevision {
        let spec = &self.pool.spec;
        let image = spec.template.image.clone().unwrap_or_else(|| installation.runner_image.clone());
        let spec = WorkerPoolSpec {
            replicas: None,
            autoscaling: None,
            allowed_namespaces: AllowedNamespaces::default(),
            limits: Limits::default(),
            template: RunnerTemplate { image: Some(image), ..spec.template.clone() },
            rollout: Rollout { drain_timeout_seconds: spec.rollout.drain_timeout_seconds, ..Rollout::default() },
            ..spec.clone()
        };
        let shape = PublishedShape { spec, probe_port: self.probe_port };
        let shape = serde_json::to_string(&shape).expect("a spec serializes");
        CurrentRevision { revision: self.revision.clone(), shape }
    }
}

/// Hash of the shape of a pool's spec.
pub fn revision(pool: &WorkerPool, installation: &Installation) -> String {
    let shape = Pod {
        spec: Some(pod_spec(pool, installation, ProbePort::Probe)),
        metadata: template_metadata(pool),
        ..Pod::default()
    };
    let shape = serde_json::to_string(&shape).expect("a pod serializes");
    match pool.spec.template.oversized_bytes {
        // A dropped template must not look like the default one.
        Some(bytes) => short_hash(&[&shape, &bytes.to_string()]),
        None => short_hash(&[&shape]),
    }
}

/// Builds the pod for an ordinal of the pool. Its name depends only on the arguments, so a repeated create conflicts
/// with the first one. A canary has to load a page before it is warm.
pub fn runner_pod(
    shape: &Shape,
    installation: &Installation,
    ordinal: u32,
    replaces: Option<&str>,
    keys: &str,
    canary: bool,
) -> Pod {
    let pool = shape.pool.as_ref();
    let mut metadata = template_metadata(pool);
    metadata.name = Some(pod_name(pool, ordinal, &shape.revision, replaces));
    metadata.namespace = pool.namespace();
    metadata.owner_references = Some(pool.controller_owner_ref(&()).into_iter().collect());
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(ORDINAL_LABEL.to_owned(), ordinal.to_string());
    labels.insert(REVISION_LABEL.to_owned(), shape.revision.clone());
    metadata.annotations.get_or_insert_default().insert(KEYS_ANNOTATION.to_owned(), keys.to_owned());
    let mut spec = pod_spec(pool, installation, shape.probe_port);
    if canary && let Some(container) = spec.containers.first_mut() {
        // An environment variable, because an older image would reject an unknown argument.
        container.env.get_or_insert_default().push(EnvVar {
            name: "RUNNER_PROVE".to_owned(),
            value: Some(if pool.spec.prewarm().headful > 0 { "headful" } else { "headless" }.to_owned()),
            ..EnvVar::default()
        });
    }
    Pod { metadata, spec: Some(spec), status: None }
}

/// `<pool>-<hash(pool UID, ordinal, revision, UID of the replaced pod or "first")>`
fn pod_name(pool: &WorkerPool, ordinal: u32, revision: &str, replaces: Option<&str>) -> String {
    let uid = pool.uid().unwrap_or_default();
    let hash = short_hash(&[&uid, &ordinal.to_string(), revision, replaces.unwrap_or("first")]);
    format!("{}-{hash}", pool.name_any())
}

/// The first ten hexadecimal digits of a SHA-256.
fn short_hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    hasher.finalize().iter().take(5).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a String succeeds");
        hex
    })
}

fn template_metadata(pool: &WorkerPool) -> ObjectMeta {
    let template = &pool.spec.template.metadata;
    let mut labels = template.labels.clone();
    labels.insert(RUNNER_LABEL.0.to_owned(), RUNNER_LABEL.1.to_owned());
    labels.insert(POOL_LABEL.to_owned(), pool.name_any());
    let mut annotations = template.annotations.clone();
    for (name, value) in eviction_annotations(pool.spec.disruption) {
        annotations.entry((*name).to_owned()).or_insert_with(|| (*value).to_owned());
    }
    ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }
}

/// Annotations for cluster autoscalers: cluster-autoscaler (see its FAQ) and Karpenter (see its page "Disruption").
/// Both read whether a pod can be evicted, not whether it is idle. With `WhenIdle`, also idle runners cannot be
/// evicted, so an autoscaler removes a node only once it has no runner.
fn eviction_annotations(disruption: Disruption) -> &'static [(&'static str, &'static str)] {
    match disruption {
        Disruption::WhenIdle => {
            &[("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"), ("karpenter.sh/do-not-disrupt", "true")]
        }
        Disruption::Always => &[("cluster-autoscaler.kubernetes.io/safe-to-evict", "true")],
    }
}

/// Labels that select a pool's pods, for the scale subresource and the disruption budget.
pub fn pool_labels(pool: &WorkerPool) -> BTreeMap<String, String> {
    BTreeMap::from([(RUNNER_LABEL.0.to_owned(), RUNNER_LABEL.1.to_owned()), (POOL_LABEL.to_owned(), pool.name_any())])
}

/// A pod that meets the *restricted* Pod Security Standard, with a read-only root file system and without an API token.
fn pod_spec(pool: &WorkerPool, installation: &Installation, probe_port: ProbePort) -> PodSpec {
    let template = &pool.spec.template;
    let mut volumes = vec![memory_volume("shm"), disk_volume("run", "4Gi"), disk_volume("tmp", "1Gi"), keys_volume()];
    volumes.extend(template.volumes.iter().cloned());
    let drain = pool.spec.rollout.drain_timeout_seconds;
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        restart_policy: Some("Never".to_owned()),
        termination_grace_period_seconds: Some(i64::from(drain + GRACE_AFTER_DRAIN_SECONDS)),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(1000),
            run_as_group: Some(1000),
            fs_group: Some(1000),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        image_pull_secrets: (!template.image_pull_secrets.is_empty()).then(|| template.image_pull_secrets.clone()),
        node_selector: (!template.node_selector.is_empty()).then(|| template.node_selector.clone()),
        tolerations: (!template.tolerations.is_empty()).then(|| template.tolerations.clone()),
        affinity: template.affinity.clone(),
        volumes: Some(volumes),
        containers: vec![container(pool, installation, probe_port)],
        ..PodSpec::default()
    }
}

fn container(pool: &WorkerPool, installation: &Installation, probe_port: ProbePort) -> Container {
    let template = &pool.spec.template;
    let mut mounts = vec![
        mount("shm", "/dev/shm"),
        mount("run", "/run/camofleet"),
        mount("tmp", "/tmp"),
        VolumeMount { read_only: Some(true), ..mount("keys", KEYS_FOLDER) },
    ];
    mounts.extend(template.volume_mounts.iter().cloned());
    let mut env = vec![EnvVar {
        name: "POD_UID".to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field("metadata.uid")), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }];
    let set_by_pool = |name: &str| template.env.iter().any(|variable| variable.name == name);
    let environment = installation.runner_environment.iter().filter(|(name, _)| !set_by_pool(name));
    env.extend(environment.map(|(name, value)| EnvVar {
        name: name.clone(),
        value: Some(value.clone()),
        ..EnvVar::default()
    }));
    env.extend(template.env.iter().cloned());
    let mut ports = vec![port(API_PORT, camofleet_runner_api::PORT)];
    if probe_port == ProbePort::Probe {
        ports.push(port(PROBE_PORT, camofleet_runner_api::PROBE_PORT));
    }
    Container {
        name: CONTAINER.to_owned(),
        image: Some(template.image.clone().unwrap_or_else(|| installation.runner_image.clone())),
        args: Some(runner_args(pool)),
        // A runner that cannot start logs the cause in its last lines.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        env: Some(env),
        ports: Some(ports),
        readiness_probe: Some(Probe { period_seconds: Some(2), ..probe("/readyz", probe_port) }),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            failure_threshold: Some(6),
            ..probe("/healthz", probe_port)
        }),
        resources: Some(template.resources.clone().unwrap_or_else(default_resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn runner_args(pool: &WorkerPool) -> Vec<String> {
    let spec = &pool.spec;
    let engine = match spec.engine {
        EngineChoice::Auto => "auto",
        EngineChoice::Camoufox => "camoufox",
        EngineChoice::Firefox => "firefox",
    };
    let prewarm = spec.prewarm();
    vec![
        format!("{SLOTS_ARGUMENT}{}", spec.slots_per_runner),
        format!("--sessions={}", spec.sessions_per_runner()),
        format!("--engine={engine}"),
        format!("--screen={}x{}", spec.screen.width, spec.screen.height),
        format!("--prewarm-headless={}", prewarm.headless),
        format!("--prewarm-headful={}", prewarm.headful),
        format!("--drain-timeout-seconds={}", spec.rollout.drain_timeout_seconds),
        format!("--keys-file={KEYS_FOLDER}/public-keys"),
    ]
}

fn default_resources() -> ResourceRequirements {
    let requests = BTreeMap::from([
        ("cpu".to_owned(), Quantity("100m".to_owned())),
        ("memory".to_owned(), Quantity("512Mi".to_owned())),
    ]);
    ResourceRequirements { requests: Some(requests), ..ResourceRequirements::default() }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: number.into(), ..ContainerPort::default() }
}

/// An HTTP probe, because an exec probe would start a process in each pod every 2 s.
fn probe(path: &str, probe_port: ProbePort) -> Probe {
    let port = match probe_port {
        ProbePort::Api => API_PORT,
        ProbePort::Probe => PROBE_PORT,
    };
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(port.to_owned()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

/// A bounded volume, so that an endless download fills its own pod and not the node.
fn disk_volume(name: &str, limit: &str) -> Volume {
    let source =
        EmptyDirVolumeSource { size_limit: Some(Quantity(limit.to_owned())), ..EmptyDirVolumeSource::default() };
    Volume { name: name.to_owned(), empty_dir: Some(source), ..Volume::default() }
}

/// Volume for `/dev/shm`, through which browser processes share memory. The container runtime's default has only 64
/// MiB.
fn memory_volume(name: &str) -> Volume {
    let source = EmptyDirVolumeSource {
        medium: Some("Memory".to_owned()),
        size_limit: Some(Quantity("1Gi".to_owned())),
        ..EmptyDirVolumeSource::default()
    };
    Volume { name: name.to_owned(), empty_dir: Some(source), ..Volume::default() }
}

fn keys_volume() -> Volume {
    let file = DownwardAPIVolumeFile {
        path: "public-keys".to_owned(),
        field_ref: Some(field(&format!("metadata.annotations['{KEYS_ANNOTATION}']"))),
        ..DownwardAPIVolumeFile::default()
    };
    let source = DownwardAPIVolumeSource { items: Some(vec![file]), ..DownwardAPIVolumeSource::default() };
    Volume { name: "keys".to_owned(), downward_api: Some(source), ..Volume::default() }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn field(path: &str) -> ObjectFieldSelector {
    ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() }
}
