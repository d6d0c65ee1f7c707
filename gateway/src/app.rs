//! The process: reads its configuration, starts everything, and ends it in order.

use crate::{
    Gateway,
    config::Config,
    kubernetes,
    server::{admin, listener},
};
use anyhow::Context;
use camofleet_auth::{
    keystore::{self, Publication},
    token::Issuer,
};
use camofleet_runtime::{client_address::TrustedProxies, files, server::listen};
use clap::Parser;
use ipnet::IpNet;
use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing_subscriber::EnvFilter;

/// `EX_USAGE` of sysexits.h: what the process was told makes no sense, and starting it again will not help.
const USAGE: u8 = 64;
/// Between "not ready" and "no longer accepting": the time in which the cluster stops sending clients here. They are told to
/// connect again only after it, so that they come to another replica.
const LEAVE_ENDPOINTS: Duration = Duration::from_secs(3);
/// How long the connections may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs the gateway until SIGTERM.
pub fn main() -> ExitCode {
    let config = match Config::try_parse() {
        Ok(config) => config,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if let Err(error) = log_to_stderr() {
        eprintln!("error: RUST_LOG cannot be understood: {error}");
        return ExitCode::from(USAGE);
    }
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing was installed before");
    let runtime = tokio::runtime::Runtime::new().expect("the system gives threads and epoll, or nothing works");
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// JSON unless a person looks. `RUST_LOG` is as tracing-subscriber documents it.
fn log_to_stderr() -> Result<(), tracing_subscriber::filter::ParseError> {
    let directives = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let filter = EnvFilter::try_new(directives.as_deref().unwrap_or("info"))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if std::io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().with_span_list(false).init();
    }
    Ok(())
}

async fn run(config: Config) -> anyhow::Result<()> {
    if let Err(error) = files::raise_limit(u64::MAX) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
    let mut told_to_go = pin!(told_to_go()?);
    let listener = bind(config.listen)?;
    let admin_listener = bind(config.admin_listen)?;
    let (gateway, watching, publication) = tokio::select! {
        connected = connect(config.namespace.clone(), config.ui, config.trusted_proxies) => connected?,
        () = &mut told_to_go => return Ok(()),
    };

    let mut parts = JoinSet::new();
    parts.spawn(admin::serve(Arc::clone(&gateway), admin_listener));
    parts.spawn(listener::serve(Arc::clone(&gateway), listener));
    parts.spawn({
        let gateway = Arc::clone(&gateway);
        let watching = watching.clone();
        async move { kubernetes::follow_sessions(watching, &gateway).await }
    });
    parts.spawn({
        let gateway = Arc::clone(&gateway);
        let watching = watching.clone();
        async move { kubernetes::follow_pools(watching, &gateway).await }
    });
    parts.spawn({
        let gateway = Arc::clone(&gateway);
        async move { kubernetes::follow_tokens(watching, &config.namespace, &gateway.tokens).await }
    });
    parts.spawn(publication.keep());
    tracing::info!(listen = %config.listen, identity = config.identity, "started");

    tokio::select! {
        () = told_to_go => {}
        Some(ended) = parts.join_next() => anyhow::bail!("a part of the gateway ended by itself: {ended:?}"),
    }
    drain(&gateway, LEAVE_ENDPOINTS).await;
    Ok(())
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen(address).with_context(|| format!("cannot listen on {address}"))
}

/// The gateway, a client of its own for the watches, and the publication of its public key.
async fn connect(
    namespace: String,
    ui: PathBuf,
    proxies: Vec<IpNet>,
) -> anyhow::Result<(Arc<Gateway>, kube::Client, Publication)> {
    let config = kube::Config::infer().await.context("cannot find out where the API server is")?;
    let client = kube::Client::try_from(config.clone())?;
    let (signer, publication) = keystore::signer(&client, &namespace, Issuer::Gateway).await?;
    let mut gateway = Gateway::new(client, namespace, signer, ui);
    let proxies = TrustedProxies::new(proxies);
    gateway.sole_address = listener::SoleAddress::new(proxies.clone());
    gateway.server = listener::server(proxies);
    Ok((Arc::new(gateway), kube::Client::try_from(config)?, publication))
}

/// Ends in order: not ready any more; after a moment nothing is accepted and every client is told to connect again; when all
/// of them are gone, or after 10 s, it is done.
pub async fn drain(gateway: &Gateway, leave_endpoints: Duration) {
    tracing::info!("told to go: not ready any more");
    gateway.leaving.cancel();
    sleep(leave_endpoints).await;
    gateway.draining.cancel();
    gateway.tasks.close();
    if timeout(DRAIN, gateway.tasks.wait()).await.is_err() {
        tracing::warn!(left = gateway.tasks.len(), "connections did not end in time and are cut");
    }
    tracing::info!("gone");
}

/// Waits for SIGTERM or SIGINT.
fn told_to_go() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
