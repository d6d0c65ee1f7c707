//! Pools shared by several namespaces.

use anyhow::ensure;
use camofleet_crds::{
    conditions::{self, READY, session as reasons},
    v1alpha1::{BrowserSession, SessionState},
};
use camofleet_e2e::{TestNamespace, clients::NodeClient, test};
use serde_json::json;

fn waits_for(session: &BrowserSession, reason: &str) -> bool {
    let status = session.status.as_ref();
    status.is_some_and(|it| conditions::get(&it.conditions, READY).is_some_and(|ready| ready.reason == reason))
}

#[test]
fn a_shared_pool_serves_namespaces_selected_by_label() {
    test("pool-owner", async |ns: TestNamespace| {
        let owner = ns.name.clone();
        let label = format!("camofleet.dev/guest-of-{owner}");
        let pool = json!({
            "allowedNamespaces": { "from": "Selector", "selector": { "matchLabels": { &label: "yes" } } },
            "limits": { "maxSessionsPerTenant": 1, "maxQueued": 1 },
            "sessionsPerRunner": 0,
        });
        ns.pool("shared", pool).await?;
        let use_pool_as_guest = async |guest: TestNamespace| {
            let spec = json!({ "poolRef": { "name": "shared", "namespace": owner } });
            let session = guest.session(spec.clone()).await?;
            let rejected =
                session.wait_for("to have the reason NotAllowed", |it| waits_for(it, reasons::NOT_ALLOWED)).await?;
            ensure!(rejected.state() == SessionState::Queued, "the session is {:?}", rejected.state());

            guest.set_labels(json!({ &label: "yes" })).await?;
            let ready = session.wait_until_ready().await?;
            let status = ready.status.clone().unwrap_or_default();
            ensure!(status.pool.as_deref() == Some("shared") && status.pool_namespace.as_ref() == Some(&owner));
            let mut client = NodeClient::connect(&guest, &session).await?;
            client.run("await page.goto('data:text/html,<title>guest</title>')").await?;
            ensure!(client.run("return page.title()").await? == "guest");

            // The tenant's limit is one session, and one more may wait.
            let second = guest.session(spec.clone()).await?;
            second
                .wait_for("to have the reason TenantLimitReached", |it| waits_for(it, reasons::TENANT_LIMIT_REACHED))
                .await?;
            let third = guest.session(spec).await?;
            let (_, end) = third.wait_until_finished().await?;
            ensure!(end.reason == reasons::QUEUE_FULL, "the session ended as {end:?}");

            guest.set_labels(json!({ &label: null })).await?;
            second.wait_for("to have the reason NotAllowed", |it| waits_for(it, reasons::NOT_ALLOWED)).await?;
            ensure!(
                session.object().await?.state() == SessionState::Ready,
                "losing the label ended the running session"
            );
            client.run("await browser.close()").await?;
            Ok(())
        };
        ns.with_second_namespace("guest", use_pool_as_guest).await
    });
}
