//! A test's own namespace: creates pools and sessions in it, reads the state of its runners, dumps and removes its
//! objects.

use crate::{
    Fleet, endpoints, host,
    session::Session,
    tokens::Key,
    wait::{poll, wait_for_object},
};
use anyhow::{Context, Result, ensure};
use camofleet_auth::token::{Issuer, Scope};
use camofleet_crds::{
    conditions::{self, READY, RECONCILING},
    v1alpha1::{BrowserSession, BrowserSessionSpec, WorkerPool, WorkerPoolSpec},
};
use camofleet_runner_api::{PORT, RunnerState, StartPage};
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ServiceAccount};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, LogParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Label of test namespaces, by which the next run finds those of an interrupted one.
const LABEL: &str = "camofleet.dev/e2e";

/// The namespace of one test, in the fleet under test.
#[derive(Clone)]
pub struct TestNamespace {
    /// The fleet under test.
    pub fleet: Fleet,
    /// The namespace's name.
    pub name: String,
    sessions_created: Arc<AtomicUsize>,
}

impl TestNamespace {
    pub(crate) async fn create(test: &str) -> Result<Self> {
        let fleet = Fleet::find().await?;
        let name = format!("e2e-{test}-{}", &uuid::Uuid::new_v4().simple().to_string()[..6]);
        let labels = [(LABEL, "true"), ("pod-security.kubernetes.io/enforce", "restricted")];
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        Api::all(fleet.client.clone()).create(&PostParams::default(), &namespace).await?;
        let ns = Self { fleet, name, sessions_created: Arc::default() };
        // The API server rejects pods until the namespace has its default service account.
        wait_for_object(&ns.api::<ServiceAccount>(), "default", "to exist", |_| true).await?;
        Ok(ns)
    }

    /// Runs `body` in a second namespace, which is cleaned up like this one.
    pub async fn with_second_namespace<Body: Future<Output = Result<()>>>(
        &self,
        name: &str,
        body: impl FnOnce(Self) -> Body,
    ) -> Result<()> {
        let other = Self::create(name).await?;
        let result = body(other.clone()).await;
        if result.is_err() {
            other.dump_state().await;
        }
        result.and(other.clean_up(false).await)
    }

    /// Sets or, with null, removes labels of the namespace.
    pub async fn set_labels(&self, labels: Value) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.fleet.client.clone());
        let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
        namespaces.patch(&self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// The API for objects of the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.fleet.client.clone(), &self.name)
    }

    /// Creates a pool and waits until all its runners are warm.
    pub async fn pool(&self, name: &str, spec: Value) -> Result<WorkerPool> {
        let spec: WorkerPoolSpec = serde_json::from_value(spec)?;
        self.api().create(&PostParams::default(), &WorkerPool::new(name, spec)).await?;
        self.warm_pool(name).await
    }

    /// Waits until a pool is reconciled, serves no session, and has a hot browser in every slot that it prewarms.
    pub async fn warm_pool(&self, name: &str) -> Result<WorkerPool> {
        self.warm_pool_with_sessions(name, 0).await
    }

    /// Waits until a pool is reconciled, serves exactly `sessions` sessions, and has a hot browser in every other
    /// prewarmed slot.
    ///
    /// Queries the runners too, because a pool's status is up to a second old.
    pub async fn warm_pool_with_sessions(&self, name: &str, sessions: usize) -> Result<WorkerPool> {
        let gateway_key = Key::load(&self.fleet, Issuer::Gateway).await?;
        poll(&format!("pool {name} to be warm"), async || {
            let pool = self.api::<WorkerPool>().get(name).await?;
            let status = pool.status.clone().unwrap_or_default();
            let reconciled = status.observed_generation == pool.metadata.generation
                && conditions::is_true(&status.conditions, READY)
                && conditions::get(&status.conditions, RECONCILING).is_some_and(|it| it.status == "False");
            ensure!(reconciled, "its status is {status:?}");
            let desired = usize::try_from(pool.spec.fixed_replicas())?;
            let pods =
                self.api::<Pod>().list(&ListParams::default().labels(&format!("camofleet.dev/pool={name}"))).await?;
            ensure!(pods.items.len() == desired, "it has {} pods, not {desired}", pods.items.len());
            let (mut hot, mut serving) = (0, 0);
            for pod in &pods {
                let state = report_of(pod, &gateway_key).await?;
                hot += usize::try_from(state.hot.headless + state.hot.headful)?;
                serving += state.sessions.len();
            }
            let prewarm = pool.spec.prewarm();
            let prewarmed = desired * usize::try_from(prewarm.headless + prewarm.headful)?;
            ensure!(
                hot + serving == prewarmed && serving == sessions,
                "of {prewarmed} browsers {hot} are hot and {serving} serve sessions"
            );
            Ok(pool)
        })
        .await
    }

    /// Creates a session.
    pub async fn session(&self, spec: Value) -> Result<Session> {
        let spec: BrowserSessionSpec = serde_json::from_value(spec)?;
        let name = format!("s{}", self.sessions_created.fetch_add(1, Ordering::Relaxed));
        let api = self.api::<BrowserSession>();
        let created = api.create(&PostParams::default(), &BrowserSession::new(&name, spec)).await?;
        Ok(Session::new(api, name, created.uid().context("the created object has no UID")?))
    }

    /// Creates a session and waits until it is Ready and has loaded its start page, if it has one. `Ready` does not
    /// wait for the start page, so without this wait a client could find the blank page.
    pub async fn ready_session(&self, spec: Value) -> Result<Session> {
        let has_start_page = spec.get("startUrl").is_some();
        let session = self.session(spec).await?;
        session.wait_until_ready().await?;
        if has_start_page {
            poll("the start page to load", async || {
                let reports: Vec<_> =
                    self.runner_states().await?.into_values().flat_map(|runner| runner.sessions).collect();
                let page = reports.into_iter().find(|report| report.uid == session.uid).map(|report| report.start_page);
                ensure!(page == Some(StartPage::Loaded), "the runner reports {page:?}");
                Ok(())
            })
            .await?;
        }
        Ok(session)
    }

    /// The runner pods that are not terminating.
    pub async fn runners(&self) -> Result<Vec<Pod>> {
        let pods = self.api::<Pod>().list(&ListParams::default()).await?.items;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// The report of each runner that is not terminating, by the name of its pod.
    pub async fn runner_states(&self) -> Result<BTreeMap<String, RunnerState>> {
        let gateway_key = Key::load(&self.fleet, Issuer::Gateway).await?;
        let mut states = BTreeMap::new();
        for pod in self.runners().await? {
            states.insert(pod.name_any(), report_of(&pod, &gateway_key).await?);
        }
        Ok(states)
    }

    /// Deletes all objects and the namespace, and waits until its pods' processes are gone. `force` kills pods without
    /// a grace period; only a failed test needs it.
    pub(crate) async fn clean_up(&self, force: bool) -> Result<()> {
        let all = ListParams::default();
        // Pools first, because a terminating runner launches no browser to replace one that ended.
        self.api::<WorkerPool>().delete_collection(&DeleteParams::default(), &all).await?;
        self.api::<BrowserSession>().delete_collection(&DeleteParams::default(), &all).await?;
        if force {
            let immediately = DeleteParams::default().grace_period(0);
            self.api::<Pod>().delete_collection(&immediately, &all).await?;
        }
        let pods = self.api::<Pod>();
        poll("the runners to be deleted with their pool", async || {
            let left: Vec<_> = pods.list(&all).await?.iter().map(ResourceExt::name_any).collect();
            ensure!(left.is_empty(), "{left:?} remain");
            Ok(())
        })
        .await?;
        Api::<Namespace>::all(self.fleet.client.clone()).delete(&self.name, &DeleteParams::default()).await?;
        wait_for_pod_processes_to_exit(&self.fleet).await
    }

    /// Prints objects, events and logs for the analysis of a failed test.
    pub(crate) async fn dump_state(&self) {
        eprintln!("--- state of namespace {}", self.name);
        dump_objects::<BrowserSession>(&self.api()).await;
        dump_objects::<WorkerPool>(&self.api()).await;
        for pod in self.api::<Pod>().list(&ListParams::default()).await.into_iter().flatten() {
            let status = pod.status.as_ref();
            let phase = status.and_then(|status| status.phase.clone()).unwrap_or_default();
            let terminating = pod.metadata.deletion_timestamp.is_some();
            eprintln!("Pod {} {phase}{}", pod.name_any(), if terminating { ", terminating" } else { "" });
        }
        for event in self.api::<Event>().list(&ListParams::default()).await.into_iter().flatten() {
            let object = event.involved_object.name.unwrap_or_default();
            eprintln!("Event {object}: {} {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default());
        }
        dump_logs(&self.api()).await;
        dump_logs(&self.fleet.release()).await;
    }
}

/// The report of the runner in that pod. A hop token for any session permits reading it.
async fn report_of(pod: &Pod, gateway_key: &Key) -> Result<RunnerState> {
    let uid = pod.uid().context("the pod has no UID")?;
    let ip =
        pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).context("the runner has no IP address yet")?;
    let token = gateway_key.signer().hop_token(&uid, "any", Scope::View, None);
    endpoints::runner_state(&format!("{ip}:{PORT}"), &token).await
}

async fn dump_objects<K>(api: &Api<K>)
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
    K::DynamicType: Default,
{
    for mut object in api.list(&ListParams::default()).await.into_iter().flatten() {
        object.meta_mut().managed_fields = None;
        eprintln!("{}", serde_json::to_string(&object).unwrap_or_default());
    }
}

async fn dump_logs(api: &Api<Pod>) {
    let tail = LogParams { tail_lines: Some(40), ..LogParams::default() };
    for pod in api.list(&ListParams::default()).await.into_iter().flatten() {
        let name = pod.name_any();
        match api.logs(&name, &tail).await {
            Ok(log) => eprintln!("--- log of {name}\n{log}"),
            Err(error) => eprintln!("--- no log of {name}: {error}"),
        }
    }
}

/// Removes the test namespaces that an interrupted run left behind.
pub(crate) async fn remove_leftovers(fleet: &Fleet) -> Result<()> {
    let namespaces = Api::<Namespace>::all(fleet.client.clone());
    for namespace in namespaces.list(&ListParams::default().labels(LABEL)).await? {
        if namespace.metadata.deletion_timestamp.is_none() {
            TestNamespace { fleet: fleet.clone(), name: namespace.name_any(), sessions_created: Arc::default() }
                .clean_up(true)
                .await?;
        }
    }
    Ok(())
}

/// Waits until no process of a deleted pod remains on the node.
async fn wait_for_pod_processes_to_exit(fleet: &Fleet) -> Result<()> {
    let pods = Api::<Pod>::all(fleet.client.clone());
    poll("the processes of deleted pods to exit", async || {
        // Processes are read before pods, so that a pod created in between is known.
        let mut running = BTreeMap::<String, Vec<host::Process>>::new();
        for (uid, process) in host::pod_processes() {
            running.entry(uid).or_default().push(process);
        }
        let existing: BTreeSet<_> =
            pods.list(&ListParams::default()).await?.iter().filter_map(ResourceExt::uid).collect();
        running.retain(|uid, _| !existing.contains(uid));
        ensure!(running.is_empty(), "still running: {running:#?}");
        Ok(())
    })
    .await
}
