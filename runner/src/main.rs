//! Supervises the displays, Playwright servers and browsers of one pod, for the operator and the gateway.
//!
//! `chart` decides, without clock or IO. `driver` is the one task that owns a chart; `stack`, `display`, `process` and `lines` carry
//! out what it decides; `http`, `auth` and `tunnel` are the door to the outside; `traces` tells of sessions' starts.
#![forbid(unsafe_code)]

mod auth;
mod chart;
mod config;
mod display;
mod driver;
mod http;
mod lines;
mod process;
mod stack;
mod traces;
mod tunnel;

use anyhow::Context;
use axum::Router;
use camofleet_runner_api::{
    HEAD_DEADLINE,
    traces::{KeyValue, Tracer},
};
use clap::Parser;
use config::{Flags, Settings};
use driver::Driver;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::sys::{
    prctl::set_dumpable,
    socket::{setsockopt, sockopt},
};
use std::{io::IsTerminal, pin::pin, process::ExitCode, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing_subscriber::EnvFilter;

/// Exit code for a bad command line or environment (EX_USAGE of sysexits.h).
const BAD_USAGE: u8 = 64;
/// How long answers that are under way may take when the runner ends.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections at once: whoever reaches the port can open them, and each takes memory and a file descriptor of the browsers'.
const MAX_CONNECTIONS: usize = 1024;
/// Out of file descriptors, most likely: accepting again at once would spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// A peer that has been silent for so long is asked by the kernel whether it is there, and what was sent to it is given up
/// after so long without an answer (tcp(7)).
const KEEPALIVE_IDLE_SECONDS: u32 = 30;
const KEEPALIVE_INTERVAL_SECONDS: u32 = 10;
const UNANSWERED_MILLIS: u32 = 60_000;

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
    log();
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

fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() { subscriber.init() } else { subscriber.json().init() }
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
    stack::prepare(state_dir).with_context(|| format!("cannot clean the state directory {}", state_dir.display()))?;
    let listener = TcpListener::bind(settings.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", settings.listen))?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;

    tracing::info!(address = %listener.local_addr()?, plan = ?settings.plan, browser = ?settings.browser, "runner starts");
    let (driver, runner) = Driver::new(settings.plan, settings.browser);
    let gate = Arc::new(auth::Gate::new(settings.pod_uid, settings.keys_file));
    let router = http::router(http::App { gate, runner: runner.clone(), tracer });
    let finished = CancellationToken::new();
    let server = tokio::spawn(serve(listener, router, finished.clone()));
    tokio::spawn(async move {
        while terminate.recv().await.is_some() {
            tracing::info!("told to go: no more sessions are taken");
            runner.report(chart::Event::Drain);
        }
    });

    driver.run().await;
    tracing::info!("nothing is left to do");
    finished.cancel();
    match tokio::time::timeout(LAST_ANSWERS_TIMEOUT, server).await {
        Ok(served) => served.context("the HTTP server failed"),
        Err(_) => Ok(()),
    }
}

/// Serves until it is finished, and then until what is under way is answered.
async fn serve(listener: TcpListener, router: Router, finished: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    let accept = async || {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        (listener.accept().await, place)
    };
    while let Some((accepted, place)) = finished.run_until_cancelled(accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let served = serve_connection(stream, service.clone(), finished.clone());
                connections.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(stream: TcpStream, service: TowerToHyperService<Router>, finished: CancellationToken) {
    if let Err(error) = tune(&stream) {
        return tracing::debug!(%error, "a caller went at once");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = finished.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// Small messages go at once, and dead peers are noticed.
fn tune(connection: &TcpStream) -> anyhow::Result<()> {
    connection.set_nodelay(true)?;
    setsockopt(connection, sockopt::KeepAlive, &true)?;
    setsockopt(connection, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
    setsockopt(connection, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECONDS)?;
    Ok(setsockopt(connection, sockopt::TcpUserTimeout, &UNANSWERED_MILLIS)?)
}
