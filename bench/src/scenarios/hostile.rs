//! Claims in one namespace while a tenant of another attacks the operator, and the same beside an idle burner of CPU time.

use super::{FLEET, POOL, SLOTS_PER_RUNNER, claim, run_claims, start_leader, wait_until_quiet, warm_up, with_harness};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::{Arrivals, ClaimStats},
    cgroup::{ControlGroup, Limit},
    comparison::{Comparison, Variant, order},
    control_plane::User,
    cpu::CpuWatch,
    daemon::{Daemon, Spec},
    harness::{Harness, Options, long_lived_pool, session_spec},
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

/// How long, and how often.
#[derive(Clone, Debug, Args)]
pub struct Hostile {
    /// Seconds of claims under attack, in each run.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Claims a second.
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// Pairs of runs, one beside an idle burner and one under attack.
    #[arg(long, default_value_t = 4)]
    pairs: usize,
    /// The share of one core that the attack program has, and the burner.
    #[arg(long, default_value_t = 25)]
    attacker_cpu_percent: u32,
}

/// The attacker's namespace.
const HOSTILE: &str = "hostile";
/// A pool that is created under attack.
const LATE: &str = "late";
/// Runners of either pool of the fleet.
const RUNNERS: usize = 8;
/// How long a session of the fleet lives: at the default rate a third of the slots is taken.
const LIFE: Duration = Duration::from_secs(2);
/// How long the attack program and the burner run before anything is measured.
const ATTACK_WARM_UP: Duration = Duration::from_secs(5);
/// How long a pool may take to be hot, and a new leader to bind, before they count as never.
const LATE_TIMEOUT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The operator's limit of memory in the chart's values.
const MEMORY_LIMIT: u64 = 512 << 20;

/// Bounds under attack: p50 and p99 of claims against the control run, and the operator's memory in MiB.
const P50_RATIO: f64 = 2.0;
const P99_RATIO: f64 = 5.0;
const MEMORY_MB: f64 = 128.0;
/// From the moment when a new leader leads to its first bind: runners that were not heard are waited for 30 s.
const LEAD_TO_BIND_MS: f64 = 31_000.0;

impl Hostile {
    /// Control runs and runs under attack in turn, each on a cluster of its own.
    pub async fn run(self, options: Options, interrupted: &CancellationToken) -> Result<(Comparison, Value)> {
        let mut comparison = Comparison::new("hostile", "an idle burner of CPU time", "the attack program");
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
        harness.create_hot_pool(FLEET, POOL, long_lived_pool(RUNNERS, SLOTS_PER_RUNNER)).await?;
        harness.simulator.set_session_lifetime(Some(LIFE));
        warm_up(harness).await?;
        wait_until_quiet(&supervised.operator).await?;

        let share = ControlGroup::new(&group("attacker"), Limit::CpuPercent(self.attacker_cpu_percent))?;
        let mut neighbour = Daemon::start(neighbour(harness, variant).await?)?;
        let neighbour_pid = neighbour.pid()?;
        share.add(neighbour_pid)?;
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
        // Of an operator that was started again they would be those since then.
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
        let used = Usage::of(neighbour_pid).context("what runs beside the fleet has ended")?.cpu;
        report.set("beside_cpu_percent", used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0);
        report.set("restarts", restarts);
        #[expect(clippy::cast_precision_loss, reason = "the operator has less than 2^52 KiB")]
        report.set("peak_memory_mb", supervised.peak_memory as f64 / 1024.0);
        neighbour.kill().await?;
        supervised.operator.stop().await?;
        Ok(report)
    }
}

/// The bounds that were exceeded, one sentence each.
pub fn failures(comparison: &Comparison) -> Vec<String> {
    let mut failures = Vec::new();
    let mut bound = |what: &str, found: Option<f64>, most: f64| match found {
        Some(found) if found <= most => {}
        Some(found) => failures.push(format!("{what} is {found:.2}, and must not exceed {most}")),
        None => failures.push(format!("{what} was never measured")),
    };
    let highest = |key: &str| comparison.row(key).b.into_iter().max_by(f64::total_cmp);
    bound("p50 under attack against the control run", comparison.row("p50_ms").ratio(), P50_RATIO);
    bound("p99 under attack against the control run", comparison.row("p99_ms").ratio(), P99_RATIO);
    bound("the number of claims that were not Ready under attack", highest("not_ready"), 0.0);
    bound("the number of restarts of the operator under attack", highest("restarts"), 0.0);
    bound("the operator's memory in MiB under attack", highest("peak_memory_mb"), MEMORY_MB);
    bound("the time in ms from leading to the first bind under attack", highest("lead_to_bind_ms"), LEAD_TO_BIND_MS);
    for key in ["lead_to_bind_ms", "late_pool_hot_ms"] {
        let row = comparison.row(key);
        let runs = comparison.row("restarts").b.len();
        let missed = as_f64(runs.saturating_sub(row.b.len()));
        bound(&format!("the number of runs under attack in which {key} never came"), Some(missed), 0.0);
    }
    failures
}

/// A control group of this process.
fn group(of: &str) -> String {
    format!("camofleet-bench-{}-{of}", std::process::id())
}

/// The program that runs beside the fleet.
async fn neighbour(harness: &Harness, variant: Variant) -> Result<Spec> {
    let log = harness.control_plane.file("beside.log");
    let spec = match variant {
        Variant::A => Spec {
            name: "the burner".to_owned(),
            program: "/bin/sh".into(),
            args: ["-c", "while :; do :; done"].map(Into::into).to_vec(),
            env: Vec::new(),
            log,
        },
        Variant::B => {
            let pool = harness.api::<WorkerPool>(FLEET).get(POOL).await?;
            let (uid, status) = (pool.metadata.uid.context("it has a UID")?, pool.status.unwrap_or_default());
            let revision = status.revision.context("it has a revision")?;
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
                program: env::current_exe().context("this program has no path")?,
                args: args.into_iter().map(Into::into).chain(["--kubeconfig".into(), kubeconfig]).collect(),
                env: Vec::new(),
                log,
            }
        }
    };
    Ok(spec)
}

/// How long a pool that is created now takes until all its slots are hot; none when it does not become so in time.
async fn late_pool(harness: &Harness) -> Result<Option<Duration>> {
    let began = Instant::now();
    harness.create_pool(FLEET, LATE, long_lived_pool(RUNNERS, SLOTS_PER_RUNNER)).await?;
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

/// The operator, which is started again when it ends, as the kubelet does, within the memory that the chart gives it.
struct Supervised {
    operator: Operator,
    memory: ControlGroup,
    restarts: usize,
    /// In KiB.
    peak_memory: u64,
}

impl Supervised {
    fn new(mut operator: Operator, memory: ControlGroup) -> Result<Self> {
        memory.add(operator.daemon.pid()?)?;
        Ok(Self { operator, memory, restarts: 0, peak_memory: 0 })
    }

    /// Supervises it until that is done.
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
            eprintln!("the operator has ended; at most it had {} MiB", self.peak_memory / 1024);
            return self.start_again();
        }
        // One that is just ending uses nothing any more.
        if let Ok(usage) = self.operator.usage() {
            self.peak_memory = self.peak_memory.max(usage.peak_memory);
        }
        Ok(())
    }

    fn start_again(&mut self) -> Result<()> {
        self.operator.daemon.start_again()?;
        self.memory.add(self.operator.daemon.pid()?)
    }

    /// Replaces it by a new leader, and measures from the moment when that leads to its first bind of a session of the
    /// fleet, which is waiting; none when it binds nothing in time.
    async fn measure_restart(&mut self, harness: &Harness) -> Result<Option<Duration>> {
        const WAITING: &str = "waiting";
        self.operator.stop().await?;
        let ready = harness.sessions.await_ready(FLEET, WAITING);
        harness.claims().create(FLEET, WAITING, session_spec(POOL)).await?;
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
        let seen = harness.sessions.get(FLEET, WAITING).context("it was made")?;
        let bindings = harness.simulator.binding_log().of_session(&seen.uid);
        ensure!(!bindings.is_empty(), "a session is Ready that no runner has");
        // It may have been bound before the metrics said that the operator leads.
        Ok(Some(bindings[0].bound.min(ready).saturating_duration_since(leading_since)))
    }
}
