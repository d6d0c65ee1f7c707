//! Kills processes of sessions and runners, and checks the published reasons and the recovery. Each test runs
//! `$CAMOFLEET_E2E_ROUNDS` rounds.

use anyhow::{Context, Result, ensure};
use camofleet_crds::{
    conditions::session as reasons,
    v1alpha1::{BrowserSession, StartTier},
};
use camofleet_e2e::{
    Session, TestNamespace,
    clients::NodeClient,
    host::{self, Process, is_browser, is_playwright_server},
    rounds, test,
    wait::{poll, wait_for},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use nix::sys::signal::Signal;
use serde_json::json;

/// Waits until a session is Finished for that reason, and returns the condition's message.
async fn ends_as(session: &Session, reason: &str) -> Result<String> {
    let (_, end) = session.wait_until_finished().await?;
    ensure!(end.reason == reason, "the session ended as {} instead of {reason}: {}", end.reason, end.message);
    Ok(end.message)
}

async fn ensure_usable(ns: &TestNamespace, session: &Session) -> Result<()> {
    let mut client = NodeClient::connect(ns, session).await?;
    let sum = client.run("const sum = await page.evaluate(() => 1 + 1); await browser.close(); return sum").await?;
    ensure!(sum == 2, "the browser computed {sum}");
    Ok(())
}

/// Recognises a process by its command.
type Matches = fn(&Process) -> bool;

#[test]
fn a_session_finishes_when_one_of_its_processes_is_killed() {
    test("killed-process", async |ns: TestNamespace| {
        ns.pool("pool", json!({ "sessionsPerRunner": 0, "sessionDefaults": { "display": "LiveView" } })).await?;
        let victims: [(&str, Matches); 3] = [
            ("the browser", is_browser),
            ("the Playwright server (node)", is_playwright_server),
            ("the display (Xvnc)", |process| process.runs("Xvnc")),
        ];
        for round in 0..rounds() {
            for (what, matches) in victims {
                ns.warm_pool("pool").await?;
                let session = ns.ready_session(json!({})).await?;
                let mut client = NodeClient::connect(&ns, &session).await?;
                host::find_process(&session.runner().await?.uid, what, matches)?.signal(Signal::SIGKILL)?;
                let message = ends_as(&session, reasons::BROWSER_CRASHED)
                    .await
                    .with_context(|| format!("round {round}, {what}"))?;
                ensure!(
                    message.contains(what) && message.contains("SIGKILL"),
                    "{what} was killed, but the message is: {message}"
                );
                ensure!(client.run("return disconnected").await? == true, "the client was not disconnected");
            }
        }
        Ok(())
    });
}

#[test]
fn replaces_a_killed_prewarmed_browser() {
    test("prewarmed", async |ns: TestNamespace| {
        ns.pool("pool", json!({ "sessionsPerRunner": 0 })).await?;
        for round in 0..rounds() {
            ns.warm_pool("pool").await?;
            let runner = only_runner(&ns).await?;
            let browser = host::find_process(&runner, "the hot browser", is_browser)?;
            browser.signal(Signal::SIGKILL)?;
            poll("the browser to exit", async || {
                ensure!(!browser.is_alive());
                Ok(())
            })
            .await?;
            let session = ns.ready_session(json!({})).await.with_context(|| format!("round {round}"))?;
            ensure_usable(&ns, &session).await.with_context(|| format!("round {round}"))?;
            session.delete().await?;
            session.wait_until_gone().await?;
        }
        Ok(())
    });
}

#[test]
fn replaces_a_hung_prewarmed_browser() {
    test("hung-browser", async |ns: TestNamespace| {
        ns.pool("pool", json!({ "sessionsPerRunner": 0 })).await?;
        for round in 0..rounds() {
            ns.warm_pool("pool").await?;
            let browser = host::find_process(&only_runner(&ns).await?, "the hot browser", is_browser)?;
            browser.signal(Signal::SIGSTOP)?;
            poll("the hung browser to be replaced", async || {
                let hot: u32 = ns.runner_states().await?.values().map(|state| state.hot.headless).sum();
                ensure!(hot == 0 || !browser.is_alive(), "it still counts as hot");
                Ok(())
            })
            .await?;
            let session = ns.ready_session(json!({})).await.with_context(|| format!("round {round}"))?;
            ensure_usable(&ns, &session).await.with_context(|| format!("round {round}"))?;
            ensure!(!browser.is_alive(), "round {round}: the hung browser is still running");
            session.delete().await?;
            session.wait_until_gone().await?;
        }
        Ok(())
    });
}

async fn only_runner(ns: &TestNamespace) -> Result<String> {
    let runners = ns.runners().await?;
    ensure!(runners.len() == 1, "expected one runner, found {}", runners.len());
    runners[0].uid().context("the pod has no UID")
}

#[test]
fn finishes_sessions_of_a_lost_runner_and_replaces_it() {
    test("lost-runner", async |ns: TestNamespace| {
        ns.pool("pool", json!({})).await?;
        for round in 0..rounds() {
            let session = ns.ready_session(json!({})).await?;
            let runner = session.runner().await?;
            if round % 2 == 0 {
                ns.api::<Pod>().delete(&runner.name, &DeleteParams::default().grace_period(0)).await?;
            } else {
                host::find_process(&runner.uid, "the runner", |process| process.runs("camofleet-runner"))?
                    .signal(Signal::SIGKILL)?;
            }
            let message = ends_as(&session, reasons::RUNNER_LOST).await.with_context(|| format!("round {round}"))?;
            ensure!(message.contains(&runner.name), "the message does not name the pod: {message}");
            wait_for(&ns.api::<Pod>(), &runner.name, "to be deleted", |pod: Option<&Pod>| {
                pod.is_none_or(|pod| pod.uid().as_ref() != Some(&runner.uid))
            })
            .await?;
            ns.warm_pool("pool").await?;
        }
        let session = ns.ready_session(json!({})).await?;
        ensure_usable(&ns, &session).await?;
        let tier = |session: BrowserSession| session.status.unwrap_or_default().start_tier;
        ensure!(tier(session.object().await?) == Some(StartTier::Hot), "the recovered pool started the session cold");
        Ok(())
    });
}
