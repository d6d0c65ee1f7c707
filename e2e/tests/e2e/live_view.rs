//! The live view through the gateway: who sees what, who may type, and what its end is told by.

use anyhow::{Result, ensure};
use camofleet_e2e::{
    Space,
    clients::NodeClient,
    doors::{FITTING_CLIENT, knock, share, watch},
    rfb::{self, GREEN},
    test,
    wait::poll,
};
use futures::StreamExt;
use reqwest::StatusCode;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

const PAGE: &str = "data:text/html,<title>Form</title><body style='background:%230a7b53'><input autofocus>";

#[test]
fn the_live_view() {
    test("live-view", async |space: Space| {
        space.pool("pool", json!({ "sessionDefaults": { "display": "LiveView" } })).await?;
        let session = space.ready_session(json!({ "startUrl": PAGE })).await?;
        let mut client = NodeClient::connect(&space, &session).await?;
        client.run("await page.locator('input').waitFor(); await page.locator('input').focus()").await?;

        let control = share(&space, &session.name, &json!({ "scope": "control" })).await?;
        let view = share(&space, &session.name, &json!({ "scope": "view" })).await?;
        let (mut controller, granted) = rfb::at_gateway(&space, &session, &control).await?;
        ensure!(granted == "camofleet.control", "a control token was granted {granted}");
        let (mut viewer, granted) = rfb::at_gateway(&space, &session, &view).await?;
        ensure!(granted == "camofleet.view", "a view token was granted {granted}");
        poll("the viewer to see the page", async || {
            let share = viewer.picture().await?.share_of(GREEN);
            ensure!(share > 0.6, "only {share} of the display has the page's colour");
            Ok(())
        })
        .await?;

        // Keys, a click into nowhere, a pasted text, a resize: none of it may arrive, and the view goes on.
        viewer.press(b'x').await?;
        viewer.send(&[5, 1, 0, 1, 0, 1]).await?;
        viewer.send(&[6, 0, 0, 0, 0, 0, 0, 1, b'x']).await?;
        viewer.send(&[251, 0, 0, 100, 0, 100, 0, 0]).await?;
        let picture = viewer.picture().await?;
        ensure!((picture.width, picture.height) == (1280, 720), "a viewer has changed the display");
        controller.press(b'a').await?;
        poll("the client to read what the controller typed", async || {
            let typed = client.run("return await page.locator('input').inputValue()").await?;
            ensure!(typed == "a", "the page was typed {typed}");
            Ok(())
        })
        .await?;

        for scope in [&view, &control] {
            let url = format!("{}/ws/{}/{}", space.fleet.gateway_url()?, space.namespace, session.name);
            let refused = knock(&url, Some(scope), FITTING_CLIENT).await?.status();
            ensure!(refused == StatusCode::FORBIDDEN, "a live view's token drives the browser: {refused}");
            let runner = session.runner().await?;
            let url = format!("http://{}/v1/sessions/{}/vnc", runner.address, session.uid);
            let refused = knock(&url, Some(scope), FITTING_CLIENT).await?.status();
            ensure!(refused == StatusCode::UNAUTHORIZED, "a user's token opens the runner: {refused}");
        }

        let once = share(&space, &session.name, &json!({ "scope": "view", "single_use": true })).await?;
        let (mut socket, _) = watch(&space, &session.name, &once).await?;
        ensure!(watch(&space, &session.name, &once).await.is_err(), "a token for one connection opened two");
        session.delete().await?;
        let close = loop {
            match socket.next().await {
                Some(Ok(Message::Close(close))) => break close,
                Some(Ok(_)) => {}
                other => anyhow::bail!("the view ended without a word: {other:?}"),
            }
        };
        ensure!(close.as_ref().is_some_and(|close| u16::from(close.code) == 4410), "the view ended with {close:?}");
        the_page_is_there(&space, &session.name).await
    });
}

#[test]
fn a_viewer_that_does_not_read() {
    test("slow-viewer", async |space: Space| {
        space.pool("pool", json!({ "sessionDefaults": { "display": "LiveView" } })).await?;
        let session = space.ready_session(json!({ "startUrl": PAGE })).await?;
        let view = share(&space, &session.name, &json!({ "scope": "view" })).await?;
        let (mut slow, _) = rfb::at_gateway(&space, &session, &view).await?;
        let (mut other, _) = rfb::at_gateway(&space, &session, &view).await?;
        let mut dropped = false;
        poll("the one that does not read to be dropped", async || {
            dropped = dropped || slow.request_full_update().await.is_err();
            let share = other.picture().await?.share_of(GREEN);
            ensure!(
                dropped && share > 0.6,
                "it is still there, and the other one sees the page on {share} of its display"
            );
            Ok(())
        })
        .await?;
        other.picture().await.map(drop)
    });
}

async fn the_page_is_there(space: &Space, name: &str) -> Result<()> {
    let url = format!("{}/view/{}/{name}", space.fleet.gateway_url()?, space.namespace);
    let answer = reqwest::get(url).await?;
    ensure!(answer.status() == StatusCode::OK, "the page is answered {}", answer.status());
    ensure!(answer.text().await?.contains("<script"), "the page has no script");
    Ok(())
}
