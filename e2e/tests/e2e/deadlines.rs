//! What ends a session by itself. The shortest times that the API allows are 30 s and 60 s, so this one takes a minute.

use anyhow::{Result, ensure};
use camofleet_crds::{conditions::session as reasons, v1alpha1::SessionState};
use camofleet_e2e::{Session, TestNamespace, clients::NodeClient, endpoints, test};
use futures::{SinkExt, StreamExt};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, interval};
use tokio_tungstenite::tungstenite::Message;

const IDLE: Duration = Duration::from_secs(30);
const LIFETIME: Duration = Duration::from_secs(60);

#[test]
fn sessions_end_at_their_idle_timeout_and_lifetime() {
    test("deadlines", async |ns: TestNamespace| {
        ns.pool(
            "pool",
            json!({ "slotsPerRunner": 3, "sessionDefaults": { "idleTimeoutSeconds": 30, "maxLifetimeSeconds": 60 } }),
        )
        .await?;
        let began = Instant::now();
        let (pinging, silent, working) = (
            ns.ready_session(json!({})).await?,
            ns.ready_session(json!({})).await?,
            ns.ready_session(json!({})).await?,
        );
        let (pinging, silent, working) =
            tokio::join!(ping(&ns, &pinging), stay_idle(&ns, &silent), work(&ns, &working));
        let (pinged, kept_silent, worked) = (pinging?, silent?, working?);
        ensure!(pinged >= began + IDLE, "who pings was thrown out early");
        ensure!(kept_silent >= began + IDLE, "who is silent was thrown out early");
        ensure!(worked >= began + LIFETIME, "who works was thrown out early");
        Ok(())
    });
}

/// Waits until it ended for that reason, and says when that was known.
async fn ends_as(session: &Session, reason: &str) -> Result<Instant> {
    let (_, end) = session.finished().await?;
    let at = Instant::now();
    ensure!(end.reason == reason, "it ended as {}, not as {reason}: {}", end.reason, end.message);
    Ok(at)
}

/// A client that sends nothing but pings, which are answered.
async fn ping(ns: &TestNamespace, session: &Session) -> Result<Instant> {
    let mut socket = endpoints::open_websocket(&session.ws_endpoint().await?, &ns.fleet.admin_token()?).await?;
    let mut beat = interval(Duration::from_millis(500));
    let mut answers = 0;
    let pinging = async {
        loop {
            tokio::select! {
                _ = beat.tick() => socket.send(Message::Ping("still here".into())).await.is_ok().then_some(()),
                message = socket.next() => message.and_then(Result::ok).map(|message| answers += usize::from(message.is_pong())),
            }
            .ok_or(())?;
        }
        #[allow(unreachable_code, reason = "gives the block its type")]
        Ok::<(), ()>(())
    };
    let (_, ended) = tokio::join!(pinging, ends_as(session, reasons::IDLE_TIMEOUT));
    ensure!(answers > 10, "only {answers} pings were answered: it was not connected");
    ended
}

/// A Playwright client that is connected and does nothing.
async fn stay_idle(ns: &TestNamespace, session: &Session) -> Result<Instant> {
    let mut client = NodeClient::connect(ns, session).await?;
    let ended = ends_as(session, reasons::IDLE_TIMEOUT).await?;
    ensure!(client.run("return disconnected").await? == true, "its client was not told");
    Ok(ended)
}

/// A client that works on until it cannot.
async fn work(ns: &TestNamespace, session: &Session) -> Result<Instant> {
    let mut client = NodeClient::connect(ns, session).await?;
    while client.run("return page.evaluate(() => 1)").await.is_ok() {}
    let ended = ends_as(session, reasons::LIFETIME_EXCEEDED).await?;
    ensure!(session.object().await?.state() == SessionState::Finished);
    Ok(ended)
}
