//! The REST API: permissions, documents and event streams. The end-to-end tests create and delete sessions with a real
//! API server.

use crate::common::{ADMIN, Runner, TestGateway, VIEWER, key, ready, start_gateway};
use camofleet_auth::token::{Scope, SessionToken};
use camofleet_crds::{
    conditions::{self, ConditionStatus, READY},
    v1alpha1::{
        BrowserSession, BrowserSessionSpec, BrowserSessionStatus, Display, Engine, LiveViewUrls, PoolRef, SessionState,
        StartTier, WorkerPool, WorkerPoolSpec,
    },
};
use camofleet_gateway::{
    auth::static_tokens::StaticTokens,
    cache::changes::Changed,
    cache::session::{FinishedReason, Key, Readiness, Session},
    rest,
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::Timestamp,
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::{sync::atomic::Ordering, time::Duration};

fn request(gateway: &TestGateway, method: &Method, path: &str) -> RequestBuilder {
    let client = Client::builder().no_proxy().build().unwrap();
    client.request(method.clone(), format!("http://{}{path}", gateway.address))
}

async fn json(response: Response) -> (StatusCode, Value) {
    assert_eq!(response.headers()["cache-control"], "no-store");
    (response.status(), response.json().await.unwrap())
}

async fn get(gateway: &TestGateway, path: &str) -> (StatusCode, Value) {
    json(request(gateway, &Method::GET, path).bearer_auth(ADMIN).send().await.unwrap()).await
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A Ready session on the runner at this address, with a status as the operator publishes it.
fn live_session(name: &str, runner: std::net::SocketAddr) -> Session {
    let spec = BrowserSessionSpec {
        pool_ref: Some(PoolRef { name: "pool".into(), namespace: None }),
        display: Some(Display::LiveView),
        start_url: Some("https://example.org/".into()),
        idle_timeout_seconds: Some(60),
        ..BrowserSessionSpec::default()
    };
    let mut object = BrowserSession::new(name, spec);
    object.metadata.namespace = Some("ns".into());
    object.metadata.uid = Some("uid-1".into());
    object.metadata.creation_timestamp = Some(Time(at(0)));
    object.metadata.annotations = Some([("camofleet.dev/labels".into(), r#"{"Team/x":"a b"}"#.into())].into());
    let mut status = BrowserSessionStatus {
        state: SessionState::Ready,
        pool: Some("pool".into()),
        engine: Some(Engine::Firefox),
        browser_version: Some("153.7.0".into()),
        start_tier: Some(StartTier::Hot),
        ready_time: Some(MicroTime(at(1))),
        deadline_time: Some(MicroTime(at(3600))),
        ws_endpoint: Some("ws://fleet/ws/ns/s".into()),
        vnc: Some(LiveViewUrls { url: "http://fleet/view/ns/s".into(), ws_endpoint: "ws://fleet/vnc/ns/s".into() }),
        ..BrowserSessionStatus::default()
    };
    conditions::set(
        &mut status.conditions,
        READY,
        ConditionStatus::True,
        "BrowserReady",
        "the browser is ready",
        None,
        at(1),
    );
    object.status = Some(status);
    let mut session = Session::new(object);
    session.readiness = ready(runner);
    session
}

/// A runner that reports its session as idle for 5 s.
async fn reporting_runner() -> std::net::SocketAddr {
    let report = json!({
        "uid": "uid-1", "namespace": "ns", "name": "s", "phase": "Ready", "display": "LiveView", "tier": "Hot",
        "startPage": { "state": "Failed", "message": "no such host" }, "clients": 2, "end": null, "idleMilliseconds": 5000,
    })
    .to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{report}", report.len());
    Runner::answering(answer.leak()).await
}

#[tokio::test]
async fn viewers_read_and_admins_change() {
    let gateway = start_gateway().await;
    let expires = u64::try_from(Timestamp::now().as_second()).unwrap() + 60;
    let session_token = gateway.state.signer.session_token(SessionToken {
        session: "uid-1".into(),
        scope: Scope::Connect,
        expires,
        single_use_id: None,
    });
    let reads = ["/workers", "/namespaces", "/sessions", "/health", "/sessions/pool/none", "/events", "/login"];
    let writes = [
        (Method::POST, "/sessions"),
        (Method::DELETE, "/sessions/pool/none"),
        (Method::POST, "/sessions/pool/none/touch"),
        (Method::POST, "/sessions/pool/none/tokens"),
    ];
    let calls =
        reads.iter().map(|path| (Method::GET, *path, VIEWER)).chain(writes.map(|(method, path)| (method, path, ADMIN)));
    for (method, path, enough) in calls {
        for prefix in ["", "/api", "/api/namespaces/other"] {
            let path = format!("{prefix}{path}");
            let status = async |token: Option<&str>| {
                let builder = request(&gateway, &method, &path).json(&json!({}));
                let builder = token.into_iter().fold(builder, RequestBuilder::bearer_auth);
                builder.send().await.unwrap().status()
            };
            assert_eq!(status(None).await, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(status(Some("x")).await, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(status(Some(&session_token)).await, StatusCode::FORBIDDEN, "{method} {path}");
            let viewers = status(Some(VIEWER)).await;
            assert_eq!(viewers == StatusCode::FORBIDDEN, enough == ADMIN, "{method} {path}: {viewers}");
            let admins = status(Some(ADMIN)).await;
            assert!(![401, 403].contains(&admins.as_u16()), "{method} {path}: {admins}");
        }
    }
}

#[tokio::test]
async fn a_login_works_only_from_same_origin_pages() {
    let gateway = start_gateway().await;
    let own = format!("http://{}", gateway.address);
    let login = async |token: &str, origin: &str| {
        let builder =
            request(&gateway, &Method::POST, "/api/login").header("origin", origin).json(&json!({ "token": token }));
        builder.send().await.unwrap()
    };
    assert_eq!(login("x", &own).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(login(VIEWER, "http://elsewhere.test").await.status(), StatusCode::FORBIDDEN);
    let answer = login(ADMIN, &own).await;
    let set = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert_eq!(json(answer).await, (StatusCode::OK, json!({ "role": "admin" })));
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(set.contains(attribute), "{set}");
    }
    assert!(!set.contains("Secure") && !set.contains(ADMIN), "{set}");
    let cookie = set.split(';').next().unwrap();
    let secure = request(&gateway, &Method::POST, "/api/login").header("x-forwarded-proto", "https");
    let secure = secure.json(&json!({ "token": ADMIN })).send().await.unwrap();
    assert!(secure.headers()["set-cookie"].to_str().unwrap().contains("Secure"));

    let ask = async |method: Method, path: &str, origin: Option<&str>| {
        let builder = request(&gateway, &method, path).header("cookie", cookie);
        let builder = origin.into_iter().fold(builder, |builder, origin| builder.header("origin", origin));
        builder.send().await.unwrap().status()
    };
    assert_eq!(ask(Method::GET, "/api/login", None).await, StatusCode::OK);
    assert_eq!(ask(Method::GET, "/api/sessions", None).await, StatusCode::OK);
    for foreign in [None, Some("http://elsewhere.test"), Some("null"), Some("http://elsewhere.test:80")] {
        assert_eq!(
            ask(Method::POST, "/api/sessions/p/none/touch", foreign).await,
            StatusCode::FORBIDDEN,
            "{foreign:?}"
        );
        let origin: Vec<_> = foreign.map(|origin| ("origin", origin)).into_iter().collect();
        let headers = [&[("cookie", cookie)], origin.as_slice()].concat();
        assert_eq!(gateway.handshake("/vnc/ns/none", &headers).await.0, StatusCode::FORBIDDEN, "{foreign:?}");
        assert_eq!(gateway.handshake("/ws/ns/none", &headers).await.0, StatusCode::UNAUTHORIZED, "{foreign:?}");
    }
    assert_eq!(ask(Method::POST, "/api/sessions/p/none/touch", Some(&own)).await, StatusCode::NOT_FOUND);
    assert_eq!(
        gateway.handshake("/vnc/ns/none", &[("cookie", cookie), ("origin", "http://gateway")]).await.0,
        StatusCode::NOT_FOUND
    );

    gateway.state.auth.set_tokens(Some(StaticTokens::parse([("admin", b"another".as_slice())])));
    assert_eq!(
        ask(Method::GET, "/api/sessions", None).await,
        StatusCode::UNAUTHORIZED,
        "the static token of the login was removed"
    );
    let out = request(&gateway, &Method::POST, "/api/logout")
        .header("origin", &own)
        .header("cookie", cookie)
        .send()
        .await
        .unwrap();
    assert!(out.headers()["set-cookie"].to_str().unwrap().contains("camofleet_login=;"));
    assert_eq!(json(out).await, (StatusCode::OK, json!({ "role": null })));
}

#[tokio::test]
async fn returns_a_session_in_the_python_projects_format() {
    let gateway = start_gateway().await;
    gateway.state.sessions.put(key("s"), live_session("s", reporting_runner().await));
    let (status, session) = get(&gateway, "/api/sessions/pool/s").await;
    assert_eq!(status, StatusCode::OK, "{session}");
    let value_of = |field: &str| session[field].clone();
    for (field, value) in [
        ("worker", json!("pool")),
        ("id", json!("s")),
        ("status", json!("READY")),
        ("browser", json!("firefox")),
        ("headless", json!(false)),
        ("idle_ttl_seconds", json!(60)),
        ("labels", json!({ "Team/x": "a b" })),
        ("ws_endpoint", json!("/api/sessions/pool/s/ws")),
        ("vnc_enabled", json!(true)),
        ("start_url_wait", json!("load")),
        ("start_page", json!({ "state": "failed", "message": "no such host" })),
        ("clients", json!(2)),
        ("reason", json!("BrowserReady")),
    ] {
        assert_eq!(value_of(field), value, "{field}");
    }
    let last_seen: Timestamp = value_of("last_seen_at").as_str().unwrap().parse().unwrap();
    let ago = Timestamp::now().duration_since(last_seen).as_secs();
    assert!((5..60).contains(&ago), "last seen {ago} s ago");
    let view_url = value_of("vnc")["http"].as_str().unwrap().to_owned();
    let token = view_url.strip_prefix("http://fleet/view/ns/s#token=").unwrap();
    let token = gateway.keys.verify_session_token(token).unwrap();
    assert_eq!((token.session.as_str(), token.scope, token.single_use_id), ("uid-1", Scope::View, None));
    assert_eq!(value_of("vnc")["password_protected"], json!(false));

    let list = get(&gateway, "/sessions").await.1;
    assert_eq!((list.as_array().unwrap().len(), &list[0]["id"], &list[0]["vnc"]), (1, &json!("s"), &value_of("vnc")));
    assert_eq!(get(&gateway, "/api/namespaces/ns/sessions").await.1[0]["id"], json!("s"));
    assert_eq!(get(&gateway, "/api/namespaces/other/sessions").await.1, json!([]));
    assert_eq!(get(&gateway, "/api/sessions/-/s").await.0, StatusCode::OK);
    let (status, problem) = get(&gateway, "/api/sessions/other/s").await;
    assert_eq!(
        (status, problem),
        (StatusCode::NOT_FOUND, json!({ "detail": "Session not found: there is no session ns/s" }))
    );
}

#[tokio::test]
async fn returns_pools_as_workers() {
    let gateway = start_gateway().await;
    assert_eq!(get(&gateway, "/api/health").await.1, json!({ "status": "degraded", "workers": [] }));
    let mut pool = WorkerPool::new("pool", WorkerPoolSpec::default());
    pool.metadata.namespace = Some("ns".into());
    let status = pool.status.get_or_insert_default();
    conditions::set(
        &mut status.conditions,
        READY,
        ConditionStatus::True,
        "AllReady",
        "all runners are ready",
        None,
        at(0),
    );
    gateway.state.pools.put(key("pool"), pool);
    let (status, health) = get(&gateway, "/health").await;
    assert_eq!((status, &health["status"]), (StatusCode::OK, &json!("ok")));
    let worker = &health["workers"][0];
    assert_eq!(
        (&worker["name"], &worker["healthy"], &worker["supports_vnc"]),
        (&json!("pool"), &json!(true), &json!(true))
    );
    assert_eq!(worker["detail"]["checks"], json!({ "Ready": "AllReady: all runners are ready" }));
    assert_eq!(get(&gateway, "/api/workers").await.1, health["workers"]);
    let elsewhere = Key::new("elsewhere", "pool").unwrap();
    gateway.state.pools.put(elsewhere, WorkerPool::new("pool", WorkerPoolSpec::default()));
    let namespaces = json!({ "own": "ns", "namespaces": ["elsewhere", "ns"] });
    assert_eq!(get(&gateway, "/api/namespaces").await, (StatusCode::OK, namespaces));
}

#[tokio::test]
async fn rejects_an_invalid_creation_at_once() {
    let gateway = start_gateway().await;
    let create = async |body: &str| {
        let builder = request(&gateway, &Method::POST, "/api/sessions").bearer_auth(ADMIN);
        json(builder.header("content-type", "application/json").body(body.to_owned()).send().await.unwrap()).await
    };
    let (status, problem) = create("{}").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(problem["detail"].as_str().unwrap().starts_with("No workers configured"), "{problem}");
    let (status, problem) = create(r#"{"worker": "none"}"#).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(problem["detail"].as_str().unwrap().starts_with("Worker not found"), "{problem}");
    let (status, problem) = create(r#"{"idle_ttl_seconds": 1, "colour": "red"}"#).await;
    assert_eq!((status, problem["detail"].as_array().unwrap().len()), (StatusCode::UNPROCESSABLE_ENTITY, 2));
    let (status, problem) = create("{").await;
    assert_eq!((status, &problem["detail"][0]["loc"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(["body"])));
    let builder = request(&gateway, &Method::POST, "/api/sessions").bearer_auth(ADMIN).body("{}").send().await.unwrap();
    assert_eq!(builder.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

/// A reader of an event stream.
struct Events {
    response: Response,
    text: String,
}

impl Events {
    async fn open(gateway: &TestGateway, last: Option<&str>) -> Self {
        let builder = request(gateway, &Method::GET, "/api/events").bearer_auth(VIEWER);
        let builder = last.into_iter().fold(builder, |builder, id| builder.header("last-event-id", id));
        let response = builder.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { response, text: String::new() }
    }

    /// Reads the next event: name, id and data. None at the end of the stream.
    async fn next(&mut self) -> Option<(String, Option<String>, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let (name, id, data) = (field("event: "), field("id: "), field("data: "));
                self.text = rest.into();
                match name {
                    Some(name) => return Some((name, id, serde_json::from_str(&data.unwrap()).unwrap())),
                    None => continue,
                }
            }
            self.text += std::str::from_utf8(&self.response.chunk().await.ok()??).unwrap();
        }
    }
}

fn put(gateway: &TestGateway, name: &str, address: std::net::SocketAddr) {
    gateway.state.sessions.put(key(name), live_session(name, address));
    gateway.state.changes.record(Changed::Session(key(name)));
}

#[tokio::test]
async fn streams_a_reset_and_then_the_changes() {
    let gateway = start_gateway().await;
    let runner = reporting_runner().await;
    put(&gateway, "old", runner);
    let mut events = Events::open(&gateway, None).await;
    let (name, id, data) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &data["sessions"][0]["id"], &data["workers"]), ("reset", &json!("old"), &json!([])));
    // The activity of the session, which the runner is polled for while a reader is connected.
    let (name, _, data) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &data["id"], &data["clients"]), ("session", &json!("old"), &json!(2)));
    let start = id.unwrap();

    put(&gateway, "new", runner);
    let (name, _, data) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &data["id"]), ("session", &json!("new")));
    gateway.state.sessions.remove(&key("old"));
    gateway.state.changes.record(Changed::Session(key("old")));
    let (name, _, data) = events.next().await.unwrap();
    assert_eq!((name.as_str(), data), ("session-gone", json!({ "id": "old" })));
    let mut pool = WorkerPool::new("pool", WorkerPoolSpec::default());
    pool.metadata.namespace = Some("ns".into());
    gateway.state.pools.put(key("pool"), pool);
    gateway.state.changes.record(Changed::Pool(key("pool")));
    assert_eq!(events.next().await.unwrap().0, "worker");
    gateway.state.pools.remove(&key("pool"));
    gateway.state.changes.record(Changed::Pool(key("pool")));
    assert_eq!(events.next().await.unwrap().0, "worker-gone");

    // A reader that reconnects receives each object that changed once.
    let mut again = Events::open(&gateway, Some(&start)).await;
    let mut missed = vec![];
    while missed.len() < 3 {
        let (name, _, data) = again.next().await.unwrap();
        missed.push(format!("{name} {}", data["id"].as_str().unwrap()));
    }
    missed.sort();
    assert_eq!(missed, ["session new", "session-gone old", "worker-gone pool"]);
    for unknown in ["other-0", "x"] {
        assert_eq!(Events::open(&gateway, Some(unknown)).await.next().await.unwrap().0, "reset");
    }

    gateway.state.auth.set_tokens(Some(StaticTokens::parse([("admin", ADMIN.as_bytes())])));
    let ended = tokio::time::timeout(Duration::from_secs(30), async { while events.next().await.is_some() {} }).await;
    ended.expect("the stream ends when its token is removed");
}

#[tokio::test]
async fn the_openapi_document_matches_the_routes_and_the_ui() {
    let gateway = start_gateway().await;
    let (status, document) = get(&gateway, "/api/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(document, serde_json::to_value(rest::document()).unwrap());
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let uis = include_str!("../../../ui/openapi.json");
    assert!(
        serde_json::from_str::<Value>(uis).unwrap() == document,
        "ui/openapi.json is outdated: run `cargo run --bin openapi > ui/openapi.json`, and `npm run generate` in ui/"
    );
    let mut calls = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let named = path.replace("{worker}", "pool").replace("{id}", "none");
            let builder = request(&gateway, &method, &format!("/api{named}")).header("origin", "http://elsewhere.test");
            let builder = builder.json(&json!({ "token": "x" }));
            let status = builder.send().await.unwrap().status().as_u16();
            assert!([401, 403].contains(&status), "{method} {path}: {status}");
            calls += 1;
        }
    }
    assert_eq!(calls, 14);
}

#[tokio::test]
async fn deletes_a_session_after_an_ambiguous_creation_error() {
    let gateway = start_gateway().await;
    gateway.state.pools.put(key("pool"), WorkerPool::new("pool", WorkerPoolSpec::default()));
    let builder = request(&gateway, &Method::POST, "/api/sessions").bearer_auth(ADMIN).json(&json!({}));
    assert_eq!(builder.send().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(gateway.api_requests.load(Ordering::Relaxed) >= 2, "the session was created and deleted");
    assert_eq!(*gateway.uncached.lock().unwrap(), []);
}

#[tokio::test]
async fn deletes_the_current_session_of_a_reused_name() {
    let gateway = start_gateway().await;
    gateway.put_session(
        "again",
        "former",
        Readiness::Finished(FinishedReason { reason: "IdleTimeout".into(), message: String::new() }),
    );
    gateway.create_uncached("again", "new");
    let (status, ended) =
        json(request(&gateway, &Method::DELETE, "/api/sessions/-/again").bearer_auth(ADMIN).send().await.unwrap())
            .await;
    assert_eq!((status, &ended["status"]), (StatusCode::OK, &json!("TERMINATING")));
    assert_eq!(*gateway.uncached.lock().unwrap(), []);
}
