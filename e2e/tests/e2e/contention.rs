//! More concurrent sessions than there are slots.

use anyhow::{Context, Result, ensure};
use camofleet_e2e::{
    TestNamespace,
    clients::NodeClient,
    rest::{Rest, allow_gateway_writes},
    test,
    wait::poll,
};
use futures::future::try_join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn serves_queued_sessions_as_slots_become_free() {
    test("queue-contention", async |ns: TestNamespace| {
        ns.pool("pool", json!({ "replicas": 2, "slotsPerRunner": 2, "sessionsPerRunner": 0 })).await?;
        let one = async |number: usize| -> Result<()> {
            let title = format!("number {number}");
            let session = ns.session(json!({ "startUrl": format!("data:text/html,<title>{title}</title>") })).await?;
            session.wait_until_ready().await?;
            let mut client = NodeClient::connect(&ns, &session).await?;
            let loaded = client.run("await page.waitForFunction(() => document.title); return page.title()").await?;
            ensure!(loaded == title.as_str(), "the session of {title} loaded {loaded}");
            session.delete().await
        };
        try_join_all((0..12).map(one)).await?;
        Ok(())
    });
}

#[test]
fn rest_serves_as_many_requests_as_there_are_slots() {
    test("rest-contention", async |ns: TestNamespace| {
        ns.pool("pool", json!({ "replicas": 2, "slotsPerRunner": 2, "sessionsPerRunner": 0 })).await?;
        allow_gateway_writes(&ns).await?;
        let rest = Rest::new(&ns)?;
        let one = async |_: usize| -> Result<Option<Value>> {
            let response = rest.request(Method::POST, "/sessions")?.json(&json!({})).send().await?;
            let (status, may_retry) = (response.status(), response.headers().contains_key("retry-after"));
            let session: Value = response.json().await?;
            if status == StatusCode::SERVICE_UNAVAILABLE && may_retry {
                return Ok(None);
            }
            ensure!(status == StatusCode::CREATED && session["status"] == "READY", "got {status}: {session}");
            Ok(Some(session["id"].clone()))
        };
        // No session releases its slot, so four requests are served and the others get 503.
        let served: BTreeSet<_> =
            try_join_all((0..20).map(one)).await?.into_iter().flatten().map(|id| id.to_string()).collect();
        ensure!(served.len() == 4, "{} of 20 requests were served on four slots", served.len());
        poll("sessions that were not served to be deleted", async || {
            let listed = rest.expect(StatusCode::OK, Method::GET, "/sessions", None).await?;
            let listed: BTreeSet<_> = listed
                .as_array()
                .context("the response is not a list")?
                .iter()
                .map(|it| it["id"].to_string())
                .collect();
            ensure!(listed == served, "listed {listed:?}, served {served:?}");
            Ok(())
        })
        .await?;
        let running: usize = ns.runner_states().await?.values().map(|state| state.sessions.len()).sum();
        ensure!(running == 4, "{running} sessions are running");
        Ok(())
    });
}
