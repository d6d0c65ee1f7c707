//! All failures at once, in small: the scenario `chaos`.

use crate::fleet::programs;
use std::process::Command;

#[test]
fn hundreds_of_sessions_come_and_go_while_something_fails_every_few_seconds() {
    let (_, operator) = programs();
    let mut command = Command::new(env!("CARGO_BIN_EXE_camofleet-bench"));
    command.arg("--operator").arg(&operator.path);
    command.args(["chaos", "--sessions", "800", "--rate", "15", "--slots", "80", "--seconds-between", "3"]);
    let output = command.output().expect("the program was built");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
}
