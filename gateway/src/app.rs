//! The process: reads its configuration, starts everything, and ends it in order.

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

/// `EX_USAGE` of sysexits.h: what the process was told makes no sense, and starting it again will not help.
const USAGE: u8 = 64;
/// Between "not ready" and "no longer accepting": the time in which the cluster stops sending clients here. They are
/// told to connect again only after it, so that they come to another replica.
const LEAVE_ENDPOINTS: Duration = Duration::from_secs(3);

/// Runs the gateway until SIGTERM.
pub fn main() -> ExitCode {
    let config = match Config::try_parse() {
        Ok(config) => config,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if let Err(error) = logging::init() {
        tracing::warn!(%error, "ignored RUST_LOG, which is invalid");
    }
    tls::install_provider().expect("nothing was installed before");
    let runtime = tokio::runtime::Runtime::new().expect("the system gives threads and epoll, or nothing works");
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
    let (gateway, watching, publication) = tokio::select! {
        connected = connect(config.namespace.clone(), config.trusted_proxies) => connected?,
        () = shutdown.cancelled() => return Ok(()),
    };

    let mut parts = JoinSet::new();
    parts.spawn(admin::serve(Arc::clone(&gateway), admin_listener));
    parts.spawn(listener::serve(Arc::clone(&gateway), listener, config.ui));
    parts.spawn({
        let gateway = Arc::clone(&gateway);
        let watching = watching.clone();
        async move { kubernetes::follow_sessions(watching, &gateway.sessions, &gateway.changes).await }
    });
    parts.spawn({
        let gateway = Arc::clone(&gateway);
        let watching = watching.clone();
        async move { kubernetes::follow_pools(watching, &gateway.pools, &gateway.changes).await }
    });
    parts.spawn({
        let gateway = Arc::clone(&gateway);
        async move { kubernetes::follow_tokens(watching, &config.namespace, &gateway.auth).await }
    });
    parts.spawn(publication.run());
    tracing::info!(listen = %config.listen, identity = config.identity, "started");

    tokio::select! {
        () = shutdown.cancelled() => {}
        Some(ended) = parts.join_next() => anyhow::bail!("a part of the gateway ended by itself: {ended:?}"),
    }
    gateway.shutdown.drain(LEAVE_ENDPOINTS).await;
    Ok(())
}

/// The gateway, a client of its own for the watches, and the publication of its public key.
async fn connect(namespace: String, proxies: Vec<IpNet>) -> anyhow::Result<(Arc<Gateway>, kube::Client, Publication)> {
    let config = kube::Config::infer().await.context("cannot find out where the API server is")?;
    let client = kube::Client::try_from(config.clone())?;
    let (signer, publication) = keystore::signer(&client, &namespace, Issuer::Gateway).await?;
    let mut gateway = Gateway::new(client, namespace, signer);
    gateway.clients = Clients::new(TrustedProxies::new(proxies));
    Ok((Arc::new(gateway), kube::Client::try_from(config)?, publication))
}
