//! Tests of sessions on a real runner with a real Firefox, real displays and real Playwright clients.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use camofleet_auth::token::Scope;
use camofleet_crds::v1alpha1::{Display, Engine, StartTier};
use camofleet_runner_api::{
    BindRequest, BrowserCounts, EndReason, ErrorReason, SessionPhase, StartPage, client::CallError,
};
use camofleet_testkit::rfb::RfbClient;
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};
use support::{POD, TestRunner, kill, launcher, request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    sync::OnceCell,
};

/// The client's headers of a WebSocket handshake (RFC 6455 section 1.3), without the token.
const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const GREEN_PAGE: &str = "data:text/html,<title>green</title><body style='background: rgb(0, 128, 0)'>";

fn rejection_reason(error: Result<impl std::fmt::Debug, CallError>) -> ErrorReason {
    match error {
        Err(CallError::Rejected(response)) => response.reason,
        other => panic!("not rejected: {other:?}"),
    }
}

/// Returns the profile templates, created once by the launcher under test.
async fn templates() -> &'static Path {
    static MADE: OnceCell<PathBuf> = OnceCell::const_new();
    let make = async || {
        let templates = Path::new(env!("CARGO_TARGET_TMPDIR")).join("templates");
        fs::remove_dir_all(&templates).ok();
        let mut node = Command::new("node");
        node.arg(launcher().join("template.js"))
            .args(["Firefox", "/usr/bin/firefox-esr"])
            .arg(templates.join("Firefox"));
        assert!(node.status().await.unwrap().success());
        templates
    };
    MADE.get_or_init(make).await
}

async fn start(flags: &[&str]) -> TestRunner {
    TestRunner::start(&[&["--templates", templates().await.to_str().unwrap()], flags].concat()).await
}

#[tokio::test]
async fn hot_sessions_serve_clients_and_viewers_and_clean_up() {
    let mut runner = start(&["--slots", "2", "--prewarm-headless", "1", "--prewarm-headful", "1"]).await;
    let state = runner.wait_until_warm().await;
    assert_eq!((state.hot, state.free), (BrowserCounts { headless: 1, headful: 1 }, 2));
    assert_eq!((state.engine, state.playwright_version.as_str()), (Some(Engine::Firefox), "1.62"));
    assert!(state.browser_version.is_some_and(|version| version.contains('.')));

    // The call binds a hot browser and opens the start page.
    let bind_request = BindRequest { start_url: Some(GREEN_PAGE.into()), ..request(Display::LiveView) };
    let bound = runner.bind("headful", &bind_request).await.unwrap();
    assert_eq!((bound.session.phase, bound.session.tier), (SessionPhase::Ready, StartTier::Hot));
    let listed =
        runner.wait_for("the session", |state| (state.generation >= bound.generation).then(|| state.clone())).await;
    assert!(listed.session("headful").is_some());
    runner.wait_for("loaded", |state| (state.session("headful")?.start_page == StartPage::Loaded).then_some(())).await;
    let again = runner.bind("headful", &BindRequest { idle_timeout_seconds: 200, ..bind_request }).await.unwrap();
    assert_eq!((again.boot_id, again.session.tier), (bound.boot_id.clone(), StartTier::Hot));

    let closed_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failing = BindRequest { start_url: Some(format!("http://{closed_port}/")), ..request(Display::Headless) };
    runner.bind("headless", &failing).await.unwrap();
    let failed = runner.wait_for("failed", |state| match &state.session("headless")?.start_page {
        StartPage::Failed { message } => Some(message.clone()),
        StartPage::None | StartPage::Loading | StartPage::Loaded => None,
    });
    assert_eq!(failed.await, format!("NS_ERROR_CONNECTION_REFUSED at http://{closed_port}/"));
    assert_eq!(rejection_reason(runner.bind("third", &request(Display::Headless)).await), ErrorReason::NoFreeSlot);

    check_client(&runner).await;
    check_viewer(&runner).await;
    check_version_mismatch(&runner).await;
    check_reconnect(&runner).await;
    check_initial_page_has_one_holder(&runner).await;

    runner.end("headful").await;
    runner.end("headless").await;
    runner.wait_for("no session", |state| state.sessions.is_empty().then_some(())).await;
    assert!(runner.terminate().await.success());
    runner.assert_cleaned_up(&bound.boot_id);
}

async fn check_client(runner: &TestRunner) {
    let found = runner.playwright("headful", "work").message_after_exit().await;
    assert_eq!(found["contexts"], 1, "{found}");
    assert_eq!((&found["pages"], &found["firstTitle"], &found["title"]), (&json!(1), &json!("green"), &json!("typed")));
    assert_eq!(found["big"], (3 << 20) + 7);
    assert!(found["screenshot"].as_u64().unwrap() > 1000);
    runner.wait_for("no client", |state| (state.session("headful")?.clients == 0).then_some(())).await;
}

async fn check_viewer(runner: &TestRunner) {
    let headers = "Connection: Upgrade\r\nUpgrade: rfb\r\n";
    // Viewers that do not complete their handshake do not block others.
    let mut silent = Vec::new();
    for _ in 0..12 {
        let (mut stream, head) = runner.upgrade("headful", Scope::View, headers).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        stream.read_u8().await.unwrap();
        silent.push(stream);
    }
    let (stream, head) = runner.upgrade("headful", Scope::View, headers).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut viewer = RfbClient::connect(stream).await.unwrap();
    assert_eq!(viewer.security_types(), [1], "no password: the gateway authenticates viewers");
    assert_eq!(viewer.size(), (1280, 720));
    // The window fills the screen, so the page covers its centre and its lower right corner.
    loop {
        let picture = viewer.picture().await.unwrap();
        if picture.colour(640, 400) == [0, 128, 0] && picture.colour(1270, 710) == [0, 128, 0] {
            break;
        }
    }
    let once = runner.gateway.hop_token(POD, "headful", Scope::View, Some("a link"));
    let (_, head) = runner.upgrade_with(&once, "headful", Scope::View, headers).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let again = runner.gateway.hop_token(POD, "headful", Scope::Control, Some("a link"));
    let (_, head) = runner.upgrade_with(&again, "headful", Scope::Control, headers).await;
    assert!(head.starts_with("HTTP/1.1 401"), "used token: {head}");
    let (_, head) = runner.upgrade("headless", Scope::View, headers).await;
    assert!(head.starts_with("HTTP/1.1 400"), "session without a live view: {head}");
    let (_, head) = runner.upgrade("third", Scope::View, headers).await;
    assert!(head.starts_with("HTTP/1.1 404"), "unknown session: {head}");
}

async fn check_version_mismatch(runner: &TestRunner) {
    let handshake = format!("{HANDSHAKE}User-Agent: Playwright/1.61.0 (x64)\r\n");
    let (mut stream, head) = runner.upgrade("headful", Scope::Connect, &handshake).await;
    assert!(head.starts_with("HTTP/1.1 428"), "{head}");
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()).unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("server version: v1.62") && body.contains("client version: v1.61"), "{body}");
}

async fn check_reconnect(runner: &TestRunner) {
    let mut lost = runner.playwright("headful", "hold");
    lost.next_message().await;
    runner.wait_for("a client", |state| (state.session("headful")?.clients == 1).then_some(())).await;
    lost.kill().await;
    runner.wait_for("no client", |state| (state.session("headful")?.clients == 0).then_some(())).await;
    let found = runner.playwright("headful", "find").message_after_exit().await;
    assert!(found["found"].as_array().unwrap().contains(&json!(["held", "kept"])), "{found}");
    // The second client has taken over the contexts of the first, and they were closed after its clean disconnect.
    assert_eq!(runner.playwright("headful", "find").message_after_exit().await, json!({ "found": [["green", 0]] }));
}

async fn check_initial_page_has_one_holder(runner: &TestRunner) {
    let mut holder = runner.playwright("headful", "busy");
    assert_eq!(holder.next_message().await, json!({"working": true}));
    let rejected = runner.playwright("headful", "find").next_message().await;
    let message = rejected["error"].as_str().unwrap();
    assert!(message.contains("409") && message.contains("held by a client without a name"), "{message}");
    holder.kill().await;
    runner.wait_for("no client", |state| (state.session("headful")?.clients == 0).then_some(())).await;
    assert_eq!(runner.playwright("headful", "find").message_after_exit().await, json!({ "found": [["green", 0]] }));
}

#[tokio::test]
async fn a_lost_connection_to_the_browser_ends_the_session() {
    let mut runner = start(&["--slots", "1", "--prewarm-headless", "1"]).await;
    let boot_id = runner.wait_until_warm().await.boot_id;
    runner.bind("session", &request(Display::Headless)).await.unwrap();
    let _client = runner.playwright("session", "overload");
    let end = runner.wait_for_phase("session", SessionPhase::Ended).await.end.unwrap();
    assert_eq!(end.reason, EndReason::BrowserCrashed);
    assert!(end.message.starts_with("Playwright lost its connection to the browser"), "{}", end.message);
    runner.end("session").await;
    assert!(runner.terminate().await.success());
    runner.assert_cleaned_up(&boot_id);
}

#[tokio::test]
async fn a_killed_process_ends_its_session_with_the_cause() {
    let mut runner = start(&["--slots", "1", "--prewarm-headful", "1"]).await;
    let boot_id = runner.state().await.boot_id;
    for (uid, part, cause) in [
        ("browser", "firefox-esr", "the browser was killed by SIGKILL"),
        ("server", "main.js", "the Playwright server (node) was killed by SIGKILL"),
        ("display", "Xvnc", "the display (Xvnc) was killed by SIGKILL"),
    ] {
        runner.wait_until_warm().await;
        let bound = runner.bind(uid, &request(Display::LiveView)).await.unwrap();
        assert_eq!(bound.session.tier, StartTier::Hot);
        let mut client = runner.playwright(uid, "busy");
        assert_eq!(client.next_message().await, json!({"working": true}));
        let victim = if part == "firefox-esr" { runner.browser_pid().await } else { runner.pids(part).await[0] };
        kill(victim, Signal::SIGKILL);
        let end = runner.wait_for_phase(uid, SessionPhase::Ended).await.end.unwrap();
        assert_eq!(end.reason, EndReason::BrowserCrashed);
        assert!(end.message.starts_with(cause), "{}", end.message);
        assert_eq!(client.next_message().await, json!({"disconnected": true}));
        runner.end(uid).await;
    }

    // A hot browser that exits is replaced and not bound.
    runner.wait_until_warm().await;
    kill(runner.browser_pid().await, Signal::SIGKILL);
    runner.wait_for("cold", |state| (!state.warm && state.hot.headful == 0).then_some(())).await;
    runner.wait_until_warm().await;
    assert_eq!(runner.bind("next", &request(Display::Headful)).await.unwrap().session.tier, StartTier::Hot);
    assert_eq!(runner.playwright("next", "find").message_after_exit().await, json!({"found": [["", 0]]}));
    runner.end("next").await;
    assert!(runner.terminate().await.success());
    runner.assert_cleaned_up(&boot_id);
}

#[tokio::test]
async fn profiles_start_from_the_template_of_any_browser_version() {
    let template = templates().await.join("Firefox");
    let mut names: Vec<_> = fs::read_dir(&template).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    // None of these files identifies a browser or a user: no ids, keys, cookies or databases.
    let known =
        ["addonStartup.json.lz4", "compatibility.ini", "extension-preferences.json", "extensions.json", "startupCache"];
    assert_eq!(names, known);

    let written = |path: &Path| fs::metadata(path.join("compatibility.ini")).unwrap().modified().unwrap();
    let mut runner = start(&["--prewarm-headless", "1"]).await;
    runner.wait_until_warm().await;
    // Firefox rewrites this file, and drops its compiled scripts, when it does not recognize the profile.
    assert_eq!(written(&runner.profile()), written(&template));
    assert!(runner.terminate().await.success());

    let dir = tempfile::tempdir().unwrap();
    let newer = dir.path().join("Firefox");
    fs::create_dir(&newer).unwrap();
    let compatibility = fs::read_to_string(template.join("compatibility.ini")).unwrap();
    fs::write(newer.join("compatibility.ini"), compatibility.replace("LastVersion=", "LastVersion=9")).unwrap();
    let mut runner = TestRunner::start(&["--templates", dir.path().to_str().unwrap(), "--prewarm-headless", "1"]).await;
    runner.wait_until_warm().await;
    assert_ne!(written(&runner.profile()), written(&newer));
    assert!(runner.terminate().await.success());
}

#[tokio::test]
async fn concurrent_displays_get_distinct_numbers() {
    let mut runner = start(&["--slots", "2"]).await;
    let boot_id = runner.state().await.boot_id;
    let blue_page = GREEN_PAGE.replace("rgb(0, 128, 0)", "rgb(0, 0, 255)");
    let pages = [("green", GREEN_PAGE, [0, 128, 0]), ("blue", blue_page.as_str(), [0, 0, 255])];
    for (uid, page, _) in pages {
        let bind_request = BindRequest { start_url: Some(page.into()), ..request(Display::LiveView) };
        assert_eq!(runner.bind(uid, &bind_request).await.unwrap().session.tier, StartTier::Cold);
    }
    for (uid, _, colour) in pages {
        runner.wait_for_phase(uid, SessionPhase::Ready).await;
        runner.wait_for("loaded", |state| (state.session(uid)?.start_page == StartPage::Loaded).then_some(())).await;
        let (stream, head) = runner.upgrade(uid, Scope::View, "Connection: Upgrade\r\nUpgrade: rfb\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let mut viewer = RfbClient::connect(stream).await.unwrap();
        while viewer.picture().await.unwrap().colour(640, 400) != colour {}
    }
    // SIGKILL leaves Xvnc no chance to remove its files.
    for xvnc in runner.pids("Xvnc").await {
        kill(xvnc, Signal::SIGKILL);
    }
    for (uid, ..) in pages {
        runner.wait_for_phase(uid, SessionPhase::Ended).await;
        runner.end(uid).await;
    }
    assert!(runner.terminate().await.success());
    runner.assert_cleaned_up(&boot_id);
}

#[tokio::test]
async fn sessions_time_out_unless_a_client_is_active() {
    let mut runner = start(&["--slots", "3"]).await;
    let boot_id = runner.state().await.boot_id;

    // A cold bind returns at once, and the session becomes ready later.
    for uid in ["busy", "waiting", "pinging"] {
        let bound = runner.bind(uid, &request(Display::Headless)).await.unwrap();
        assert_eq!((bound.session.phase, bound.session.tier), (SessionPhase::Starting, StartTier::Cold));
        let (_, head) = runner.upgrade(uid, Scope::Connect, "Connection: Upgrade\r\nUpgrade: websocket\r\n").await;
        assert!(head.starts_with("HTTP/1.1 409"), "{head}");
    }
    runner.wait_for_phase("busy", SessionPhase::Ready).await;
    let mut busy = runner.playwright("busy", "busy");
    assert_eq!(busy.next_message().await, json!({"working": true}));
    runner.wait_for_phase("waiting", SessionPhase::Ready).await;
    let mut waiting = runner.playwright("waiting", "wait");
    assert_eq!(waiting.next_message().await, json!({"waiting": true}));
    runner.wait_for_phase("pinging", SessionPhase::Ready).await;
    let (mut pinging, head) = runner.upgrade("pinging", Scope::Connect, HANDSHAKE).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let pings = tokio::spawn(async move {
        // Sends an empty masked Ping (RFC 6455 section 5.5.2) every 100 ms until the session is gone.
        while pinging.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });

    // Calls count as activity until they are answered, pings do not.
    let idle = BindRequest { idle_timeout_seconds: 8, ..request(Display::Headless) };
    for uid in ["busy", "waiting", "pinging"] {
        runner.bind(uid, &idle).await.unwrap();
    }
    let end = runner.wait_for_phase("pinging", SessionPhase::Ended).await.end.unwrap();
    assert_eq!(end.reason, EndReason::IdleTimeout);
    pings.await.unwrap();
    // The active clients have been connected for longer than the pinging one.
    for uid in ["busy", "waiting"] {
        assert_eq!(runner.state().await.session(uid).unwrap().phase, SessionPhase::Ready, "{uid}");
    }
    // Its call is over with its connection.
    waiting.kill().await;
    let end = runner.wait_for_phase("waiting", SessionPhase::Ended).await.end.unwrap();
    assert_eq!(end.reason, EndReason::IdleTimeout);

    // The lifetime counts from the first PUT, and a later PUT can change it.
    runner.bind("busy", &BindRequest { max_lifetime_seconds: 1, ..idle }).await.unwrap();
    let end = runner.wait_for_phase("busy", SessionPhase::Ended).await.end.unwrap();
    assert_eq!(end.reason, EndReason::LifetimeExceeded);
    assert_eq!(busy.next_message().await, json!({"disconnected": true}));

    for uid in ["busy", "waiting", "pinging"] {
        runner.end(uid).await;
    }
    assert!(runner.terminate().await.success());
    runner.assert_cleaned_up(&boot_id);
}

#[tokio::test]
async fn a_draining_runner_serves_its_session_until_the_deadline() {
    let flags = ["--slots", "2", "--prewarm-headless", "2", "--drain-timeout-seconds", "10"];
    let mut runner = start(&flags).await;
    let boot_id = runner.wait_until_warm().await.boot_id;
    runner.bind("last", &request(Display::Headless)).await.unwrap();
    let mut client = runner.playwright("last", "busy");
    assert_eq!(client.next_message().await, json!({"working": true}));
    runner.signal(Signal::SIGTERM);
    let state = runner.wait_for("draining", |state| state.draining.then(|| state.clone())).await;
    assert_eq!((state.free, state.hot), (0, BrowserCounts::default()));
    let session = state.session("last").unwrap();
    assert_eq!((session.phase, session.clients), (SessionPhase::Ready, 1), "a draining runner serves its sessions");
    assert_eq!(rejection_reason(runner.bind("late", &request(Display::Headless)).await), ErrorReason::Draining);
    let end = runner.wait_for_phase("last", SessionPhase::Ended).await.end.unwrap();
    assert_eq!(end.reason, EndReason::RunnerDrained);
    assert_eq!(client.next_message().await, json!({"disconnected": true}));
    runner.end("last").await;
    assert!(runner.wait_for_exit().await.success());
    runner.assert_cleaned_up(&boot_id);
}
