//! A small run of the `chaos` scenario.

use crate::fixture::programs;
use std::process::Command;

#[test]
fn no_session_is_lost_while_a_failure_is_injected_every_few_seconds() {
    let (_, operator) = programs();
    let mut command = Command::new(env!("CARGO_BIN_EXE_camofleet-bench"));
    command.arg("--operator").arg(&operator.path);
    command.args(["chaos", "--sessions", "800", "--rate", "15", "--slots", "80", "--seconds-between", "3"]);
    let output = command.output().expect("the benchmark binary was built");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
}
