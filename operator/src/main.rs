//! The operator's process: reads its flags, and runs until SIGTERM or does one thing for the chart.

use anyhow::Context;
use camofleet_operator::{
    core::runner::pod_build::Installation,
    finalizers::abandon_pools,
    hooks::{self, Extent, Release},
    io::{self, Options},
};
use camofleet_runtime::{
    logging, signals, tls,
    traces::{ENDPOINTS, KeyValue, Tracer},
};
use clap::{Args, Parser, Subcommand};
use serde_json::Value;
use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

/// Schedules browser sessions onto runner pods.
#[derive(Debug, Parser)]
#[command(name = "camofleet-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the operator until SIGTERM.
    Run(Run),
    /// Applies the pools of a release, and deletes those that an earlier revision of it created.
    ApplyPools(ApplyPools),
    /// Drains and deletes the pools that a release created, so that the operator can be uninstalled.
    DeletePools(DeletePools),
    /// Removes the operator's finalizer from all pools of the cluster after the operator was uninstalled.
    AbandonPools,
}

#[derive(Debug, Args)]
struct ReleaseFlags {
    /// Namespace of the release.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Name of the release.
    #[arg(long)]
    release: String,
}

#[derive(Debug, Args)]
struct ApplyPools {
    #[command(flatten)]
    release: ReleaseFlags,
    /// `WorkerPool` objects as JSON.
    #[arg(value_parser = named_object)]
    pools: Vec<(String, Value)>,
}

#[derive(Debug, Args)]
struct DeletePools {
    #[command(flatten)]
    release: ReleaseFlags,
    /// How long sessions may go on, in seconds; the pools' own drain deadlines hold besides.
    #[arg(long)]
    timeout_seconds: u32,
    /// Deletes all pools of the cluster, also those that the release did not create.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
struct Run {
    /// Image of the runners of pools that name none.
    #[arg(long, env = "CAMOFLEET_RUNNER_IMAGE")]
    runner_image: String,
    /// Base of every URL that is published: the gateway's, as clients reach it (http:// or https://, no slash at its end).
    #[arg(long, env = "CAMOFLEET_PUBLIC_URL", value_parser = public_url)]
    public_url: String,
    /// Namespace of the release.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Name of this process's pod, under which it leads.
    #[arg(long, env = "POD_NAME")]
    identity: String,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "CAMOFLEET_ADMIN_LISTEN", default_value = "0.0.0.0:8081")]
    admin_listen: SocketAddr,
}

impl From<ReleaseFlags> for Release {
    fn from(flags: ReleaseFlags) -> Self {
        Self { namespace: flags.namespace, name: flags.release }
    }
}

fn named_object(text: &str) -> Result<(String, Value), String> {
    let object: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match object["metadata"]["name"].as_str() {
        Some(name) => Ok((name.to_owned(), object)),
        None => Err("must be an object with metadata.name".to_owned()),
    }
}

fn public_url(text: &str) -> Result<String, String> {
    let has_scheme = text.starts_with("http://") || text.starts_with("https://");
    if !has_scheme || text.ends_with('/') {
        return Err(
            "must begin with http:// or https:// and end without a slash, as in https://fleet.example.org".to_owned()
        );
    }
    Ok(text.to_owned())
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    if let Err(error) = logging::init() {
        tracing::warn!(%error, "ignored RUST_LOG, which is invalid");
    }
    if let Err(error) = tls::install_provider() {
        tracing::error!(%error, "could not start");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "could not start");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run_command(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run_command(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(flags) => {
            let pod = KeyValue::new("k8s.pod.name", flags.identity.clone());
            let tracer = Tracer::from_environment("camofleet-operator", [pod])?.map(Arc::new);
            // Where spans go, and no more: what opens a collector to this process is not for pods in which strangers' pages run.
            let set = |name: &str| std::env::var(name).ok().filter(|_| tracer.is_some());
            let runner_environment = ENDPOINTS.iter().filter_map(|name| Some(((*name).to_owned(), set(name)?)));
            let options = Options {
                installation: Installation {
                    runner_image: flags.runner_image,
                    public_url: flags.public_url,
                    namespace: flags.namespace.clone(),
                    runner_environment: runner_environment.collect(),
                },
                namespace: flags.namespace,
                identity: flags.identity,
                admin_listen: flags.admin_listen,
                tracer: tracer.clone(),
            };
            let ended = io::run(options, signals::shutdown()?.cancelled_owned()).await;
            if let Some(tracer) = tracer {
                tracer.shutdown();
            }
            ended
        }
        Command::ApplyPools(flags) => {
            let pools = flags.pools.into_iter().collect();
            hooks::apply_pools(client().await?, &flags.release.into(), &pools).await
        }
        Command::DeletePools(flags) => {
            let drain_timeout = Duration::from_secs(flags.timeout_seconds.into());
            let extent = if flags.all { Extent::Cluster } else { Extent::Release };
            hooks::delete_pools(client().await?, &flags.release.into(), extent, drain_timeout).await
        }
        Command::AbandonPools => abandon_pools(&client().await?, "its operator was uninstalled").await,
    }
}

async fn client() -> anyhow::Result<kube::Client> {
    kube::Client::try_default().await.context("cannot find out how to reach the API server")
}
