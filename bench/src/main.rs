//! Command line of the benchmarks: `cargo run --release -p camofleet-bench -- SCENARIO`. A scenario starts the
//! processes it needs, stops them at the end, and prints a table and one line of JSON. Each run also measures its own
//! floor (the same calls without the operator), so ratios can be compared across machines. `hot` and `cold` measure the
//! fleet of `dev/up` instead.

mod cluster;
mod scenarios;

use anyhow::{Result, ensure};
use camofleet_bench::{
    attacker::{self, TargetPool},
    binaries::{Kubernetes, OperatorProgram},
    harness::{Harness, Options},
    machine,
    simulator::Nodes,
};
use camofleet_runtime::{signals, tls};
use clap::{Args, Parser, Subcommand};
use cluster::ClusterScenario;
use scenarios::{
    Scenario,
    compare::Compare,
    hostile::{Hostile, failures},
    steps::with_harness,
};
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::runtime::Runtime;

/// Benchmarks the operator on a real API server with simulated runners, or the fleet of dev/up with real browsers.
#[derive(Debug, Parser)]
#[command(name = "camofleet-bench", version)]
struct Cli {
    #[command(flatten)]
    setup: Setup,
    #[command(subcommand)]
    command: Command,
}

/// Binaries and nodes for a scenario. `hot` and `cold` use the fleet of dev/up and ignore these options; `compare` and
/// `hostile` start a new cluster for each run.
#[derive(Debug, Args)]
struct Setup {
    /// Path of the operator binary. Default: built from this checkout with the release profile.
    #[arg(long, global = true)]
    operator: Option<PathBuf>,
    /// Directory with the etcd and Kubernetes binaries. Default: those that dev/up uses, built if missing.
    #[arg(long, global = true)]
    kubernetes: Option<PathBuf>,
    /// Number of simulated nodes. Default: 10, or 4 for `hostile`.
    #[arg(long, global = true)]
    nodes: Option<usize>,
    /// CPUs of each node. The operator launches at most twice as many runners at once as the nodes have CPUs. Default:
    /// 64, or 4 for `hostile`, where the attacker tries to use up all launches.
    #[arg(long, global = true)]
    cpus: Option<usize>,
    /// Launch time of a simulated browser. With the default of 0, latencies are those of the operator alone.
    #[arg(long, global = true, default_value_t = 0)]
    launch_milliseconds: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Standalone(Scenario),
    /// Run a scenario with two operator binaries alternately; print medians, ratios, and the spread of identical runs.
    Compare(Compare),
    /// Measure claims while a tenant of another namespace attacks the operator; the control runs have a busy loop
    /// instead.
    Hostile(Hostile),
    /// Attack the operator as a tenant until the process is killed (used by `hostile`).
    #[command(hide = true)]
    Attack(Attack),
    #[command(flatten)]
    OnCluster(ClusterScenario),
}

/// Target and credentials of the attack.
#[derive(Debug, Args)]
struct Attack {
    /// Kubeconfig of the tenant.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Namespace of the tenant.
    #[arg(long)]
    namespace: String,
    /// Second octet of the addresses of hostile runners, 127.N.0.0/16.
    #[arg(long)]
    network: u8,
    /// UID of a pool in another namespace. Some pods claim to be its runners.
    #[arg(long)]
    pool_uid: String,
    /// Current revision of that pool.
    #[arg(long)]
    pool_revision: String,
}

fn main() -> ExitCode {
    let Cli { setup, command } = Cli::parse();
    if let Err(error) = tls::install_provider() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    match run(setup, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(setup: Setup, command: Command) -> Result<()> {
    let runtime = Runtime::new()?;
    match command {
        Command::OnCluster(scenario) => {
            scenario.run();
            Ok(())
        }
        Command::Standalone(scenario) => runtime.block_on(measure(setup, scenario)),
        Command::Compare(compare) => runtime.block_on(measure_comparison(setup, compare)),
        Command::Hostile(hostile) => runtime.block_on(measure_under_attack(setup, hostile)),
        Command::Attack(Attack { kubeconfig, namespace, network, pool_uid: uid, pool_revision: revision }) => {
            runtime.block_on(attacker::run(&kubeconfig, &namespace, network, TargetPool { uid, revision }))
        }
    }
}

async fn measure(setup: Setup, scenario: Scenario) -> Result<()> {
    let (options, machine) = (setup.options(None, AMPLE_NODES).await?, machine::describe());
    eprintln!("starting the control plane");
    let measured = async |harness: &mut Harness| {
        let report = scenario.run(harness).await?;
        Ok((report, harness.versions().await?))
    };
    let (report, versions) = with_harness(options, &signals::shutdown()?, measured).await?;
    report.print(machine, versions);
    Ok(())
}

async fn measure_comparison(setup: Setup, compare: Compare) -> Result<()> {
    ensure!(setup.operator.is_none(), "compare uses --operator-a and --operator-b; remove --operator");
    let operator = compare.operator_b().await?;
    let (options, machine) = (setup.options(Some(operator), AMPLE_NODES).await?, machine::describe());
    let (comparison, versions) = compare.run(options, &signals::shutdown()?).await?;
    comparison.print(machine, versions);
    Ok(())
}

async fn measure_under_attack(setup: Setup, hostile: Hostile) -> Result<()> {
    let (options, machine) = (setup.options(None, SCARCE_NODES).await?, machine::describe());
    let (comparison, versions) = hostile.run(options, &signals::shutdown()?).await?;
    comparison.print(machine, versions);
    let failures = failures(&comparison);
    ensure!(failures.is_empty(), "the run under attack exceeded its bounds:\n    {}", failures.join("\n    "));
    Ok(())
}

/// Enough CPUs for any number of launches.
const AMPLE_NODES: Nodes = Nodes { count: 10, cpus: 64 };
/// Few enough CPUs that pools compete for launches.
const SCARCE_NODES: Nodes = Nodes { count: 4, cpus: 4 };

impl Setup {
    /// Harness options with the given operator, the one from the command line, or this checkout's, in that order.
    async fn options(self, operator: Option<OperatorProgram>, nodes: Nodes) -> Result<Options> {
        let kubernetes = Kubernetes::find(self.kubernetes).await?;
        let operator = match operator {
            Some(operator) => operator,
            None => {
                eprintln!("building the operator");
                OperatorProgram::find(self.operator).await?
            }
        };
        let nodes = Nodes { count: self.nodes.unwrap_or(nodes.count), cpus: self.cpus.unwrap_or(nodes.cpus) };
        Ok(Options { kubernetes, operator, nodes, launch_time: Duration::from_millis(self.launch_milliseconds) })
    }
}
