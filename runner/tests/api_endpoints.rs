//! Tests of the API's authorization and limits, of invalid settings, and of launch failures: a real runner without a
//! real browser.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use camofleet_auth::token::{Issuer, Scope};
use camofleet_crds::v1alpha1::{Display, Engine, StartTier};
use camofleet_runner_api::{EndReason, ErrorReason, ErrorResponse, PORT, PROBE_PORT, SessionPhase};
use camofleet_runtime::files;
use camofleet_testkit::{http::connect_from, keys::signer};
use reqwest::Method;
use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, process::Stdio, time::SystemTime};
use support::{EPOCH, POD, TestRunner, launcher, request, runner_command, write_keys};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    task::JoinSet,
};

async fn call(runner: &TestRunner, method: Method, path: &str, token: Option<&str>) -> (u16, Option<ErrorReason>) {
    let call = reqwest::Client::new().request(method.clone(), runner.url(path));
    let call = if method == Method::PUT { call.json(&request(Display::Headless)) } else { call };
    let call = match token {
        Some(token) => call.bearer_auth(token),
        None => call,
    };
    let response = call.send().await.unwrap();
    let status = response.status().as_u16();
    // The body of a successful response may be the event stream, which does not end.
    let error = if status < 400 { None } else { response.json::<ErrorResponse>().await.ok() };
    (status, error.map(|error| error.reason))
}

const CALLS: [(Method, &str); 8] = [
    (Method::GET, "/v1/sessions"),
    (Method::GET, "/v1/events"),
    (Method::PUT, "/v1/sessions/none"),
    (Method::GET, "/v1/sessions/none"),
    (Method::DELETE, "/v1/sessions/none"),
    (Method::POST, "/v1/sessions/none/touch"),
    (Method::GET, "/v1/sessions/none/playwright"),
    (Method::GET, "/v1/sessions/none/vnc"),
];

#[tokio::test]
async fn every_call_except_probes_requires_a_matching_token() {
    // No launch here ever succeeds, because `cat` only waits for input.
    let runner = TestRunner::start_with(&["--node", "/bin/cat"], |_, _| {}).await;
    let operator = runner.operator.operator_token(POD, EPOCH, SystemTime::now());
    let unlisted = signer(Issuer::Operator);
    let unlisted_gateway = signer(Issuer::Gateway);
    for (method, path) in CALLS {
        let unauthorized = (401, Some(ErrorReason::Unauthorized));
        for token in [
            None,
            Some("x".to_owned()),
            Some(runner.operator.operator_token("another pod", EPOCH, SystemTime::now())),
            Some(runner.gateway.hop_token("another pod", "none", Scope::Connect, None)),
            Some(unlisted.operator_token(POD, EPOCH, SystemTime::now())),
            Some(unlisted_gateway.hop_token(POD, "none", Scope::Connect, None)),
        ] {
            assert_eq!(
                call(&runner, method.clone(), path, token.as_deref()).await,
                unauthorized,
                "{method} {path} {token:?}"
            );
        }
        // A hop token permits only the gateway's calls on its own session.
        let hop = runner.gateway.hop_token(POD, "other", Scope::Connect, None);
        let expected = if path == "/v1/sessions" { (200, None) } else { (403, Some(ErrorReason::Forbidden)) };
        assert_eq!(call(&runner, method.clone(), path, Some(&hop)).await, expected, "{method} {path}");
    }
    for path in ["/v1/sessions/none/playwright", "/v1/sessions/none/vnc"] {
        assert_eq!(call(&runner, Method::GET, path, Some(&operator)).await, (403, Some(ErrorReason::Forbidden)));
    }
    for (scope, path) in [(Scope::Connect, "vnc"), (Scope::View, "playwright"), (Scope::Control, "playwright")] {
        let token = runner.gateway.hop_token(POD, "none", scope, None);
        let response = call(&runner, Method::GET, &format!("/v1/sessions/none/{path}"), Some(&token)).await;
        assert_eq!(response, (403, Some(ErrorReason::Forbidden)));
    }

    // Authorized callers get specific errors.
    let unknown = (404, Some(ErrorReason::UnknownSession));
    let hop = runner.gateway.hop_token(POD, "none", Scope::Connect, None);
    assert_eq!(call(&runner, Method::GET, "/v1/sessions/none", Some(&hop)).await, unknown);
    assert_eq!(call(&runner, Method::POST, "/v1/sessions/none/touch", Some(&hop)).await, unknown);
    assert_eq!(call(&runner, Method::DELETE, "/v1/sessions/none", Some(&operator)).await, unknown);
    let garbage = reqwest::Client::new()
        .put(runner.url("/v1/sessions/none"))
        .bearer_auth(&operator)
        .json(&[1])
        .send()
        .await
        .unwrap();
    assert_eq!(garbage.status(), 400);
    assert_eq!(garbage.json::<ErrorResponse>().await.unwrap().reason, ErrorReason::Invalid);
    assert_eq!(reqwest::get(runner.url("/readyz")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn rejects_calls_from_an_earlier_term() {
    let runner = TestRunner::start_with(&["--node", "/bin/cat"], |_, _| {}).await;
    let token = |epoch| runner.operator.operator_token(POD, epoch, SystemTime::now());
    assert_eq!(call(&runner, Method::GET, "/v1/sessions", Some(&token(7))).await, (200, None));
    assert_eq!(call(&runner, Method::GET, "/v1/sessions", Some(&token(9))).await, (200, None));
    for (method, path) in
        [(Method::PUT, "/v1/sessions/s"), (Method::DELETE, "/v1/sessions/s"), (Method::GET, "/v1/events")]
    {
        assert_eq!(call(&runner, method, path, Some(&token(8))).await, (403, Some(ErrorReason::StaleEpoch)));
    }
    assert_eq!(call(&runner, Method::GET, "/v1/sessions", Some(&token(9))).await, (200, None));
}

#[tokio::test]
async fn rejects_a_bind_whose_term_ends_while_its_body_arrives() {
    let runner = TestRunner::start_with(&["--node", "/bin/cat"], |_, _| {}).await;
    let body = serde_json::to_vec(&request(Display::Headless)).unwrap();
    let (token, length) = (runner.operator.operator_token(POD, 7, SystemTime::now()), body.len());
    let head = format!(
        "PUT /v1/sessions/s HTTP/1.1\r\nHost: runner\r\nAuthorization: Bearer {token}\r\nExpect: 100-continue\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let mut stale = TcpStream::connect((runner.address, PORT)).await.unwrap();
    stale.write_all(head.as_bytes()).await.unwrap();
    // The runner sends 100 Continue when it is about to read the body, after it has checked the token.
    let mut continue_response = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stale.read_exact(&mut continue_response).await.unwrap();
    assert_eq!(&continue_response, b"HTTP/1.1 100 Continue\r\n\r\n");

    let next = runner.operator.operator_token(POD, 9, SystemTime::now());
    assert_eq!(call(&runner, Method::GET, "/v1/sessions", Some(&next)).await, (200, None));
    stale.write_all(&body).await.unwrap();
    let mut response = String::new();
    stale.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 403") && response.contains("StaleEpoch"), "{response}");
    assert_eq!(call(&runner, Method::GET, "/v1/sessions/s", Some(&next)).await.0, 404);
}

#[tokio::test]
async fn reloads_rotated_keys_without_a_restart() {
    let runner = TestRunner::start_with(&["--node", "/bin/cat"], |_, _| {}).await;
    let next = signer(Issuer::Operator);
    let token = next.operator_token(POD, EPOCH, SystemTime::now());
    assert_eq!(call(&runner, Method::GET, "/v1/sessions", Some(&token)).await.0, 401);
    write_keys(&runner.keys_file(), &[(Issuer::Operator, &next)]);
    // Invalid tokens make the runner reread the file, at a limited rate.
    while call(&runner, Method::GET, "/v1/sessions", Some(&token)).await.0 != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(
        call(&runner, Method::GET, "/v1/sessions", Some(&runner.token())).await.0,
        401,
        "the former key is no longer listed"
    );
}

#[tokio::test]
async fn reports_the_cause_of_a_failed_launch() {
    let script = |dir: &Path| {
        let path = dir.join("broken-firefox");
        fs::write(&path, "#!/bin/sh\necho 'no such library: libfoo.so' >&2\nexit 3\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let mut runner = TestRunner::start_with(&["--slots", "1", "--engine", "firefox"], |command, dir| {
        command.arg("--firefox").arg(script(dir));
    })
    .await;
    let boot_id = runner.state().await.boot_id;
    runner.bind("s", &request(Display::Headless)).await.unwrap();
    let end = runner.wait_for_phase("s", SessionPhase::Ended).await.end.unwrap();
    assert_eq!(end.reason, EndReason::LaunchFailed);
    assert!(end.message.contains("exitCode=3") && end.message.contains("libfoo.so"), "{}", end.message);
    assert_eq!(runner.state().await.launch_error, Some(end.message));
    runner.end("s").await;
    assert!(runner.terminate().await.success());
    runner.assert_cleaned_up(&boot_id);

    let runner =
        TestRunner::start_with(&["--slots", "1", "--prewarm-headful", "1", "--engine", "firefox"], |command, dir| {
            command.arg("--firefox").arg(script(dir));
        })
        .await;
    runner.wait_for("the error", |state| state.launch_error.clone()).await;
    let response = reqwest::get(runner.url("/readyz")).await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.text().await.unwrap().contains("libfoo.so"));
}

#[tokio::test]
async fn rejects_invalid_settings_at_startup() {
    for (flags, expected) in [
        (&["--pod-uid", ""][..], "--pod-uid"),
        (&["--pod-uid", "p", "--slots", "0"], "--slots"),
        (&["--pod-uid", "p", "--slots", "2", "--prewarm-headless", "2", "--prewarm-headful", "1"], "2 slots"),
        (&["--pod-uid", "p", "--state-dir", "relative"], "--state-dir"),
        (&["--pod-uid", "p", "--screen", "wide"], "WIDTHxHEIGHT"),
        (&["--pod-uid", "p", "--engine", "firefox", "--firefox", "/nowhere"], "--firefox"),
        (&["--pod-uid", "p", "--engine", "camoufox", "--camoufox", "/nowhere"], "--camoufox"),
        (&["--pod-uid", "p", "--frobnicate"], "--frobnicate"),
    ] {
        let output = runner_command().args(flags).output().await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{flags:?}: {stderr}");
        assert!(stderr.contains(expected), "{flags:?}: {stderr}");
    }
}

fn fake_camoufox() -> String {
    format!("{}/tests/support/fake-camoufox", env!("CARGO_MANIFEST_DIR"))
}

/// Reads the log of the fake Camoufox: its arguments and environment, then each message that it received.
fn read_log(log: &Path) -> Vec<serde_json::Value> {
    fs::read_to_string(log).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn prefers_an_installed_camoufox_and_drives_it_over_juggler() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let fake = fake_camoufox();
    let mut runner =
        TestRunner::start_with(&["--slots", "1", "--prewarm-headless", "1", "--camoufox", &fake], |command, _| {
            command.env("FAKE_CAMOUFOX_LOG", &log);
        })
        .await;
    let state = runner.wait_until_warm().await;
    assert_eq!((state.engine, state.browser_version.as_deref()), (Some(Engine::Camoufox), Some("156.0.1-beta.36")));
    assert_eq!(runner.bind("s", &request(Display::Headless)).await.unwrap().session.tier, StartTier::Hot);
    let entries = read_log(&log);
    let argv = entries[0]["argv"].as_array().unwrap();
    assert!(
        argv.iter().any(|flag| flag == "-juggler-pipe") && !argv.iter().any(|flag| flag == "--remote-debugging-port=0")
    );
    let config: serde_json::Value =
        serde_json::from_str(entries[0]["config"]["CAMOU_CONFIG_1"].as_str().unwrap()).unwrap();
    assert_eq!(config["screen.width"], 1280);
    let enable = entries.iter().find(|entry| entry["method"] == "Browser.enable").unwrap();
    assert_eq!(enable["params"]["attachToDefaultContext"], true);
    assert!(enable["params"]["userPrefs"].to_string().contains("network.http.http3.enable"));
    runner.end("s").await;
    assert!(runner.terminate().await.success());
    runner.assert_cleaned_up(&state.boot_id);
}

#[tokio::test]
async fn the_launcher_passes_on_a_long_fingerprint_and_a_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut node = Command::new("node");
    node.arg(launcher().join("main.js")).env("FAKE_CAMOUFOX_LOG", &log).env("TMPDIR", dir.path());
    let mut node =
        node.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("node is installed");
    let long = "é".repeat(40_000);
    let launch = serde_json::json!({
        "engine": "Camoufox", "executable": fake_camoufox(), "dir": dir.path(), "wsPath": "/secret", "headless": true,
        "screen": {"width": 800, "height": 600}, "graceMs": 0, "camoufoxConfig": {"navigator.userAgent": long},
        "proxy": {"server": "http://proxy.test:3128", "username": "user", "password": "word"},
    });
    let mut stdin = node.stdin.take().unwrap();
    stdin.write_all(format!("{launch}\n{{\"command\":\"ping\"}}\n").as_bytes()).await.unwrap();
    let mut events = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(node.stdout.take().unwrap()));
    assert!(events.next_line().await.unwrap().unwrap().contains(r#""event":"ready""#));
    assert_eq!(events.next_line().await.unwrap().unwrap(), r#"{"event":"pong"}"#);
    // The launcher exits at the end of its input.
    drop(stdin);
    assert!(node.wait().await.unwrap().success());
    let entries = read_log(&log);
    let chunks: Vec<_> = (1..).map_while(|n| entries[0]["config"][format!("CAMOU_CONFIG_{n}")].as_str()).collect();
    assert!(chunks.len() > 1 && chunks.iter().all(|chunk| chunk.chars().count() <= 32_767));
    let config: serde_json::Value = serde_json::from_str(&chunks.concat()).unwrap();
    assert_eq!(config["navigator.userAgent"], long);
    let proxy = entries.iter().find(|entry| entry["method"] == "Browser.setBrowserProxy").unwrap();
    assert_eq!((&proxy["params"]["host"], &proxy["params"]["username"]), (&"proxy.test".into(), &"user".into()));
}

/// Keeps as many connections to this port open as the runner accepts, from 50 addresses, and replaces each closed one.
fn hold_connections(address: SocketAddr, connections: u32) -> JoinSet<()> {
    let mut holding = JoinSet::new();
    for (last, _) in (2..52).flat_map(|last| (0..connections / 50).map(move |each| (last, each))) {
        holding.spawn(async move {
            loop {
                if let Ok(mut stream) = connect_from([127, 0, 0, last].into(), address).await {
                    stream.read_u8().await.ok();
                }
            }
        });
    }
    holding
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_block_neither_port() {
    files::raise_limit(u64::MAX).unwrap();
    // Containers limit open files to a similar number.
    let mut runner = TestRunner::start_with(&["--node", "/bin/cat"], |command, _| {
        let limited = std::mem::replace(command, Command::new("prlimit"));
        command.arg("--nofile=1024:1024").arg(limited.as_std().get_program()).args(limited.as_std().get_args());
        command.env_remove("CAMOUFOX_EXECUTABLE_PATH").env_remove("CAMOUFOX_INSTALL_DIR").kill_on_drop(true);
    })
    .await;
    for attacked in [PORT, PROBE_PORT] {
        let holding = hold_connections((runner.address, attacked).into(), 1500);
        for _ in 0..5 {
            // Like the gateway, opens a new connection for each call.
            let hop = runner.gateway.hop_token(POD, "none", Scope::Connect, None);
            assert_eq!(call(&runner, Method::GET, "/v1/sessions", Some(&hop)).await, (200, None));
            for path in ["healthz", "readyz"] {
                let url = format!("http://{}:{PROBE_PORT}/{path}", runner.address);
                assert_eq!(reqwest::get(url).await.unwrap().status(), 200, "{path} under load on port {attacked}");
            }
            // Pods of an older operator are probed on this port.
            assert_eq!(reqwest::get(runner.url("/healthz")).await.unwrap().status(), 200);
        }
        drop(holding);
    }
    assert!(runner.terminate().await.success());
}
