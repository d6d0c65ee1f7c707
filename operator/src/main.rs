//! Entry point of the operator: parses flags, and runs the operator until SIGTERM, or a one-off command for the chart.

use anyhow::Context;
use camofleet_operator::{
    core::runner::pod_build::Installation,
    finalizers::release_pools,
    hooks::{self, PoolSelection, Release},
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
    /// Applies the pools of a release, and deletes pools that an earlier revision of the release created.
    ApplyPools(ApplyPools),
    /// Drains and deletes the pools that a release created, before the operator is uninstalled.
    DeletePools(DeletePools),
    /// After an uninstall: removes the operator's finalizer from all pools of the cluster, and sets the reason
    /// `NoOperator` in their conditions.
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
    /// Seconds to wait for sessions before they are deleted. The drain timeouts of the pools apply as well.
    #[arg(long)]
    timeout_seconds: u32,
    /// Delete all pools of the cluster, including those that the release did not create.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
struct Run {
    /// Runner image for pools that do not set one.
    #[arg(long, env = "CAMOFLEET_RUNNER_IMAGE")]
    runner_image: String,
    /// URL at which clients reach the gateway, the base of all published URLs (http:// or https://, without a trailing
    /// slash).
    #[arg(long, env = "CAMOFLEET_PUBLIC_URL", value_parser = public_url)]
    public_url: String,
    /// Namespace of the release.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Name of this process's pod, the holder identity in leader election.
    #[arg(long, env = "POD_NAME")]
    identity: String,
    /// Listen address of /healthz, /readyz and /metrics.
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
        return Err("must start with http:// or https:// and have no trailing slash, as in https://fleet.example.org"
            .to_owned());
    }
    Ok(text.to_owned())
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    if let Err(error) = logging::init() {
        tracing::warn!(%error, "ignored invalid RUST_LOG");
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
            // Runners get only the endpoints. Credentials for a collector must not reach pods that load untrusted
            // pages.
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
            let selection = if flags.all { PoolSelection::Cluster } else { PoolSelection::Release };
            hooks::delete_pools(client().await?, &flags.release.into(), selection, drain_timeout).await
        }
        Command::AbandonPools => release_pools(&client().await?, "its operator was uninstalled").await,
    }
}

async fn client() -> anyhow::Result<kube::Client> {
    kube::Client::try_default().await.context("no configuration for the API server: run in a pod, or set KUBECONFIG")
}
