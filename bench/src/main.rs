//! Measures the operator: `cargo run --release -p camofleet-bench -- SCENARIO`. Each scenario starts what it needs, stops it
//! again, prints a table and ends with one line of JSON. Figures are of one run, with the floor of the same run beside them,
//! so that ratios mean something on any machine. Two scenarios measure the fleet that `dev/up` made instead.

mod cluster;
mod scenarios;

use anyhow::{Context, Result, bail};
use camofleet_bench::{
    binaries::{Kubernetes, OperatorProgram},
    harness::{Harness, Options},
    machine,
    simulator::Nodes,
};
use clap::{Args, Parser, Subcommand};
use cluster::ClusterScenario;
use scenarios::Scenario;
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// Measures the operator on a real API server with simulated runners, or the fleet of dev/up with real browsers.
#[derive(Debug, Parser)]
#[command(name = "camofleet-bench", version)]
struct Cli {
    #[command(flatten)]
    setup: Setup,
    #[command(subcommand)]
    command: Command,
}

/// What is started for a scenario; `hot` and `cold` start nothing, and take none of these.
#[derive(Debug, Args)]
struct Setup {
    /// The operator's program. Absent: this checkout's, built in release mode.
    #[arg(long, global = true)]
    operator: Option<PathBuf>,
    /// Folder with etcd and the programs of Kubernetes. Absent: those that dev/up uses, built where they are not there.
    #[arg(long, global = true)]
    kubernetes: Option<PathBuf>,
    /// Simulated nodes.
    #[arg(long, global = true, default_value_t = 10)]
    nodes: usize,
    /// CPUs of each node. The operator launches at most as many runners at once as there are.
    #[arg(long, global = true, default_value_t = 64)]
    cpus: usize,
    /// How long a simulated browser takes to start. By default nothing, so that the operator alone is measured.
    #[arg(long, global = true, default_value_t = 0)]
    launch_milliseconds: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Alone(Scenario),
    #[command(flatten)]
    OnCluster(ClusterScenario),
}

fn main() -> ExitCode {
    let Cli { setup, command } = Cli::parse();
    // Chosen on purpose and first, or the first TLS connection would find none or two.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("error: another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    let measured = match command {
        Command::OnCluster(scenario) => {
            scenario.run();
            Ok(())
        }
        Command::Alone(scenario) => tokio::runtime::Runtime::new()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(measure(setup, scenario))),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(setup: Setup, scenario: Scenario) -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(stopped);
    let starting = async {
        let kubernetes = Kubernetes::find(setup.kubernetes).await?;
        eprintln!("building the operator, if that was not done yet");
        let operator = OperatorProgram::find(setup.operator).await?;
        let machine = machine::describe();
        eprintln!("starting the control plane");
        let nodes = Nodes { count: setup.nodes, cpus: setup.cpus };
        let launch_time = Duration::from_millis(setup.launch_milliseconds);
        anyhow::Ok((machine, Harness::start(Options { kubernetes, operator, nodes, launch_time }).await?))
    };
    let (machine, mut harness) = tokio::select! {
        started = starting => started?,
        () = &mut stopped => bail!("interrupted"),
    };
    let outcome = tokio::select! {
        outcome = scenario.run(&mut harness) => outcome,
        () = &mut stopped => Err(anyhow::anyhow!("interrupted")),
    };
    let versions = harness.versions().await;
    harness.stop().await.context("not all could be stopped")?;
    outcome?.print(machine, versions?);
    Ok(())
}
