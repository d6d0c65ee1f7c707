//! What is killed, and what its users are told. Each test repeats itself `$CAMOFLEET_E2E_ROUNDS` times.

use anyhow::{Context, Result, ensure};
use camofleet_crds::{
    conditions::session as reasons,
    v1alpha1::{BrowserSession, StartTier},
};
use camofleet_e2e::{
    Session, Space,
    clients::NodeClient,
    host::{self, Process, is_browser, is_playwright_server},
    rounds, test,
    wait::{poll, until},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use nix::sys::signal::Signal;
use serde_json::json;

/// Waits until a session is over for that reason, and hands over the message.
async fn ends_as(session: &Session, reason: &str) -> Result<String> {
    let (_, end) = session.finished().await?;
    ensure!(end.reason == reason, "it ended as {}, not as {reason}: {}", end.reason, end.message);
    Ok(end.message)
}

async fn works(space: &Space, session: &Session) -> Result<()> {
    let mut client = NodeClient::connect(space, session).await?;
    let sum = client.run("const sum = await page.evaluate(() => 1 + 1); await browser.close(); return sum").await?;
    ensure!(sum == 2, "the browser computes {sum}");
    Ok(())
}

/// Tells a process by its command.
type IsIt = fn(&Process) -> bool;

#[test]
fn a_part_of_a_session_is_killed() {
    test("parts", async |space: Space| {
        space.pool("pool", json!({ "sessionsPerRunner": 0, "sessionDefaults": { "display": "LiveView" } })).await?;
        let victims: [(&str, IsIt); 3] = [
            ("the browser", is_browser),
            ("the Playwright server (node)", is_playwright_server),
            ("the display (Xvnc)", |process| process.is("Xvnc")),
        ];
        for round in 0..rounds() {
            for (what, is_it) in victims {
                space.warm_pool("pool").await?;
                let session = space.ready_session(json!({})).await?;
                let mut client = NodeClient::connect(&space, &session).await?;
                host::the_one(&session.runner().await?.uid, what, is_it)?.signal(Signal::SIGKILL)?;
                let message = ends_as(&session, reasons::BROWSER_CRASHED)
                    .await
                    .with_context(|| format!("round {round}, {what}"))?;
                ensure!(
                    message.contains(what) && message.contains("SIGKILL"),
                    "{what} was killed, and it is said: {message}"
                );
                ensure!(client.run("return disconnected").await? == true, "its client was not told");
            }
        }
        Ok(())
    });
}

#[test]
fn a_prewarmed_browser_is_killed() {
    test("prewarmed", async |space: Space| {
        space.pool("pool", json!({ "sessionsPerRunner": 0 })).await?;
        for round in 0..rounds() {
            space.warm_pool("pool").await?;
            let runner = only_runner(&space).await?;
            let browser = host::the_one(&runner, "the hot browser", is_browser)?;
            browser.signal(Signal::SIGKILL)?;
            poll("the browser to be dead", async || {
                ensure!(!browser.lives());
                Ok(())
            })
            .await?;
            let session = space.ready_session(json!({})).await.with_context(|| format!("round {round}"))?;
            works(&space, &session).await.with_context(|| format!("round {round}"))?;
            session.delete().await?;
            session.gone().await?;
        }
        Ok(())
    });
}

#[test]
fn a_prewarmed_browser_hangs() {
    test("hangs", async |space: Space| {
        space.pool("pool", json!({ "sessionsPerRunner": 0 })).await?;
        for round in 0..rounds() {
            space.warm_pool("pool").await?;
            let browser = host::the_one(&only_runner(&space).await?, "the hot browser", is_browser)?;
            browser.signal(Signal::SIGSTOP)?;
            poll("the browser that hangs to be given up", async || {
                let hot: u32 = space.runner_states().await?.values().map(|state| state.hot.headless).sum();
                ensure!(hot == 0 || !browser.lives(), "it still counts as hot");
                Ok(())
            })
            .await?;
            let session = space.ready_session(json!({})).await.with_context(|| format!("round {round}"))?;
            works(&space, &session).await.with_context(|| format!("round {round}"))?;
            ensure!(!browser.lives(), "round {round}: the browser that hangs was left");
            session.delete().await?;
            session.gone().await?;
        }
        Ok(())
    });
}

async fn only_runner(space: &Space) -> Result<String> {
    let runners = space.runners().await?;
    ensure!(runners.len() == 1, "one runner was expected, not {}", runners.len());
    runners[0].uid().context("a pod has a UID")
}

#[test]
fn a_runner_is_lost() {
    test("lost", async |space: Space| {
        space.pool("pool", json!({})).await?;
        for round in 0..rounds() {
            let session = space.ready_session(json!({})).await?;
            let runner = session.runner().await?;
            if round % 2 == 0 {
                space.api::<Pod>().delete(&runner.name, &DeleteParams::default().grace_period(0)).await?;
            } else {
                host::the_one(&runner.uid, "the runner", |process| process.is("camofleet-runner"))?
                    .signal(Signal::SIGKILL)?;
            }
            let message = ends_as(&session, reasons::RUNNER_LOST).await.with_context(|| format!("round {round}"))?;
            ensure!(message.contains(&runner.name), "the message does not name the pod: {message}");
            until(&space.api::<Pod>(), &runner.name, "to be gone", |pod: Option<&Pod>| {
                pod.is_none_or(|pod| pod.uid().as_ref() != Some(&runner.uid))
            })
            .await?;
            space.warm_pool("pool").await?;
        }
        let session = space.ready_session(json!({})).await?;
        works(&space, &session).await?;
        let tier = |session: BrowserSession| session.status.unwrap_or_default().start_tier;
        ensure!(tier(session.object().await?) == Some(StartTier::Hot), "the pool that healed is not warm");
        Ok(())
    });
}
