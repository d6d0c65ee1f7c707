//! The cluster of a benchmark or failure test: control plane, CRDs, simulator, and the client that creates sessions.

use crate::{
    arrivals::Claim,
    binaries::{Kubernetes, OperatorProgram},
    control_plane::{ControlPlane, User},
    operator::{NAMESPACE, Operator},
    proxy::Proxy,
    sessions::ObservedSessions,
    simulator::{Nodes, Simulator},
};
use anyhow::{Context, Result, bail};
use camofleet_crds::{
    conditions::session as reasons,
    v1alpha1::{
        BrowserSession, BrowserSessionSpec, BrowserSessionStatus, Engine, PoolRef, SessionState, StartTier, WorkerPool,
        WorkerPoolSpec,
    },
};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod, ServiceAccount},
        rbac::v1::{ClusterRoleBinding, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    fmt::Debug,
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Concurrent calls of each client. Each call uses its own connection while it runs.
const CALLS: usize = 64;
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const SETUP_TIMEOUT: Duration = Duration::from_secs(180);

/// Configuration of the harness.
#[derive(Clone, Debug)]
pub struct Options {
    /// The etcd and Kubernetes binaries.
    pub kubernetes: Kubernetes,
    /// The operator binary.
    pub operator: OperatorProgram,
    /// The simulated nodes.
    pub nodes: Nodes,
    /// Launch time of simulated browsers.
    pub launch_time: Duration,
}

/// A cluster without an operator. Call [`Harness::stop`] at the end; a drop leaves the temporary directory behind.
pub struct Harness {
    /// The configuration.
    pub options: Options,
    /// The watch of all sessions.
    pub sessions: Arc<ObservedSessions>,
    /// Simulated nodes and runners.
    pub simulator: Simulator,
    /// The control plane.
    pub control_plane: ControlPlane,
    /// A client with all permissions.
    pub client: Client,
    session_client: SessionClient,
}

/// Creates sessions and waits until they are Ready.
#[derive(Clone)]
pub struct SessionClient {
    sessions: Arc<ObservedSessions>,
    client: LimitedClient,
    /// Patches statuses as the operator's user.
    patcher: LimitedClient,
}

#[derive(Clone)]
struct LimitedClient {
    client: Client,
    permits: Arc<Semaphore>,
}

impl LimitedClient {
    fn new(client: Client) -> Self {
        Self { client, permits: Arc::new(Semaphore::new(CALLS)) }
    }
}

impl Harness {
    /// Starts everything except the operator.
    ///
    /// # Errors
    /// Returns an error if a process cannot be started or the API server rejects an object.
    pub async fn start(options: Options) -> Result<Self> {
        let mut control_plane = ControlPlane::start(&options.kubernetes).await?;
        match Self::populate(&control_plane, &options).await {
            Ok((client, simulator, sessions, session_client)) => {
                Ok(Self { options, sessions, simulator, control_plane, client, session_client })
            }
            Err(error) => {
                control_plane.stop().await?;
                Err(error)
            }
        }
    }

    async fn populate(
        control_plane: &ControlPlane,
        options: &Options,
    ) -> Result<(Client, Simulator, Arc<ObservedSessions>, SessionClient)> {
        let client = control_plane.client(User::Admin).await?;
        install(&client).await?;
        let simulator = Simulator::start(control_plane, options.nodes, options.launch_time).await?;
        let sessions = Arc::new(ObservedSessions::watch(control_plane.client(User::Admin).await?).await?);
        let session_client =
            SessionClient::new(Arc::clone(&sessions), client.clone(), control_plane.client(User::Operator).await?);
        Ok((client, simulator, sessions, session_client))
    }

    /// Stops everything and removes the temporary directory.
    ///
    /// # Errors
    /// Returns an error if a process cannot be killed.
    pub async fn stop(self) -> Result<()> {
        let Self { mut control_plane, sessions, simulator, .. } = self;
        drop((sessions, simulator));
        control_plane.stop().await
    }

    /// Starts an operator with this identity.
    ///
    /// # Errors
    /// Returns an error if the process cannot be started.
    pub fn start_operator(&self, identity: &str) -> Result<Operator> {
        self.start_operator_with(identity, self.control_plane.kubeconfig(User::Operator), Vec::new())
    }

    /// Starts an operator with a kubeconfig and additional environment variables.
    ///
    /// # Errors
    /// Returns an error if the process cannot be started.
    pub fn start_operator_with(
        &self,
        identity: &str,
        kubeconfig: PathBuf,
        mut env: Vec<(String, OsString)>,
    ) -> Result<Operator> {
        env.push(("KUBECONFIG".to_owned(), kubeconfig.into()));
        let log = self.control_plane.file(&format!("{identity}.log"));
        let admin = self.control_plane.network.free_address()?;
        Operator::start(&self.options.operator, identity, admin, env, log)
    }

    /// Starts a proxy between operators and the API server, and writes a kubeconfig for it.
    ///
    /// # Errors
    /// Returns an error if the proxy cannot listen.
    pub async fn start_proxy(&self, name: &str) -> Result<(Arc<Proxy>, PathBuf)> {
        let proxy = Proxy::start(self.control_plane.config(User::Operator).await?).await?;
        let kubeconfig = self.control_plane.proxy_kubeconfig(&format!("http://{}", proxy.address()), name)?;
        Ok((proxy, kubeconfig))
    }

    /// The client for sessions.
    pub fn session_client(&self) -> SessionClient {
        self.session_client.clone()
    }

    /// Creates a namespace, and waits until pods can be created in it.
    ///
    /// # Errors
    /// Returns an error if the API server rejects the namespace.
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        create_namespace(&self.client, name).await
    }

    /// Gives [`User::Tenant`] all permissions in one namespace.
    ///
    /// # Errors
    /// Returns an error if the API server rejects the role binding.
    pub async fn grant_tenant(&self, namespace: &str) -> Result<()> {
        let rights = json!({
            "metadata": { "name": "tenant" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "tenants" }],
        });
        create::<RoleBinding>(&self.api(namespace), &serde_json::from_value(rights)?).await
    }

    /// Creates a pool.
    ///
    /// # Errors
    /// Returns an error if the API server rejects the pool.
    pub async fn create_pool(&self, namespace: &str, name: &str, spec: WorkerPoolSpec) -> Result<()> {
        let created =
            self.api::<WorkerPool>(namespace).create(&PostParams::default(), &WorkerPool::new(name, spec)).await;
        created.map(|_| ()).with_context(|| format!("cannot create pool {namespace}/{name}"))
    }

    /// Creates a pool, and waits until all its slots are hot.
    ///
    /// # Errors
    /// Returns an error after 180 s.
    pub async fn create_hot_pool(&self, namespace: &str, name: &str, spec: WorkerPoolSpec) -> Result<()> {
        let slots = spec.fixed_replicas() * spec.slots_per_runner;
        self.create_pool(namespace, name, spec).await?;
        self.wait_for_hot(namespace, name, slots).await
    }

    /// Waits until `slots` slots of a pool are hot.
    ///
    /// # Errors
    /// Returns an error after 180 s.
    pub async fn wait_for_hot(&self, namespace: &str, pool: &str, slots: i32) -> Result<()> {
        let api = self.api::<WorkerPool>(namespace);
        let start = Instant::now();
        loop {
            let status = api.get(pool).await?.status.unwrap_or_default();
            if status.slots.hot >= slots {
                return Ok(());
            }
            if start.elapsed() > SETUP_TIMEOUT {
                let seconds = SETUP_TIMEOUT.as_secs();
                bail!("{} of {slots} slots of pool {namespace}/{pool} are hot after {seconds} s", status.slots.hot);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Deletes all sessions of a namespace, and waits until they are gone.
    ///
    /// # Errors
    /// Returns an error after 180 s.
    pub async fn delete_sessions(&self, namespace: &str) -> Result<()> {
        let api = self.api::<BrowserSession>(namespace);
        let start = Instant::now();
        loop {
            api.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
            if api.list_metadata(&ListParams::default().limit(1)).await?.items.is_empty() {
                self.sessions.forget(namespace);
                return Ok(());
            }
            if start.elapsed() > SETUP_TIMEOUT {
                bail!("namespace {namespace} still has sessions 180 s after their deletion");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The API of a kind in a namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Number of pods in a namespace.
    ///
    /// # Errors
    /// Returns an error if the pods cannot be listed.
    pub async fn count_pods(&self, namespace: &str) -> Result<usize> {
        Ok(self.api::<Pod>(namespace).list_metadata(&ListParams::default()).await?.items.len())
    }

    /// Versions of Kubernetes, etcd and the operator.
    ///
    /// # Errors
    /// Returns an error if the versions cannot be read.
    pub async fn versions(&self) -> Result<Value> {
        let etcd = tokio::process::Command::new(self.options.kubernetes.program("etcd")).arg("--version").output();
        let etcd = String::from_utf8_lossy(&etcd.await?.stdout).into_owned();
        let etcd = etcd.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        let operator = &self.options.operator;
        Ok(json!({
            "kubernetes": self.client.apiserver_version().await?.git_version,
            "etcd": etcd,
            "operator": { "commit": operator.commit, "profile": operator.profile },
        }))
    }
}

impl SessionClient {
    /// Creates sessions with one client, and patches those of the floor with the other.
    pub fn new(sessions: Arc<ObservedSessions>, client: Client, patcher: Client) -> Self {
        Self { sessions, client: LimitedClient::new(client), patcher: LimitedClient::new(patcher) }
    }

    /// Creates a session for a pool, and waits until the watch shows Ready.
    ///
    /// # Errors
    /// Returns an error if the API server rejects the session.
    pub async fn claim(self, namespace: String, name: String, pool: String, timeout: Duration) -> Result<Claim> {
        self.claim_with(namespace, name, session_spec(&pool), timeout).await
    }

    /// Creates a session, and waits until the watch shows Ready.
    ///
    /// # Errors
    /// Returns an error if the API server rejects the session.
    pub async fn claim_with(
        self,
        namespace: String,
        name: String,
        spec: BrowserSessionSpec,
        timeout: Duration,
    ) -> Result<Claim> {
        let (requested, ready) = (Instant::now(), self.sessions.await_ready(&namespace, &name));
        self.create(&namespace, &name, spec).await?;
        Ok(Claim { requested, ready: received_within(ready, timeout).await })
    }

    /// The same without the operator: the create, one status patch like the operator's, and the watch event of the
    /// patch.
    ///
    /// # Errors
    /// Returns an error if the API server rejects a call.
    pub async fn floor(self, namespace: String, name: String, timeout: Duration) -> Result<Claim> {
        let (requested, ready) = (Instant::now(), self.sessions.await_ready(&namespace, &name));
        let session = self.create(&namespace, &name, session_spec("floor")).await?;
        self.patch(&session, &ready_status(&session)).await?;
        Ok(Claim { requested, ready: received_within(ready, timeout).await })
    }

    /// Like [`SessionClient::floor`], and then the calls at the end of a session: the patch to Finished and the
    /// deletion. Returns before those.
    ///
    /// # Errors
    /// Returns an error if the API server rejects a call before Ready.
    pub async fn floor_lifecycle(
        self,
        namespace: String,
        name: String,
        lifetime: Duration,
        timeout: Duration,
    ) -> Result<Claim> {
        let (requested, ready) = (Instant::now(), self.sessions.await_ready(&namespace, &name));
        let session = self.create(&namespace, &name, session_spec("floor")).await?;
        let session = self.patch(&session, &ready_status(&session)).await?;
        let ready = received_within(ready, timeout).await;
        tokio::spawn(async move {
            tokio::time::sleep(lifetime).await;
            // These calls are only load. The caller notices failed ones by the objects that are left.
            let _ = self
                .patch(&session, &BrowserSessionStatus { state: SessionState::Finished, ..ready_status(&session) })
                .await;
            let _permit = self.patcher.permits.acquire().await;
            let api = Api::<BrowserSession>::namespaced(self.patcher.client.clone(), &namespace);
            let _ = api.delete(&name, &DeleteParams::default()).await;
        });
        Ok(Claim { requested, ready })
    }

    /// Creates a session without waiting for Ready.
    ///
    /// # Errors
    /// Returns an error if the API server rejects the session.
    pub async fn create(&self, namespace: &str, name: &str, spec: BrowserSessionSpec) -> Result<BrowserSession> {
        self.try_create(namespace, name, spec)
            .await
            .with_context(|| format!("cannot create session {namespace}/{name}"))
    }

    async fn try_create(&self, namespace: &str, name: &str, spec: BrowserSessionSpec) -> kube::Result<BrowserSession> {
        let _permit = self.client.permits.acquire().await;
        let api = Api::<BrowserSession>::namespaced(self.client.client.clone(), namespace);
        let created = api.create(&PostParams::default(), &BrowserSession::new(name, spec)).await?;
        self.sessions.created(&created);
        Ok(created)
    }

    /// Creates a session, with retries while the API server is unreachable or its response is lost.
    ///
    /// # Errors
    /// Returns an error if the API server rejects the session, or after 180 s.
    pub async fn create_with_retry(&self, namespace: &str, name: &str, spec: BrowserSessionSpec) -> Result<()> {
        retry(|| async { ignore_already_exists(self.try_create(namespace, name, spec.clone()).await) })
            .await
            .with_context(|| format!("cannot create session {namespace}/{name}"))
    }

    /// Deletes a session as its user, with retries.
    ///
    /// # Errors
    /// Returns an error if the API server rejects the deletion, or after 180 s.
    pub async fn delete(&self, namespace: &str, name: &str) -> Result<()> {
        self.sessions.mark_deleted_by_user(namespace, name);
        let api = Api::<BrowserSession>::namespaced(self.client.client.clone(), namespace);
        retry(|| async {
            let _permit = self.client.permits.acquire().await;
            ignore_not_found(api.delete(name, &DeleteParams::default()).await)
        })
        .await
    }

    async fn patch(&self, session: &BrowserSession, status: &BrowserSessionStatus) -> Result<BrowserSession> {
        let _permit = self.patcher.permits.acquire().await?;
        let namespace = session.namespace().unwrap_or_default();
        let api = Api::<BrowserSession>::namespaced(self.patcher.client.clone(), &namespace);
        let patch = json!({ "metadata": { "resourceVersion": session.resource_version() }, "status": status });
        Ok(api.patch_status(&session.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?)
    }
}

/// The spec of a session without practical time limits: it waits, idles and lives for up to a day.
pub fn session_spec(pool: &str) -> BrowserSessionSpec {
    BrowserSessionSpec {
        pool_ref: Some(PoolRef { name: pool.to_owned(), namespace: None }),
        queue_timeout_seconds: 86400,
        idle_timeout_seconds: Some(86400),
        max_lifetime_seconds: Some(86400),
        ttl_seconds_after_finished: 0,
        ..BrowserSessionSpec::default()
    }
}

/// The spec of a pool whose runners serve any number of sessions, so the operator does not replace them after one.
pub fn pool_of_reused_runners(replicas: usize, slots: usize) -> WorkerPoolSpec {
    let count = |number| i32::try_from(number).unwrap_or(i32::MAX);
    WorkerPoolSpec {
        replicas: Some(count(replicas)),
        slots_per_runner: count(slots),
        sessions_per_runner: Some(0),
        ..WorkerPoolSpec::default()
    }
}

/// Retries a call while the API server is unreachable or its response is lost. A restarted API server answers 403 until
/// its admission plugins have synced, and 500 until etcd is connected, so both are retried.
///
/// # Errors
/// Returns an error if the API server rejects the call, or after 180 s.
pub async fn retry<T, F: Future<Output = kube::Result<T>>>(call: impl Fn() -> F) -> Result<T> {
    let start = Instant::now();
    loop {
        match call().await {
            Err(kube::Error::Api(status)) if status.code < 429 && status.code != 403 => {
                return Err(kube::Error::Api(status).into());
            }
            Err(error) if start.elapsed() > SETUP_TIMEOUT => return Err(error.into()),
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
            Ok(done) => return Ok(done),
        }
    }
}

/// Treats 404 as success: the object is absent already.
///
/// # Errors
/// Returns all other errors.
pub fn ignore_not_found<T>(answer: kube::Result<T>) -> kube::Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        answered => answered.map(drop),
    }
}

/// Treats `AlreadyExists` as success: an earlier call created the object and its response was lost.
///
/// # Errors
/// Returns all other errors.
pub fn ignore_already_exists<T>(answer: kube::Result<T>) -> kube::Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        answered => answered.map(drop),
    }
}

async fn received_within(ready: tokio::sync::oneshot::Receiver<Instant>, timeout: Duration) -> Option<Instant> {
    tokio::time::timeout(timeout, ready).await.ok()?.ok()
}

/// A status of the size that the operator writes. It names no runner, because a running operator would look for that
/// runner.
fn ready_status(session: &BrowserSession) -> BrowserSessionStatus {
    let now = Timestamp::now();
    let condition = |type_: &str, status: &str, reason: &str, message: &str| Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: session.metadata.generation,
        last_transition_time: Time(now),
    };
    BrowserSessionStatus {
        observed_generation: session.metadata.generation,
        state: SessionState::Ready,
        conditions: vec![
            condition("Scheduled", "True", reasons::BOUND, "the session runs on hot-0123456789"),
            condition(
                "Ready",
                "True",
                reasons::BROWSER_READY,
                "clients can connect; the session runs on hot-0123456789",
            ),
            condition("Finished", "False", reasons::IN_PROGRESS, ""),
            condition("Stalled", "False", reasons::IN_PROGRESS, ""),
        ],
        pool: Some("floor".to_owned()),
        engine: Some(Engine::Firefox),
        browser_version: Some("153.0".to_owned()),
        playwright_version: Some("1.62".to_owned()),
        start_tier: Some(StartTier::Hot),
        ws_endpoint: Some(format!("ws://127.0.0.1/ws/floor/{}", session.name_any())),
        scheduled_time: Some(MicroTime(now)),
        ready_time: Some(MicroTime(now)),
        deadline_time: Some(MicroTime(now)),
        ..BrowserSessionStatus::default()
    }
}

/// Installs the parts of the chart that the operator needs: CRDs, permissions, its namespace.
async fn install(client: &Client) -> Result<()> {
    for (file, yaml) in camofleet_crds::manifests() {
        let crd: CustomResourceDefinition =
            serde_yaml::from_str(&yaml).with_context(|| format!("{file} is not a CustomResourceDefinition"))?;
        create(&Api::all(client.clone()), &crd).await?;
    }
    let rights = json!({
        "metadata": { "name": "camofleet-operator" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": NAMESPACE, "name": "camofleet-operator" }],
    });
    create::<ClusterRoleBinding>(&Api::all(client.clone()), &serde_json::from_value(rights)?).await?;
    create_namespace(client, NAMESPACE).await?;
    let start = Instant::now();
    // The API server serves a new resource a moment after it accepts the CRD.
    while Api::<BrowserSession>::all(client.clone()).list(&ListParams::default().limit(1)).await.is_err()
        || Api::<WorkerPool>::all(client.clone()).list(&ListParams::default().limit(1)).await.is_err()
    {
        if start.elapsed() > SETUP_TIMEOUT {
            bail!("the API server does not serve the custom resources of the installed CRDs");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

async fn create_namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = json!({ "metadata": { "name": name } });
    create::<Namespace>(&Api::all(client.clone()), &serde_json::from_value(namespace)?).await?;
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), name);
    let start = Instant::now();
    while accounts.get_opt("default").await?.is_none() {
        if start.elapsed() > SETUP_TIMEOUT {
            bail!("namespace {name} has no service account; check the log of the controller manager");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

async fn create<K>(api: &Api<K>, object: &K) -> Result<()>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
    K::DynamicType: Default,
{
    let created = api.create(&PostParams::default(), object).await;
    created.map(|_| ()).with_context(|| {
        format!(
            "cannot create {} {}",
            K::kind(&K::DynamicType::default()),
            object.meta().name.as_deref().unwrap_or_default()
        )
    })
}
