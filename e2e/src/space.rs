//! A namespace for one test, and what the test makes in it.

use crate::{
    Fleet, doors, host,
    tokens::Key,
    wait::{poll, until, until_it},
};
use anyhow::{Context, Result, anyhow, ensure};
use camofleet_auth::token::{Issuer, Scope};
use camofleet_crds::{
    conditions::{self, FINISHED, READY, RECONCILING},
    v1alpha1::{BrowserSession, BrowserSessionSpec, RunnerRef, SessionState, WorkerPool, WorkerPoolSpec},
};
use camofleet_runner_api::{PORT, RunnerState, StartPage};
use k8s_openapi::{
    api::core::v1::{Event, Namespace, Pod, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, LogParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::File,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Once,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::runtime::Runtime;

/// Marks the namespaces of tests, so that what an interrupted run left is found.
const LABEL: &str = "camofleet.dev/e2e";

/// A namespace of its own for one test.
#[derive(Clone)]
pub struct Space {
    /// The fleet.
    pub fleet: Fleet,
    /// Name of the namespace.
    pub namespace: String,
    made: Arc<AtomicUsize>,
}

/// Runs a test in a namespace of its own, maybe beside others. When it fails, it is said how everything stands; in any case the
/// namespace is emptied, and then nothing of it may be left.
pub fn test<Body: Future<Output = Result<()>>>(name: &str, body: impl FnOnce(Space) -> Body) {
    run(name, || [share(OPERATOR), share(GATEWAY)], body);
}

/// The same for a test that touches, or counts, what all share: no other test runs meanwhile.
pub fn test_alone<Body: Future<Output = Result<()>>>(name: &str, body: impl FnOnce(Space) -> Body) {
    run(name, || [claim(OPERATOR), claim(GATEWAY)], body);
}

/// The same for a test that takes the operator away, and can do for a while without a gateway.
pub fn test_of_operator<Body: Future<Output = Result<()>>>(name: &str, body: impl FnOnce(Space) -> Body) {
    run(name, || claim(OPERATOR), body);
}

/// The same for a test that takes the gateways away, and can do for a while without an operator.
pub fn test_of_gateways<Body: Future<Output = Result<()>>>(name: &str, body: impl FnOnce(Space) -> Body) {
    run(name, || claim(GATEWAY), body);
}

/// What the tests of all processes share, as names of files that are locked: always in this order.
const OPERATOR: &str = "camofleet-e2e-operator.lock";
const GATEWAY: &str = "camofleet-e2e-gateway.lock";

fn lock(name: &str, how: impl FnOnce(&File) -> std::io::Result<()>) -> File {
    let file = File::create(env::temp_dir().join(name)).expect("the folder for temporary files is writable");
    how(&file).expect("a file can be locked");
    file
}

fn share(what: &str) -> File {
    lock(what, File::lock_shared)
}

fn claim(what: &str) -> File {
    lock(what, File::lock)
}

/// What an interrupted run left is swept up before the first test, while nothing else runs.
fn sweep_up_once() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        let _alone = [claim(OPERATOR), claim(GATEWAY)];
        let sweep = async { sweep_up(&Fleet::find().await?).await };
        runtime().block_on(sweep).unwrap_or_else(|error| panic!("{error:#}"));
    });
}

fn runtime() -> Runtime {
    Runtime::new().expect("threads can be started")
}

/// Runs a test while it is its turn, that is for as long as it holds what `take_turn` gives.
fn run<Turn, Body>(name: &str, take_turn: impl FnOnce() -> Turn, body: impl FnOnce(Space) -> Body)
where
    Body: Future<Output = Result<()>>,
{
    sweep_up_once();
    let _turn = take_turn();
    let runtime = runtime();
    let space = runtime.block_on(Space::make(name)).unwrap_or_else(|error| panic!("{error:#}"));
    let came_of_it = catch_unwind(AssertUnwindSafe(|| runtime.block_on(body(space.clone()))));
    let failed = !matches!(came_of_it, Ok(Ok(())));
    if failed {
        runtime.block_on(space.say_how_it_stands());
    }
    let cleaned = runtime.block_on(space.clean_up(failed));
    match came_of_it {
        Err(panic) => resume_unwind(panic),
        Ok(result) => result.and(cleaned).unwrap_or_else(|error| panic!("{error:#}")),
    }
}

/// How often a test that kills something repeats it: `$CAMOFLEET_E2E_ROUNDS`, else once.
pub fn rounds() -> usize {
    env::var("CAMOFLEET_E2E_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

impl Space {
    async fn make(test: &str) -> Result<Self> {
        let fleet = Fleet::find().await?;
        let namespace = format!("e2e-{test}-{}", &uuid::Uuid::new_v4().simple().to_string()[..6]);
        let labels = [(LABEL, "true"), ("pod-security.kubernetes.io/enforce", "restricted")];
        let made = Namespace {
            metadata: ObjectMeta {
                name: Some(namespace.clone()),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        Api::all(fleet.client.clone()).create(&PostParams::default(), &made).await?;
        let space = Self { fleet, namespace, made: Arc::default() };
        // Pods are refused before.
        until_it(&space.api::<ServiceAccount>(), "default", "to be there", |_| true).await?;
        Ok(space)
    }

    /// Lends another namespace, which is emptied like this one.
    pub async fn beside<Body: Future<Output = Result<()>>>(
        &self,
        name: &str,
        body: impl FnOnce(Self) -> Body,
    ) -> Result<()> {
        let other = Self::make(name).await?;
        let came_of_it = body(other.clone()).await;
        if came_of_it.is_err() {
            other.say_how_it_stands().await;
        }
        came_of_it.and(other.clean_up(false).await)
    }

    /// Sets labels of the namespace.
    pub async fn label(&self, labels: Value) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.fleet.client.clone());
        let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
        namespaces.patch(&self.namespace, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Objects of the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.fleet.client.clone(), &self.namespace)
    }

    /// Makes a pool with that spec, and waits until all of it is warm.
    pub async fn pool(&self, name: &str, spec: Value) -> Result<WorkerPool> {
        let spec: WorkerPoolSpec = serde_json::from_value(spec)?;
        self.api().create(&PostParams::default(), &WorkerPool::new(name, spec)).await?;
        self.warm_pool(name).await
    }

    /// Waits until a pool is as it should be and serves no session.
    pub async fn warm_pool(&self, name: &str) -> Result<WorkerPool> {
        self.warm_pool_serving(name, 0).await
    }

    /// Waits until a pool is as it should be and serves so many sessions, with a hot browser in every other slot.
    ///
    /// A pool's status is up to a second old, so the runners are asked, too.
    pub async fn warm_pool_serving(&self, name: &str, sessions: usize) -> Result<WorkerPool> {
        let gateway = Key::of(&self.fleet, Issuer::Gateway).await?;
        poll(&format!("pool {name} to be warm"), async || {
            let pool = self.api::<WorkerPool>().get(name).await?;
            let status = pool.status.clone().unwrap_or_default();
            let settled = status.observed_generation == pool.metadata.generation
                && conditions::is_true(&status.conditions, READY)
                && conditions::get(&status.conditions, RECONCILING).is_some_and(|it| it.status == "False");
            ensure!(settled, "its status is {status:?}");
            let wished = usize::try_from(pool.spec.fixed_replicas())?;
            let pods =
                self.api::<Pod>().list(&ListParams::default().labels(&format!("camofleet.dev/pool={name}"))).await?;
            ensure!(pods.items.len() == wished, "it has {} pods", pods.items.len());
            let (mut hot, mut serving) = (0, 0);
            for pod in &pods {
                let state = runner_of(pod, &gateway).await?;
                hot += usize::try_from(state.hot.headless + state.hot.headful)?;
                serving += state.sessions.len();
            }
            let prewarm = pool.spec.prewarm();
            let all = wished * usize::try_from(prewarm.headless + prewarm.headful)?;
            ensure!(hot + serving == all && serving == sessions, "{hot} of {all} browsers are hot, {serving} serve");
            Ok(pool)
        })
        .await
    }

    /// Makes a session with that spec.
    pub async fn session(&self, spec: Value) -> Result<Session> {
        let spec: BrowserSessionSpec = serde_json::from_value(spec)?;
        let name = format!("s{}", self.made.fetch_add(1, Ordering::Relaxed));
        let api = self.api::<BrowserSession>();
        let made = api.create(&PostParams::default(), &BrowserSession::new(&name, spec)).await?;
        Ok(Session { api, uid: made.uid().context("a created object has a UID")?, name })
    }

    /// Creates a session and waits until it is Ready and its start page, if it has one, is loaded: Ready does not wait for
    /// the page, so a client that connects at once may still find the blank one.
    pub async fn ready_session(&self, spec: Value) -> Result<Session> {
        let has_start_page = spec.get("startUrl").is_some();
        let session = self.session(spec).await?;
        session.ready().await?;
        if has_start_page {
            poll("the start page to load", async || {
                let reports: Vec<_> =
                    self.runner_states().await?.into_values().flat_map(|runner| runner.sessions).collect();
                let page = reports.into_iter().find(|report| report.uid == session.uid).map(|report| report.start_page);
                ensure!(page == Some(StartPage::Loaded), "the runners report {page:?}");
                Ok(())
            })
            .await?;
        }
        Ok(session)
    }

    /// The runner pods that are there and not leaving.
    pub async fn runners(&self) -> Result<Vec<Pod>> {
        let pods = self.api::<Pod>().list(&ListParams::default()).await?.items;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// What each runner says of itself, by the name of its pod.
    pub async fn runner_states(&self) -> Result<BTreeMap<String, RunnerState>> {
        let gateway = Key::of(&self.fleet, Issuer::Gateway).await?;
        let mut states = BTreeMap::new();
        for pod in self.runners().await? {
            states.insert(pod.name_any(), runner_of(&pod, &gateway).await?);
        }
        Ok(states)
    }

    /// Ends everything that was made here. What takes its time is killed only after a failure.
    async fn clean_up(&self, by_force: bool) -> Result<()> {
        let all = ListParams::default();
        // The pools first: a runner that is to go makes no browser in place of one that ends.
        self.api::<WorkerPool>().delete_collection(&DeleteParams::default(), &all).await?;
        self.api::<BrowserSession>().delete_collection(&DeleteParams::default(), &all).await?;
        if by_force {
            let at_once = DeleteParams::default().grace_period(0);
            self.api::<Pod>().delete_collection(&at_once, &all).await?;
        }
        let pods = self.api::<Pod>();
        poll("the runners to go with their pool", async || {
            let left: Vec<_> = pods.list(&all).await?.iter().map(ResourceExt::name_any).collect();
            ensure!(left.is_empty(), "{left:?} are still there");
            Ok(())
        })
        .await?;
        Api::<Namespace>::all(self.fleet.client.clone()).delete(&self.namespace, &DeleteParams::default()).await?;
        nothing_outlives_its_pod(&self.fleet).await
    }

    /// Prints what a person would look at first.
    async fn say_how_it_stands(&self) {
        eprintln!("--- how it stands in namespace {}", self.namespace);
        say_all::<BrowserSession>(&self.api()).await;
        say_all::<WorkerPool>(&self.api()).await;
        for pod in self.api::<Pod>().list(&ListParams::default()).await.into_iter().flatten() {
            let status = pod.status.as_ref();
            let phase = status.and_then(|status| status.phase.clone()).unwrap_or_default();
            let leaves = pod.metadata.deletion_timestamp.is_some();
            eprintln!("Pod {} {phase}{}", pod.name_any(), if leaves { ", leaving" } else { "" });
        }
        for event in self.api::<Event>().list(&ListParams::default()).await.into_iter().flatten() {
            let of = event.involved_object.name.unwrap_or_default();
            eprintln!("Event {of}: {} {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default());
        }
        say_logs(&self.api()).await;
        say_logs(&self.fleet.release()).await;
    }
}

/// What the runner in that pod says of itself. Any hop token is good for the list.
async fn runner_of(pod: &Pod, gateway: &Key) -> Result<RunnerState> {
    let uid = pod.uid().context("a pod has a UID")?;
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).context("the runner has no address yet")?;
    let token = gateway.signer().hop_token(&uid, "any", Scope::View, None);
    doors::runner_state(&format!("{ip}:{PORT}"), &token).await
}

async fn say_all<K>(api: &Api<K>)
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
    K::DynamicType: Default,
{
    for mut object in api.list(&ListParams::default()).await.into_iter().flatten() {
        object.meta_mut().managed_fields = None;
        eprintln!("{}", serde_json::to_string(&object).unwrap_or_default());
    }
}

async fn say_logs(api: &Api<Pod>) {
    let tail = LogParams { tail_lines: Some(40), ..LogParams::default() };
    for pod in api.list(&ListParams::default()).await.into_iter().flatten() {
        let name = pod.name_any();
        match api.logs(&name, &tail).await {
            Ok(log) => eprintln!("--- log of {name}\n{log}"),
            Err(error) => eprintln!("--- no log of {name}: {error}"),
        }
    }
}

/// Removes what an interrupted run left.
async fn sweep_up(fleet: &Fleet) -> Result<()> {
    let namespaces = Api::<Namespace>::all(fleet.client.clone());
    for namespace in namespaces.list(&ListParams::default().labels(LABEL)).await? {
        if namespace.metadata.deletion_timestamp.is_none() {
            Space { fleet: fleet.clone(), namespace: namespace.name_any(), made: Arc::default() }
                .clean_up(true)
                .await?;
        }
    }
    Ok(())
}

/// Waits until every process of a pod is one of a pod that is still there.
pub(crate) async fn nothing_outlives_its_pod(fleet: &Fleet) -> Result<()> {
    let pods = Api::<Pod>::all(fleet.client.clone());
    poll("the processes of pods that are gone to end", async || {
        // Looked at first: a pod that is made meanwhile is then known.
        let mut running = BTreeMap::<String, Vec<host::Process>>::new();
        for (uid, process) in host::pod_processes() {
            running.entry(uid).or_default().push(process);
        }
        let there: BTreeSet<_> = pods.list(&ListParams::default()).await?.iter().filter_map(ResourceExt::uid).collect();
        running.retain(|uid, _| !there.contains(uid));
        ensure!(running.is_empty(), "they live on: {running:#?}");
        Ok(())
    })
    .await
}

/// A session that a test made.
#[derive(Clone)]
pub struct Session {
    api: Api<BrowserSession>,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Session {
    /// The object as it is now.
    pub async fn object(&self) -> Result<BrowserSession> {
        Ok(self.api.get(&self.name).await?)
    }

    /// Waits until it is Ready.
    ///
    /// # Errors
    /// When it does not become so, or finishes before.
    pub async fn ready(&self) -> Result<BrowserSession> {
        let settled =
            |session: &BrowserSession| matches!(session.state(), SessionState::Ready | SessionState::Finished);
        let session = until_it(&self.api, &self.name, "to be Ready", settled).await?;
        ensure!(session.state() == SessionState::Ready, "session {} is Finished: {:?}", self.name, end_of(&session));
        Ok(session)
    }

    /// Waits until it is Finished, and says how it ended.
    pub async fn finished(&self) -> Result<(BrowserSession, Condition)> {
        let over = |session: &BrowserSession| session.state() == SessionState::Finished;
        let session = until_it(&self.api, &self.name, "to be Finished", over).await?;
        let end = end_of(&session).ok_or_else(|| anyhow!("a Finished session has no condition that says why"))?;
        Ok((session, end))
    }

    /// Waits for something else.
    pub async fn until(
        &self,
        what: &str,
        holds: impl Fn(&BrowserSession) -> bool + Send + Sync,
    ) -> Result<BrowserSession> {
        until_it(&self.api, &self.name, what, holds).await
    }

    /// Waits until the object is gone.
    pub async fn gone(&self) -> Result<()> {
        let uid = self.uid.clone();
        let gone =
            move |session: Option<&BrowserSession>| session.is_none_or(|session| session.uid().as_ref() != Some(&uid));
        until(&self.api, &self.name, "to be gone", gone).await.map(|_| ())
    }

    /// Changes its spec.
    pub async fn change(&self, spec: Value) -> Result<BrowserSession> {
        Ok(self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await?)
    }

    /// Deletes it.
    pub async fn delete(&self) -> Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// The runner that serves it.
    pub async fn runner(&self) -> Result<RunnerRef> {
        let status = self.object().await?.status.unwrap_or_default();
        status.runner.with_context(|| format!("session {} has no runner", self.name))
    }

    /// Where its clients connect.
    pub async fn ws_endpoint(&self) -> Result<String> {
        let status = self.object().await?.status.unwrap_or_default();
        status.ws_endpoint.with_context(|| format!("session {} has no wsEndpoint", self.name))
    }
}

fn end_of(session: &BrowserSession) -> Option<Condition> {
    conditions::get(&session.status.as_ref()?.conditions, FINISHED).cloned()
}
