//! See the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    camofleet_gateway::app::main()
}
