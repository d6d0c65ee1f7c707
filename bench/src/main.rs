//! Measures the operator: `cargo run --release -p camofleet-bench -- SCENARIO`. Each scenario starts what it needs, stops it
//! again, prints a table and ends with one line of JSON. Figures are of one run, with the floor of the same run beside them,
//! so that ratios mean something on any machine. Two scenarios measure the fleet that `dev/up` made instead.

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
use scenarios::{Compare, Hostile, Scenario, failures, with_harness};
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::runtime::Runtime;

/// Measures the operator on a real API server with simulated runners, or the fleet of dev/up with real browsers.
#[derive(Debug, Parser)]
#[command(name = "camofleet-bench", version)]
struct Cli {
    #[command(flatten)]
    setup: Setup,
    #[command(subcommand)]
    command: Command,
}

/// Programs and nodes that a scenario starts. `hot` and `cold` start none and take none of these; `compare` and `hostile` start
/// them again for each run.
#[derive(Debug, Args)]
struct Setup {
    /// The operator's program. Absent: this checkout's, built in release mode.
    #[arg(long, global = true)]
    operator: Option<PathBuf>,
    /// Folder with etcd and the programs of Kubernetes. Absent: those that dev/up uses, built where they are not there.
    #[arg(long, global = true)]
    kubernetes: Option<PathBuf>,
    /// Simulated nodes. Absent: 10, and 4 for `hostile`.
    #[arg(long, global = true)]
    nodes: Option<usize>,
    /// CPUs of each node. The operator launches at most as many runners at once as there are. Absent: 64, and 4 for `hostile`,
    /// which is to take all launches away from others.
    #[arg(long, global = true)]
    cpus: Option<usize>,
    /// How long a simulated browser takes to start. By default nothing, so that the operator alone is measured.
    #[arg(long, global = true, default_value_t = 0)]
    launch_milliseconds: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Standalone(Scenario),
    /// One scenario with two programs of the operator, in turn: medians, ratios, and the spread of identical runs.
    Compare(Compare),
    /// Claims in one namespace while a tenant of another attacks the operator, against the same beside an idle burner.
    Hostile(Hostile),
    /// The attack program of `hostile`. It runs until it is killed.
    #[command(hide = true)]
    Attack(Attack),
    #[command(flatten)]
    OnCluster(ClusterScenario),
}

/// Whom the attack program attacks, and with which rights.
#[derive(Debug, Args)]
struct Attack {
    /// How the API server is reached, as a tenant.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The tenant's namespace.
    #[arg(long)]
    namespace: String,
    /// The second part of the addresses of hostile runners, 127.N.0.0/16.
    #[arg(long)]
    network: u8,
    /// UID of a pool of another namespace, whose runners some pods claim to be.
    #[arg(long)]
    pool_uid: String,
    /// The revision of that pool's runners.
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
    ensure!(setup.operator.is_none(), "give --operator-a and --operator-b instead of --operator");
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
    ensure!(failures.is_empty(), "not all holds that must:\n    {}", failures.join("\n    "));
    Ok(())
}

/// Nodes that have room for whatever is launched.
const AMPLE_NODES: Nodes = Nodes { count: 10, cpus: 64 };
/// Nodes on which launches are scarce.
const SCARCE_NODES: Nodes = Nodes { count: 4, cpus: 4 };

impl Setup {
    /// Programs of the harness: the given operator, else the one of the command line, else this checkout's.
    async fn options(self, operator: Option<OperatorProgram>, nodes: Nodes) -> Result<Options> {
        let kubernetes = Kubernetes::find(self.kubernetes).await?;
        let operator = match operator {
            Some(operator) => operator,
            None => {
                eprintln!("building the operator, if that was not done yet");
                OperatorProgram::find(self.operator).await?
            }
        };
        let nodes = Nodes { count: self.nodes.unwrap_or(nodes.count), cpus: self.cpus.unwrap_or(nodes.cpus) };
        Ok(Options { kubernetes, operator, nodes, launch_time: Duration::from_millis(self.launch_milliseconds) })
    }
}
