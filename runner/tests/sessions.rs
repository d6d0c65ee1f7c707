//! Sessions on a real runner with a real Firefox, real displays and real Playwright clients.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use camofleet_auth::token::Scope;
use camofleet_crds::v1alpha1::{Display, EngineName};
use camofleet_runner_api::{
    BindRequest, EndReason, Hot, RefusalReason, SessionPhase, StartPage, Tier, client::CallError,
};
use camofleet_testkit::rfb::Viewer;
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};
use support::{Bed, POD, kill, launcher, request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    sync::OnceCell,
};

/// A client's part of a WebSocket's opening (RFC 6455 section 1.3), but for the request line and the token.
const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const GREEN_PAGE: &str = "data:text/html,<title>green</title><body style='background: rgb(0, 128, 0)'>";

fn refusal_of(error: Result<impl std::fmt::Debug, CallError>) -> RefusalReason {
    match error {
        Err(CallError::Refused(refusal)) => refusal.reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// What the profiles of these tests begin as, made by the launcher that is tested.
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

async fn start(flags: &[&str]) -> Bed {
    Bed::start(&[&["--templates", templates().await.to_str().unwrap()], flags].concat()).await
}

#[tokio::test]
async fn hot_sessions_serve_clients_and_viewers_and_leave_nothing() {
    let mut bed = start(&["--slots", "2", "--prewarm-headless", "1", "--prewarm-headful", "1"]).await;
    let state = bed.until_warm().await;
    assert_eq!((state.hot, state.free), (Hot { headless: 1, headful: 1 }, 2));
    assert_eq!((state.engine, state.playwright_version.as_str()), (Some(EngineName::Firefox), "1.62"));
    assert!(state.browser_version.is_some_and(|version| version.contains('.')));

    // A hot browser is bound within the one call, and its page is opened then.
    let asked = BindRequest { start_url: Some(GREEN_PAGE.into()), ..request(Display::LiveView) };
    let bound = bed.bind("seen", &asked).await.unwrap();
    assert_eq!((bound.session.phase, bound.session.tier), (SessionPhase::Ready, Tier::Hot));
    let listed = bed.until("the session", |state| (state.generation >= bound.generation).then(|| state.clone())).await;
    assert!(listed.session("seen").is_some());
    bed.until("loaded", |state| (state.session("seen")?.start_page == StartPage::Loaded).then_some(())).await;
    let again = bed.bind("seen", &BindRequest { idle_timeout_seconds: 200, ..asked }).await.unwrap();
    assert_eq!((again.boot_id, again.session.tier), (bound.boot_id.clone(), Tier::Hot));

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failing = BindRequest { start_url: Some(format!("http://{nobody}/")), ..request(Display::Headless) };
    bed.bind("unseen", &failing).await.unwrap();
    let failed = bed.until("failed", |state| match &state.session("unseen")?.start_page {
        StartPage::Failed { message } => Some(message.clone()),
        StartPage::None | StartPage::Loading | StartPage::Loaded => None,
    });
    assert_eq!(failed.await, format!("NS_ERROR_CONNECTION_REFUSED at http://{nobody}/"));
    assert_eq!(refusal_of(bed.bind("third", &request(Display::Headless)).await), RefusalReason::NoFreeSlot);

    a_client_works(&bed).await;
    a_viewer_sees_the_page(&bed).await;
    a_client_of_another_minor_is_told(&bed).await;
    a_lost_client_comes_back(&bed).await;

    bed.end("seen").await;
    bed.end("unseen").await;
    bed.until("no session", |state| state.sessions.is_empty().then_some(())).await;
    assert!(bed.terminate().await.success());
    bed.assert_nothing_is_left(&bound.boot_id);
}

async fn a_client_works(bed: &Bed) {
    let found = bed.playwright("seen", "work").said_when_it_left().await;
    assert_eq!(found["contexts"], 1, "{found}");
    assert_eq!((&found["pages"], &found["firstTitle"], &found["title"]), (&json!(1), &json!("green"), &json!("typed")));
    assert_eq!(found["big"], (3 << 20) + 7);
    assert!(found["screenshot"].as_u64().unwrap() > 1000);
    bed.until("no client", |state| (state.session("seen")?.clients == 0).then_some(())).await;
}

async fn a_viewer_sees_the_page(bed: &Bed) {
    let headers = "Connection: Upgrade\r\nUpgrade: rfb\r\n";
    // However many others come and say nothing, or not yet.
    let mut silent = Vec::new();
    for _ in 0..12 {
        let (mut stream, head) = bed.upgrade("seen", Scope::View, headers).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        stream.read_u8().await.unwrap();
        silent.push(stream);
    }
    let (stream, head) = bed.upgrade("seen", Scope::View, headers).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut viewer = Viewer::connect(stream).await.unwrap();
    assert_eq!(viewer.security_types(), [1], "no password is asked for: the gateway is the door");
    assert_eq!(viewer.size(), (1280, 720));
    // The window fills the screen, so the page is at its middle and at its lower right.
    loop {
        let picture = viewer.picture().await.unwrap();
        if picture.colour(640, 400) == [0, 128, 0] && picture.colour(1270, 710) == [0, 128, 0] {
            break;
        }
    }
    let once = bed.gateway.hop_token(POD, "seen", Scope::View, Some("a link"));
    let (_, head) = bed.upgrade_with(&once, "seen", Scope::View, headers).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let again = bed.gateway.hop_token(POD, "seen", Scope::Control, Some("a link"));
    let (_, head) = bed.upgrade_with(&again, "seen", Scope::Control, headers).await;
    assert!(head.starts_with("HTTP/1.1 401"), "a token that was used: {head}");
    let (_, head) = bed.upgrade("unseen", Scope::View, headers).await;
    assert!(head.starts_with("HTTP/1.1 400"), "a session without live view: {head}");
    let (_, head) = bed.upgrade("third", Scope::View, headers).await;
    assert!(head.starts_with("HTTP/1.1 404"), "no such session: {head}");
}

async fn a_client_of_another_minor_is_told(bed: &Bed) {
    let handshake = format!("{HANDSHAKE}User-Agent: Playwright/1.61.0 (x64)\r\n");
    let (mut stream, head) = bed.upgrade("seen", Scope::Connect, &handshake).await;
    assert!(head.starts_with("HTTP/1.1 428"), "{head}");
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()).unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("server version: v1.62") && body.contains("client version: v1.61"), "{body}");
}

async fn a_lost_client_comes_back(bed: &Bed) {
    let mut lost = bed.playwright("seen", "hold");
    lost.says().await;
    bed.until("a client", |state| (state.session("seen")?.clients == 1).then_some(())).await;
    lost.kill().await;
    bed.until("no client", |state| (state.session("seen")?.clients == 0).then_some(())).await;
    let found = bed.playwright("seen", "find").said_when_it_left().await;
    assert!(found["found"].as_array().unwrap().contains(&json!(["held", "kept"])), "{found}");
    // It took over what the lost one left, and then went as it should: its contexts are closed behind it.
    while bed.playwright("seen", "find").said_when_it_left().await["found"] != json!([["green", 0]]) {}
}

#[tokio::test]
async fn whatever_dies_of_a_session_ends_it_with_the_cause() {
    let mut bed = start(&["--slots", "1", "--prewarm-headful", "1"]).await;
    let boot_id = bed.state().await.boot_id;
    for (uid, part, cause) in [
        ("browser", "firefox-esr", "the browser was ended by SIGKILL"),
        ("server", "main.js", "the Playwright server (node) was ended by SIGKILL"),
        ("display", "Xvnc", "the display (Xvnc) was ended by SIGKILL"),
    ] {
        bed.until_warm().await;
        let bound = bed.bind(uid, &request(Display::LiveView)).await.unwrap();
        assert_eq!(bound.session.tier, Tier::Hot);
        let mut client = bed.playwright(uid, "busy");
        assert_eq!(client.says().await, json!({"working": true}));
        let victim = if part == "firefox-esr" { bed.browser().await } else { bed.processes(part).await[0] };
        kill(victim, Signal::SIGKILL);
        let end = bed.until_phase(uid, SessionPhase::Ended).await.end.unwrap();
        assert_eq!(end.reason, EndReason::BrowserCrashed);
        assert!(end.message.starts_with(cause), "{}", end.message);
        assert_eq!(client.says().await, json!({"disconnected": true}));
        bed.end(uid).await;
    }

    // A hot browser that dies is replaced, and no corpse is bound.
    bed.until_warm().await;
    kill(bed.browser().await, Signal::SIGKILL);
    bed.until("cold", |state| (!state.warm && state.hot.headful == 0).then_some(())).await;
    bed.until_warm().await;
    assert_eq!(bed.bind("next", &request(Display::Headful)).await.unwrap().session.tier, Tier::Hot);
    assert_eq!(bed.playwright("next", "find").said_when_it_left().await, json!({"found": [["", 0]]}));
    bed.end("next").await;
    assert!(bed.terminate().await.success());
    bed.assert_nothing_is_left(&boot_id);
}

#[tokio::test]
async fn a_profile_begins_as_the_template_whatever_browser_made_it() {
    let template = templates().await.join("Firefox");
    let mut names: Vec<_> = fs::read_dir(&template).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    // Nothing that names a browser or a person: no ids, keys, cookies, databases.
    let known =
        ["addonStartup.json.lz4", "compatibility.ini", "extension-preferences.json", "extensions.json", "startupCache"];
    assert_eq!(names, known);

    let written = |path: &Path| fs::metadata(path.join("compatibility.ini")).unwrap().modified().unwrap();
    let mut bed = start(&["--prewarm-headless", "1"]).await;
    bed.until_warm().await;
    // Firefox writes this file anew where it does not know the profile as its own, and drops what it had compiled.
    assert_eq!(written(&bed.only_profile()), written(&template));
    assert!(bed.terminate().await.success());

    let dir = tempfile::tempdir().unwrap();
    let newer = dir.path().join("Firefox");
    fs::create_dir(&newer).unwrap();
    let compatibility = fs::read_to_string(template.join("compatibility.ini")).unwrap();
    fs::write(newer.join("compatibility.ini"), compatibility.replace("LastVersion=", "LastVersion=9")).unwrap();
    let mut bed = Bed::start(&["--templates", dir.path().to_str().unwrap(), "--prewarm-headless", "1"]).await;
    bed.until_warm().await;
    assert_ne!(written(&bed.only_profile()), written(&newer));
    assert!(bed.terminate().await.success());
}

#[tokio::test]
async fn displays_that_start_at_once_are_two() {
    let mut bed = start(&["--slots", "2"]).await;
    let boot_id = bed.state().await.boot_id;
    let blue_page = GREEN_PAGE.replace("rgb(0, 128, 0)", "rgb(0, 0, 255)");
    let pages = [("green", GREEN_PAGE, [0, 128, 0]), ("blue", blue_page.as_str(), [0, 0, 255])];
    for (uid, page, _) in pages {
        let asked = BindRequest { start_url: Some(page.into()), ..request(Display::LiveView) };
        assert_eq!(bed.bind(uid, &asked).await.unwrap().session.tier, Tier::Cold);
    }
    for (uid, _, colour) in pages {
        bed.until_phase(uid, SessionPhase::Ready).await;
        bed.until("loaded", |state| (state.session(uid)?.start_page == StartPage::Loaded).then_some(())).await;
        let (stream, head) = bed.upgrade(uid, Scope::View, "Connection: Upgrade\r\nUpgrade: rfb\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let mut viewer = Viewer::connect(stream).await.unwrap();
        while viewer.picture().await.unwrap().colour(640, 400) != colour {}
    }
    // Killed, and so without a chance to take their files with them.
    for xvnc in bed.processes("Xvnc").await {
        kill(xvnc, Signal::SIGKILL);
    }
    for (uid, ..) in pages {
        bed.until_phase(uid, SessionPhase::Ended).await;
        bed.end(uid).await;
    }
    assert!(bed.terminate().await.success());
    bed.assert_nothing_is_left(&boot_id);
}

#[tokio::test]
async fn sessions_end_by_time_but_not_while_a_client_works() {
    let mut bed = start(&["--slots", "2"]).await;
    let boot_id = bed.state().await.boot_id;

    // Cold: answered at once, ready later.
    for uid in ["busy", "pinging"] {
        let bound = bed.bind(uid, &request(Display::Headless)).await.unwrap();
        assert_eq!((bound.session.phase, bound.session.tier), (SessionPhase::Starting, Tier::Cold));
        let (_, head) = bed.upgrade(uid, Scope::Connect, "Connection: Upgrade\r\nUpgrade: websocket\r\n").await;
        assert!(head.starts_with("HTTP/1.1 409"), "{head}");
    }
    bed.until_phase("busy", SessionPhase::Ready).await;
    let mut busy = bed.playwright("busy", "busy");
    assert_eq!(busy.says().await, json!({"working": true}));
    bed.until_phase("pinging", SessionPhase::Ready).await;
    let (mut pinging, head) = bed.upgrade("pinging", Scope::Connect, HANDSHAKE).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let pings = tokio::spawn(async move {
        // An empty, masked Ping (RFC 6455 section 5.5.2), again and again until the session is gone.
        while pinging.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });

    // What works is not idle; what only pings is.
    let idle = BindRequest { idle_timeout_seconds: 8, ..request(Display::Headless) };
    for uid in ["busy", "pinging"] {
        bed.bind(uid, &idle).await.unwrap();
    }
    let end = bed.until_phase("pinging", SessionPhase::Ended).await.end.unwrap();
    assert_eq!(end.reason, EndReason::IdleTimeout);
    pings.await.unwrap();
    // It has been connected for longer than the other.
    assert_eq!(bed.state().await.session("busy").unwrap().phase, SessionPhase::Ready);

    // The lifetime is counted from the first PUT, and a later one may change it.
    bed.bind("busy", &BindRequest { max_lifetime_seconds: 1, ..idle }).await.unwrap();
    let end = bed.until_phase("busy", SessionPhase::Ended).await.end.unwrap();
    assert_eq!(end.reason, EndReason::LifetimeExceeded);
    assert_eq!(busy.says().await, json!({"disconnected": true}));

    for uid in ["busy", "pinging"] {
        bed.end(uid).await;
    }
    assert!(bed.terminate().await.success());
    bed.assert_nothing_is_left(&boot_id);
}

#[tokio::test]
async fn a_runner_that_is_told_to_go_lets_its_session_finish_until_the_deadline() {
    let flags = ["--slots", "2", "--prewarm-headless", "2", "--drain-timeout-seconds", "10"];
    let mut bed = start(&flags).await;
    let boot_id = bed.until_warm().await.boot_id;
    bed.bind("last", &request(Display::Headless)).await.unwrap();
    let mut client = bed.playwright("last", "busy");
    assert_eq!(client.says().await, json!({"working": true}));
    bed.signal(Signal::SIGTERM);
    let state = bed.until("draining", |state| state.draining.then(|| state.clone())).await;
    assert_eq!((state.free, state.hot), (0, Hot::default()));
    let session = state.session("last").unwrap();
    assert_eq!((session.phase, session.clients), (SessionPhase::Ready, 1), "it still serves");
    assert_eq!(refusal_of(bed.bind("late", &request(Display::Headless)).await), RefusalReason::Draining);
    let end = bed.until_phase("last", SessionPhase::Ended).await.end.unwrap();
    assert_eq!(end.reason, EndReason::RunnerDrained);
    assert_eq!(client.says().await, json!({"disconnected": true}));
    bed.end("last").await;
    assert!(bed.exited().await.success());
    bed.assert_nothing_is_left(&boot_id);
}
