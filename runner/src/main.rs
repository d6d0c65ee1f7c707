//! Supervises the displays, Playwright servers and browsers of one pod, for the operator and the gateway.
//!
//! `chart` decides, without clock or IO. `driver` is the one task that owns a chart; `stack`, `display` and `process` carry
//! out what it decides; `http`, `auth` and `tunnel` are the door to the outside.
#![forbid(unsafe_code)]

mod auth;
mod chart;
mod config;
mod display;
mod driver;
mod http;
mod process;
mod stack;
mod tunnel;

use anyhow::Context;
use axum::serve::{Listener, ListenerExt};
use clap::Parser;
use config::{Flags, Settings};
use driver::Driver;
use nix::sys::{
    prctl::set_dumpable,
    socket::{setsockopt, sockopt},
};
use std::{io::IsTerminal, process::ExitCode, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Exit code for a bad command line or environment (EX_USAGE of sysexits.h).
const BAD_USAGE: u8 = 64;
/// How long answers that are under way may take when the runner ends.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that has been silent for so long is asked by the kernel whether it is there, and what was sent to it is given up
/// after so long without an answer (tcp(7)).
const KEEPALIVE_IDLE_SECONDS: u32 = 30;
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
    match run(settings) {
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

#[tokio::main]
async fn run(settings: Settings) -> anyhow::Result<()> {
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
    let router = http::router(http::App { gate, runner: runner.clone() });
    let finished = CancellationToken::new();
    let server = axum::serve(tuned(listener), router).with_graceful_shutdown(finished.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());
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
        Ok(Ok(served)) => served.context("the HTTP server failed"),
        Ok(Err(panicked)) => Err(panicked).context("the HTTP server failed"),
        Err(_) => Ok(()),
    }
}

/// Small messages go at once, and dead peers are noticed.
fn tuned(listener: TcpListener) -> impl Listener<Io = TcpStream, Addr = std::net::SocketAddr> {
    listener.tap_io(|connection| {
        let tuned = connection.set_nodelay(true).map_err(anyhow::Error::from).and_then(|()| {
            setsockopt(connection, sockopt::KeepAlive, &true)?;
            setsockopt(connection, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
            Ok(setsockopt(connection, sockopt::TcpUserTimeout, &UNANSWERED_MILLIS)?)
        });
        if let Err(error) = tuned {
            // It was closed already, which its reader will see.
            tracing::debug!(%error, "cannot tune a connection");
        }
    })
}
