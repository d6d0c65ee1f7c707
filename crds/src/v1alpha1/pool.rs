use super::browser::{Display, EngineChoice};
use k8s_openapi::{
    api::core::v1::{Affinity, EnvVar, LocalObjectReference, ResourceRequirements, Toleration, Volume, VolumeMount},
    apimachinery::pkg::{
        apis::meta::v1::{Condition, LabelSelector},
        util::intstr::IntOrString,
    },
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::Value;
use std::collections::BTreeMap;

/// A `WorkerPool` keeps identical runner pods warm for the sessions of its namespace, and of other namespaces that it
/// allows.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "camofleet.dev",
    version = "v1alpha1",
    kind = "WorkerPool",
    namespaced,
    status = "WorkerPoolStatus",
    shortname = "wp",
    category = "camofleet",
    derive = "PartialEq",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desiredReplicas", description = "Desired number of runners"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas", description = "Runners that can take sessions or serve them"),
    printcolumn(name = "Slots", type_ = "integer", json_path = ".status.slots.total", description = "Slots of the runners that accept sessions"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.slots.used", description = "Slots that serve a session"),
    printcolumn(name = "Hot", type_ = "integer", json_path = ".status.slots.hot", description = "Free slots with a prewarmed browser"),
    printcolumn(name = "Queued", type_ = "integer", json_path = ".status.queued", description = "Waiting sessions that the pool accepts"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = 1, description = "Reason of the Ready condition"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision", priority = 1, description = "Hash of the fields that determine the runner pods"),
    validation = Rule::new("self.metadata.name.size() <= 50")
        .message("the name of a WorkerPool can have at most 50 characters because pod names are built from it: choose a shorter name"),
    validation = Rule::new("!has(self.spec.prewarm) || self.spec.prewarm.headless + self.spec.prewarm.headful <= self.spec.slotsPerRunner")
        .message("the sum of prewarm.headless and prewarm.headful must not exceed slotsPerRunner: lower them, or raise slotsPerRunner")
        .field_path(".spec.prewarm"),
    validation = Rule::new("!has(self.spec.sessionsPerRunner) || self.spec.sessionsPerRunner == 0 || self.spec.sessionsPerRunner >= self.spec.slotsPerRunner")
        .message("sessionsPerRunner must be 0 (no limit) or at least slotsPerRunner; otherwise some slots could never be used")
        .field_path(".spec.sessionsPerRunner"),
    validation = Rule::new("self.spec.allowedNamespaces.from == 'Same' || self.spec.slotsPerRunner == 1")
        .message("slotsPerRunner must be 1 in a pool for other namespaces because sessions on one runner share its user and memory")
        .field_path(".spec.slotsPerRunner"),
    validation = Rule::new("!has(self.spec.replicas) || !has(self.spec.autoscaling)")
        .message("replicas and autoscaling are mutually exclusive: remove one. A HorizontalPodAutoscaler needs replicas")
        .field_path(".spec.autoscaling"),
    validation = Rule::new("!has(self.spec.limits.maxLifetimeSeconds) || !has(self.spec.sessionDefaults.maxLifetimeSeconds) || self.spec.sessionDefaults.maxLifetimeSeconds <= self.spec.limits.maxLifetimeSeconds")
        .message("sessionDefaults.maxLifetimeSeconds must not exceed limits.maxLifetimeSeconds: lower it, or raise the limit")
        .field_path(".spec.sessionDefaults")
)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolSpec {
    /// Desired number of runners. Defaults to 1 unless `autoscaling` is set. A HorizontalPodAutoscaler or KEDA sets
    /// this field through the scale subresource, and requires that it is present. Mutually exclusive with
    /// `autoscaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// Scales the pool by demand. The operator publishes the resulting number of runners in `status.desiredReplicas`
    /// and never writes the spec. Mutually exclusive with `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Number of sessions that one runner serves at once. Sessions on one runner share a Unix user and memory, so set
    /// more than 1 only if all sessions of the pool trust each other. Defaults to 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 32))]
    pub slots_per_runner: i32,
    /// Number of sessions after which a runner is replaced. 0 means never. Defaults to `slotsPerRunner`, so that each
    /// slot serves one session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub sessions_per_runner: Option<i32>,
    /// Namespaces whose sessions can use the pool. Defaults to the pool's own namespace.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
    /// Limits on the sessions that the pool serves and queues.
    #[serde(default)]
    pub limits: Limits,
    /// Browser engine of the pool. Auto selects Camoufox if the runner image contains it, and Firefox otherwise.
    /// Defaults to Auto.
    #[serde(default)]
    pub engine: EngineChoice,
    /// Size of each display, in pixels. Defaults to 1280 x 720.
    #[serde(default)]
    pub screen: Screen,
    /// Number of browsers that each runner launches ahead of demand. Defaults to one per slot, of the kind that
    /// `sessionDefaults.display` needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prewarm: Option<Prewarm>,
    /// Values for sessions that do not set the corresponding field.
    #[serde(default)]
    pub session_defaults: SessionDefaults,
    /// Settings of the runner pods. The operator sets all other fields of the pods.
    #[serde(default, serialize_with = "write_template", deserialize_with = "read_template")]
    pub template: RunnerTemplate,
    /// How runners are replaced when their revision changes, and how long a drained runner waits for its sessions.
    #[serde(default)]
    pub rollout: Rollout,
    /// Whether runner pods can be evicted. WhenIdle forbids it, also for idle ones: a PodDisruptionBudget and
    /// annotations for cluster autoscalers protect every healthy runner, and only the operator removes idle runners.
    /// Always allows it, also with an annotation, and evicted sessions can run until the drain deadline. Defaults to
    /// WhenIdle.
    #[serde(default)]
    pub disruption: Disruption,
}

impl Default for WorkerPoolSpec {
    fn default() -> Self {
        Self {
            replicas: None,
            autoscaling: None,
            slots_per_runner: one(),
            sessions_per_runner: None,
            allowed_namespaces: AllowedNamespaces::default(),
            limits: Limits::default(),
            engine: EngineChoice::default(),
            screen: Screen::default(),
            prewarm: None,
            session_defaults: SessionDefaults::default(),
            template: RunnerTemplate::default(),
            rollout: Rollout::default(),
            disruption: Disruption::default(),
        }
    }
}

fn one() -> i32 {
    1
}

impl WorkerPoolSpec {
    /// `replicas`, or its default of 1. Not meaningful for an autoscaled pool.
    pub fn fixed_replicas(&self) -> i32 {
        self.replicas.unwrap_or(1)
    }

    /// Number of sessions after which a runner is replaced; 0 means never.
    pub fn sessions_per_runner(&self) -> i32 {
        self.sessions_per_runner.unwrap_or(self.slots_per_runner)
    }

    /// Number of browsers that each runner launches ahead of demand.
    pub fn prewarm(&self) -> Prewarm {
        self.prewarm.unwrap_or(match self.session_defaults.display.unwrap_or_default() {
            Display::Headless => Prewarm { headless: self.slots_per_runner, headful: 0 },
            Display::Headful | Display::LiveView => Prewarm { headless: 0, headful: self.slots_per_runner },
        })
    }
}

/// Bounds and pace of a pool that scales by demand.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("minReplicas must not exceed maxReplicas: lower it, or raise maxReplicas"))]
pub struct Autoscaling {
    /// Lower bound of the number of runners. With 0, an unused pool has no runners, and the first queued session starts
    /// one. Defaults to 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: i32,
    /// Upper bound of the number of runners.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Number of slots to keep free, with prewarmed browsers, ahead of demand. Defaults to 1.
    #[serde(default = "default_buffer_slots")]
    #[schemars(range(min = 0, max = 1000))]
    pub buffer_slots: i32,
    /// Seconds that a runner must be unneeded before it is removed. Runners are added without delay. Defaults to 300.
    #[serde(default = "default_scale_down_delay")]
    #[schemars(range(min = 0, max = 86400))]
    pub scale_down_delay_seconds: i32,
}

fn default_buffer_slots() -> i32 {
    1
}

fn default_scale_down_delay() -> i32 {
    300
}

/// Whether the runner pods of a pool can be evicted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Disruption {
    /// A PodDisruptionBudget forbids evictions, and annotations keep cluster autoscalers away. Only the operator
    /// removes runners: idle ones, on the emptiest nodes first, and those of a cordoned node after draining them.
    #[default]
    WhenIdle,
    /// Runner pods can be evicted at any time. Their sessions can run until the drain deadline.
    Always,
}

/// Namespaces whose sessions can use a pool. The operator re-evaluates queued sessions when this field or the labels of
/// their namespace change. Sessions that already have a browser keep it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.from == 'Selector') == has(self.selector)")
    .message("allowedNamespaces.selector is required with from: Selector, and forbidden otherwise: set both, or neither"))]
pub struct AllowedNamespaces {
    /// Same allows the pool's own namespace. All allows every namespace. Selector allows the pool's own namespace and
    /// those whose labels match `selector`. Defaults to Same.
    #[serde(default)]
    pub from: NamespacesFrom,
    /// Selects namespaces by their labels. An empty selector matches all namespaces. Required if `from` is Selector,
    /// and forbidden otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['Exists', 'DoesNotExist'] ? !has(e.values) || e.values.size() == 0 : e.operator in ['In', 'NotIn'] && has(e.values) && e.values.size() > 0)")
        .message("the operator of an expression must be In or NotIn, with values, or Exists or DoesNotExist, without values"))]
    pub selector: Option<LabelSelector>,
}

/// How a pool selects the namespaces that it allows.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NamespacesFrom {
    /// Only the pool's own namespace.
    #[default]
    Same,
    /// Every namespace.
    All,
    /// The pool's own namespace, and those whose labels match the selector.
    Selector,
}

/// Limits on the sessions of a pool. A tenant is a namespace, or one of `allowedTenants`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Maximum number of sessions that run at once. Further sessions wait. Unset means that only the slots limit them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_sessions: Option<i32>,
    /// Maximum number of sessions that wait for a slot. Further sessions finish at once with the reason `QueueFull`.
    /// Unset means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_queued: Option<i32>,
    /// Maximum number of sessions of one tenant that run at once. Further sessions wait, and do not delay those of
    /// other tenants. Unset means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_sessions_per_tenant: Option<i32>,
    /// Highest `priority` that a session can have. A session above it that names the pool finishes at once with the
    /// reason `PriorityTooHigh`; one without `poolRef` waits for another pool. Defaults to 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub max_priority: i32,
    /// Highest `maxLifetimeSeconds` that a session can have. A session above it that names the pool finishes at once
    /// with the reason `LifetimeTooLong`; one without `poolRef` waits for another pool. It also caps the default for
    /// sessions that do not set the field. Unset means that only the bound of the field itself applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 604_800))]
    pub max_lifetime_seconds: Option<i32>,
    /// Weights of tenants that compete for slots, from 1 to 1000. A tenant of weight 3 gets three times as many
    /// sessions as a tenant of weight 1. Tenants that are not listed have weight 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    #[x_kube(validation = Rule::new("self.all(tenant, self[tenant] >= 1 && self[tenant] <= 1000)")
        .message("a tenant's weight must be from 1 to 1000"))]
    pub tenant_weights: BTreeMap<String, i32>,
    /// Tenants that a session can name instead of its namespace. Every session that can use the pool can name any of
    /// them. A tenant with the name of a namespace shares the limits of that namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub allowed_tenants: Vec<String>,
}

impl Limits {
    /// Weight of the tenant, at least 1.
    pub fn weight_of(&self, tenant: &str) -> u32 {
        self.tenant_weights.get(tenant).and_then(|weight| u32::try_from(*weight).ok()).unwrap_or(1).max(1)
    }
}

/// Size of a display.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Screen {
    /// Width in pixels. Defaults to 1280.
    #[serde(default = "default_width")]
    #[schemars(range(min = 320, max = 7680))]
    pub width: i32,
    /// Height in pixels. Defaults to 720.
    #[serde(default = "default_height")]
    #[schemars(range(min = 240, max = 4320))]
    pub height: i32,
}

impl Default for Screen {
    fn default() -> Self {
        Self { width: default_width(), height: default_height() }
    }
}

fn default_width() -> i32 {
    1280
}

fn default_height() -> i32 {
    720
}

/// Number of browsers that each runner launches ahead of demand. Their sum cannot exceed `slotsPerRunner`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Prewarm {
    /// Browsers without a display, for Headless sessions. Defaults to 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 32))]
    pub headless: i32,
    /// Browsers on a display, for Headful and LiveView sessions. Defaults to 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 32))]
    pub headful: i32,
}

/// Values for sessions that do not set the corresponding field.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SessionDefaults {
    /// Display of the browser: Headless, Headful or LiveView. Defaults to Headless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<Display>,
    /// Seconds without client activity after which a session ends. Defaults to 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 86400))]
    pub idle_timeout_seconds: Option<i32>,
    /// Seconds after which a session ends regardless of activity. Defaults to 14400 (4 hours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 604_800))]
    pub max_lifetime_seconds: Option<i32>,
}

/// Maximum size of a template as JSON without its image, in bytes. The bounds of the individual fields add up to more
/// than the API server accepts, and the operator caches every pool.
pub const MAX_TEMPLATE_BYTES: usize = 32 * 1024;

/// Settings of the runner pods. The operator sets the rest so that the pods meet the *restricted* Pod Security
/// Standard.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunnerTemplate {
    /// Labels and annotations to add to the pods.
    #[serde(default)]
    pub metadata: TemplateMetadata,
    /// Runner image. Defaults to the image that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Secrets in the pool's namespace that the kubelet uses to pull the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Resource requests and limits of the runner container. Defaults to requests of 100m CPU and 512Mi memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that a node must have to run the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Scheduling constraints of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Additional volumes, of the types that the *restricted* Pod Security Standard allows. The names shm, run, tmp and
    /// keys are reserved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.all(v, !has(v.hostPath) && (has(v.configMap) || has(v.secret) || has(v.emptyDir) || has(v.persistentVolumeClaim) || has(v.projected) || has(v.ephemeral) || has(v.csi) || has(v.downwardAPI) || has(v.image)))")
        .message("unsupported volume type: the restricted Pod Security Standard allows configMap, secret, emptyDir, persistentVolumeClaim, projected, ephemeral, csi, downwardAPI and image"))]
    #[x_kube(validation = Rule::new("self.all(v, v.name != 'shm' && v.name != 'run' && v.name != 'tmp' && v.name != 'keys')")
        .message("the volume names shm, run, tmp and keys are reserved for the operator: choose another name"))]
    pub volumes: Vec<Volume>,
    /// Mounts of the additional volumes in the runner container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub volume_mounts: Vec<VolumeMount>,
    /// Additional environment variables of the runner and its browsers. Sessions can read them, so do not put secrets
    /// here. The names `RUNNER_*` and `POD_UID` are reserved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.all(e, !e.name.startsWith('RUNNER_') && e.name != 'POD_UID')")
        .message("the environment variables RUNNER_* and POD_UID are reserved for the operator: use the fields of the pool instead"))]
    pub env: Vec<EnvVar>,
    /// Size of a template that exceeded [`MAX_TEMPLATE_BYTES`] when it was read. The other fields were dropped, so such
    /// an object must not be written back.
    #[serde(skip)]
    pub oversized_bytes: Option<usize>,
}

// Templates are converted through JSON values, so that the many structs of volumes and affinities are compiled once,
// here, and not in each crate for each format that it reads.

fn read_template<'de, D: Deserializer<'de>>(from: D) -> Result<RunnerTemplate, D::Error> {
    template_of(Value::deserialize(from)?).and_then(within_bounds).map_err(de::Error::custom)
}

fn write_template<S: Serializer>(template: &RunnerTemplate, to: S) -> Result<S::Ok, S::Error> {
    json_of(template).map_err(ser::Error::custom)?.serialize(to)
}

fn template_of(json: Value) -> serde_json::Result<RunnerTemplate> {
    serde_json::from_value(json)
}

/// The template, or an empty one that records its size. The size is that of the serialized template, so that the
/// published fields of the current revision can be read again.
fn within_bounds(template: RunnerTemplate) -> serde_json::Result<RunnerTemplate> {
    let mut json = json_of(&template)?;
    // The published fields always have an image, and a spec can omit it. The schema bounds its length.
    json.as_object_mut().and_then(|fields| fields.remove("image"));
    let bytes = json.to_string().len();
    let oversized_bytes = (bytes > MAX_TEMPLATE_BYTES).then_some(bytes);
    Ok(if oversized_bytes.is_some() {
        RunnerTemplate { oversized_bytes, ..RunnerTemplate::default() }
    } else {
        template
    })
}

fn json_of(template: &RunnerTemplate) -> serde_json::Result<Value> {
    serde_json::to_value(template)
}

/// Labels and annotations to add to the runner pods.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TemplateMetadata {
    /// Labels to add. The prefixes `camofleet.dev/` and `app.kubernetes.io/` are reserved.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('camofleet.dev/') && !k.startsWith('app.kubernetes.io/'))")
        .message("the label prefixes camofleet.dev/ and app.kubernetes.io/ are reserved for the operator: use another prefix"))]
    pub labels: BTreeMap<String, String>,
    /// Annotations to add. The prefix `camofleet.dev/` is reserved.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('camofleet.dev/'))")
        .message("the annotation prefix camofleet.dev/ is reserved for the operator: use another prefix"))]
    pub annotations: BTreeMap<String, String>,
}

/// How runners are replaced and drained.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Maximum number of runners that can be unavailable during a rollout: an absolute number, or a percentage of the
    /// pool's runners such as `10%`, rounded down. The rollout adds one runner above the desired number, so it also
    /// proceeds with 0. Single-slot runners that serve a session are not counted, because draining one takes no free
    /// slot away: they all drain at once after the last idle runner of the outdated revision was removed. Defaults to
    /// 1.
    #[serde(default = "default_max_unavailable")]
    #[schemars(extend("nullable" = false))]
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 0 && self <= 1000 : self.matches('^(100|[1-9]?[0-9])%$')")
        .message("maxUnavailable must be a number of runners from 0 to 1000, or a percentage from 0% to 100%"))]
    pub max_unavailable: IntOrString,
    /// Seconds that the sessions of a drained runner can continue before they end. Defaults to 600.
    #[serde(default = "default_drain_timeout")]
    #[schemars(range(min = 0, max = 86400))]
    pub drain_timeout_seconds: i32,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { max_unavailable: default_max_unavailable(), drain_timeout_seconds: default_drain_timeout() }
    }
}

impl Rollout {
    /// Maximum number of unavailable runners in a pool of this many `runners`.
    pub fn max_unavailable_of(&self, runners: usize) -> usize {
        match &self.max_unavailable {
            IntOrString::Int(count) => usize::try_from(*count).unwrap_or_default(),
            IntOrString::String(share) => {
                let percent = share.strip_suffix('%').and_then(|percent| percent.parse::<usize>().ok());
                runners * percent.unwrap_or_default().min(100) / 100
            }
        }
    }
}

fn default_max_unavailable() -> IntOrString {
    IntOrString::Int(1)
}

fn default_drain_timeout() -> i32 {
    600
}

/// Observed state of a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolStatus {
    /// Generation of the spec that this status reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of runner pods that have not terminated. A pod that still exists 60 s after its deletion was due is not
    /// counted.
    #[serde(default)]
    pub replicas: i32,
    /// Desired number of runners.
    #[serde(default)]
    pub desired_replicas: i32,
    /// Number of runners that can take sessions or serve them.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Number of runners of the update revision, which is the one of the current spec.
    #[serde(default)]
    pub updated_replicas: i32,
    /// Slots of the runners that accept sessions.
    #[serde(default)]
    pub slots: Slots,
    /// Number of waiting sessions that the pool accepts. A session without `poolRef` counts in every pool that accepts
    /// it.
    #[serde(default)]
    pub queued: i32,
    /// Update revision: a hash of the fields of the current spec that determine the runner pods, such as the template,
    /// the slots, the engine and the screen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Current revision: the latest revision of which a runner became warm, with all its prewarmed browsers running.
    /// New runners are created from it. It differs from `revision` until the canary, the first runner of the update
    /// revision, has loaded a page.
    #[serde(rename = "serving", default, skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<CurrentRevision>,
    /// Label selector of the runner pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Conditions of types `Ready`, `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
}

/// The revision from which new runners are created.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CurrentRevision {
    /// The revision, which runner pods have in the label `camofleet.dev/revision`.
    pub revision: String,
    /// Fields of the spec that determine the runner pods, from which the operator creates more of them. JSON in a
    /// string, because the fields are read as a whole or not at all.
    pub shape: String,
}

/// Number of slots by state, of the runners that respond, are not being removed and are not the canary. Each slot
/// serves one session.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Slots {
    /// All slots.
    #[serde(default)]
    pub total: i32,
    /// Slots that serve a session.
    #[serde(default)]
    pub used: i32,
    /// Free slots with a prewarmed browser.
    #[serde(default)]
    pub hot: i32,
    /// Other free slots of runners whose prewarmed browsers are not all running. It can exceed the number of browsers
    /// that are launching if `prewarm` is lower than `slotsPerRunner`.
    #[serde(default)]
    pub starting: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_a_template_that_is_too_large() {
        let with = |image: &str, bytes: usize| {
            let annotations: BTreeMap<String, String> =
                (0..16).map(|index| (format!("example.com/{index:02}"), "x".repeat(bytes / 16))).collect();
            serde_json::json!({ "image": image, "metadata": { "annotations": annotations } })
        };
        let read = |template: Value| {
            let spec: WorkerPoolSpec = serde_json::from_value(serde_json::json!({ "template": template })).unwrap();
            spec.template
        };
        let fits = read(with(&"i".repeat(512), MAX_TEMPLATE_BYTES - 512));
        assert_eq!((fits.oversized_bytes, fits.metadata.annotations.len()), (None, 16));
        let too_large = read(with("i", MAX_TEMPLATE_BYTES));
        assert!(
            too_large.oversized_bytes.is_some_and(|bytes| bytes > MAX_TEMPLATE_BYTES),
            "{:?}",
            too_large.oversized_bytes
        );
        assert_eq!(
            too_large,
            RunnerTemplate { oversized_bytes: too_large.oversized_bytes, ..RunnerTemplate::default() }
        );
    }

    #[test]
    fn computes_max_unavailable() {
        let of = |max_unavailable: IntOrString, runners| {
            Rollout { max_unavailable, ..Rollout::default() }.max_unavailable_of(runners)
        };
        assert_eq!((of(IntOrString::Int(3), 10), of(IntOrString::Int(0), 10)), (3, 0));
        let share = |share: &str, runners| of(IntOrString::String(share.to_owned()), runners);
        assert_eq!((share("10%", 25), share("100%", 7), share("0%", 7), share("10%", 9)), (2, 7, 0, 0));
    }
}
