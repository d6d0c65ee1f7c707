//! Counts the operator's status writes while no other test causes any.

use anyhow::ensure;
use camofleet_crds::v1alpha1::{BrowserSession, SessionState, StartTier};
use camofleet_e2e::{
    TestNamespace,
    history::History,
    host::{self, is_browser},
    metrics, test_alone,
    wait::poll,
};
use nix::sys::signal::Signal;
use serde_json::json;

#[test]
fn writes_a_session_status_once_until_ready_and_twice_in_total() {
    test_alone("writes", async |ns: TestNamespace| {
        ns.pool("pool", json!({})).await?;
        let history = History::watch(ns.api()).await?;
        let operator = ns.fleet.operator().await?;
        let writes = async || {
            Ok::<_, anyhow::Error>(
                metrics::of(&operator)
                    .await?
                    .sum("camofleet_operator_writes_total", &[("kind", "browsersession_status")]),
            )
        };
        let before = writes().await?;
        // The operator counts a write when it receives the response, which can be later than the watch event.
        let wait_for_writes = async |expected: f64, what: &str| {
            poll(what, async || {
                let so_far = writes().await? - before;
                ensure!((so_far - expected).abs() < 0.5, "counted {so_far} writes, expected {expected}");
                Ok(())
            })
            .await
        };
        let session = ns.session(json!({})).await?;
        let ready = session.wait_until_ready().await?;
        ensure!(ready.status.unwrap_or_default().start_tier == Some(StartTier::Hot), "the session started cold");
        wait_for_writes(1.0, "one write until Ready").await?;
        host::find_process(&session.runner().await?.uid, "the browser", is_browser)?.signal(Signal::SIGKILL)?;
        session.wait_until_finished().await?;
        wait_for_writes(2.0, "two writes until Finished").await?;
        // The versions that the API server published agree: created, Ready, Finished.
        poll("the history to be complete", async || {
            let states: Vec<_> = history.versions(&session.uid).iter().map(BrowserSession::state).collect();
            ensure!(
                states == [SessionState::Pending, SessionState::Ready, SessionState::Finished],
                "the session's states are {states:?}"
            );
            Ok(())
        })
        .await
    });
}
