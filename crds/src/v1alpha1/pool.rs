use super::Display;
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

/// Runner pods of one shape, kept warm for sessions of its namespace, and of others that it allows.
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
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desiredReplicas", description = "Runners wished for"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas", description = "Runners that take sessions or serve them"),
    printcolumn(name = "Slots", type_ = "integer", json_path = ".status.slots.total", description = "Room for sessions"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.slots.used", description = "Slots with a session"),
    printcolumn(name = "Hot", type_ = "integer", json_path = ".status.slots.hot", description = "Free slots with a prewarmed browser"),
    printcolumn(name = "Queued", type_ = "integer", json_path = ".status.queued", description = "Sessions that wait for this pool"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = 1, description = "Why it is ready or not"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision", priority = 1, description = "Hash of the runners' shape"),
    validation = Rule::new("self.metadata.name.size() <= 50")
        .message("the name of a WorkerPool has at most 50 characters, since the names of its pods are made of it: choose a shorter one"),
    validation = Rule::new("!has(self.spec.prewarm) || self.spec.prewarm.headless + self.spec.prewarm.headful <= self.spec.slotsPerRunner")
        .message("prewarm.headless and prewarm.headful together are more than slotsPerRunner: lower them, or raise slotsPerRunner")
        .field_path(".spec.prewarm"),
    validation = Rule::new("!has(self.spec.sessionsPerRunner) || self.spec.sessionsPerRunner == 0 || self.spec.sessionsPerRunner >= self.spec.slotsPerRunner")
        .message("sessionsPerRunner must be 0 (no limit) or at least slotsPerRunner, or some slots could never be used")
        .field_path(".spec.sessionsPerRunner"),
    validation = Rule::new("self.spec.allowedNamespaces.from == 'Same' || self.spec.slotsPerRunner == 1")
        .message("sessions of one runner must trust each other: a pool for other namespaces has slotsPerRunner 1")
        .field_path(".spec.slotsPerRunner"),
    validation = Rule::new("!has(self.spec.replicas) || !has(self.spec.autoscaling)")
        .message("replicas and autoscaling exclude each other: leave one out. What scales by itself, as a HorizontalPodAutoscaler does, needs replicas alone")
        .field_path(".spec.autoscaling"),
    validation = Rule::new("!has(self.spec.limits.maxLifetimeSeconds) || !has(self.spec.sessionDefaults.maxLifetimeSeconds) || self.spec.sessionDefaults.maxLifetimeSeconds <= self.spec.limits.maxLifetimeSeconds")
        .message("sessionDefaults.maxLifetimeSeconds is more than limits.maxLifetimeSeconds: lower it, or raise the limit")
        .field_path(".spec.sessionDefaults")
)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolSpec {
    /// Runners wished for. Absent: 1, unless the pool has `autoscaling`. For a HorizontalPodAutoscaler or KEDA, which set it by the
    /// scale subresource, it must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// As many runners as the sessions need, instead of `replicas`. How many those are stands in `status.desiredReplicas`; the
    /// spec is never written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Sessions that one runner serves at once. Sessions of one runner share a user and memory: more than one means that
    /// they trust each other.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 32))]
    pub slots_per_runner: i32,
    /// A runner is replaced after so many sessions. 0: never. Absent: after as many as it has slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub sessions_per_runner: Option<i32>,
    /// Which namespaces' sessions may use the pool.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
    /// How much of the pool may be used.
    #[serde(default)]
    pub limits: Limits,
    /// The engine of the pool's browsers. Auto: Camoufox where the image has it, else Firefox.
    #[serde(default)]
    pub engine: EngineChoice,
    /// Size of the displays, in pixels.
    #[serde(default)]
    pub screen: Screen,
    /// Browsers kept hot in each runner. Absent: one for every slot, in the pool's default display.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prewarm: Option<Prewarm>,
    /// For sessions that do not say.
    #[serde(default)]
    pub session_defaults: SessionDefaults,
    /// The runner pods, as far as they may be shaped.
    #[serde(default, serialize_with = "write_template", deserialize_with = "read_template")]
    pub template: RunnerTemplate,
    /// How runners are replaced and removed.
    #[serde(default)]
    pub rollout: Rollout,
    /// Whether others than the operator may take runners away.
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
    /// Runners wished for by whom the pool belongs to; of a pool that is autoscaled nobody wishes any.
    pub fn fixed_replicas(&self) -> i32 {
        self.replicas.unwrap_or(1)
    }

    /// Sessions after which a runner is replaced; 0: never.
    pub fn sessions_per_runner(&self) -> i32 {
        self.sessions_per_runner.unwrap_or(self.slots_per_runner)
    }

    /// Browsers kept hot in each runner.
    pub fn prewarm(&self) -> Prewarm {
        self.prewarm.unwrap_or(match self.session_defaults.display.unwrap_or_default() {
            Display::Headless => Prewarm { headless: self.slots_per_runner, headful: 0 },
            Display::Headful | Display::LiveView => Prewarm { headless: 0, headful: self.slots_per_runner },
        })
    }
}

/// As many runners as needed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("minReplicas is more than maxReplicas: lower it, or raise maxReplicas"))]
pub struct Autoscaling {
    /// Never fewer. 0: no runner while nobody needs one; the first session that waits has one started.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: i32,
    /// Never more.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Slots that are kept free, with their browsers hot, ahead of demand.
    #[serde(default = "default_buffer_slots")]
    #[schemars(range(min = 0, max = 1000))]
    pub buffer_slots: i32,
    /// A runner is removed once it was not needed for so many seconds. There are more at once.
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

/// Whether the runners of a pool may be evicted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Disruption {
    /// Not by anybody else: a disruption budget forbids it, and cluster autoscalers are told to let them be. The operator
    /// removes idle ones, those on the emptiest nodes first, and on a cordoned node it drains the others.
    #[default]
    WhenIdle,
    /// Yes: a session that is on one has until the drain deadline.
    Always,
}

/// Which namespaces' sessions may use a pool. A session that waits is looked at anew when this or its namespace's labels
/// change; one that has its browser keeps it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.from == 'Selector') == has(self.selector)")
    .message("allowedNamespaces.selector goes with from: Selector, and only with that: give both, or neither"))]
pub struct AllowedNamespaces {
    /// Same: the pool's own namespace. All: every one. Selector: its own, and those whose labels match `selector`.
    #[serde(default)]
    pub from: NamespacesFrom,
    /// Matches labels of namespaces; an empty one matches all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['Exists', 'DoesNotExist'] ? !has(e.values) || e.values.size() == 0 : e.operator in ['In', 'NotIn'] && has(e.values) && e.values.size() > 0)")
        .message("an expression's operator is In or NotIn, with values, or Exists or DoesNotExist, without"))]
    pub selector: Option<LabelSelector>,
}

/// Where the sessions of a pool may come from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NamespacesFrom {
    /// The pool's own namespace.
    #[default]
    Same,
    /// Every namespace.
    All,
    /// Its own, and those whose labels match.
    Selector,
}

/// How much of a pool may be used. A tenant is a namespace, or one of `allowedTenants`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Sessions at once; what exceeds it waits. Absent: as many as there are slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_sessions: Option<i32>,
    /// Sessions that may wait for a slot; the next is refused at once, as `QueueFull`. Absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_queued: Option<i32>,
    /// Sessions of one tenant at once; what exceeds it waits, and does not keep others waiting. Absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_sessions_per_tenant: Option<i32>,
    /// The highest `priority` that a session may ask for; a higher one is refused at once.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub max_priority: i32,
    /// The longest life that a session may ask for, in seconds; one that asks for more is refused at once, and one that
    /// does not ask gets no more. Absent: no limit but the field's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 604_800))]
    pub max_lifetime_seconds: Option<i32>,
    /// Shares of the tenants when they compete: one of weight 3 is served three times as much as one of weight 1, which all
    /// have that are not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    #[x_kube(validation = Rule::new("self.all(tenant, self[tenant] >= 1 && self[tenant] <= 1000)")
        .message("a weight is 1 to 1000"))]
    pub tenant_weights: BTreeMap<String, i32>,
    /// Tenants that a session may name instead of running on its namespace's account. Every session that may use the pool
    /// may name each of them; a name that is also a namespace's is the same account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub allowed_tenants: Vec<String>,
}

impl Limits {
    /// The tenant's weight, at least 1.
    pub fn weight_of(&self, tenant: &str) -> u32 {
        self.tenant_weights.get(tenant).and_then(|weight| u32::try_from(*weight).ok()).unwrap_or(1).max(1)
    }
}

/// Which engine a pool runs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EngineChoice {
    /// Camoufox where the image has it, else Firefox.
    #[default]
    Auto,
    /// The anti-detect Firefox.
    Camoufox,
    /// Stock Firefox.
    Firefox,
}

/// Size of a display, in pixels.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Screen {
    /// Width in pixels.
    #[serde(default = "default_width")]
    #[schemars(range(min = 320, max = 7680))]
    pub width: i32,
    /// Height in pixels.
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

/// Browsers kept hot in each runner, by kind.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Prewarm {
    /// Without a display.
    #[serde(default)]
    #[schemars(range(min = 0, max = 32))]
    pub headless: i32,
    /// On a display, for Headful and LiveView.
    #[serde(default)]
    #[schemars(range(min = 0, max = 32))]
    pub headful: i32,
}

/// What sessions get that do not say.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SessionDefaults {
    /// How browsers are shown. Absent: Headless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<Display>,
    /// Seconds without activity. Absent: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 86400))]
    pub idle_timeout_seconds: Option<i32>,
    /// Longest life in seconds. Absent: 14400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 604_800))]
    pub max_lifetime_seconds: Option<i32>,
}

/// The most bytes of a template as JSON, without its image. The bounds of its fields allow more together than the API server
/// takes, and the operator holds every pool.
pub const MAX_TEMPLATE_BYTES: usize = 32 * 1024;

/// What of a runner pod may be shaped. The rest follows from the *restricted* Pod Security Standard.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunnerTemplate {
    /// Labels and annotations of the pods.
    #[serde(default)]
    pub metadata: TemplateMetadata,
    /// The runner image. Absent: the one that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Secrets with which the image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Requests and limits of the runner's container. Absent: requests of 100m and 512Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are put up with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Where the pods like to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Further volumes, of the kinds that the restricted standard allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.all(v, !has(v.hostPath) && (has(v.configMap) || has(v.secret) || has(v.emptyDir) || has(v.persistentVolumeClaim) || has(v.projected) || has(v.ephemeral) || has(v.csi) || has(v.downwardAPI) || has(v.image)))")
        .message("volumes may be configMap, secret, emptyDir, persistentVolumeClaim, projected, ephemeral, csi, downwardAPI or image, as the restricted Pod Security Standard has it: use one of these"))]
    #[x_kube(validation = Rule::new("self.all(v, v.name != 'shm' && v.name != 'run' && v.name != 'tmp' && v.name != 'keys')")
        .message("volumes shm, run, tmp and keys are the operator's own: give yours another name"))]
    pub volumes: Vec<Volume>,
    /// Where these volumes are mounted in the runner's container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub volume_mounts: Vec<VolumeMount>,
    /// Further environment of the runner and its browsers. Sessions can read it: it is no place for secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.all(e, !e.name.startsWith('RUNNER_') && e.name != 'POD_UID')")
        .message("environment variables RUNNER_* and POD_UID are set by the operator: use the pool's own fields instead"))]
    pub env: Vec<EnvVar>,
    /// Bytes of a template that was larger than [`MAX_TEMPLATE_BYTES`] when it was read. Its other fields were dropped, so such an
    /// object must not be written back.
    #[serde(skip)]
    pub too_large: Option<usize>,
}

// The many structs of volumes and affinities are read and written here once, by way of JSON: else each crate that reads a
// pool would compile them for each of the forms that it reads.

fn read_template<'de, D: Deserializer<'de>>(from: D) -> Result<RunnerTemplate, D::Error> {
    template_of(Value::deserialize(from)?).and_then(within_bounds).map_err(de::Error::custom)
}

fn write_template<S: Serializer>(template: &RunnerTemplate, to: S) -> Result<S::Ok, S::Error> {
    json_of(template).map_err(ser::Error::custom)?.serialize(to)
}

fn template_of(json: Value) -> serde_json::Result<RunnerTemplate> {
    serde_json::from_value(json)
}

/// The template, or a mark in its place. It is measured as it would be written, so that a shape that was published can be read again.
fn within_bounds(template: RunnerTemplate) -> serde_json::Result<RunnerTemplate> {
    let mut json = json_of(&template)?;
    // A published shape names the image, which the spec may leave out; the schema bounds it.
    json.as_object_mut().and_then(|fields| fields.remove("image"));
    let bytes = json.to_string().len();
    let too_large = (bytes > MAX_TEMPLATE_BYTES).then_some(bytes);
    Ok(if too_large.is_some() { RunnerTemplate { too_large, ..RunnerTemplate::default() } } else { template })
}

fn json_of(template: &RunnerTemplate) -> serde_json::Result<Value> {
    serde_json::to_value(template)
}

/// Labels and annotations of runner pods.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TemplateMetadata {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('camofleet.dev/') && !k.startsWith('app.kubernetes.io/'))")
        .message("labels of camofleet.dev/ and app.kubernetes.io/ are set by the operator: use another prefix"))]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('camofleet.dev/'))")
        .message("annotations of camofleet.dev/ are set by the operator: use another prefix"))]
    pub annotations: BTreeMap<String, String>,
}

/// How runners are replaced and removed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// While the runners' shape changes, so many may be missing at once: a number, or a share of the pool's runners (`10%`, rounded
    /// down). One runner more than wished for is made meanwhile, so that it can go on with 0. Runners of one slot that have a session
    /// have no room to be missed: they drain, all of them, once no idle one is left.
    #[serde(default = "default_max_unavailable")]
    #[schemars(extend("nullable" = false))]
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 0 && self <= 1000 : self.matches('^(100|[1-9]?[0-9])%$')")
        .message("maxUnavailable is a number of runners from 0 to 1000, or a share of them from 0% to 100%"))]
    pub max_unavailable: IntOrString,
    /// A runner that has to go lets its sessions live so many seconds longer.
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
    /// How many of so many runners may be missing at once.
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

/// What became of a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolStatus {
    /// The generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Runner pods that are not terminal.
    #[serde(default)]
    pub replicas: i32,
    /// Runners wished for.
    #[serde(default)]
    pub desired_replicas: i32,
    /// Runners that take sessions or serve them.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Runners of the current shape.
    #[serde(default)]
    pub updated_replicas: i32,
    /// Room for sessions.
    #[serde(default)]
    pub slots: Slots,
    /// Sessions that wait for this pool.
    #[serde(default)]
    pub queued: i32,
    /// Hash of the shape that the spec asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The shape that runners are made in: the latest in which one came up. It is what the spec asks for, unless a first runner of
    /// that has not loaded a page yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
    /// Selects the runner pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// `Ready`, `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    pub conditions: Vec<Condition>,
}

/// A shape that runners came up in.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Serving {
    /// Its hash, as runners have it in the label `camofleet.dev/revision`.
    pub revision: String,
    /// What of a spec shapes runners, so that more of them can be made: JSON in a string, since it is taken or left as a whole.
    pub shape: String,
}

/// A pool's room for sessions.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Slots {
    /// Of all runners that answer.
    #[serde(default)]
    pub total: i32,
    /// With a session.
    #[serde(default)]
    pub used: i32,
    /// Free, with a prewarmed browser.
    #[serde(default)]
    pub hot: i32,
    /// Free, their browser still being launched.
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
        assert_eq!((fits.too_large, fits.metadata.annotations.len()), (None, 16));
        let too_large = read(with("i", MAX_TEMPLATE_BYTES));
        assert!(too_large.too_large.is_some_and(|bytes| bytes > MAX_TEMPLATE_BYTES), "{:?}", too_large.too_large);
        assert_eq!(too_large, RunnerTemplate { too_large: too_large.too_large, ..RunnerTemplate::default() });
    }

    #[test]
    fn computes_max_unavailable() {
        let of = |wish: IntOrString, runners| {
            Rollout { max_unavailable: wish, ..Rollout::default() }.max_unavailable_of(runners)
        };
        assert_eq!((of(IntOrString::Int(3), 10), of(IntOrString::Int(0), 10)), (3, 0));
        let share = |share: &str, runners| of(IntOrString::String(share.to_owned()), runners);
        assert_eq!((share("10%", 25), share("100%", 7), share("0%", 7), share("10%", 9)), (2, 7, 0, 0));
    }
}
