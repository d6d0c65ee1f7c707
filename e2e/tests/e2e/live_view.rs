//! The live view through the gateway: scopes, input filtering, slow viewers, and the close code.

use anyhow::{Result, ensure};
use camofleet_e2e::{
    TestNamespace,
    clients::NodeClient,
    endpoints::{COMPATIBLE_CLIENT, request_upgrade},
    rest::issue_session_token,
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
fn live_view_accepts_input_from_controllers_only() {
    test("live-view", async |ns: TestNamespace| {
        ns.pool("pool", json!({ "sessionDefaults": { "display": "LiveView" } })).await?;
        let session = ns.ready_session(json!({ "startUrl": PAGE })).await?;
        let mut client = NodeClient::connect(&ns, &session).await?;
        client.run("await page.locator('input').waitFor(); await page.locator('input').focus()").await?;

        let control = issue_session_token(&ns, &session.name, &json!({ "scope": "control" })).await?;
        let view = issue_session_token(&ns, &session.name, &json!({ "scope": "view" })).await?;
        let (mut controller, granted) = rfb::connect_viewer(&ns, &session, &control).await?;
        ensure!(granted == "camofleet.control", "the gateway granted a control token {granted}");
        let (mut viewer, granted) = rfb::connect_viewer(&ns, &session, &view).await?;
        ensure!(granted == "camofleet.view", "the gateway granted a view token {granted}");
        poll("the viewer to see the page", async || {
            let share = viewer.picture().await?.share_of(GREEN);
            ensure!(share > 0.6, "the page covers only {share} of the display");
            Ok(())
        })
        .await?;

        // The gateway must drop the viewer's keys, clicks, pasted text and resize, and keep the view open.
        viewer.press(b'x').await?;
        viewer.send(&[5, 1, 0, 1, 0, 1]).await?;
        viewer.send(&[6, 0, 0, 0, 0, 0, 0, 1, b'x']).await?;
        viewer.send(&[251, 0, 0, 100, 0, 100, 0, 0]).await?;
        let picture = viewer.picture().await?;
        ensure!((picture.width, picture.height) == (1280, 720), "a viewer resized the display");
        controller.press(b'a').await?;
        poll("the page to receive the controller's input", async || {
            let typed = client.run("return await page.locator('input').inputValue()").await?;
            ensure!(typed == "a", "the input has the value {typed:?}");
            Ok(())
        })
        .await?;

        for scope in [&view, &control] {
            let url = format!("{}/ws/{}/{}", ns.fleet.gateway_url()?, ns.name, session.name);
            let status = request_upgrade(&url, Some(scope), COMPATIBLE_CLIENT).await?.status();
            ensure!(status == StatusCode::FORBIDDEN, "/ws with a live view's token: got {status}, expected 403");
            let runner = session.runner().await?;
            let url = format!("http://{}/v1/sessions/{}/vnc", runner.address, session.uid);
            let status = request_upgrade(&url, Some(scope), COMPATIBLE_CLIENT).await?.status();
            ensure!(status == StatusCode::UNAUTHORIZED, "the runner with a session token: got {status}, expected 401");
        }

        let once = issue_session_token(&ns, &session.name, &json!({ "scope": "view", "single_use": true })).await?;
        let (mut socket, _) = rfb::open_live_view(&ns, &session.name, &once).await?;
        ensure!(
            rfb::open_live_view(&ns, &session.name, &once).await.is_err(),
            "a single-use token opened two connections"
        );
        session.delete().await?;
        let close = loop {
            match socket.next().await {
                Some(Ok(Message::Close(close))) => break close,
                Some(Ok(_)) => {}
                other => anyhow::bail!("the view ended without a Close frame: {other:?}"),
            }
        };
        ensure!(
            close.as_ref().is_some_and(|close| u16::from(close.code) == 4410),
            "the view closed with {close:?}, expected code 4410"
        );
        ensure_page_is_served(&ns, &session.name).await
    });
}

#[test]
fn disconnects_a_viewer_that_does_not_read() {
    test("slow-viewer", async |ns: TestNamespace| {
        ns.pool("pool", json!({ "sessionDefaults": { "display": "LiveView" } })).await?;
        let session = ns.ready_session(json!({ "startUrl": PAGE })).await?;
        let view = issue_session_token(&ns, &session.name, &json!({ "scope": "view" })).await?;
        let (mut slow, _) = rfb::connect_viewer(&ns, &session, &view).await?;
        let (mut other, _) = rfb::connect_viewer(&ns, &session, &view).await?;
        let mut dropped = false;
        poll("the gateway to disconnect the viewer that does not read", async || {
            dropped = dropped || slow.request_full_update().await.is_err();
            let share = other.picture().await?.share_of(GREEN);
            ensure!(
                dropped && share > 0.6,
                "disconnected: {dropped}; the other viewer sees the page on {share} of the display"
            );
            Ok(())
        })
        .await?;
        other.picture().await.map(drop)
    });
}

async fn ensure_page_is_served(ns: &TestNamespace, name: &str) -> Result<()> {
    let url = format!("{}/view/{}/{name}", ns.fleet.gateway_url()?, ns.name);
    let response = reqwest::get(url).await?;
    ensure!(response.status() == StatusCode::OK, "the page returned {}", response.status());
    ensure!(response.text().await?.contains("<script"), "the page has no script");
    Ok(())
}
