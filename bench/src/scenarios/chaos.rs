//! Sessions come and go while something fails every few seconds. In the end nothing may be lost, doubled or leaked.

use super::{FLEET, POOL, SLOTS_PER_RUNNER};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::{Arrivals, Claim, Figures},
    figures::number,
    harness::{Harness, ignore_absent, ignore_present, insist, lasting_pool, of_pool},
    operator::{Operator, leading},
    proxy::Proxy,
    report::Report,
    sessions::Seen,
    simulator::{Behaviour, Runner},
};
use camofleet_crds::{
    conditions::session::{IDLE_TIMEOUT, RUNNER_LOST},
    v1alpha1::{BrowserSessionSpec, WorkerPool},
};
use camofleet_runner_api::Session;
use clap::Args;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

/// How many sessions, and how often something fails.
#[derive(Clone, Debug, Args)]
pub struct Chaos {
    /// Sessions in all.
    #[arg(long, default_value_t = 10_000)]
    sessions: usize,
    /// Sessions that come in a second.
    #[arg(long, default_value_t = 40.0)]
    rate: f64,
    /// Slots for them.
    #[arg(long, default_value_t = 240)]
    slots: usize,
    /// How long each session lives that its user does not end before.
    #[arg(long, default_value_t = 2000)]
    life_milliseconds: u64,
    /// Something fails each time when so many seconds have passed.
    #[arg(long, default_value_t = 5)]
    seconds_between: u64,
    /// Chooses what fails, and which sessions their users end.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A session that is not Ready by then is lost.
const CLAIM_PATIENCE: Duration = Duration::from_secs(180);
/// When the failures are over, all is as it should be after so long at most.
const REST_PATIENCE: Duration = Duration::from_secs(180);
/// Longer than the operator waits for an answer.
const TOO_SLOW: Duration = Duration::from_secs(7);
/// Of so many sessions the user ends one before its time.
const ENDED_BY_USERS: usize = 5;
/// Long enough that a watch which was cut sees how each ended.
const TTL_SECONDS: i32 = 60;

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    LeaderKilled,
    LeaderStopped,
    LeaderCutOff,
    FollowerKilled,
    WatchesCut,
    WritesFail,
    ApiServerKilled,
    EtcdKilled,
    RunnerHangs,
    RunnerSlow,
    RunnerTalksGarbage,
    RunnerMute,
    RunnerForgets,
    RunnerInvents,
    RunnerStartsAnew,
    PodDeleted,
    PodDeletedByForce,
    NodeLost,
    NodeCordoned,
    ScaledDown,
    ShapeChanged,
}

const FAILURES: [Failure; 21] = [
    Failure::LeaderKilled,
    Failure::LeaderStopped,
    Failure::LeaderCutOff,
    Failure::FollowerKilled,
    Failure::WatchesCut,
    Failure::WritesFail,
    Failure::ApiServerKilled,
    Failure::EtcdKilled,
    Failure::RunnerHangs,
    Failure::RunnerSlow,
    Failure::RunnerTalksGarbage,
    Failure::RunnerMute,
    Failure::RunnerForgets,
    Failure::RunnerInvents,
    Failure::RunnerStartsAnew,
    Failure::PodDeleted,
    Failure::PodDeletedByForce,
    Failure::NodeLost,
    Failure::NodeCordoned,
    Failure::ScaledDown,
    Failure::ShapeChanged,
];

/// What takes a failure back.
enum Cure {
    Start(usize),
    Wake(usize),
    Join(usize),
    WritesSucceed,
    Behave(Arc<Runner>),
    Uncordon(String),
    ScaleUp,
}

/// The fleet, and what fails in it.
struct World<'a> {
    harness: &'a mut Harness,
    operators: Vec<Operator>,
    proxies: Vec<Arc<Proxy>>,
    replicas: usize,
    random: SmallRng,
    cures: Vec<(Instant, Cure)>,
    happened: BTreeMap<String, usize>,
    /// Runners whose process lost sessions, by UID of the pod: what was on them ends as lost, and rightly so.
    harmed: BTreeSet<String>,
    shapes: usize,
    lost_nodes: usize,
}

impl Chaos {
    pub async fn run(self, harness: &mut Harness) -> Result<Report> {
        let mut report = Report::new("chaos");
        harness.namespace(FLEET).await?;
        let replicas = self.slots.div_ceil(SLOTS_PER_RUNNER);
        let (mut operators, mut proxies) = (Vec::new(), Vec::new());
        for identity in ["operator-0", "operator-1"] {
            let (proxy, kubeconfig) = harness.proxy(&format!("proxy-of-{identity}")).await?;
            operators.push(harness.operator_in(identity, kubeconfig, Vec::new())?);
            proxies.push(proxy);
        }
        leading(&mut operators).await?;
        harness.hot_pool(FLEET, POOL, lasting_pool(replicas, SLOTS_PER_RUNNER)).await?;
        harness.simulator.let_sessions_live(Some(Duration::from_millis(self.life_milliseconds)));

        let lives = tokio::spawn(lives(harness, &self));
        let mut world = World {
            harness,
            operators,
            proxies,
            replicas,
            random: SmallRng::seed_from_u64(self.seed),
            cures: Vec::new(),
            happened: BTreeMap::new(),
            harmed: BTreeSet::new(),
            shapes: 0,
            lost_nodes: 0,
        };
        let between = Duration::from_secs(self.seconds_between);
        // When all have come the failures end: those that are there still have to be served.
        while !lives.is_finished() && world.harness.sessions.count(FLEET, |_| true) < self.sessions {
            world.cure(Some(Instant::now())).await?;
            world.restart_ended()?;
            let failure = FAILURES[world.random.random_range(0..FAILURES.len())];
            eprintln!("{failure:?}");
            world.fail(failure).await.with_context(|| format!("while {failure:?} was made to happen"))?;
            tokio::time::sleep(between).await;
        }
        world.cure(None).await?;
        let claims = lives.await??;

        let harmed = std::mem::take(&mut world.harmed);
        let account = world
            .harness
            // How each ended is looked at below, of those too that are deleted by now.
            .account(FLEET, REST_PATIENCE, |_, _| true)
            .await?;
        let record = world.harness.simulator.record();
        let by_name = world.harness.sessions.by_name(FLEET);
        // A write that was to tell of a runner may have failed, and then no status ever names it.
        let runners_of = |seen: &Seen| -> BTreeSet<String> {
            let held = || record.bindings(&seen.uid).into_iter().map(|binding| binding.runner).collect();
            if seen.runners.is_empty() { held() } else { seen.runners.clone() }
        };
        // A runner that goes when its sessions are over may be gone before anybody can hear of that.
        let unheard = |seen: &Seen| {
            let gone = runners_of(seen).iter().filter_map(|runner| record.gone_at(runner)).min();
            gone.is_some_and(|gone| seen.finished.is_some_and(|finished| gone <= finished))
        };
        let (mut ended_unheard, mut ended_wrongly) = (0, Vec::new());
        for (name, seen) in &by_name {
            match seen.reason.as_deref() {
                None | Some(IDLE_TIMEOUT) => {}
                Some(RUNNER_LOST) if runners_of(seen).iter().any(|runner| harmed.contains(runner)) => {}
                Some(RUNNER_LOST) if unheard(seen) => ended_unheard += 1,
                Some(reason) => {
                    ended_wrongly.push(format!("{name} as {reason} on {:?}", runners_of(seen)));
                }
            }
        }
        let seen: Vec<_> = by_name.into_values().collect();
        let ended_by = |reason: &str| seen.iter().filter(|seen| seen.reason.as_deref() == Some(reason)).count();
        let mut figures = Figures::default();
        figures.add(&claims);
        // One that ended before its Ready could be seen was served all the same.
        figures.not_ready = seen.iter().filter(|seen| record.bindings(&seen.uid).is_empty() && !seen.given_up).count();
        report.fleet(&figures);
        report.set("total_ms", serde_json::Value::Null);
        report.set("seed", self.seed);
        report.set("failures", world.happened.values().sum::<usize>());
        report.set("by_failure", json!(world.happened));
        report.set("ended_by_idle_timeout", ended_by(IDLE_TIMEOUT));
        report.set("ended_with_their_runner", ended_by(RUNNER_LOST) - ended_unheard);
        report.set("ended_unheard", ended_unheard);
        report.set("ended_by_users", seen.iter().filter(|seen| seen.given_up).count());
        report.set("unpublished_copies", record.doubled().len());
        report.set("lost", account.lost.len() + ended_wrongly.len() + figures.not_ready);
        report.set("doubled", account.doubled.len());
        report.set("leaked", account.leaked.len());
        report.set("sessions_per_failure", number(seen.len()) / number(world.happened.values().sum::<usize>().max(1)));
        ensure!(account.is_whole(), "not all is whole:\n{account}");
        let many = ended_wrongly.len();
        ensure!(many == 0, "{many} sessions ended for what did not happen to them:\n{}", ended_wrongly.join("\n"));
        ensure!(figures.not_ready == 0, "{} sessions were never served", figures.not_ready);
        ensure!(seen.len() == self.sessions, "{} sessions were seen, of {}", seen.len(), self.sessions);
        for operator in &mut world.operators {
            operator.stop().await?;
        }
        Ok(report)
    }
}

/// All sessions: made, awaited, and some ended by their users.
fn lives(harness: &Harness, chaos: &Chaos) -> impl Future<Output = Result<Vec<Claim>>> + use<> {
    let (claims, sessions) = (harness.claims(), harness.sessions.clone());
    let (rate, count) = (chaos.rate, chaos.sessions);
    async move {
        let one = |index: usize| {
            let (claims, sessions, name) = (claims.clone(), sessions.clone(), format!("chaos-{index}"));
            async move {
                let (asked, ready) = (Instant::now(), sessions.await_ready(FLEET, &name));
                let spec = BrowserSessionSpec { ttl_seconds_after_finished: TTL_SECONDS, ..of_pool(POOL) };
                claims.insist(FLEET, &name, spec).await?;
                let ready = tokio::time::timeout(CLAIM_PATIENCE, ready).await.ok().and_then(Result::ok);
                if index.is_multiple_of(ENDED_BY_USERS) {
                    claims.end(FLEET, &name).await?;
                }
                Ok(Claim { asked, ready })
            }
        };
        Arrivals::Random { rate }.make(count, one).await
    }
}

impl World<'_> {
    fn later(&mut self, seconds: u64, cure: Cure) {
        self.cures.push((Instant::now() + Duration::from_secs(seconds), cure));
    }

    /// Takes back what is due by then, or everything.
    async fn cure(&mut self, by: Option<Instant>) -> Result<()> {
        let is_due = |at: &Instant| by.is_none_or(|by| *at <= by);
        let (due, left) = std::mem::take(&mut self.cures).into_iter().partition(|(at, _)| is_due(at));
        self.cures = left;
        let due: Vec<(Instant, Cure)> = due;
        for (_, cure) in due {
            match cure {
                Cure::Start(index) => self.operators[index].daemon.start_again()?,
                Cure::Wake(index) => self.operators[index].daemon.resume()?,
                Cure::Join(index) => self.proxies[index].join(),
                Cure::WritesSucceed => self.fail_writes(0.0, 0),
                Cure::Behave(runner) => {
                    runner.invent(Vec::new());
                    runner.behave(Behaviour::Well);
                }
                Cure::Uncordon(node) => self.patch_node(&node, false).await?,
                Cure::ScaleUp => self.patch_pool(json!({ "replicas": self.replicas })).await?,
            }
        }
        Ok(())
    }

    /// An operator that came up while nobody answered has ended, and is started again as a kubelet would.
    fn restart_ended(&mut self) -> Result<()> {
        let waits = |index| self.cures.iter().any(|(_, cure)| matches!(cure, Cure::Start(other) if *other == index));
        for (index, operator) in self.operators.iter_mut().enumerate() {
            if !waits(index) && !operator.daemon.is_running() {
                operator.daemon.start_again()?;
            }
        }
        Ok(())
    }

    /// Makes something fail, unless there is nothing that could at the moment.
    async fn fail(&mut self, failure: Failure) -> Result<()> {
        let happens = match failure {
            Failure::LeaderKilled => self.kill_leader().await?,
            Failure::LeaderStopped => self.stop_leader().await?,
            Failure::LeaderCutOff => self.cut_leader_off().await?,
            Failure::FollowerKilled => self.kill_follower().await?,
            Failure::WatchesCut => {
                for proxy in &self.proxies {
                    proxy.cut_watches();
                }
                true
            }
            Failure::WritesFail => {
                let seed = self.random.random_range(0..1000);
                self.fail_writes(0.3, seed);
                self.later(8, Cure::WritesSucceed);
                true
            }
            Failure::ApiServerKilled => {
                self.harness.control_plane.api_server.kill().await?;
                self.harness.control_plane.api_server.start_again()?;
                self.harness.control_plane.wait_until_ready().await?;
                true
            }
            Failure::EtcdKilled => {
                self.harness.control_plane.etcd.kill().await?;
                self.harness.control_plane.etcd.start_again()?;
                self.harness.control_plane.wait_until_ready().await?;
                true
            }
            Failure::RunnerHangs => self.misbehave(Behaviour::Hangs),
            Failure::RunnerSlow => self.misbehave(Behaviour::Slow(TOO_SLOW)),
            Failure::RunnerTalksGarbage => self.misbehave(Behaviour::Garbage),
            Failure::RunnerMute => self.misbehave(Behaviour::Mute),
            Failure::RunnerForgets => self.misbehave(Behaviour::Forgets),
            Failure::RunnerInvents => self.invent(),
            Failure::RunnerStartsAnew => self.start_anew(),
            Failure::PodDeleted => self.delete_some_pod(None).await?,
            Failure::PodDeletedByForce => self.delete_some_pod(Some(0)).await?,
            Failure::NodeLost => self.lose_node().await?,
            Failure::NodeCordoned => self.cordon_node().await?,
            Failure::ScaledDown => {
                self.patch_pool(json!({ "replicas": self.replicas / 2 })).await?;
                self.later(10, Cure::ScaleUp);
                true
            }
            Failure::ShapeChanged => {
                self.shapes += 1;
                let labels = json!({ "shape": self.shapes.to_string() });
                self.patch_pool(json!({ "template": { "metadata": { "labels": labels } } })).await?;
                true
            }
        };
        if happens {
            *self.happened.entry(format!("{failure:?}")).or_default() += 1;
        }
        Ok(())
    }

    /// Who leads, when the other operator is well and can take over.
    async fn replaceable_leader(&mut self) -> Result<Option<usize>> {
        let is_for_operators = |cure: &Cure| match cure {
            Cure::Start(_) | Cure::Wake(_) | Cure::Join(_) => true,
            Cure::WritesSucceed | Cure::Behave(_) | Cure::Uncordon(_) | Cure::ScaleUp => false,
        };
        if self.cures.iter().any(|(_, cure)| is_for_operators(cure)) {
            return Ok(None);
        }
        leading(&mut self.operators).await.map(Some)
    }

    async fn kill_leader(&mut self) -> Result<bool> {
        let Some(leader) = self.replaceable_leader().await? else { return Ok(false) };
        self.operators[leader].daemon.kill().await?;
        self.later(10, Cure::Start(leader));
        Ok(true)
    }

    async fn stop_leader(&mut self) -> Result<bool> {
        let Some(leader) = self.replaceable_leader().await? else { return Ok(false) };
        self.operators[leader].daemon.pause()?;
        self.later(20, Cure::Wake(leader));
        Ok(true)
    }

    async fn cut_leader_off(&mut self) -> Result<bool> {
        let Some(leader) = self.replaceable_leader().await? else { return Ok(false) };
        self.proxies[leader].part();
        self.later(20, Cure::Join(leader));
        Ok(true)
    }

    async fn kill_follower(&mut self) -> Result<bool> {
        let Some(leader) = self.replaceable_leader().await? else { return Ok(false) };
        let follower = &mut self.operators[1 - leader].daemon;
        follower.kill().await?;
        follower.start_again()?;
        Ok(true)
    }

    fn fail_writes(&self, share: f64, seed: u64) {
        for proxy in &self.proxies {
            proxy.fail_writes(share, seed);
        }
    }

    fn misbehave(&mut self, behaviour: Behaviour) -> bool {
        let Some(runner) = self.some_runner() else { return false };
        if behaviour == Behaviour::Forgets {
            self.harmed.insert(runner.pod.uid.clone());
        }
        runner.behave(behaviour);
        self.later(12, Cure::Behave(runner));
        true
    }

    /// A runner tells of what others have.
    fn invent(&mut self) -> bool {
        let Some(runner) = self.some_runner() else { return false };
        let others = self.harness.simulator.runners().into_iter().filter(|other| other.pod.uid != runner.pod.uid);
        let invented: Vec<Session> = others.flat_map(|other| other.sessions()).take(4).collect();
        runner.invent(invented);
        // What it is believed to have, where no leader knew better, is lost when it no longer says so.
        self.harmed.insert(runner.pod.uid.clone());
        self.later(12, Cure::Behave(runner));
        true
    }

    fn start_anew(&mut self) -> bool {
        let Some(runner) = self.some_runner() else { return false };
        self.harmed.insert(runner.pod.uid.clone());
        runner.restart();
        true
    }

    /// It drains, or with no grace takes its sessions with it.
    async fn delete_some_pod(&mut self, grace: Option<u32>) -> Result<bool> {
        let Some(runner) = self.some_runner() else { return Ok(false) };
        if grace == Some(0) {
            self.harmed.insert(runner.pod.uid.clone());
        }
        self.delete_pod(&runner.pod.name, grace).await?;
        Ok(true)
    }

    async fn cordon_node(&mut self) -> Result<bool> {
        let Some(node) = self.some_runner().map(|runner| runner.pod.node.clone()) else { return Ok(false) };
        self.patch_node(&node, true).await?;
        self.later(20, Cure::Uncordon(node));
        Ok(true)
    }

    /// A node is gone with all that was on it, and another one comes in its place.
    async fn lose_node(&mut self) -> Result<bool> {
        let Some(node) = self.some_runner().map(|runner| runner.pod.node.clone()) else { return Ok(false) };
        let nodes = Api::<Node>::all(self.harness.client.clone());
        let Some(mut former) = nodes.get_opt(&node).await? else { return Ok(false) };
        let lost = self.harness.simulator.lose_node(&node);
        self.harmed.extend(lost.iter().map(|runner| runner.pod.uid.clone()));
        insist(|| async { ignore_absent(nodes.delete(&node, &DeleteParams::default()).await) }).await?;
        // Those, too, whose runner had not started yet: nobody else here deletes what a lost node had.
        let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let pods = insist(|| async { self.harness.api::<Pod>(FLEET).list_metadata(&there).await }).await?;
        for pod in &pods {
            self.harmed.extend(pod.uid());
            self.delete_pod(&pod.name_any(), Some(0)).await?;
        }
        self.lost_nodes += 1;
        let name = format!("spare-{}", self.lost_nodes);
        former.metadata = ObjectMeta {
            labels: Some([("kubernetes.io/hostname".to_owned(), name.clone())].into()),
            name: Some(name),
            ..ObjectMeta::default()
        };
        if let Some(spec) = &mut former.spec {
            (spec.unschedulable, spec.taints) = (None, None);
        }
        insist(|| async { ignore_present(nodes.create(&PostParams::default(), &former).await) }).await?;
        Ok(true)
    }

    fn some_runner(&mut self) -> Option<Arc<Runner>> {
        let runners = self.harness.simulator.runners();
        // One that is ill already has its cure coming.
        let patient = |cure: &Cure| match cure {
            Cure::Behave(runner) => Some(runner.pod.uid.clone()),
            Cure::Start(_)
            | Cure::Wake(_)
            | Cure::Join(_)
            | Cure::WritesSucceed
            | Cure::Uncordon(_)
            | Cure::ScaleUp => None,
        };
        let ill: BTreeSet<_> = self.cures.iter().filter_map(|(_, cure)| patient(cure)).collect();
        let well: Vec<_> = runners.into_iter().filter(|runner| !ill.contains(&runner.pod.uid)).collect();
        (!well.is_empty()).then(|| well[self.random.random_range(0..well.len())].clone())
    }

    async fn delete_pod(&self, name: &str, grace: Option<u32>) -> Result<()> {
        let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        let pods = self.harness.api::<Pod>(FLEET);
        insist(|| async { ignore_absent(pods.delete(name, &params).await) }).await
    }

    async fn patch_node(&self, node: &str, unschedulable: bool) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": { "unschedulable": unschedulable } }));
        let nodes = Api::<Node>::all(self.harness.client.clone());
        insist(|| async { ignore_absent(nodes.patch(node, &PatchParams::default(), &patch).await) }).await
    }

    async fn patch_pool(&self, spec: serde_json::Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let pools = self.harness.api::<WorkerPool>(FLEET);
        insist(|| async { pools.patch(POOL, &PatchParams::default(), &patch).await.map(drop) }).await
    }
}
