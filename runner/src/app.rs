//! Wires the runner together: opens its ports, starts its driver, and shuts down once it has drained.

use crate::{
    config::Settings,
    core::Event,
    http::{self, auth::Authenticator, state::AppState, tunnel_limiter::TunnelLimiter},
    supervisor::{driver::Driver, stack},
};
use anyhow::Context;
use camofleet_runner_api::HEADER_READ_TIMEOUT;
use camofleet_runtime::{
    client_address::TrustedProxies,
    files,
    server::{Limits, Server, listen},
    signals,
    traces::{KeyValue, Tracer},
};
use nix::sys::prctl::set_dumpable;
use std::{sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long responses in progress can take after the runner has drained.
const LAST_RESPONSES_TIMEOUT: Duration = Duration::from_secs(1);
/// Limit of open files: two for each tunnel, and [`RESERVED_FILES`]. Browsers inherit the limit, and a larger one
/// slows down programs that close every possible file descriptor at start.
const OPEN_FILES_LIMIT: u64 = 4096;
/// Open files that are not available to tunnels: pipes, logs and the runner's own.
const RESERVED_FILES: u64 = 512;
/// Connections that are not available to tunnels: those of the operator and of the gateway's other calls.
const RESERVED_CONNECTIONS: usize = 128;
/// Limits of the API's connections. Only the gateway and the operator have tokens, and they send one with the first
/// request of each connection, so a low limit for unauthenticated connections suffices. Each connection costs memory
/// and a file descriptor, both of which the browsers need.
const LIMITS: Limits = Limits {
    connections: 1024,
    unauthenticated: 128,
    unauthenticated_per_address: 32,
    first_head_timeout: HEADER_READ_TIMEOUT,
    exchange_timeout: HEADER_READ_TIMEOUT,
    idle_timeout: HEADER_READ_TIMEOUT,
    authenticated_idle_timeout: Duration::from_secs(75),
    keep_alive: true,
};

/// Runs until SIGTERM has been received and every session has ended. Creates its own Tokio runtime.
///
/// # Errors
/// When the state directory cannot be cleaned, a port cannot be opened, or a server fails.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let tracer = tracer(&settings.pod_uid);
    let ended = serve(settings, tracer.clone());
    if let Some(tracer) = tracer {
        tracer.shutdown();
    }
    ended
}

/// Creates the tracer, if one is configured. A failure is not fatal, because sessions do not depend on tracing.
fn tracer(pod_uid: &str) -> Option<Arc<Tracer>> {
    match Tracer::from_environment("camofleet-runner", [KeyValue::new("k8s.pod.uid", pod_uid.to_owned())]) {
        Ok(tracer) => tracer.map(Arc::new),
        Err(error) => {
            tracing::error!(%error, "could not set up tracing; running without it");
            None
        }
    }
}

#[tokio::main]
async fn serve(settings: Settings, tracer: Option<Arc<Tracer>>) -> anyhow::Result<()> {
    // Browsers run under the same uid and could otherwise read this process's memory.
    set_dumpable(false).context("cannot protect the runner's memory from its browsers")?;
    let state_dir = &settings.browser.state_dir;
    stack::prepare(state_dir).with_context(|| format!("cannot clean the state directory {}", state_dir.display()))?;
    let listener = listen(settings.listen)?;
    let probe_listener = listen(settings.probe_listen)?;
    let shutdown = signals::shutdown().context("cannot handle signals")?;

    tracing::info!(address = %listener.local_addr()?, runner = ?settings.runner, browser = ?settings.browser, "started");
    let slots = settings.runner.slots;
    let (driver, runner) = Driver::new(settings.runner, settings.browser);
    let files = files::raise_limit(OPEN_FILES_LIMIT).context("cannot raise the limit of open files")?;
    let tunnels = usize::try_from(files.saturating_sub(RESERVED_FILES) / 2).unwrap_or(usize::MAX);
    let limits = Limits { connections: tunnels.min(LIMITS.connections), ..LIMITS };
    let limiter = TunnelLimiter::new(limits.connections.saturating_sub(RESERVED_CONNECTIONS), slots);
    let authenticator = Arc::new(Authenticator::new(settings.pod_uid, settings.keys_file));
    let (finished, connections) = (CancellationToken::new(), TaskTracker::new());
    let start = |server: Server, listener, router| {
        let (finished, connections) = (finished.clone(), connections.clone());
        tokio::spawn(async move { server.serve(listener, router, finished, connections).await })
    };
    // There are no proxies between a pod and its callers.
    let server = |name, limits| Server::new(name, limits, TrustedProxies::default());
    let probes = start(server("probes", Limits::PROBES), probe_listener, http::server::probes(runner.clone()));
    let api =
        http::server::router(AppState { authenticator, runner: runner.clone(), tracer, tunnels: Arc::new(limiter) });
    let api = start(server("api", limits), listener, api);
    tokio::spawn(async move {
        shutdown.cancelled().await;
        runner.send(Event::Drain);
    });

    driver.run().await;
    tracing::info!("stopped after the last session ended");
    finished.cancel();
    api.await.and(probes.await).context("the HTTP server failed")?;
    connections.close();
    tokio::time::timeout(LAST_RESPONSES_TIMEOUT, connections.wait()).await.ok();
    Ok(())
}
