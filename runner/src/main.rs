//! Supervises the displays, Playwright servers and browsers of one pod, for the operator and the gateway.
//!
//! `core` decides, without clock or IO. `supervisor` carries it out: its `driver` is the one task that owns a core, and makes the
//! processes of displays, Playwright servers and browsers. `http` is what operator and gateway call; `traces` tells of sessions' starts.
#![forbid(unsafe_code)]

mod config;
mod core;
mod http;
mod supervisor;
mod traces;

use crate::config::{Flags, Settings};
use crate::http::tunnel::Tunnels;
use crate::supervisor::driver::Driver;
use anyhow::Context;
use camofleet_runner_api::HEAD_DEADLINE;
use camofleet_runtime::{
    client_address::TrustedProxies,
    files, logging,
    server::{Limits, Server, listen},
    signals,
    traces::{KeyValue, Tracer},
};
use clap::Parser;
use nix::sys::prctl::set_dumpable;
use std::{process::ExitCode, sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Exit code for a bad command line or environment (EX_USAGE of sysexits.h).
const BAD_USAGE: u8 = 64;
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

fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => {
            let code = if error.use_stderr() { BAD_USAGE } else { 0 };
            // Where nothing can be written nobody reads.
            error.print().ok();
            return code.into();
        }
    };
    let settings = match flags.check() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("camofleet-runner: {error}");
            return BAD_USAGE.into();
        }
    };
    if let Err(error) = logging::init() {
        tracing::warn!(%error, "ignored RUST_LOG, which is invalid");
    }
    let tracer = tracer(&settings.pod_uid);
    let ended = run(settings, tracer.clone());
    if let Some(tracer) = tracer {
        tracer.finish();
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What traces are sent by. A runner serves its sessions whether they are traced or not.
fn tracer(pod_uid: &str) -> Option<Arc<Tracer>> {
    match Tracer::from_environment("camofleet-runner", [KeyValue::new("k8s.pod.uid", pod_uid.to_owned())]) {
        Ok(tracer) => tracer.map(Arc::new),
        Err(error) => {
            tracing::error!(%error, "no session is traced");
            None
        }
    }
}

#[tokio::main]
async fn run(settings: Settings, tracer: Option<Arc<Tracer>>) -> anyhow::Result<()> {
    // Browsers run under the same uid, and have no business in this process's memory.
    set_dumpable(false).context("cannot close this process to others")?;
    let state_dir = &settings.browser.state_dir;
    supervisor::stack::prepare(state_dir)
        .with_context(|| format!("cannot clean the state directory {}", state_dir.display()))?;
    let listener = listen(settings.listen)?;
    let probe_listener = listen(settings.probe_listen)?;
    let shutdown = signals::shutdown().context("cannot handle signals")?;

    tracing::info!(address = %listener.local_addr()?, plan = ?settings.plan, browser = ?settings.browser, "runner starts");
    let slots = settings.plan.slots;
    let (driver, runner) = Driver::new(settings.plan, settings.browser);
    let files = files::raise_limit(FILES).context("cannot raise the limit of open files")?;
    let pairs = usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX);
    let limits = Limits { connections: pairs.min(LIMITS.connections), ..LIMITS };
    let tunnels = Tunnels::new(limits.connections.saturating_sub(RESERVED_CONNECTIONS), slots);
    let gate = Arc::new(http::auth::Gate::new(settings.pod_uid, settings.keys_file));
    let (finished, connections) = (CancellationToken::new(), TaskTracker::new());
    let serve = |server: Server, listener, router| {
        let (finished, connections) = (finished.clone(), connections.clone());
        tokio::spawn(async move { server.serve(listener, router, finished, connections).await })
    };
    // No proxies are between a pod and those that call it.
    let server = |name, limits| Server::new(name, limits, TrustedProxies::default());
    let probes = serve(server("probes", Limits::PROBES), probe_listener, http::server::probes(runner.clone()));
    let api =
        http::server::router(http::server::App { gate, runner: runner.clone(), tracer, tunnels: Arc::new(tunnels) });
    let api = serve(server("api", limits), listener, api);
    tokio::spawn(async move {
        shutdown.cancelled().await;
        runner.report(core::Event::Drain);
    });

    driver.run().await;
    tracing::info!("nothing is left to do");
    finished.cancel();
    api.await.and(probes.await).context("the HTTP server failed")?;
    connections.close();
    // What is not answered by then is cut off.
    tokio::time::timeout(LAST_ANSWERS_TIMEOUT, connections.wait()).await.ok();
    Ok(())
}
