//! Idle timeout and lifetime of sessions. The API's minimums are 30 s and 60 s, so this test takes a minute.

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
            tokio::join!(ping(&ns, &pinging), stay_idle(&ns, &silent), drive(&ns, &working));
        let (pinging_ended, silent_ended, working_ended) = (pinging?, silent?, working?);
        ensure!(pinging_ended >= began + IDLE, "the session of the pinging client ended early");
        ensure!(silent_ended >= began + IDLE, "the session of the silent client ended early");
        ensure!(working_ended >= began + LIFETIME, "the session of the working client ended early");
        Ok(())
    });
}

/// Waits until a session is Finished for that reason. Returns the time at which the test observed it.
async fn ends_as(session: &Session, reason: &str) -> Result<Instant> {
    let (_, end) = session.wait_until_finished().await?;
    let at = Instant::now();
    ensure!(end.reason == reason, "the session ended as {} instead of {reason}: {}", end.reason, end.message);
    Ok(at)
}

/// Sends only pings until the session ends, and checks that they get pongs.
async fn ping(ns: &TestNamespace, session: &Session) -> Result<Instant> {
    let mut socket = endpoints::open_websocket(&session.ws_endpoint().await?, &ns.fleet.admin_token()?).await?;
    let mut ticks = interval(Duration::from_millis(500));
    let mut pongs = 0;
    let pinging = async {
        loop {
            tokio::select! {
                _ = ticks.tick() => socket.send(Message::Ping("still here".into())).await.is_ok().then_some(()),
                message = socket.next() => message.and_then(Result::ok).map(|message| pongs += usize::from(message.is_pong())),
            }
            .ok_or(())?;
        }
        #[allow(unreachable_code, reason = "gives the block its type")]
        Ok::<(), ()>(())
    };
    let (_, ended) = tokio::join!(pinging, ends_as(session, reasons::IDLE_TIMEOUT));
    ensure!(pongs > 10, "received only {pongs} pongs, so the client was not connected");
    ended
}

/// Keeps a Playwright client connected without activity until the session ends.
async fn stay_idle(ns: &TestNamespace, session: &Session) -> Result<Instant> {
    let mut client = NodeClient::connect(ns, session).await?;
    let ended = ends_as(session, reasons::IDLE_TIMEOUT).await?;
    ensure!(client.run("return disconnected").await? == true, "the client was not disconnected");
    Ok(ended)
}

/// Drives the page until the session ends.
async fn drive(ns: &TestNamespace, session: &Session) -> Result<Instant> {
    let mut client = NodeClient::connect(ns, session).await?;
    while client.run("return page.evaluate(() => 1)").await.is_ok() {}
    let ended = ends_as(session, reasons::LIFETIME_EXCEEDED).await?;
    ensure!(session.object().await?.state() == SessionState::Finished);
    Ok(ended)
}
