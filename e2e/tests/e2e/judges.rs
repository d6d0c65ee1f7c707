//! Popular clients of Playwright (`e2e/judges`) have the same outcomes on a session as on a plain server.

use anyhow::ensure;
use camofleet_e2e::{TestNamespace, fleet::repository_path, test};
use serde_json::json;
use std::env;
use tokio::process::Command;

/// Every n-th test of each judge runs: `$CAMOFLEET_E2E_JUDGES_SAMPLE`, or 10 without it.
fn sample() -> String {
    env::var("CAMOFLEET_E2E_JUDGES_SAMPLE").unwrap_or_else(|_| "10".to_owned())
}

#[test]
fn popular_clients_have_the_same_outcomes_on_a_session_and_a_plain_server() {
    test("judges", async |ns: TestNamespace| {
        ns.pool("pool", json!({})).await?;
        let session = ns.ready_session(json!({ "idleTimeoutSeconds": 3600 })).await?;
        let output = Command::new(repository_path("e2e/judges/run"))
            .args(["--site-host", &ns.fleet.host_address()?.to_string(), "--sample", &sample()])
            .env("ENDPOINT", session.ws_endpoint().await?)
            .env("TOKEN", ns.fleet.admin_token()?)
            .kill_on_drop(true)
            .output()
            .await?;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "e2e/judges/run: {}\n{stdout}\n{stderr}", output.status);
        println!("{stdout}");
        Ok(())
    });
}
