//! All of it together: what a benchmark or a test begins with.

use crate::{
    arrivals::Claim,
    binaries::{Kubernetes, OperatorProgram},
    control_plane::{ControlPlane, User},
    operator::{NAMESPACE, Operator},
    proxy::Proxy,
    sessions::Sessions,
    simulator::{Nodes, Simulator},
};
use anyhow::{Context, Result, bail};
use camofleet_crds::{
    conditions::session as reasons,
    v1alpha1::{
        BrowserSession, BrowserSessionSpec, BrowserSessionStatus, EngineName, PoolRef, SessionState, StartTier,
        WorkerPool, WorkerPoolSpec,
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

/// Calls at once of each of the measuring client's kinds. Each call has a connection of its own while it lasts.
const CALLS: usize = 64;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const SETUP_PATIENCE: Duration = Duration::from_secs(180);

/// What the harness is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where etcd and Kubernetes are.
    pub kubernetes: Kubernetes,
    /// The operator that is measured.
    pub operator: OperatorProgram,
    /// The simulated nodes.
    pub nodes: Nodes,
    /// How long a simulated browser takes to start.
    pub launch_time: Duration,
}

/// A cluster without an operator yet. Call [`Harness::stop`] in the end: dropped, it leaves its temporary folder behind.
pub struct Harness {
    /// What was measured with.
    pub options: Options,
    /// The watch of all sessions.
    pub sessions: Arc<Sessions>,
    /// Nodes and runners.
    pub simulator: Simulator,
    /// etcd, API server, scheduler, controllers.
    pub control_plane: ControlPlane,
    /// A client that may do anything.
    pub client: Client,
    claims: Claims,
}

/// Makes claims, and waits until they are Ready.
#[derive(Clone)]
pub struct Claims {
    sessions: Arc<Sessions>,
    client: ClientWithTurns,
    /// Patches as the operator does.
    patcher: ClientWithTurns,
}

#[derive(Clone)]
struct ClientWithTurns {
    client: Client,
    turns: Arc<Semaphore>,
}

impl ClientWithTurns {
    fn new(client: Client) -> Self {
        Self { client, turns: Arc::new(Semaphore::new(CALLS)) }
    }
}

impl Harness {
    /// Starts all but the operator.
    ///
    /// # Errors
    /// When something cannot be started.
    pub async fn start(options: Options) -> Result<Self> {
        let mut control_plane = ControlPlane::start(&options.kubernetes).await?;
        match Self::fill(&control_plane, &options).await {
            Ok((client, simulator, sessions, claims)) => {
                Ok(Self { options, sessions, simulator, control_plane, client, claims })
            }
            Err(error) => {
                control_plane.stop().await?;
                Err(error)
            }
        }
    }

    async fn fill(
        control_plane: &ControlPlane,
        options: &Options,
    ) -> Result<(Client, Simulator, Arc<Sessions>, Claims)> {
        let client = control_plane.client(User::Admin).await?;
        install(&client).await?;
        let simulator = Simulator::start(control_plane, options.nodes, options.launch_time).await?;
        let sessions = Arc::new(Sessions::watch(control_plane.client(User::Admin).await?).await?);
        let claims = Claims::new(Arc::clone(&sessions), client.clone(), control_plane.client(User::Operator).await?);
        Ok((client, simulator, sessions, claims))
    }

    /// Ends all of it, and takes the temporary folder away.
    ///
    /// # Errors
    /// When the kernel does not let something be killed.
    pub async fn stop(self) -> Result<()> {
        let Self { mut control_plane, sessions, simulator, .. } = self;
        drop((sessions, simulator));
        control_plane.stop().await
    }

    /// Starts an operator of that name.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn operator(&self, identity: &str) -> Result<Operator> {
        self.operator_in(identity, self.control_plane.kubeconfig(User::Operator), Vec::new())
    }

    /// Starts an operator of that name, which reaches the API server by that kubeconfig, with more environment than that.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn operator_in(
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

    /// A proxy between operators and the API server, and the kubeconfig with which they use it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn proxy(&self, name: &str) -> Result<(Arc<Proxy>, PathBuf)> {
        let proxy = Proxy::start(self.control_plane.config(User::Operator).await?).await?;
        let kubeconfig = self.control_plane.kubeconfig_by(&format!("http://{}", proxy.address()), name)?;
        Ok((proxy, kubeconfig))
    }

    /// Who makes claims here.
    pub fn claims(&self) -> Claims {
        self.claims.clone()
    }

    /// Makes a namespace, and waits until pods can be made in it.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        make_namespace(&self.client, name).await
    }

    /// Gives [`User::Tenant`] all rights in that namespace, and none elsewhere.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn admit_tenant(&self, namespace: &str) -> Result<()> {
        let rights = json!({
            "metadata": { "name": "tenant" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "tenants" }],
        });
        create::<RoleBinding>(&self.api(namespace), &serde_json::from_value(rights)?).await
    }

    /// Makes a pool.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn pool(&self, namespace: &str, name: &str, spec: WorkerPoolSpec) -> Result<()> {
        let made = self.api::<WorkerPool>(namespace).create(&PostParams::default(), &WorkerPool::new(name, spec)).await;
        made.map(|_| ()).with_context(|| format!("cannot make pool {namespace}/{name}"))
    }

    /// Makes a pool, and waits until all its slots are hot.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn hot_pool(&self, namespace: &str, name: &str, spec: WorkerPoolSpec) -> Result<()> {
        let slots = spec.fixed_replicas() * spec.slots_per_runner;
        self.pool(namespace, name, spec).await?;
        self.wait_for_hot(namespace, name, slots).await
    }

    /// Waits until so many slots of a pool are hot.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn wait_for_hot(&self, namespace: &str, pool: &str, slots: i32) -> Result<()> {
        let api = self.api::<WorkerPool>(namespace);
        let began = Instant::now();
        loop {
            let status = api.get(pool).await?.status.unwrap_or_default();
            if status.slots.hot >= slots {
                return Ok(());
            }
            if began.elapsed() > SETUP_PATIENCE {
                let seconds = SETUP_PATIENCE.as_secs();
                bail!("{} of {slots} slots of pool {namespace}/{pool} are hot after {seconds} s", status.slots.hot);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Deletes all sessions of a namespace, and waits until they are gone.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn delete_sessions(&self, namespace: &str) -> Result<()> {
        let api = self.api::<BrowserSession>(namespace);
        let began = Instant::now();
        loop {
            api.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
            if api.list_metadata(&ListParams::default().limit(1)).await?.items.is_empty() {
                self.sessions.forget(namespace);
                return Ok(());
            }
            if began.elapsed() > SETUP_PATIENCE {
                bail!("there are sessions in namespace {namespace} although all were deleted");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The objects of one kind in a namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// How many runner pods a namespace has.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn count_pods(&self, namespace: &str) -> Result<usize> {
        Ok(self.api::<Pod>(namespace).list_metadata(&ListParams::default()).await?.items.len())
    }

    /// What runs here.
    ///
    /// # Errors
    /// When the API server does not say its version.
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

impl Claims {
    /// Who makes sessions by one client, and patches those of the floor by the other.
    pub fn new(sessions: Arc<Sessions>, client: Client, patcher: Client) -> Self {
        Self { sessions, client: ClientWithTurns::new(client), patcher: ClientWithTurns::new(patcher) }
    }

    /// Makes a session of a pool, and waits until the watch says that it is Ready.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn claim(self, namespace: String, name: String, pool: String, patience: Duration) -> Result<Claim> {
        self.claim_with(namespace, name, of_pool(&pool), patience).await
    }

    /// Makes that session, and waits until the watch says that it is Ready.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn claim_with(
        self,
        namespace: String,
        name: String,
        spec: BrowserSessionSpec,
        patience: Duration,
    ) -> Result<Claim> {
        let (asked, ready) = (Instant::now(), self.sessions.await_ready(&namespace, &name));
        self.create(&namespace, &name, spec).await?;
        Ok(Claim { asked, ready: in_time(ready, patience).await })
    }

    /// The floor of that: the same create, by the same client, then one patch of the status as the operator would write it,
    /// and the event of that patch on the same watch.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn floor(self, namespace: String, name: String, patience: Duration) -> Result<Claim> {
        let (asked, ready) = (Instant::now(), self.sessions.await_ready(&namespace, &name));
        let session = self.create(&namespace, &name, of_pool("floor")).await?;
        self.patch(&session, &ready_status(&session)).await?;
        Ok(Claim { asked, ready: in_time(ready, patience).await })
    }

    /// What [`Claims::floor`] does, and then all that is written of a session that ends: the patch that says so, and the
    /// deletion. Its claim is told before those.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn whole_life(
        self,
        namespace: String,
        name: String,
        life: Duration,
        patience: Duration,
    ) -> Result<Claim> {
        let (asked, ready) = (Instant::now(), self.sessions.await_ready(&namespace, &name));
        let session = self.create(&namespace, &name, of_pool("floor")).await?;
        let session = self.patch(&session, &ready_status(&session)).await?;
        let ready = in_time(ready, patience).await;
        tokio::spawn(async move {
            tokio::time::sleep(life).await;
            // It is the load that counts: what came of it is seen by whoever counts the objects that are left.
            let _ = self
                .patch(&session, &BrowserSessionStatus { state: SessionState::Finished, ..ready_status(&session) })
                .await;
            let _turn = self.patcher.turns.acquire().await;
            let api = Api::<BrowserSession>::namespaced(self.patcher.client.clone(), &namespace);
            let _ = api.delete(&name, &DeleteParams::default()).await;
        });
        Ok(Claim { asked, ready })
    }

    /// Makes a session, and does not wait for more.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn create(&self, namespace: &str, name: &str, spec: BrowserSessionSpec) -> Result<BrowserSession> {
        self.try_to_create(namespace, name, spec)
            .await
            .with_context(|| format!("cannot make session {namespace}/{name}"))
    }

    async fn try_to_create(
        &self,
        namespace: &str,
        name: &str,
        spec: BrowserSessionSpec,
    ) -> kube::Result<BrowserSession> {
        let _turn = self.client.turns.acquire().await;
        let api = Api::<BrowserSession>::namespaced(self.client.client.clone(), namespace);
        let made = api.create(&PostParams::default(), &BrowserSession::new(name, spec)).await?;
        self.sessions.made(&made);
        Ok(made)
    }

    /// Makes a session, however often that has to be tried: the API server may be away, or its answer lost.
    ///
    /// # Errors
    /// When the API server refuses it for good.
    pub async fn insist(&self, namespace: &str, name: &str, spec: BrowserSessionSpec) -> Result<()> {
        insist(|| async { ignore_present(self.try_to_create(namespace, name, spec.clone()).await) })
            .await
            .with_context(|| format!("cannot make session {namespace}/{name}"))
    }

    /// Deletes a session as its user does, who then has no more use for it, however often that has to be tried.
    ///
    /// # Errors
    /// When the API server refuses it for good.
    pub async fn end(&self, namespace: &str, name: &str) -> Result<()> {
        self.sessions.give_up(namespace, name);
        let api = Api::<BrowserSession>::namespaced(self.client.client.clone(), namespace);
        insist(|| async {
            let _turn = self.client.turns.acquire().await;
            ignore_absent(api.delete(name, &DeleteParams::default()).await)
        })
        .await
    }

    async fn patch(&self, session: &BrowserSession, status: &BrowserSessionStatus) -> Result<BrowserSession> {
        let _turn = self.patcher.turns.acquire().await?;
        let namespace = session.namespace().unwrap_or_default();
        let api = Api::<BrowserSession>::namespaced(self.patcher.client.clone(), &namespace);
        let patch = json!({ "metadata": { "resourceVersion": session.resource_version() }, "status": status });
        Ok(api.patch_status(&session.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?)
    }
}

/// A session of that pool, that waits as long as it must and lives until somebody ends it.
pub fn of_pool(pool: &str) -> BrowserSessionSpec {
    BrowserSessionSpec {
        pool_ref: Some(PoolRef { name: pool.to_owned(), namespace: None }),
        queue_timeout_seconds: 86400,
        idle_timeout_seconds: Some(86400),
        max_lifetime_seconds: Some(86400),
        ttl_seconds_after_finished: 0,
        ..BrowserSessionSpec::default()
    }
}

/// A pool of so many runners with so many slots, that are never replaced.
pub fn lasting_pool(replicas: usize, slots: usize) -> WorkerPoolSpec {
    let count = |number| i32::try_from(number).unwrap_or(i32::MAX);
    WorkerPoolSpec {
        replicas: Some(count(replicas)),
        slots_per_runner: count(slots),
        sessions_per_runner: Some(0),
        ..WorkerPoolSpec::default()
    }
}

/// Has it done, however often that has to be tried: the API server may be away, or its answer lost. One that has just come
/// back refuses with 403 until its admission knows the cluster, and with 500 until it has its store.
///
/// # Errors
/// When the API server refuses it for good.
pub async fn insist<T, F: Future<Output = kube::Result<T>>>(call: impl Fn() -> F) -> Result<T> {
    let began = Instant::now();
    loop {
        match call().await {
            Err(kube::Error::Api(status)) if status.code < 429 && status.code != 403 => {
                return Err(kube::Error::Api(status).into());
            }
            Err(error) if began.elapsed() > SETUP_PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            Ok(done) => return Ok(done),
        }
    }
}

/// What is not there need not be changed.
///
/// # Errors
/// Any other.
pub fn ignore_absent<T>(answer: kube::Result<T>) -> kube::Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        answered => answered.map(drop),
    }
}

/// What is there was made by a call whose answer was lost.
///
/// # Errors
/// Any other.
pub fn ignore_present<T>(answer: kube::Result<T>) -> kube::Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        answered => answered.map(drop),
    }
}

async fn in_time(ready: tokio::sync::oneshot::Receiver<Instant>, patience: Duration) -> Option<Instant> {
    tokio::time::timeout(patience, ready).await.ok()?.ok()
}

/// A status of about the size that the operator writes. It names no runner: an operator that is there would look for it.
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
            condition("Scheduled", "True", reasons::BOUND, "runs on hot-0123456789"),
            condition("Ready", "True", reasons::BROWSER_READY, "clients can connect; runs on hot-0123456789"),
            condition("Finished", "False", reasons::IN_PROGRESS, ""),
            condition("Stalled", "False", reasons::IN_PROGRESS, ""),
        ],
        pool: Some("floor".to_owned()),
        engine: Some(EngineName::Firefox),
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

/// What Helm would install, as far as the operator needs it.
async fn install(client: &Client) -> Result<()> {
    for (file, yaml) in camofleet_crds::manifests() {
        let crd: CustomResourceDefinition =
            serde_yaml::from_str(&yaml).with_context(|| format!("{file} is no resource definition"))?;
        create(&Api::all(client.clone()), &crd).await?;
    }
    let rights = json!({
        "metadata": { "name": "camofleet-operator" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": NAMESPACE, "name": "camofleet-operator" }],
    });
    create::<ClusterRoleBinding>(&Api::all(client.clone()), &serde_json::from_value(rights)?).await?;
    make_namespace(client, NAMESPACE).await?;
    let began = Instant::now();
    // A resource is served a moment after its definition was taken.
    while Api::<BrowserSession>::all(client.clone()).list(&ListParams::default().limit(1)).await.is_err()
        || Api::<WorkerPool>::all(client.clone()).list(&ListParams::default().limit(1)).await.is_err()
    {
        if began.elapsed() > SETUP_PATIENCE {
            bail!("the API server does not serve the custom resources that it took");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

async fn make_namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = json!({ "metadata": { "name": name } });
    create::<Namespace>(&Api::all(client.clone()), &serde_json::from_value(namespace)?).await?;
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), name);
    let began = Instant::now();
    while accounts.get_opt("default").await?.is_none() {
        if began.elapsed() > SETUP_PATIENCE {
            bail!("namespace {name} got no service account: the controller manager does not work");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

async fn create<K>(api: &Api<K>, object: &K) -> Result<()>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
    K::DynamicType: Default,
{
    let made = api.create(&PostParams::default(), object).await;
    made.map(|_| ()).with_context(|| {
        format!(
            "cannot make {} {}",
            K::kind(&K::DynamicType::default()),
            object.meta().name.as_deref().unwrap_or_default()
        )
    })
}
