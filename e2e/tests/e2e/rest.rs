//! Sessions through the REST API.

use anyhow::{Context, Result, ensure};
use camofleet_crds::v1alpha1::{BrowserSession, SessionState};
use camofleet_e2e::{
    TestNamespace,
    clients::{NodeClient, fuzz_rest},
    rest::{Rest, allow_gateway_writes, wait_for_no_sessions},
    test,
    wait::{poll, wait_for},
};
use k8s_openapi::jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

#[test]
fn creates_uses_and_deletes_a_session_through_rest() {
    test("rest", async |ns: TestNamespace| {
        ns.pool("pool", json!({})).await?;
        let rest = Rest::new(&ns)?;
        let request = json!({
            "headless": true, "idle_ttl_seconds": 600, "labels": { "Any Team": "ä" },
            "start_url": "data:text/html,<title>Start</title>", "start_url_wait": "load",
        });
        let (status, problem) = rest.call(Method::POST, "/sessions", Some(&request)).await?;
        let detail = problem["detail"].as_str().unwrap_or_default();
        ensure!(status == StatusCode::FORBIDDEN && detail.contains("cannot create resource"), "{status} {problem}");
        allow_gateway_writes(&ns).await?;

        let session = create(&rest, &request).await?;
        for (field, value) in [
            ("worker", json!("pool")),
            ("status", json!("READY")),
            ("browser", json!("firefox")),
            ("headless", json!(true)),
            ("vnc_enabled", json!(false)),
            ("idle_ttl_seconds", json!(600)),
            ("labels", json!({ "Any Team": "ä" })),
            ("hot_start", json!(true)),
        ] {
            ensure!(session[field] == value, "{field} is {}: {session}", session[field]);
        }
        let path = format!("/sessions/pool/{}", session["id"].as_str().context("the session has no id")?);
        let shown = poll("the start page to be reported as loaded", async || {
            let shown = rest.expect(StatusCode::OK, Method::GET, &path, None).await?;
            ensure!(shown["start_page"]["state"] == "loaded", "{shown}");
            Ok(shown)
        })
        .await?;
        connect_to_session_endpoint(&ns, &session).await?;
        let touched = rest.expect(StatusCode::OK, Method::POST, &format!("{path}/touch"), None).await?;
        ensure!(last_seen(&touched)? > last_seen(&shown)?, "touched: {touched}, before: {shown}");
        let listed = rest.expect(StatusCode::OK, Method::GET, "/sessions", None).await?;
        ensure!(listed.as_array().is_some_and(|all| all.len() == 1 && all[0]["id"] == session["id"]), "{listed}");
        let health = rest.expect(StatusCode::OK, Method::GET, "/health", None).await?;
        ensure!(health["workers"][0]["slots"]["total"] == 1, "{health}");

        let ended = rest.expect(StatusCode::OK, Method::DELETE, &path, None).await?;
        ensure!(ended == json!({ "id": session["id"], "status": "TERMINATING" }), "{ended}");
        wait_for_no_sessions(&ns).await?;
        poll("the session to be unknown", async || {
            rest.expect(StatusCode::NOT_FOUND, Method::GET, &path, None).await.map(drop)
        })
        .await?;
        ns.warm_pool("pool").await?;
        Ok(())
    });
}

async fn create(rest: &Rest, request: &Value) -> Result<Value> {
    rest.expect(StatusCode::CREATED, Method::POST, "/sessions", Some(request)).await
}

fn last_seen(session: &Value) -> Result<Timestamp> {
    Ok(session["last_seen_at"].as_str().context("the session has no last_seen_at")?.parse()?)
}

/// Connects as clients of the original Camo-fleet do: to `ws://`, the gateway's host, and the path in `ws_endpoint`.
async fn connect_to_session_endpoint(ns: &TestNamespace, session: &Value) -> Result<()> {
    let path = session["ws_endpoint"].as_str().context("the session has no ws_endpoint")?;
    let url = format!("{}{path}", ns.fleet.gateway_url()?).replacen("http", "ws", 1);
    let mut client = NodeClient::connect_to_url(ns, &url).await?;
    let title = client.run("const title = await page.title(); await browser.close(); return title").await?;
    ensure!(title == "Start", "the client found the title {title}");
    Ok(())
}

#[test]
fn a_rejected_request_names_the_field() {
    test("rest-rejections", async |ns: TestNamespace| {
        let rest = Rest::new(&ns)?;
        allow_gateway_writes(&ns).await?;
        let (status, problem) = rest.call(Method::POST, "/sessions", Some(&json!({}))).await?;
        ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "without a pool: got {status} {problem}");
        ns.pool("pool", json!({ "replicas": 0 })).await?;
        for (field, value) in [
            ("start_url", json!("javascript:alert(1)")),
            ("start_url", json!("file:///etc/passwd")),
            ("start_url", json!("https:///path")),
            ("idle_ttl_seconds", json!(29)),
            ("worker", json!("")),
        ] {
            let (status, problem) = rest.call(Method::POST, "/sessions", Some(&json!({ field: value }))).await?;
            let names = problem["detail"]
                .as_array()
                .is_some_and(|errors| errors.iter().any(|it| it["loc"] == json!(["body", field])));
            ensure!(status == StatusCode::UNPROCESSABLE_ENTITY && names, "{field} {value}: got {status} {problem}");
        }
        let (status, problem) = rest.call(Method::POST, "/sessions", Some(&json!({ "worker": "other" }))).await?;
        ensure!(status == StatusCode::NOT_FOUND, "a missing pool: got {status} {problem}");

        // The gateway deletes a session whose client disconnects before it is Ready.
        let waiting = rest.request(Method::POST, "/sessions")?.json(&json!({ "worker": "pool" }));
        let waiting = tokio::spawn(waiting.send());
        let id = poll("the session to be listed", async || {
            let listed = rest.expect(StatusCode::OK, Method::GET, "/sessions", None).await?;
            ensure!(listed[0]["status"] == "INIT", "{listed}");
            Ok(listed[0]["id"].as_str().context("the session has no id")?.to_owned())
        })
        .await?;
        waiting.abort();
        let is_deleted_or_finished =
            |session: Option<&BrowserSession>| session.is_none_or(|it| it.state() == SessionState::Finished);
        let left = wait_for(&ns.api::<BrowserSession>(), &id, "to be deleted", is_deleted_or_finished).await?;
        ensure!(left.is_none(), "the session was not deleted but waited until its queue timeout");
        Ok(())
    });
}

#[test]
fn answers_conform_to_the_openapi_document() {
    test("rest-fuzz", async |ns: TestNamespace| {
        allow_gateway_writes(&ns).await?;
        // Without a pool, the sessions that the fuzzer creates start no browsers.
        let waiting = ns.session(json!({})).await?;
        waiting.wait_for("to be Queued", |session| session.state() == SessionState::Queued).await?;
        fuzz_rest(&ns, &waiting).await?;
        waiting.wait_for("to remain Queued", |session| session.state() == SessionState::Queued).await.map(drop)
    });
}
