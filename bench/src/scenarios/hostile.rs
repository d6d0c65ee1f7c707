//! Claims in one namespace while a tenant of another namespace attacks the operator. The control runs have a busy loop
//! with the same share of CPU in place of the attack.

use super::steps::{
    FLEET, POOL, SLOTS_PER_RUNNER, claim, run_claims, start_leader, wait_until_quiet, warm_up, with_harness,
};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::{Arrivals, ClaimStats},
    cgroup::{ControlGroup, Limit},
    comparison::{Comparison, Variant, order},
    control_plane::User,
    cpu::CpuWatch,
    daemon::{Daemon, Spec},
    harness::{Harness, Options, pool_of_reused_runners, session_spec},
    machine::Usage,
    operator::Operator,
    report::Report,
    stats::{as_f64, milliseconds},
};
use camofleet_crds::v1alpha1::WorkerPool;
use clap::Args;
use serde_json::Value;
use std::{
    env,
    future::Future,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Duration, load and number of runs.
#[derive(Clone, Debug, Args)]
pub struct Hostile {
    /// Duration of the claims of each run in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Claims per second.
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// Pairs of runs: one with the busy loop and one with the attack.
    #[arg(long, default_value_t = 4)]
    pairs: usize,
    /// CPU limit of the attack program and of the busy loop, in percent of one core.
    #[arg(long, default_value_t = 25)]
    attacker_cpu_percent: u32,
}

/// Namespace of the attacker.
const HOSTILE: &str = "hostile";
/// A pool that is created during the attack.
const LATE: &str = "late";
/// Runners of each of the fleet's pools.
const RUNNERS: usize = 8;
/// Lifetime of the fleet's sessions: at the default rate, a third of the slots is occupied.
const LIFE: Duration = Duration::from_secs(2);
/// Time for which the load process runs before the measurement starts.
const ATTACK_WARM_UP: Duration = Duration::from_secs(5);
/// Time limit for the late pool to become hot, and for a new leader to bind.
const LATE_TIMEOUT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The operator's memory limit in the chart's values.
const MEMORY_LIMIT: u64 = 512 << 20;

/// Bounds under attack: p50 and p99 as multiples of the control run, and the operator's memory in MiB.
const P50_RATIO: f64 = 2.0;
const P99_RATIO: f64 = 5.0;
const MEMORY_MB: f64 = 128.0;
/// Bound on the time from a new leader's election to its first bind. A leader waits up to 30 s for runners that do not
/// report.
const LEAD_TO_BIND_MS: f64 = 31_000.0;

impl Hostile {
    /// Alternates control runs and runs under attack, each on a new cluster.
    pub async fn run(self, options: Options, interrupted: &CancellationToken) -> Result<(Comparison, Value)> {
        let mut comparison = Comparison::new("hostile", "a busy loop", "the attack program");
        let mut versions = Value::Null;
        for (index, variant) in order(self.pairs).enumerate() {
            eprintln!("run {} of {}: {variant:?}", index + 1, self.pairs * 2);
            let run_once =
                async |harness: &mut Harness| Ok((self.run_once(harness, variant).await?, harness.versions().await?));
            let (report, with) = with_harness(options.clone(), interrupted, run_once).await?;
            comparison.add(variant, report.metrics());
            versions = with;
        }
        Ok((comparison, versions))
    }

    async fn run_once(&self, harness: &Harness, variant: Variant) -> Result<Report> {
        let mut report = Report::new("hostile");
        harness.create_namespace(FLEET).await?;
        harness.create_namespace(HOSTILE).await?;
        harness.grant_tenant(HOSTILE).await?;
        harness.simulator.skip_namespace(HOSTILE);
        let memory = ControlGroup::new(&group("operator"), Limit::Memory(MEMORY_LIMIT))?;
        let mut supervised = Supervised::new(start_leader(harness, "operator-0").await?, memory)?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(RUNNERS, SLOTS_PER_RUNNER)).await?;
        harness.simulator.set_session_lifetime(Some(LIFE));
        warm_up(harness).await?;
        wait_until_quiet(&supervised.operator).await?;

        let share = ControlGroup::new(&group("attacker"), Limit::CpuPercent(self.attacker_cpu_percent))?;
        let mut load_process = Daemon::start(load_process(harness, variant).await?)?;
        let load_pid = load_process.pid()?;
        share.add(load_pid)?;
        let began = Instant::now();
        supervised.supervise(tokio::time::sleep(ATTACK_WARM_UP)).await?;

        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float becomes the nearest integer"
        )]
        let count = (self.rate * f64::from(self.seconds)).round() as usize;
        let (before, cpu) = (supervised.operator.writes().await.ok(), CpuWatch::start(harness, &supervised.operator)?);
        let claims = run_claims(harness, Arrivals::Poisson { rate: self.rate }, count, claim);
        let (claims, late) = supervised.supervise(async { tokio::join!(claims, late_pool(harness)) }).await?;
        report.set("cpu_percent", cpu.percent(harness, &supervised.operator)?);
        // The counters of a restarted operator would miss earlier writes.
        let after = supervised.operator.writes().await.ok().filter(|_| supervised.restarts == 0);
        if let (Some(before), Some(after)) = (before, after) {
            report.set("writes", after.since(&before).to_json());
        }
        let mut stats = ClaimStats::default();
        stats.add(&claims?);
        report.claims(&stats);
        report.set("late_pool_hot_ms", late?.map(milliseconds));
        let restarts = supervised.restarts;

        let bound = supervised.measure_restart(harness).await?;
        report.set("lead_to_bind_ms", bound.map(milliseconds));
        let used = Usage::of(load_pid).context("the load process has exited")?.cpu;
        report.set("beside_cpu_percent", used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0);
        report.set("restarts", restarts);
        #[expect(clippy::cast_precision_loss, reason = "the operator has less than 2^52 KiB")]
        report.set("peak_memory_mb", supervised.peak_memory as f64 / 1024.0);
        load_process.kill().await?;
        supervised.operator.stop().await?;
        Ok(report)
    }
}

/// The violated bounds, one sentence each.
pub fn failures(comparison: &Comparison) -> Vec<String> {
    let mut failures = Vec::new();
    let mut bound = |what: &str, found: Option<f64>, most: f64| match found {
        Some(found) if found <= most => {}
        Some(found) => failures.push(format!("{what} is {found:.2}, more than {most}")),
        None => failures.push(format!("{what} was never measured")),
    };
    let highest = |key: &str| comparison.row(key).b.into_iter().max_by(f64::total_cmp);
    bound("the ratio of p50 under attack to the control run", comparison.row("p50_ms").ratio(), P50_RATIO);
    bound("the ratio of p99 under attack to the control run", comparison.row("p99_ms").ratio(), P99_RATIO);
    bound("the number of claims that were not Ready under attack", highest("not_ready"), 0.0);
    bound("the number of restarts of the operator under attack", highest("restarts"), 0.0);
    bound("the operator's memory in MiB under attack", highest("peak_memory_mb"), MEMORY_MB);
    bound("the time in ms from leading to the first bind under attack", highest("lead_to_bind_ms"), LEAD_TO_BIND_MS);
    for key in ["lead_to_bind_ms", "late_pool_hot_ms"] {
        let row = comparison.row(key);
        let runs = comparison.row("restarts").b.len();
        let missed = as_f64(runs.saturating_sub(row.b.len()));
        bound(&format!("the number of runs under attack without {key}"), Some(missed), 0.0);
    }
    failures
}

/// Name of a control group of this process.
fn group(of: &str) -> String {
    format!("camofleet-bench-{}-{of}", std::process::id())
}

/// The process that loads the machine beside the fleet: a busy loop or the attack program.
async fn load_process(harness: &Harness, variant: Variant) -> Result<Spec> {
    let log = harness.control_plane.file("beside.log");
    let spec = match variant {
        Variant::A => Spec {
            name: "the busy loop".to_owned(),
            program: "/bin/sh".into(),
            args: ["-c", "while :; do :; done"].map(Into::into).to_vec(),
            env: Vec::new(),
            log,
        },
        Variant::B => {
            let pool = harness.api::<WorkerPool>(FLEET).get(POOL).await?;
            let (uid, status) = (pool.metadata.uid.context("the pool has no UID")?, pool.status.unwrap_or_default());
            let revision = status.revision.context("the pool has no revision")?;
            let octet = harness.control_plane.network.octet().to_string();
            let kubeconfig = harness.control_plane.kubeconfig(User::Tenant).into_os_string();
            let args = [
                "attack",
                "--namespace",
                HOSTILE,
                "--network",
                &octet,
                "--pool-uid",
                &uid,
                "--pool-revision",
                &revision,
            ];
            Spec {
                name: "the attack program".to_owned(),
                program: env::current_exe().context("cannot find the path of this program")?,
                args: args.into_iter().map(Into::into).chain(["--kubeconfig".into(), kubeconfig]).collect(),
                env: Vec::new(),
                log,
            }
        }
    };
    Ok(spec)
}

/// Creates a pool and returns the time until all its slots are hot, or `None` after the time limit.
async fn late_pool(harness: &Harness) -> Result<Option<Duration>> {
    let began = Instant::now();
    harness.create_pool(FLEET, LATE, pool_of_reused_runners(RUNNERS, SLOTS_PER_RUNNER)).await?;
    let slots = i32::try_from(RUNNERS * SLOTS_PER_RUNNER)?;
    let api = harness.api::<WorkerPool>(FLEET);
    while began.elapsed() < LATE_TIMEOUT {
        if api.get(LATE).await?.status.unwrap_or_default().slots.hot >= slots {
            return Ok(Some(began.elapsed()));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(None)
}

/// An operator with the memory limit of the chart. It is restarted when it exits, as the kubelet would do.
struct Supervised {
    operator: Operator,
    memory: ControlGroup,
    restarts: usize,
    /// KiB.
    peak_memory: u64,
}

impl Supervised {
    fn new(mut operator: Operator, memory: ControlGroup) -> Result<Self> {
        memory.add(operator.daemon.pid()?)?;
        Ok(Self { operator, memory, restarts: 0, peak_memory: 0 })
    }

    /// Supervises the operator while `work` runs.
    async fn supervise<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(POLL_INTERVAL) => self.check()?,
            }
        }
    }

    fn check(&mut self) -> Result<()> {
        if !self.operator.daemon.is_running() {
            self.restarts += 1;
            eprintln!("the operator exited; its peak memory was {} MiB", self.peak_memory / 1024);
            return self.start_again();
        }
        // The process may exit between the two checks.
        if let Ok(usage) = self.operator.usage() {
            self.peak_memory = self.peak_memory.max(usage.peak_memory);
        }
        Ok(())
    }

    fn start_again(&mut self) -> Result<()> {
        self.operator.daemon.start_again()?;
        self.memory.add(self.operator.daemon.pid()?)
    }

    /// Restarts the operator and measures the time from its election to its first bind. A session of the fleet is
    /// queued meanwhile. Returns `None` if it is not bound within the time limit.
    async fn measure_restart(&mut self, harness: &Harness) -> Result<Option<Duration>> {
        const WAITING: &str = "waiting";
        self.operator.stop().await?;
        let ready = harness.sessions.await_ready(FLEET, WAITING);
        harness.session_client().create(FLEET, WAITING, session_spec(POOL)).await?;
        self.start_again()?;
        let started = Instant::now();
        while !self.operator.is_leader().await {
            if started.elapsed() > LATE_TIMEOUT {
                return Ok(None);
            }
            self.check()?;
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let leading_since = Instant::now();
        let ready = self.supervise(tokio::time::timeout(LATE_TIMEOUT, ready)).await?;
        let Ok(Ok(ready)) = ready else { return Ok(None) };
        let seen = harness.sessions.get(FLEET, WAITING).context("the session was not observed")?;
        let bindings = harness.simulator.binding_log().of_session(&seen.uid);
        ensure!(!bindings.is_empty(), "a session is Ready without a binding");
        // The bind may precede the update of the leader metric.
        Ok(Some(bindings[0].bound.min(ready).saturating_duration_since(leading_since)))
    }
}
