//! From a claim to a browser. In milliseconds:
//!
//! - `claim_to_ready`: from the create of a session to the watch event that says Ready, hot, one after another.
//! - `floor`: the same three things by a bare client: a create, a status patch, and the watch event of the patch.
//! - `cold_first_page`: from the create to a page that is loaded, when the browser is launched for the session.
//! - `hot_loaded_page`: from the create to a loaded page, the client taking the page that is there.
//! - `plain_loaded_page`: a plain prelaunched Playwright server on this machine: connect, newContext, newPage, goto.

use crate::FIREFOX;
use anyhow::{Context, Result, ensure};
use camofleet_crds::v1alpha1::{BrowserSession, StartTier};
use camofleet_e2e::{Space, clients::NodeClient};
use futures::{StreamExt, pin_mut};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const HOT: usize = 50;
const COLD: usize = 10;
const PAGES: usize = 20;
const PAGE: &str = "data:text/html,<title>measured</title>";

pub async fn measure(space: Space) -> Result<()> {
    let (hot, floor) = claims(&space).await?;
    let cold = cold_pages(&space).await?;
    let (fleet, plain) = loaded_pages(&space).await?;
    crate::report(
        "milliseconds",
        vec![
            ("claim_to_ready", hot),
            ("floor", floor),
            ("cold_first_page", cold),
            ("hot_loaded_page", fleet),
            ("plain_loaded_page", plain),
        ],
    );
    Ok(())
}

fn since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

/// Follows all sessions of the namespace over a watch that is open before anything is made.
fn follow(api: Api<BrowserSession>) -> UnboundedReceiver<BrowserSession> {
    let (tell, hear) = unbounded_channel();
    tokio::spawn(async move {
        let events = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
        pin_mut!(events);
        while let Some(event) = events.next().await {
            if let Ok(session) = event
                && tell.send(session).is_err()
            {
                return;
            }
        }
    });
    hear
}

async fn heard(
    events: &mut UnboundedReceiver<BrowserSession>,
    uid: &str,
    holds: impl Fn(&BrowserSession) -> bool,
) -> Result<()> {
    loop {
        let session = events.recv().await.context("the watch ended")?;
        if session.uid().as_deref() == Some(uid) && holds(&session) {
            return Ok(());
        }
    }
}

/// Hot claims and bare writes in turns, so that both see the same machine.
async fn claims(space: &Space) -> Result<(Vec<f64>, Vec<f64>)> {
    space.pool("hot", json!({ "sessionsPerRunner": 0 })).await?;
    let api = space.api::<BrowserSession>();
    let mut events = follow(api.clone());
    let (mut hot, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..HOT {
        let start = Instant::now();
        let session = space.session(json!({ "poolRef": { "name": "hot" } })).await?;
        heard(&mut events, &session.uid, |session| session.state().as_str() == "Ready").await?;
        hot.push(since(start));
        let tier = session.object().await?.status.unwrap_or_default().start_tier;
        ensure!(tier == Some(StartTier::Hot), "a session started cold: the figures would mix two things");
        session.delete().await?;
        // The next browser is being launched: both are measured on a machine at rest.
        space.warm_pool("hot").await?;

        // No pool of that name: the operator lets the session alone for its first 250 ms.
        let start = Instant::now();
        let session = space.session(json!({ "poolRef": { "name": "nobody" } })).await?;
        let status = json!({ "status": { "browserVersion": "floor" } });
        api.patch_status(&session.name, &PatchParams::default(), &Patch::Merge(status)).await?;
        heard(&mut events, &session.uid, |session| {
            session.status.as_ref().is_some_and(|status| status.browser_version.is_some())
        })
        .await?;
        floor.push(since(start));
        session.delete().await?;
    }
    Ok((hot, floor))
}

async fn cold_pages(space: &Space) -> Result<Vec<f64>> {
    let never_hot = json!({ "sessionsPerRunner": 0, "prewarm": { "headless": 0, "headful": 0 } });
    space.pool("cold", never_hot).await?;
    let mut samples = Vec::new();
    for _ in 0..COLD {
        let start = Instant::now();
        let session = space.ready_session(json!({ "poolRef": { "name": "cold" } })).await?;
        samples.push(load(space, &session, start).await?);
        session.delete().await?;
        space.warm_pool("cold").await?;
    }
    Ok(samples)
}

/// Loads a page in the page that is there. Starting Node is no part of what is measured: the client that connects is one
/// that has been there before.
async fn load(space: &Space, session: &camofleet_e2e::Session, start: Instant) -> Result<f64> {
    let before_node = since(start);
    let mut client = NodeClient::start(space, session).await?;
    client.run("return 0").await?;
    let begin = Instant::now();
    client.run(&format!("await connect(); await page.goto({PAGE:?})")).await?;
    let sample = before_node + since(begin);
    client.run("await browser.close()").await?;
    Ok(sample)
}

async fn loaded_pages(space: &Space) -> Result<(Vec<f64>, Vec<f64>)> {
    let demo = space.ready_session(json!({ "poolRef": { "name": "hot" } })).await?;
    // Any client will do for driving the plain server.
    let mut plain_client = NodeClient::start(space, &demo).await?;
    demo.delete().await?;
    space.warm_pool("hot").await?;
    let launch = format!(
        "globalThis.plain = await playwright.firefox.launchServer({{ channel: 'moz-firefox', executablePath: {FIREFOX:?}, headless: true }}); return 0"
    );
    plain_client.run(&launch).await?;
    let (mut fleet, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..PAGES {
        let start = Instant::now();
        let session = space.ready_session(json!({ "poolRef": { "name": "hot" } })).await?;
        fleet.push(load(space, &session, start).await?);
        session.delete().await?;
        space.warm_pool("hot").await?;

        let took = plain_client
            .run(&format!(
                "const start = performance.now(); const browser = await playwright.firefox.connect(plain.wsEndpoint());
                 const page = await (await browser.newContext()).newPage(); await page.goto({PAGE:?});
                 const took = performance.now() - start; await browser.close(); return took"
            ))
            .await?;
        plain.push(took.as_f64().context("a time is a number")?);
    }
    plain_client.run("await plain.close()").await?;
    Ok((fleet, plain))
}
