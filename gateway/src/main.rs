//! The gateway's binary; see the library crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    camofleet_gateway::app::main()
}
