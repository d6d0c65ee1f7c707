//! The operator's writes, counted while nobody else has it write.

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
        // The operator counts a write when it is answered, which a watch may outrun.
        let come_to = async |expected: f64, what: &str| {
            poll(what, async || {
                let so_far = writes().await? - before;
                ensure!((so_far - expected).abs() < 0.5, "{so_far} writes, not {expected}");
                Ok(())
            })
            .await
        };
        let session = ns.session(json!({})).await?;
        let ready = session.ready().await?;
        ensure!(ready.status.unwrap_or_default().start_tier == Some(StartTier::Hot), "it started cold");
        come_to(1.0, "one write until Ready").await?;
        host::find_process(&session.runner().await?.uid, "the browser", is_browser)?.signal(Signal::SIGKILL)?;
        session.finished().await?;
        come_to(2.0, "two writes in its life").await?;
        // The API server tells the same: created, Ready, Finished.
        poll("the history to be complete", async || {
            let states: Vec<_> = history.versions(&session.uid).iter().map(BrowserSession::state).collect();
            ensure!(
                states == [SessionState::Pending, SessionState::Ready, SessionState::Finished],
                "it went {states:?}"
            );
            Ok(())
        })
        .await
    });
}
