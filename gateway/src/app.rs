//! Starts and stops the process: reads the configuration, starts the listeners and watches, and drains on SIGTERM.

use crate::{
    config::Config,
    kubernetes,
    server::{admin, clients::Clients, listener},
    state::Gateway,
};
use anyhow::Context;
use camofleet_auth::{
    keystore::{self, Publication},
    token::Issuer,
};
use camofleet_runtime::{client_address::TrustedProxies, files, logging, server::listen, signals, tls};
use clap::Parser;
use ipnet::IpNet;
use std::{process::ExitCode, sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// `EX_USAGE` of sysexits.h: the arguments are invalid, and a restart does not help.
const EX_USAGE: u8 = 64;
/// Time between failing the readiness probe and closing connections. By then the cluster has removed this replica from
/// the Service's endpoints, so that clients that reconnect reach another replica.
const ENDPOINT_REMOVAL: Duration = Duration::from_secs(3);

/// Runs the gateway until SIGTERM.
pub fn main() -> ExitCode {
    let config = match Config::try_parse() {
        Ok(config) => config,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if let Err(error) = logging::init() {
        tracing::warn!(%error, "ignored RUST_LOG, which is invalid");
    }
    tls::install_provider().expect("no other TLS provider was installed before");
    let runtime = tokio::runtime::Runtime::new().expect("the system provides threads and epoll");
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    if let Err(error) = files::raise_limit(u64::MAX) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
    let shutdown = signals::shutdown()?;
    let listener = listen(config.listen)?;
    let admin_listener = listen(config.admin_listen)?;
    let (gateway, watch_client, publication) = tokio::select! {
        connected = connect(config.namespace.clone(), config.trusted_proxies) => connected?,
        () = shutdown.cancelled() => return Ok(()),
    };

    let mut tasks = JoinSet::new();
    tasks.spawn(admin::serve(Arc::clone(&gateway), admin_listener));
    tasks.spawn(listener::serve(Arc::clone(&gateway), listener, config.ui));
    tasks.spawn({
        let gateway = Arc::clone(&gateway);
        let watch_client = watch_client.clone();
        async move { kubernetes::watch_sessions(watch_client, &gateway.sessions, &gateway.changes).await }
    });
    tasks.spawn({
        let gateway = Arc::clone(&gateway);
        let watch_client = watch_client.clone();
        async move { kubernetes::watch_pools(watch_client, &gateway.pools, &gateway.changes).await }
    });
    tasks.spawn({
        let gateway = Arc::clone(&gateway);
        async move { kubernetes::watch_tokens(watch_client, &config.namespace, &gateway.auth).await }
    });
    tasks.spawn(publication.run());
    tracing::info!(listen = %config.listen, identity = config.identity, "started");

    tokio::select! {
        () = shutdown.cancelled() => {}
        Some(ended) = tasks.join_next() => anyhow::bail!("a task of the gateway ended unexpectedly: {ended:?}"),
    }
    gateway.shutdown.drain(ENDPOINT_REMOVAL).await;
    Ok(())
}

/// Returns the gateway, a separate API client for the watches, and the task that publishes the gateway's public key.
async fn connect(namespace: String, proxies: Vec<IpNet>) -> anyhow::Result<(Arc<Gateway>, kube::Client, Publication)> {
    let config =
        kube::Config::infer().await.context("no Kubernetes configuration found: run in a pod, or set KUBECONFIG")?;
    let client = kube::Client::try_from(config.clone())?;
    let (signer, publication) = keystore::signer(&client, &namespace, Issuer::Gateway).await?;
    let mut gateway = Gateway::new(client, namespace, signer);
    gateway.clients = Clients::new(TrustedProxies::new(proxies));
    Ok((Arc::new(gateway), kube::Client::try_from(config)?, publication))
}
