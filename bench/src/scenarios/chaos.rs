//! Injects a random failure every few seconds while sessions come and go, and checks afterwards that none was lost,
//! published twice or leaked.

use super::steps::{FLEET, POOL, SLOTS_PER_RUNNER};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::{Arrivals, Claim, ClaimStats},
    harness::{Harness, ignore_already_exists, ignore_not_found, pool_of_reused_runners, retry, session_spec},
    operator::{Operator, wait_for_leader},
    proxy::Proxy,
    report::Report,
    sessions::ObservedSession,
    simulator::{Behaviour, Runner},
    stats::as_f64,
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

/// Load and failures.
#[derive(Clone, Debug, Args)]
pub struct Chaos {
    /// Number of sessions.
    #[arg(long, default_value_t = 10_000)]
    sessions: usize,
    /// New sessions per second.
    #[arg(long, default_value_t = 40.0)]
    rate: f64,
    /// Slots of the pool.
    #[arg(long, default_value_t = 240)]
    slots: usize,
    /// Lifetime of sessions that their users do not delete.
    #[arg(long, default_value_t = 2000)]
    life_milliseconds: u64,
    /// Seconds between two failures.
    #[arg(long, default_value_t = 5)]
    seconds_between: u64,
    /// Seed for the choice of failures.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A session that takes longer to become Ready is lost.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(180);
/// Time after the last failure until the invariants must hold.
const INVARIANTS_TIMEOUT: Duration = Duration::from_secs(180);
/// Longer than the operator's timeout for calls to runners.
const SLOW_ANSWER: Duration = Duration::from_secs(7);
/// One of this many sessions is deleted by its user before it ends by itself.
const ENDED_BY_USERS: usize = 5;
/// Long enough for an interrupted watch to see how each session ended.
const TTL_SECONDS: i32 = 60;

/// A failure to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    LeaderKilled,
    LeaderPaused,
    LeaderPartitioned,
    FollowerKilled,
    WatchesClosed,
    WritesFail,
    ApiServerKilled,
    EtcdKilled,
    RunnerHangs,
    RunnerSlow,
    RunnerSendsGarbage,
    RunnerSendsNoEvents,
    RunnerOmitsSessions,
    RunnerReportsExtraSessions,
    RunnerRestarted,
    PodDeleted,
    PodForceDeleted,
    NodeLost,
    NodeCordoned,
    ScaledDown,
    TemplateChanged,
}

const FAILURES: [Failure; 21] = [
    Failure::LeaderKilled,
    Failure::LeaderPaused,
    Failure::LeaderPartitioned,
    Failure::FollowerKilled,
    Failure::WatchesClosed,
    Failure::WritesFail,
    Failure::ApiServerKilled,
    Failure::EtcdKilled,
    Failure::RunnerHangs,
    Failure::RunnerSlow,
    Failure::RunnerSendsGarbage,
    Failure::RunnerSendsNoEvents,
    Failure::RunnerOmitsSessions,
    Failure::RunnerReportsExtraSessions,
    Failure::RunnerRestarted,
    Failure::PodDeleted,
    Failure::PodForceDeleted,
    Failure::NodeLost,
    Failure::NodeCordoned,
    Failure::ScaledDown,
    Failure::TemplateChanged,
];

/// An action that ends a failure.
enum Recovery {
    Start(usize),
    Resume(usize),
    Reconnect(usize),
    StopFailingWrites,
    RestoreBehaviour(Arc<Runner>),
    Uncordon(String),
    ScaleUp,
}

/// State of a run.
struct ChaosRun<'a> {
    harness: &'a mut Harness,
    operators: Vec<Operator>,
    proxies: Vec<Arc<Proxy>>,
    replicas: usize,
    random: SmallRng,
    recoveries: Vec<(Instant, Recovery)>,
    injected: BTreeMap<String, usize>,
    /// UIDs of runner pods that lost sessions by an injected failure: `RunnerLost` is the expected end of those
    /// sessions.
    failed_runners: BTreeSet<String>,
    template_changes: usize,
    lost_nodes: usize,
}

impl Chaos {
    pub async fn run(self, harness: &mut Harness) -> Result<Report> {
        let mut report = Report::new("chaos");
        harness.create_namespace(FLEET).await?;
        let replicas = self.slots.div_ceil(SLOTS_PER_RUNNER);
        let (mut operators, mut proxies) = (Vec::new(), Vec::new());
        for identity in ["operator-0", "operator-1"] {
            let (proxy, kubeconfig) = harness.start_proxy(&format!("proxy-of-{identity}")).await?;
            operators.push(harness.start_operator_with(identity, kubeconfig, Vec::new())?);
            proxies.push(proxy);
        }
        wait_for_leader(&mut operators).await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(replicas, SLOTS_PER_RUNNER)).await?;
        harness.simulator.set_session_lifetime(Some(Duration::from_millis(self.life_milliseconds)));

        let sessions_task = tokio::spawn(run_sessions(harness, &self));
        let mut run = ChaosRun {
            harness,
            operators,
            proxies,
            replicas,
            random: SmallRng::seed_from_u64(self.seed),
            recoveries: Vec::new(),
            injected: BTreeMap::new(),
            failed_runners: BTreeSet::new(),
            template_changes: 0,
            lost_nodes: 0,
        };
        let between = Duration::from_secs(self.seconds_between);
        // No failures are injected once all sessions are created, because the remaining ones must still be served.
        while !sessions_task.is_finished() && run.harness.sessions.count(FLEET, |_| true) < self.sessions {
            run.recover(Some(Instant::now())).await?;
            run.restart_exited()?;
            let failure = FAILURES[run.random.random_range(0..FAILURES.len())];
            eprintln!("injecting {failure:?}");
            run.inject(failure).await.with_context(|| format!("cannot inject {failure:?}"))?;
            tokio::time::sleep(between).await;
        }
        run.recover(None).await?;
        let claims = sessions_task.await??;

        let failed_runners = std::mem::take(&mut run.failed_runners);
        let violations = run
            .harness
            // The ends are checked below, because that includes deleted sessions.
            .check_invariants(FLEET, INVARIANTS_TIMEOUT, |_, _| true)
            .await?;
        let binding_log = run.harness.simulator.binding_log();
        let by_name = run.harness.sessions.by_name(FLEET);
        // The write that names a runner may have failed, so that no status ever names it.
        let runners_of = |seen: &ObservedSession| -> BTreeSet<String> {
            let held = || binding_log.of_session(&seen.uid).into_iter().map(|binding| binding.runner).collect();
            if seen.runners.is_empty() { held() } else { seen.runners.clone() }
        };
        // A draining runner may exit after its last session ended and before the operator has read that end.
        let unreported = |seen: &ObservedSession| {
            let gone = runners_of(seen).iter().filter_map(|runner| binding_log.runner_gone_at(runner)).min();
            gone.is_some_and(|gone| seen.finished.is_some_and(|finished| gone <= finished))
        };
        let (mut ended_unreported, mut unexpected_ends) = (0, Vec::new());
        for (name, seen) in &by_name {
            match seen.reason.as_deref() {
                None | Some(IDLE_TIMEOUT) => {}
                Some(RUNNER_LOST) if runners_of(seen).iter().any(|runner| failed_runners.contains(runner)) => {}
                Some(RUNNER_LOST) if unreported(seen) => ended_unreported += 1,
                Some(reason) => {
                    unexpected_ends.push(format!("{name}: {reason} on {:?}", runners_of(seen)));
                }
            }
        }
        let seen: Vec<_> = by_name.into_values().collect();
        let ended_by = |reason: &str| seen.iter().filter(|seen| seen.reason.as_deref() == Some(reason)).count();
        let mut stats = ClaimStats::default();
        stats.add(&claims);
        // A session that ended before its Ready was observed was served all the same.
        stats.not_ready =
            seen.iter().filter(|seen| binding_log.of_session(&seen.uid).is_empty() && !seen.deleted_by_user).count();
        report.claims(&stats);
        report.set("total_ms", serde_json::Value::Null);
        report.set("seed", self.seed);
        report.set("failures", run.injected.values().sum::<usize>());
        report.set("by_failure", json!(run.injected));
        report.set("ended_by_idle_timeout", ended_by(IDLE_TIMEOUT));
        report.set("ended_with_their_runner", ended_by(RUNNER_LOST) - ended_unreported);
        report.set("ended_unheard", ended_unreported);
        report.set("ended_by_users", seen.iter().filter(|seen| seen.deleted_by_user).count());
        report.set("unpublished_copies", binding_log.bound_twice().len());
        report.set("lost", violations.lost.len() + unexpected_ends.len() + stats.not_ready);
        report.set("doubled", violations.published_twice.len());
        report.set("leaked", violations.leaked.len());
        report.set("sessions_per_failure", as_f64(seen.len()) / as_f64(run.injected.values().sum::<usize>().max(1)));
        ensure!(violations.is_empty(), "invariants are violated:\n{violations}");
        let many = unexpected_ends.len();
        ensure!(many == 0, "{many} sessions ended for an unexpected reason:\n{}", unexpected_ends.join("\n"));
        ensure!(stats.not_ready == 0, "{} sessions were never served", stats.not_ready);
        ensure!(
            seen.len() == self.sessions,
            "{} sessions were observed, but {} were created",
            seen.len(),
            self.sessions
        );
        for operator in &mut run.operators {
            operator.stop().await?;
        }
        Ok(report)
    }
}

/// Creates all sessions, waits until they are Ready, and deletes some of them.
fn run_sessions(harness: &Harness, chaos: &Chaos) -> impl Future<Output = Result<Vec<Claim>>> + use<> {
    let (client, sessions) = (harness.session_client(), harness.sessions.clone());
    let (rate, count) = (chaos.rate, chaos.sessions);
    async move {
        let one = |index: usize| {
            let (client, sessions, name) = (client.clone(), sessions.clone(), format!("chaos-{index}"));
            async move {
                let (requested, ready) = (Instant::now(), sessions.await_ready(FLEET, &name));
                let spec = BrowserSessionSpec { ttl_seconds_after_finished: TTL_SECONDS, ..session_spec(POOL) };
                client.create_with_retry(FLEET, &name, spec).await?;
                let ready = tokio::time::timeout(CLAIM_TIMEOUT, ready).await.ok().and_then(Result::ok);
                if index.is_multiple_of(ENDED_BY_USERS) {
                    client.delete(FLEET, &name).await?;
                }
                Ok(Claim { requested, ready })
            }
        };
        Arrivals::Poisson { rate }.run(count, one).await
    }
}

impl ChaosRun<'_> {
    fn schedule_recovery(&mut self, seconds: u64, recovery: Recovery) {
        self.recoveries.push((Instant::now() + Duration::from_secs(seconds), recovery));
    }

    /// Carries out the recoveries that are due by a time, or all of them.
    async fn recover(&mut self, by: Option<Instant>) -> Result<()> {
        let is_due = |at: &Instant| by.is_none_or(|by| *at <= by);
        let (due, left) = std::mem::take(&mut self.recoveries).into_iter().partition(|(at, _)| is_due(at));
        self.recoveries = left;
        let due: Vec<(Instant, Recovery)> = due;
        for (_, recovery) in due {
            match recovery {
                Recovery::Start(index) => self.operators[index].daemon.start_again()?,
                Recovery::Resume(index) => self.operators[index].daemon.resume()?,
                Recovery::Reconnect(index) => self.proxies[index].heal(),
                Recovery::StopFailingWrites => self.fail_writes(0.0, 0),
                Recovery::RestoreBehaviour(runner) => {
                    runner.set_extra_sessions(Vec::new());
                    runner.set_behaviour(Behaviour::Normal);
                }
                Recovery::Uncordon(node) => self.patch_node(&node, false).await?,
                Recovery::ScaleUp => self.patch_pool(json!({ "replicas": self.replicas })).await?,
            }
        }
        Ok(())
    }

    /// Restarts operators that exited because the API server was down, as the kubelet would do.
    fn restart_exited(&mut self) -> Result<()> {
        let waits = |index| {
            self.recoveries.iter().any(|(_, recovery)| matches!(recovery, Recovery::Start(other) if *other == index))
        };
        for (index, operator) in self.operators.iter_mut().enumerate() {
            if !waits(index) && !operator.daemon.is_running() {
                operator.daemon.start_again()?;
            }
        }
        Ok(())
    }

    /// Injects a failure, unless the current state does not allow it.
    async fn inject(&mut self, failure: Failure) -> Result<()> {
        let was_injected = match failure {
            Failure::LeaderKilled => self.kill_leader().await?,
            Failure::LeaderPaused => self.pause_leader().await?,
            Failure::LeaderPartitioned => self.partition_leader().await?,
            Failure::FollowerKilled => self.kill_follower().await?,
            Failure::WatchesClosed => {
                for proxy in &self.proxies {
                    proxy.close_watches();
                }
                true
            }
            Failure::WritesFail => {
                let seed = self.random.random_range(0..1000);
                self.fail_writes(0.3, seed);
                self.schedule_recovery(8, Recovery::StopFailingWrites);
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
            Failure::RunnerHangs => self.set_behaviour(Behaviour::Hangs),
            Failure::RunnerSlow => self.set_behaviour(Behaviour::Slow(SLOW_ANSWER)),
            Failure::RunnerSendsGarbage => self.set_behaviour(Behaviour::Garbage),
            Failure::RunnerSendsNoEvents => self.set_behaviour(Behaviour::NoEvents),
            Failure::RunnerOmitsSessions => self.set_behaviour(Behaviour::OmitsSessions),
            Failure::RunnerReportsExtraSessions => self.report_extra_sessions(),
            Failure::RunnerRestarted => self.restart_runner(),
            Failure::PodDeleted => self.delete_random_pod(None).await?,
            Failure::PodForceDeleted => self.delete_random_pod(Some(0)).await?,
            Failure::NodeLost => self.power_off_node().await?,
            Failure::NodeCordoned => self.cordon_node().await?,
            Failure::ScaledDown => {
                self.patch_pool(json!({ "replicas": self.replicas / 2 })).await?;
                self.schedule_recovery(10, Recovery::ScaleUp);
                true
            }
            Failure::TemplateChanged => {
                self.template_changes += 1;
                let labels = json!({ "shape": self.template_changes.to_string() });
                self.patch_pool(json!({ "template": { "metadata": { "labels": labels } } })).await?;
                true
            }
        };
        if was_injected {
            *self.injected.entry(format!("{failure:?}")).or_default() += 1;
        }
        Ok(())
    }

    /// The leader, if the other operator is healthy and can take over.
    async fn replaceable_leader(&mut self) -> Result<Option<usize>> {
        let is_for_operators = |recovery: &Recovery| match recovery {
            Recovery::Start(_) | Recovery::Resume(_) | Recovery::Reconnect(_) => true,
            Recovery::StopFailingWrites | Recovery::RestoreBehaviour(_) | Recovery::Uncordon(_) | Recovery::ScaleUp => {
                false
            }
        };
        if self.recoveries.iter().any(|(_, recovery)| is_for_operators(recovery)) {
            return Ok(None);
        }
        wait_for_leader(&mut self.operators).await.map(Some)
    }

    async fn kill_leader(&mut self) -> Result<bool> {
        let Some(leader) = self.replaceable_leader().await? else { return Ok(false) };
        self.operators[leader].daemon.kill().await?;
        self.schedule_recovery(10, Recovery::Start(leader));
        Ok(true)
    }

    async fn pause_leader(&mut self) -> Result<bool> {
        let Some(leader) = self.replaceable_leader().await? else { return Ok(false) };
        self.operators[leader].daemon.pause()?;
        self.schedule_recovery(20, Recovery::Resume(leader));
        Ok(true)
    }

    async fn partition_leader(&mut self) -> Result<bool> {
        let Some(leader) = self.replaceable_leader().await? else { return Ok(false) };
        self.proxies[leader].partition();
        self.schedule_recovery(20, Recovery::Reconnect(leader));
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

    fn set_behaviour(&mut self, behaviour: Behaviour) -> bool {
        let Some(runner) = self.random_runner() else { return false };
        if behaviour == Behaviour::OmitsSessions {
            self.failed_runners.insert(runner.pod.uid.clone());
        }
        runner.set_behaviour(behaviour);
        self.schedule_recovery(12, Recovery::RestoreBehaviour(runner));
        true
    }

    /// Makes a runner report sessions of other runners.
    fn report_extra_sessions(&mut self) -> bool {
        let Some(runner) = self.random_runner() else { return false };
        let others = self.harness.simulator.runners().into_iter().filter(|other| other.pod.uid != runner.pod.uid);
        let extra_sessions: Vec<Session> = others.flat_map(|other| other.sessions()).take(4).collect();
        runner.set_extra_sessions(extra_sessions);
        // A new leader may believe this runner, and then count the sessions as lost when the runner stops reporting
        // them.
        self.failed_runners.insert(runner.pod.uid.clone());
        self.schedule_recovery(12, Recovery::RestoreBehaviour(runner));
        true
    }

    fn restart_runner(&mut self) -> bool {
        let Some(runner) = self.random_runner() else { return false };
        self.failed_runners.insert(runner.pod.uid.clone());
        runner.restart();
        true
    }

    /// Deletes a runner pod: it drains, or with a grace period of 0 loses its sessions.
    async fn delete_random_pod(&mut self, grace: Option<u32>) -> Result<bool> {
        let Some(runner) = self.random_runner() else { return Ok(false) };
        if grace == Some(0) {
            self.failed_runners.insert(runner.pod.uid.clone());
        }
        self.delete_pod(&runner.pod.name, grace).await?;
        Ok(true)
    }

    async fn cordon_node(&mut self) -> Result<bool> {
        let Some(node) = self.random_runner().map(|runner| runner.pod.node.clone()) else { return Ok(false) };
        self.patch_node(&node, true).await?;
        self.schedule_recovery(20, Recovery::Uncordon(node));
        Ok(true)
    }

    /// Loses a node with all its pods, and adds another one.
    async fn power_off_node(&mut self) -> Result<bool> {
        let Some(node) = self.random_runner().map(|runner| runner.pod.node.clone()) else { return Ok(false) };
        let nodes = Api::<Node>::all(self.harness.client.clone());
        let Some(mut former) = nodes.get_opt(&node).await? else { return Ok(false) };
        let lost = self.harness.simulator.power_off_node(&node);
        self.failed_runners.extend(lost.iter().map(|runner| runner.pod.uid.clone()));
        retry(|| async { ignore_not_found(nodes.delete(&node, &DeleteParams::default()).await) }).await?;
        // Also pods whose runner has not started: no pod garbage collector runs here.
        let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let pods = retry(|| async { self.harness.api::<Pod>(FLEET).list_metadata(&there).await }).await?;
        for pod in &pods {
            self.failed_runners.extend(pod.uid());
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
        retry(|| async { ignore_already_exists(nodes.create(&PostParams::default(), &former).await) }).await?;
        Ok(true)
    }

    fn random_runner(&mut self) -> Option<Arc<Runner>> {
        let runners = self.harness.simulator.runners();
        // A runner with a pending recovery is still affected by an earlier failure.
        let recovering_runner = |recovery: &Recovery| match recovery {
            Recovery::RestoreBehaviour(runner) => Some(runner.pod.uid.clone()),
            Recovery::Start(_)
            | Recovery::Resume(_)
            | Recovery::Reconnect(_)
            | Recovery::StopFailingWrites
            | Recovery::Uncordon(_)
            | Recovery::ScaleUp => None,
        };
        let recovering: BTreeSet<_> =
            self.recoveries.iter().filter_map(|(_, recovery)| recovering_runner(recovery)).collect();
        let healthy: Vec<_> = runners.into_iter().filter(|runner| !recovering.contains(&runner.pod.uid)).collect();
        (!healthy.is_empty()).then(|| healthy[self.random.random_range(0..healthy.len())].clone())
    }

    async fn delete_pod(&self, name: &str, grace: Option<u32>) -> Result<()> {
        let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        let pods = self.harness.api::<Pod>(FLEET);
        retry(|| async { ignore_not_found(pods.delete(name, &params).await) }).await
    }

    async fn patch_node(&self, node: &str, unschedulable: bool) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": { "unschedulable": unschedulable } }));
        let nodes = Api::<Node>::all(self.harness.client.clone());
        retry(|| async { ignore_not_found(nodes.patch(node, &PatchParams::default(), &patch).await) }).await
    }

    async fn patch_pool(&self, spec: serde_json::Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let pools = self.harness.api::<WorkerPool>(FLEET);
        retry(|| async { pools.patch(POOL, &PatchParams::default(), &patch).await.map(drop) }).await
    }
}
