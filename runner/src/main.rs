//! The runner's program: parses and checks the flags, then runs.
#![forbid(unsafe_code)]

use camofleet_runner::{config::Flags, run};
use camofleet_runtime::logging;
use clap::Parser;
use std::process::ExitCode;

/// Exit code for an invalid command line or environment (EX_USAGE of sysexits.h).
const BAD_USAGE: u8 = 64;

fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => {
            let code = if error.use_stderr() { BAD_USAGE } else { 0 };
            // There is no other place to report a failure to print.
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
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
