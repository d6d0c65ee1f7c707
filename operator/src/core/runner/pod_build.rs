//! Runner pods: how one is made for a pool.

use crate::core::runner::pod_read::{
    CONTAINER, KEYS_ANNOTATION, ORDINAL_LABEL, POOL_LABEL, REVISION_LABEL, RUNNER_LABEL, SLOTS_ARGUMENT,
};
use camofleet_crds::v1alpha1::{
    AllowedNamespaces, Disruption, EngineChoice, Limits, MAX_TEMPLATE_BYTES, Rollout, RunnerTemplate, Serving,
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

/// Names of the container's ports.
const API_PORT: &str = "http";
const PROBE_PORT: &str = "probes";
const KEYS_FOLDER: &str = "/etc/camofleet";
/// What a runner may take after its drain deadline, to end browsers and have their ends acknowledged.
const GRACE_AFTER_DRAIN_SECONDS: i32 = 15;

/// What all runner pods get from the operator's installation.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Image of runners whose pool names none.
    pub runner_image: String,
    /// Base of every URL that is published, without a slash at its end.
    pub public_url: String,
    /// The operator's own namespace: sessions that name no pool may use its pools, where these allow theirs.
    pub namespace: String,
    /// Environment of runners whose pool does not set the same: where their spans go. It is part of their shape.
    pub runner_environment: Vec<(String, String)>,
}

/// The shape that pods of a pool are made in.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Its hash, which pods have as a label.
    pub revision: String,
    /// A pool with that shape.
    pool: Arc<WorkerPool>,
    /// Where its runners answer probes.
    probes: Probes,
}

/// Where runners answer the kubelet's probes. A runner of an image that does not know of the probes' own port would never become
/// ready there, so a shape that a runner came up in keeps the probes that it came up with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Probes {
    /// On the port of the API: of a shape that was published before shapes named this.
    #[default]
    Api,
    /// On a port of their own, which clients cannot fill.
    Own,
}

/// A shape as it is published: a spec, of which an operator of the version before reads what it knows.
#[derive(Serialize, Deserialize)]
struct PublishedShape {
    #[serde(flatten)]
    spec: WorkerPoolSpec,
    #[serde(default)]
    probes: Probes,
}

impl Shape {
    /// What a pool's spec asks for.
    pub fn of(pool: &Arc<WorkerPool>, installation: &Installation) -> Self {
        Self { revision: revision(pool, installation), pool: pool.clone(), probes: Probes::Own }
    }

    /// What was published of a pool; none when that cannot be read.
    pub fn published(pool: &WorkerPool) -> Option<Self> {
        let serving = pool.status.as_ref()?.serving.as_ref()?;
        let PublishedShape { spec, probes } = serde_json::from_str(&serving.shape).ok()?;
        if spec.template.too_large.is_some() {
            return None;
        }
        let shaped = WorkerPool { metadata: pool.metadata.clone(), spec, status: None };
        Some(Self { revision: serving.revision.clone(), pool: Arc::new(shaped), probes })
    }

    /// Why no pod can be made in this shape: its template was too large to be kept. None: pods can be made.
    pub fn refusal(&self) -> Option<String> {
        let bytes = self.pool.spec.template.too_large?;
        Some(format!(
            "spec.template has {bytes} bytes as JSON, and at most {MAX_TEMPLATE_BYTES} are allowed: shorten its environment, \
             annotations, volumes or affinity. No runner is made of it, and those that are there go on serving"
        ))
    }

    /// For the pool's status. What of the spec does not shape pods is left out, and the image is named.
    pub fn to_publish(&self, installation: &Installation) -> Serving {
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
        let shape = PublishedShape { spec, probes: self.probes };
        let shape = serde_json::to_string(&shape).expect("a spec is plain data");
        Serving { revision: self.revision.clone(), shape }
    }
}

/// Hash of the shape of a pool's pods: pods of another shape are replaced.
pub fn revision(pool: &WorkerPool, installation: &Installation) -> String {
    let shape = Pod {
        spec: Some(pod_spec(pool, installation, Probes::Own)),
        metadata: template_metadata(pool),
        ..Pod::default()
    };
    let shape = serde_json::to_string(&shape).expect("a pod is plain data");
    match pool.spec.template.too_large {
        // A template that was dropped is not the default one.
        Some(bytes) => short_hash(&[&shape, &bytes.to_string()]),
        None => short_hash(&[&shape]),
    }
}

/// The pod for that place of the pool. Its name is a function of what it is for, so that making it twice makes one. A canary
/// loads a page before it is warm.
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
    let mut spec = pod_spec(pool, installation, shape.probes);
    if canary && let Some(container) = spec.containers.first_mut() {
        // By the environment: an image that does not know of it yet is not broken for that.
        container.env.get_or_insert_default().push(EnvVar {
            name: "RUNNER_PROVE".to_owned(),
            value: Some(if pool.spec.prewarm().headful > 0 { "headful" } else { "headless" }.to_owned()),
            ..EnvVar::default()
        });
    }
    Pod { metadata, spec: Some(spec), status: None }
}

/// `<pool>-<hash(pool UID, ordinal, revision, UID of the pod that it replaces or 'first')>`
fn pod_name(pool: &WorkerPool, ordinal: u32, revision: &str, replaces: Option<&str>) -> String {
    let uid = pool.uid().unwrap_or_default();
    let hash = short_hash(&[&uid, &ordinal.to_string(), revision, replaces.unwrap_or("first")]);
    format!("{}-{hash}", pool.name_any())
}

/// Ten hexadecimal digits.
fn short_hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    hasher.finalize().iter().take(5).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes everything");
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

/// What cluster autoscalers are told: those of the Kubernetes project (cluster-autoscaler's FAQ) and Karpenter (its page
/// "Disruption"). They ask whether a pod may be evicted, not whether it is idle just now, so a node goes once it is empty.
fn eviction_annotations(disruption: Disruption) -> &'static [(&'static str, &'static str)] {
    match disruption {
        Disruption::WhenIdle => {
            &[("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"), ("karpenter.sh/do-not-disrupt", "true")]
        }
        Disruption::Always => &[("cluster-autoscaler.kubernetes.io/safe-to-evict", "true")],
    }
}

/// Selects a pool's pods, as the scale subresource and the disruption budget need it.
pub fn pool_labels(pool: &WorkerPool) -> BTreeMap<String, String> {
    BTreeMap::from([(RUNNER_LABEL.0.to_owned(), RUNNER_LABEL.1.to_owned()), (POOL_LABEL.to_owned(), pool.name_any())])
}

/// A pod of the *restricted* Pod Security Standard with a read-only root, without a token for the API server.
fn pod_spec(pool: &WorkerPool, installation: &Installation, probes: Probes) -> PodSpec {
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
        containers: vec![container(pool, installation, probes)],
        ..PodSpec::default()
    }
}

fn container(pool: &WorkerPool, installation: &Installation, probes: Probes) -> Container {
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
    if probes == Probes::Own {
        ports.push(port(PROBE_PORT, camofleet_runner_api::PROBE_PORT));
    }
    Container {
        name: CONTAINER.to_owned(),
        image: Some(template.image.clone().unwrap_or_else(|| installation.runner_image.clone())),
        args: Some(runner_args(pool)),
        // A runner that cannot start says why in its last lines.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        env: Some(env),
        ports: Some(ports),
        readiness_probe: Some(Probe { period_seconds: Some(2), ..probe("/readyz", probes) }),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            failure_threshold: Some(6),
            ..probe("/healthz", probes)
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

/// By HTTP and not by a program in the container: that would be a process in each pod every 2 s, which the container runtime starts.
fn probe(path: &str, probes: Probes) -> Probe {
    let port = match probes {
        Probes::Api => API_PORT,
        Probes::Own => PROBE_PORT,
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

/// Bounded, so that a page that downloads without end fills its own pod and not the node.
fn disk_volume(name: &str, limit: &str) -> Volume {
    let source =
        EmptyDirVolumeSource { size_limit: Some(Quantity(limit.to_owned())), ..EmptyDirVolumeSource::default() };
    Volume { name: name.to_owned(), empty_dir: Some(source), ..Volume::default() }
}

/// Browsers share memory between their processes through `/dev/shm`; the container runtime's own has only 64 MiB.
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
