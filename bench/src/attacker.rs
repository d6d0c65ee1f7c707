//! Attack program of the `hostile` scenario: does to the fleet what a tenant's permissions in one namespace allow. It
//! creates pools with hostile runners, pods that claim to be runners, and oversized sessions.

use crate::{
    harness::{pool_of_reused_runners, session_spec},
    simulator::{Attack, Simulator},
};
use anyhow::{Context, Result};
use camofleet_crds::v1alpha1::{BrowserSession, BrowserSessionSpec, WorkerPool};
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use std::{path::Path, time::Duration};

/// Hostile runners per attack, except [`Attack::NeverWarm`].
pub const RUNNERS: usize = 2;
/// Runners in the pool of [`Attack::NeverWarm`].
pub const NEVER_WARM: usize = 200;
/// Slots of each hostile runner: the maximum of the CRD.
pub const SLOTS: usize = 32;
/// Number of fake runner pods that a scheduling gate keeps from running.
pub const GATED: usize = 24;
/// Number of sessions with the largest annotations that the API server accepts.
pub const LARGE_SESSIONS: usize = 60;
/// Sessions for the pool of [`Attack::EndlessAnswer`], so that the operator calls its runners.
const BAIT: usize = 8;
/// Just under the API server's limit of 256 KiB for all annotations with their keys (apimachinery,
/// `TotalAnnotationSizeLimitB`).
const ANNOTATION: usize = 262_000;
/// An API group that no server serves. The garbage collector cannot look up such an owner, so it keeps the pod.
const UNSERVED_GROUP: &str = "unserved.example/v1";
const NO_UID: &str = "00000000-0000-4000-8000-000000000000";
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Interval between two replacements of objects of one kind. Without a pause, the API server of a two-core machine is
/// saturated, and claims would wait for the API server instead of the operator.
const REPLACEMENT_INTERVAL: Duration = Duration::from_millis(500);
/// Time after which the attacker kills a hostile runner.
const RUNNER_LIFE: Duration = Duration::from_secs(12);

/// The pool that [`FakeRunner`] pods claim to belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPool {
    /// UID of the pool.
    pub uid: String,
    /// Current revision of the pool.
    pub revision: String,
}

/// A pod that carries the labels of a runner but was not created by the operator.
#[derive(Clone, Debug)]
pub struct FakeRunner {
    /// Name of the pod.
    pub name: String,
    /// How the pod attacks once it runs.
    pub attack: Attack,
    /// The pool of another namespace that the pod claims as its owner. `None`: a pool that does not exist.
    pub target: Option<TargetPool>,
    /// Whether a scheduling gate keeps the pod from running.
    pub gated: bool,
}

impl FakeRunner {
    /// The pod, with the labels of a runner and a `WorkerPool` owner in an API group that does not exist.
    pub fn pod(&self) -> Pod {
        let (uid, revision) = match &self.target {
            Some(target) => (target.uid.as_str(), target.revision.as_str()),
            None => (NO_UID, "none"),
        };
        let gates = if self.gated { json!([{ "name": "unserved.example/never" }]) } else { json!([]) };
        let pod = json!({
            "metadata": {
                "name": self.name,
                "labels": {
                    "app.kubernetes.io/name": "camofleet-runner", "camofleet.dev/pool": self.attack.name(),
                    "camofleet.dev/ordinal": "0", "camofleet.dev/revision": revision,
                },
                "ownerReferences": [{
                    "apiVersion": UNSERVED_GROUP, "kind": "WorkerPool", "name": "absent", "uid": uid, "controller": true,
                }],
            },
            "spec": {
                "schedulingGates": gates,
                "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "runner", "image": "simulated", "args": ["--slots=1", "--prewarm-headless=1"] }],
            },
        });
        serde_json::from_value(pod).expect("the document is a pod")
    }
}

/// A pool whose runners carry out the attack.
pub fn hostile_pool(attack: Attack) -> WorkerPool {
    let mut spec = match attack {
        Attack::NeverWarm => pool_of_reused_runners(NEVER_WARM, 1),
        Attack::DrippingRejection
        | Attack::DrippingState
        | Attack::HugeRejection
        | Attack::EndlessAnswer
        | Attack::HeavyStates
        | Attack::ManyStates
        | Attack::Orphans
        | Attack::OrphansInSlots
        | Attack::BadNames
        | Attack::Redirect
        | Attack::HugeNumbers => pool_of_reused_runners(RUNNERS, SLOTS),
    };
    // Without resource requests, the nodes never run out of room: launches are the only resource that pools compete
    // for.
    spec.template.resources = Some(ResourceRequirements::default());
    WorkerPool::new(attack.name(), spec)
}

/// A session for a pool that does not exist, with the largest annotations that the API server accepts.
pub fn large_session(index: usize) -> BrowserSession {
    let spec = BrowserSessionSpec { queue_timeout_seconds: 86400, ..session_spec("absent") };
    let mut session = BrowserSession::new(&format!("large-{index}"), spec);
    session.metadata.annotations = Some([("attack".to_owned(), "x".repeat(ANNOTATION))].into());
    session
}

/// Attacks until the process is killed, with hostile runners on 127.`octet`.0.0/16.
///
/// # Errors
/// Returns an error if the kubeconfig is invalid or the hostile runners cannot be started.
pub async fn run(kubeconfig: &Path, namespace: &str, octet: u8, target: TargetPool) -> Result<()> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).context("cannot read the kubeconfig")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config.clone())?;
    let _runners = Simulator::start_hostile(config, octet, namespace).await?;
    let (pools, pods, sessions): (Api<WorkerPool>, Api<Pod>, Api<BrowserSession>) = (
        Api::namespaced(client.clone(), namespace),
        Api::namespaced(client.clone(), namespace),
        Api::namespaced(client, namespace),
    );
    let fake_runners: Vec<Pod> = fake_runners(&target).map(|fake_runner| fake_runner.pod()).collect();
    let large: Vec<BrowserSession> = (0..LARGE_SESSIONS).map(large_session).collect();
    // The fake runners come first, because they try to use up the launch budget of the other namespaces.
    for fake_runner in &fake_runners {
        create(&pods, fake_runner).await;
    }
    create(&pools, &hostile_pool(Attack::NeverWarm)).await;
    for attack in Attack::ALL.into_iter().filter(|attack| *attack != Attack::NeverWarm) {
        create(&pools, &hostile_pool(attack)).await;
    }
    for index in 0..BAIT {
        let bait = session_spec(Attack::EndlessAnswer.name());
        create(&sessions, &BrowserSession::new(&format!("bait-{index}"), bait)).await;
    }
    for session in &large {
        create(&sessions, session).await;
    }
    // The operator closes connections early and waits before it opens new ones, so the attacks above soon cost the
    // attacker little. Replaced objects reach the operator as watch events, which the operator cannot slow down.
    tokio::join!(replace_endlessly(&pods, &fake_runners), replace_endlessly(&sessions, &large), kill_runners(&pods));
    Ok(())
}

/// Deletes and recreates the objects one by one, forever.
async fn replace_endlessly<K>(api: &Api<K>, objects: &[K])
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let mut turn = tokio::time::interval(REPLACEMENT_INTERVAL);
    for object in objects.iter().cycle() {
        turn.tick().await;
        if let Err(error) = api.delete(&object.name_any(), &DeleteParams::default().grace_period(0)).await {
            eprintln!("cannot delete: {error}");
        }
        create(api, object).await;
    }
}

/// Kills the runners of one hostile pool after another, forever, so the operator keeps creating and calling new
/// runners.
async fn kill_runners(pods: &Api<Pod>) {
    for attack in Attack::ALL.into_iter().cycle() {
        tokio::time::sleep(RUNNER_LIFE / u32::try_from(Attack::ALL.len()).unwrap_or(u32::MAX)).await;
        let of_pool = ListParams::default().labels(&format!("camofleet.dev/pool={}", attack.name()));
        if let Err(error) = pods.delete_collection(&DeleteParams::default().grace_period(0), &of_pool).await {
            eprintln!("cannot delete runners: {error}");
        }
    }
}

/// Gated pods, pods that claim to be runners of the target pool, and pods that claim a pool that does not exist.
fn fake_runners(target: &TargetPool) -> impl Iterator<Item = FakeRunner> {
    let gated = (0..GATED).map(|index| FakeRunner {
        name: format!("gated-{index}"),
        attack: Attack::NeverWarm,
        target: None,
        gated: true,
    });
    let of_target = [Attack::OrphansInSlots, Attack::NeverWarm, Attack::DrippingRejection].map(|attack| FakeRunner {
        name: format!("of-target-{}", attack.name()),
        attack,
        target: Some(target.clone()),
        gated: false,
    });
    let without_pool = Attack::ALL.map(|attack| FakeRunner {
        name: format!("without-pool-{}", attack.name()),
        attack,
        target: None,
        gated: false,
    });
    gated.chain(of_target).chain(without_pool)
}

/// Creates an object, with retries. Skips an object that the API server rejects: an admission policy may forbid one
/// attack, and the others must still run.
async fn create<K>(api: &Api<K>, object: &K)
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    loop {
        match api.create(&PostParams::default(), object).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code < 429 => {
                eprintln!("the API server rejected an object: {}", status.message);
                return;
            }
            Err(error) => {
                eprintln!("cannot create, will retry: {error}");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}
