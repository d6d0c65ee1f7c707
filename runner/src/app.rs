//! Runs a runner with its settings: opens its ports, drives its browsers, and ends when it was told to go and has nothing left to do.

use crate::{
    config::Settings,
    core::Event,
    http::{self, auth::Gate, state::App, tunnels::Tunnels},
    supervisor::{driver::Driver, stack},
};
use anyhow::Context;
use camofleet_runner_api::HEAD_DEADLINE;
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

/// How long answers that are under way may take when the runner ends.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);
/// Open files of the runner: two for each tunnel, and the rest for pipes, logs and its own. Its browsers inherit the limit, and a
/// larger one slows programs that close all files which they may have.
const FILES: u64 = 4096;
/// Open files that are not for tunnels.
const OTHER_FILES: u64 = 512;
/// Connections that no tunnel takes: they are the operator's, and those of the gateway's other calls.
const RESERVED_CONNECTIONS: usize = 128;
/// What callers can hold. Only gateway and operator have tokens, and they send one with the first request of each connection, so a
/// few places are enough for those without. Each costs memory and a file descriptor, of which the browsers need most.
const LIMITS: Limits = Limits {
    connections: 1024,
    anonymous: 128,
    anonymous_per_address: 32,
    first_head: HEAD_DEADLINE,
    exchange: HEAD_DEADLINE,
    idle: HEAD_DEADLINE,
    authenticated_idle: Duration::from_secs(75),
    keep_alive: true,
};

/// Runs until SIGTERM came and every session is over, on a runtime of its own.
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

/// What traces are sent by. A runner serves its sessions whether they are traced or not.
fn tracer(pod_uid: &str) -> Option<Arc<Tracer>> {
    match Tracer::from_environment("camofleet-runner", [KeyValue::new("k8s.pod.uid", pod_uid.to_owned())]) {
        Ok(tracer) => tracer.map(Arc::new),
        Err(error) => {
            tracing::error!(%error, "could not set up tracing: no session is traced");
            None
        }
    }
}

#[tokio::main]
async fn serve(settings: Settings, tracer: Option<Arc<Tracer>>) -> anyhow::Result<()> {
    // Browsers run under the same uid, and have no business in this process's memory.
    set_dumpable(false).context("cannot close this process to others")?;
    let state_dir = &settings.browser.state_dir;
    stack::prepare(state_dir).with_context(|| format!("cannot clean the state directory {}", state_dir.display()))?;
    let listener = listen(settings.listen)?;
    let probe_listener = listen(settings.probe_listen)?;
    let shutdown = signals::shutdown().context("cannot handle signals")?;

    tracing::info!(address = %listener.local_addr()?, plan = ?settings.plan, browser = ?settings.browser, "started");
    let slots = settings.plan.slots;
    let (driver, runner) = Driver::new(settings.plan, settings.browser);
    let files = files::raise_limit(FILES).context("cannot raise the limit of open files")?;
    let pairs = usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX);
    let limits = Limits { connections: pairs.min(LIMITS.connections), ..LIMITS };
    let tunnels = Tunnels::new(limits.connections.saturating_sub(RESERVED_CONNECTIONS), slots);
    let gate = Arc::new(Gate::new(settings.pod_uid, settings.keys_file));
    let (finished, connections) = (CancellationToken::new(), TaskTracker::new());
    let start = |server: Server, listener, router| {
        let (finished, connections) = (finished.clone(), connections.clone());
        tokio::spawn(async move { server.serve(listener, router, finished, connections).await })
    };
    // No proxies are between a pod and those that call it.
    let server = |name, limits| Server::new(name, limits, TrustedProxies::default());
    let probes = start(server("probes", Limits::PROBES), probe_listener, http::server::probes(runner.clone()));
    let api = http::server::router(App { gate, runner: runner.clone(), tracer, tunnels: Arc::new(tunnels) });
    let api = start(server("api", limits), listener, api);
    tokio::spawn(async move {
        shutdown.cancelled().await;
        runner.report(Event::Drain);
    });

    driver.run().await;
    tracing::info!("stopped: no session is left");
    finished.cancel();
    api.await.and(probes.await).context("the HTTP server failed")?;
    connections.close();
    // What is not answered by then is cut off.
    tokio::time::timeout(LAST_ANSWERS_TIMEOUT, connections.wait()).await.ok();
    Ok(())
}
