//! The attack program: a tenant that does to the fleet whatever its rights in one namespace permit. It creates pools whose
//! runners are hostile, pods that only claim to be runners, and oversized sessions.

use crate::{
    harness::{long_lived_pool, session_spec},
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

/// Hostile runners of each kind, but for [`Attack::NeverWarm`].
pub const RUNNERS: usize = 2;
/// Runners of the pool of [`Attack::NeverWarm`].
pub const NEVER_WARM: usize = 200;
/// Slots of each hostile runner: the most that a pool may have.
pub const SLOTS: usize = 32;
/// Pods with a scheduling gate.
pub const GATED: usize = 24;
/// Sessions with as many annotations as the API server takes.
pub const LARGE_SESSIONS: usize = 60;
/// Sessions that are to be bound to a runner of [`Attack::EndlessAnswer`].
const BAIT: usize = 8;
/// The API server takes 256 KiB of annotations, keys included (apimachinery, `TotalAnnotationSizeLimitB`).
const ANNOTATION: usize = 262_000;
/// An API group that no server serves, so that the garbage collector cannot find out that the owner does not exist.
const MADE_UP_GROUP: &str = "unserved.example/v1";
const NO_UID: &str = "00000000-0000-4000-8000-000000000000";
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// From one replaced object to the next of the same kind. Without a pause the API server of a machine with two cores is
/// saturated, and claims wait for it rather than for the operator.
const REPLACEMENT_INTERVAL: Duration = Duration::from_millis(500);
/// How long a hostile runner attacks before it is killed.
const RUNNER_LIFE: Duration = Duration::from_secs(12);

/// The pool whose pods [`FakeRunner`]s claim to be of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPool {
    /// UID of the pool.
    pub uid: String,
    /// The revision that its runners have.
    pub revision: String,
}

/// A pod that its creator labels as a runner of some pool.
#[derive(Clone, Debug)]
pub struct FakeRunner {
    /// Name of the pod.
    pub name: String,
    /// How it attacks, once it runs.
    pub attack: Attack,
    /// The pool that it claims to be of, in another namespace; absent: a pool that does not exist.
    pub target: Option<TargetPool>,
    /// A scheduling gate keeps it from ever running.
    pub gated: bool,
}

impl FakeRunner {
    /// The pod, with the labels of a runner and an owner of the kind `WorkerPool` of an API group that does not exist.
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
                    "apiVersion": MADE_UP_GROUP, "kind": "WorkerPool", "name": "absent", "uid": uid, "controller": true,
                }],
            },
            "spec": {
                "schedulingGates": gates,
                "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "runner", "image": "simulated", "args": ["--slots=1", "--prewarm-headless=1"] }],
            },
        });
        serde_json::from_value(pod).expect("it is a pod")
    }
}

/// The pool whose runners attack in that way.
pub fn hostile_pool(attack: Attack) -> WorkerPool {
    let mut spec = match attack {
        Attack::NeverWarm => long_lived_pool(NEVER_WARM, 1),
        Attack::DrippingRefusal
        | Attack::DrippingState
        | Attack::HugeRefusal
        | Attack::EndlessAnswer
        | Attack::HeavyStates
        | Attack::ManyStates
        | Attack::Orphans
        | Attack::OrphansInSlots
        | Attack::BadNames
        | Attack::Redirect
        | Attack::HugeNumbers => long_lived_pool(RUNNERS, SLOTS),
    };
    // They ask for nothing of the nodes: what is short for others is to be the launches alone.
    spec.template.resources = Some(ResourceRequirements::default());
    WorkerPool::new(attack.name(), spec)
}

/// A session that waits for a pool that does not exist, with as many annotations as the API server takes.
pub fn large_session(index: usize) -> BrowserSession {
    let spec = BrowserSessionSpec { queue_timeout_seconds: 86400, ..session_spec("absent") };
    let mut session = BrowserSession::new(&format!("large-{index}"), spec);
    session.metadata.annotations = Some([("attack".to_owned(), "x".repeat(ANNOTATION))].into());
    session
}

/// Runs the whole attack until the process ends: as that user, in that namespace, with hostile runners on 127.`octet`.0.0/16.
///
/// # Errors
/// When it cannot begin.
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
    // The pretenders come first, because they would take the launch budget from the other namespaces.
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
    // The operator closes connections early and waits before it opens others, so the attacks above soon cost the attacker
    // nothing. Replaced objects reach the operator as watch events, which it cannot slow down.
    tokio::join!(replace_endlessly(&pods, &fake_runners), replace_endlessly(&sessions, &large), kill_runners(&pods));
    Ok(())
}

/// Deletes and creates each of the objects in turn, without end.
async fn replace_endlessly<K>(api: &Api<K>, objects: &[K])
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let mut turn = tokio::time::interval(REPLACEMENT_INTERVAL);
    for object in objects.iter().cycle() {
        turn.tick().await;
        if let Err(error) = api.delete(&object.name_any(), &DeleteParams::default().grace_period(0)).await {
            eprintln!("not deleted: {error}");
        }
        create(api, object).await;
    }
}

/// Kills the runners of one hostile pool after the other, without end, so that the operator replaces and calls new ones.
async fn kill_runners(pods: &Api<Pod>) {
    for attack in Attack::ALL.into_iter().cycle() {
        tokio::time::sleep(RUNNER_LIFE / u32::try_from(Attack::ALL.len()).unwrap_or(u32::MAX)).await;
        let of_pool = ListParams::default().labels(&format!("camofleet.dev/pool={}", attack.name()));
        if let Err(error) = pods.delete_collection(&DeleteParams::default().grace_period(0), &of_pool).await {
            eprintln!("not killed: {error}");
        }
    }
}

/// Pods that never run, and pods that run and are of no pool, or of one that is not theirs.
fn fake_runners(target: &TargetPool) -> impl Iterator<Item = FakeRunner> {
    let gated = (0..GATED).map(|index| FakeRunner {
        name: format!("gated-{index}"),
        attack: Attack::NeverWarm,
        target: None,
        gated: true,
    });
    let of_target = [Attack::OrphansInSlots, Attack::NeverWarm, Attack::DrippingRefusal].map(|attack| FakeRunner {
        name: format!("of-victim-{}", attack.name()),
        attack,
        target: Some(target.clone()),
        gated: false,
    });
    let without_pool = Attack::ALL.map(|attack| FakeRunner {
        name: format!("of-nothing-{}", attack.name()),
        attack,
        target: None,
        gated: false,
    });
    gated.chain(of_target).chain(without_pool)
}

/// Creates it, or gives up when the API server refuses: a fleet that forbids this attack still has to stand the others.
async fn create<K>(api: &Api<K>, object: &K)
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    loop {
        match api.create(&PostParams::default(), object).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code < 429 => {
                eprintln!("refused: {}", status.message);
                return;
            }
            Err(error) => {
                eprintln!("tried again: {error}");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}
