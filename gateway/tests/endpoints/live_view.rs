//! The live view, its page and session tokens, with a runner whose display is controlled by the test.

use crate::common::{ADMIN, POD_UID, TestGateway, VIEWER, expect_close, ready, start_gateway};
use camofleet_auth::token::{Caller, Scope, SessionToken};
use camofleet_gateway::cache::session::{FinishedReason, Readiness};
use camofleet_testkit::http::read_head;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

const GREETING: &[u8] = b"RFB 003.008\n";
/// A client's handshake: version, security type None, shared flag not set.
const HANDSHAKE: &[u8] = b"RFB 003.008\n\x01\x00";
const KEY: [u8; 8] = [4, 1, 0, 0, 0, 0, 0, b'a'];
const UPDATE_REQUEST: [u8; 10] = [3, 0, 0, 0, 0, 0, 5, 0, 2, 208];

/// A runner that hands the test the head of each request, and the connection of each request for the display.
struct Runner {
    address: SocketAddr,
    requests: mpsc::UnboundedReceiver<(String, Option<TcpStream>)>,
}

impl Runner {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let head = read_head(&mut stream).await.unwrap();
                let to_display = head.starts_with("GET ");
                let answer: &[u8] = if to_display {
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: rfb\r\n\r\n"
                } else {
                    b"HTTP/1.1 204 No Content\r\n\r\n"
                };
                stream.write_all(answer).await.unwrap();
                let _ = sender.send((head, to_display.then_some(stream)));
            }
        });
        Self { address, requests }
    }

    async fn display(&mut self) -> (String, TcpStream) {
        let (head, stream) = self.requests.recv().await.unwrap();
        (head, stream.expect("a request for the display"))
    }
}

fn bearer(head: &str) -> &str {
    head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap()
}

/// Starts a gateway and a runner with the Ready session `s`.
async fn session() -> (TestGateway, Runner) {
    let (gateway, runner) = (start_gateway().await, Runner::start().await);
    gateway.put_session("s", "uid-1", ready(runner.address));
    gateway.create_uncached("s", "uid-1");
    (gateway, runner)
}

async fn connect_client(gateway: &TestGateway, protocols: &str) -> Result<(Client, HeaderMap), Error> {
    let mut request = format!("ws://{}/vnc/ns/s", gateway.address).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    connect_async(request).await.map(|(client, response)| (client, response.into_parts().0.headers))
}

async fn read<const N: usize>(display: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    display.read_exact(&mut bytes).await.unwrap();
    bytes
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn token(gateway: &TestGateway, session: &str, scope: Scope, expires: u64) -> String {
    let token = SessionToken { session: session.into(), scope, expires, single_use_id: None };
    gateway.state.signer.session_token(token)
}

#[tokio::test]
async fn forwards_a_controllers_input_and_reports_activity() {
    let (gateway, mut runner) = session().await;
    let offered = format!("camofleet.control, camofleet.view, camofleet.bearer.{ADMIN}");
    let (mut client, headers) = connect_client(&gateway, &offered).await.unwrap();
    assert_eq!(headers["sec-websocket-protocol"], "camofleet.control");
    let (head, mut display) = runner.display().await;
    assert!(head.starts_with("GET /v1/sessions/uid-1/vnc HTTP/1.1\r\n") && head.contains("upgrade: rfb"), "{head}");
    let caller = gateway.keys.verify(bearer(&head), POD_UID).unwrap();
    assert_eq!(caller, Caller::Gateway { session: "uid-1".into(), scope: Scope::Control, single_use_id: None });
    assert!(!head.contains(ADMIN), "the user's token must not reach the runner: {head}");

    display.write_all(GREETING).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(GREETING.into()));
    // In WebSocket messages that do not match the RFB messages.
    for piece in [HANDSHAKE, &UPDATE_REQUEST, &KEY].concat().chunks(5) {
        client.send(Message::Binary(piece.to_vec().into())).await.unwrap();
    }
    let passed: [u8; 32] = read(&mut display).await;
    assert_eq!(passed[..14], *b"RFB 003.008\n\x01\x01", "the shared flag is set");
    assert_eq!(passed[14..24], UPDATE_REQUEST);
    assert_eq!(passed[24..], KEY);
    let (touch, _) = runner.requests.recv().await.unwrap();
    assert!(touch.starts_with("POST /v1/sessions/uid-1/touch HTTP/1.1\r\n"), "{touch}");
}

#[tokio::test]
async fn drops_the_input_of_a_client_without_control() {
    let (gateway, mut runner) = session().await;
    let view = token(&gateway, "uid-1", Scope::View, now() + 60);
    for offered in [
        format!("camofleet.control, camofleet.view, camofleet.bearer.{view}"),
        format!("camofleet.control, camofleet.view, camofleet.bearer.{VIEWER}"),
        // An admin that requests only the view scope gets no more.
        format!("camofleet.view, camofleet.bearer.{ADMIN}"),
    ] {
        let (mut client, headers) = connect_client(&gateway, &offered).await.unwrap();
        assert_eq!(headers["sec-websocket-protocol"], "camofleet.view");
        let (head, mut display) = runner.display().await;
        let caller = gateway.keys.verify(bearer(&head), POD_UID).unwrap();
        assert_eq!(caller, Caller::Gateway { session: "uid-1".into(), scope: Scope::View, single_use_id: None });
        display.write_all(GREETING).await.unwrap();
        client.send(Message::Binary([HANDSHAKE, &KEY, &UPDATE_REQUEST].concat().into())).await.unwrap();
        drop(client);
        let mut passed = Vec::new();
        display.read_to_end(&mut passed).await.unwrap();
        assert!(passed.ends_with(&UPDATE_REQUEST) && !passed.windows(8).any(|bytes| bytes == KEY), "{passed:?}");
    }
}

#[tokio::test]
async fn closes_with_a_reason_after_invalid_rfb() {
    let (gateway, mut runner) = session().await;
    for (message, code) in [
        (Message::Binary(b"RFB 003.003\n".as_slice().into()), 1002),
        (Message::Binary([HANDSHAKE, &[99]].concat().into()), 1002),
        (Message::Binary([HANDSHAKE, &[6, 0, 0, 0, 1, 0, 0, 0]].concat().into()), 1009),
        (Message::Text("hello".into()), 1003),
        (Message::Binary(vec![0; 4 << 20].into()), 1009),
    ] {
        let (mut client, _) = connect_client(&gateway, &format!("binary, camofleet.bearer.{ADMIN}")).await.unwrap();
        let (_, mut display) = runner.display().await;
        client.send(message).await.unwrap();
        let (close_code, reason) = expect_close(client.next().await);
        assert!(close_code == code && !reason.is_empty(), "{close_code} {reason}");
        let mut rest = Vec::new();
        display.read_to_end(&mut rest).await.unwrap();
    }
}

#[tokio::test]
async fn relays_pictures_and_answers_pings_between_them() {
    let (gateway, mut runner) = session().await;
    let (client, _) = connect_client(&gateway, &format!("binary, camofleet.bearer.{ADMIN}")).await.unwrap();
    let (_, mut display) = runner.display().await;
    // After the greeting, no two consecutive bytes are equal, so a lost or repeated chunk is detected.
    let greeting = b"RFB 003.008\n\x01\x01\0\0\0\0".to_vec();
    let pictures: Vec<u8> = (0..3_000_000_u32).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
    let sent = [greeting, pictures].concat();
    let sending = tokio::spawn({
        let sent = sent.clone();
        async move {
            for piece in sent.chunks(70_001) {
                display.write_all(piece).await.unwrap();
            }
            display
        }
    });
    let (mut to_gateway, mut from_gateway) = client.split();
    let (mut received, mut answers) = (Vec::new(), 0);
    while received.len() < sent.len() || answers == 0 {
        match from_gateway.next().await.unwrap().unwrap() {
            Message::Binary(piece) => {
                received.extend_from_slice(&piece);
                to_gateway.send(Message::Ping(piece.slice(..piece.len().min(125)))).await.unwrap();
            }
            Message::Pong(_) => answers += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(received == sent, "the client received other bytes than the display sent");
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn the_close_code_names_the_cause() {
    let (gateway, mut runner) = session().await;
    let (mut client, _) = connect_client(&gateway, &format!("binary, camofleet.bearer.{ADMIN}")).await.unwrap();
    runner.display().await;
    let expiring = token(&gateway, "uid-1", Scope::View, now() + 2);
    let (mut expires, _) = connect_client(&gateway, &format!("binary, camofleet.bearer.{expiring}")).await.unwrap();
    runner.display().await;
    assert_eq!(expect_close(expires.next().await).0, 4401);

    let finish = FinishedReason { reason: "IdleTimeout".into(), message: "no activity for 300 s".into() };
    gateway.put_session("s", "uid-1", Readiness::Finished(finish));
    let (code, reason) = expect_close(client.next().await);
    assert_eq!(code, 4410);
    assert!(reason.contains("IdleTimeout: no activity for 300 s"), "{reason}");
}

#[tokio::test]
async fn a_lost_display_and_a_drain_have_different_close_codes() {
    let (gateway, mut runner) = session().await;
    let offered = format!("binary, camofleet.bearer.{ADMIN}");
    let (mut client, _) = connect_client(&gateway, &offered).await.unwrap();
    drop(runner.display().await);
    assert_eq!(expect_close(client.next().await).0, 1011);
    let (mut client, _) = connect_client(&gateway, &offered).await.unwrap();
    let (_, _display) = runner.display().await;
    let state = Arc::clone(&gateway.state);
    tokio::spawn(async move { state.shutdown.drain(Duration::ZERO).await });
    assert_eq!(expect_close(client.next().await).0, 1001);
}

#[tokio::test]
async fn answers_a_close_frame_and_counts_a_lost_client() {
    let (gateway, mut runner) = session().await;
    let offered = format!("binary, camofleet.bearer.{ADMIN}");
    let (mut client, _) = connect_client(&gateway, &offered).await.unwrap();
    let (_, _display) = runner.display().await;
    client.send(Message::Close(None)).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Close(None));
    let (client, _) = connect_client(&gateway, &offered).await.unwrap();
    let (_, _display) = runner.display().await;
    drop(client);
    for outcome in ["ClientClosed", "ClientLost"] {
        while !gateway.metrics().contains(&format!(r#"connections_total{{outcome="{outcome}"}} 1"#)) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn rejects_a_token_for_another_endpoint_or_session() {
    let (gateway, mut runner) = session().await;
    gateway.put_session("other", "uid-2", ready(runner.address));
    gateway.create_uncached("other", "uid-2");
    let ask = async |path: &str, token: &str| {
        let (status, _, body) = gateway.handshake(path, &[("authorization", &format!("Bearer {token}"))]).await;
        (status, body)
    };
    let later = now() + 60;
    for (scope, path) in [(Scope::View, "/ws/ns/s"), (Scope::Control, "/ws/ns/s"), (Scope::Connect, "/vnc/ns/s")] {
        let (status, body) = ask(path, &token(&gateway, "uid-1", scope, later)).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{scope:?} {path} {body}");
    }
    for scope in [Scope::View, Scope::Control] {
        let (status, body) = ask("/vnc/ns/other", &token(&gateway, "uid-1", scope, later)).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
        assert!(body.contains("another session"), "{body}");
    }
    let (status, body) = ask("/ws/ns/other", &token(&gateway, "uid-1", Scope::Connect, later)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    let (status, body) = ask("/vnc/ns/s", &token(&gateway, "uid-1", Scope::View, now() - 1)).await;
    assert!(status == StatusCode::UNAUTHORIZED && body.contains("expired"), "{status} {body}");
    assert_eq!(ask("/vnc/ns/s", "unknown-token").await.0, StatusCode::UNAUTHORIZED);
    assert!(runner.requests.try_recv().is_err(), "a rejected request must not reach the runner");

    // A token for a session that this replica's cache does not have yet.
    gateway.create_uncached("fresh", "uid-3");
    let fresh = token(&gateway, "uid-3", Scope::View, later);
    let connecting = tokio::spawn({
        let url = format!("ws://{}/vnc/ns/fresh?token={fresh}", gateway.address);
        async move { connect_async(url).await.map(drop) }
    });
    while gateway.api_requests.load(std::sync::atomic::Ordering::Relaxed) < 4 {
        tokio::task::yield_now().await;
    }
    gateway.put_session("fresh", "uid-3", ready(runner.address));
    runner.display().await;
    connecting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_plain_request_returns_the_cause_of_a_rejection() {
    let (gateway, _runner) = session().await;
    let ask = async |name: &str, token: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [("host", "gateway"), ("authorization", authorization.as_str())];
        gateway.get(&format!("/vnc/ns/{name}"), &headers).await.0
    };
    assert_eq!(ask("s", ADMIN).await, StatusCode::UPGRADE_REQUIRED, "the client is permitted");
    assert_eq!(ask("s", "unknown-token").await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask("none", ADMIN).await, StatusCode::NOT_FOUND);
    gateway.put_session(
        "s",
        "uid-1",
        Readiness::Finished(FinishedReason { reason: "Deleted".into(), message: String::new() }),
    );
    assert_eq!(ask("s", ADMIN).await, StatusCode::GONE);
}

async fn share(gateway: &TestGateway, name: &str, token: &str, body: &Value) -> (StatusCode, Value) {
    let url = format!("http://{}/api/namespaces/ns/sessions/-/{name}/tokens", gateway.address);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.post(url).bearer_auth(token).json(body).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn an_admin_creates_a_token_for_one_session() {
    let (gateway, mut runner) = session().await;
    let (status, given) = share(&gateway, "s", ADMIN, &json!({ "scope": "view" })).await;
    assert_eq!(status, StatusCode::CREATED, "{given}");
    assert_eq!(
        (&given["scope"], &given["session"], &given["single_use"]),
        (&json!("view"), &json!("uid-1"), &json!(false))
    );
    let view = given["token"].as_str().unwrap();
    let token = gateway.keys.verify_session_token(view).unwrap();
    assert!((now() + 3590..=now() + 3600).contains(&token.expires) && token.single_use_id.is_none(), "{token:?}");
    connect_client(&gateway, &format!("camofleet.view, camofleet.bearer.{view}")).await.unwrap();
    runner.display().await;

    let once = json!({ "scope": "connect", "ttl_seconds": 60, "single_use": true });
    let (first, second) = (share(&gateway, "s", ADMIN, &once).await.1, share(&gateway, "s", ADMIN, &once).await.1);
    let id = |given: &Value| {
        gateway.keys.verify_session_token(given["token"].as_str().unwrap()).unwrap().single_use_id.unwrap()
    };
    assert_ne!(id(&first), id(&second));

    for (token, rejected) in
        [(VIEWER, StatusCode::FORBIDDEN), (view, StatusCode::FORBIDDEN), ("x", StatusCode::UNAUTHORIZED)]
    {
        assert_eq!(share(&gateway, "s", token, &json!({ "scope": "view" })).await.0, rejected);
    }
    let connect = first["token"].as_str().unwrap();
    let (status, body) = share(&gateway, "s", connect, &json!({ "scope": "view" })).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "a session token must not create another: {body}");
    assert_eq!(share(&gateway, "none", ADMIN, &json!({ "scope": "view" })).await.0, StatusCode::NOT_FOUND);
    for (body, names) in [
        (json!({}), "scope"),
        (json!({ "scope": "all" }), "scope"),
        (json!({ "scope": "view", "ttl_seconds": 0 }), "ttl_seconds"),
        (json!({ "scope": "view", "ttl_seconds": 86401 }), "ttl_seconds"),
        (json!({ "scope": "view", "ttl_seconds": "1" }), "ttl_seconds"),
        (json!({ "scope": "view", "ttl": 1 }), "ttl"),
    ] {
        let (status, response) = share(&gateway, "s", ADMIN, &body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body} {response}");
        let is_reported =
            response["detail"].as_array().unwrap().iter().any(|error| error["loc"] == json!(["body", names]));
        assert!(is_reported, "{body} {response}");
    }
}

#[tokio::test]
async fn rejects_a_single_use_token_that_was_used() {
    let gateway = start_gateway().await;
    let body = r#"{"reason":"TokenUsed","message":"used"}"#;
    let answer: &'static str =
        format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: {}\r\n\r\n{body}", body.len()).leak();
    gateway.put_session("s", "uid-1", ready(crate::common::Runner::answering(answer).await));
    let token = SessionToken {
        session: "uid-1".into(),
        scope: Scope::View,
        expires: now() + 60,
        single_use_id: Some("id".into()),
    };
    let bearer = format!("Bearer {}", gateway.state.signer.session_token(token));
    let (status, _, response) = gateway.handshake("/vnc/ns/s", &[("authorization", &bearer)]).await;
    assert!(status == StatusCode::UNAUTHORIZED && response.contains("used before"), "{status} {response}");
}

#[tokio::test]
async fn serves_pages_without_a_token_under_a_strict_policy() {
    let gateway = start_gateway().await;
    let get = async |path: &str| gateway.get(path, &[("host", "gateway")]).await;
    for (path, title) in [("/view/ns/s?embed=1", "<title>view"), ("/?tab=pools", "<title>dashboard")] {
        let (status, headers, body) = get(path).await;
        assert!(status == StatusCode::OK && body.contains(title), "{status} {body}");
        assert_eq!(headers["content-type"], "text/html");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(
            (&headers["referrer-policy"], &headers["cache-control"]),
            (&"no-referrer".parse().unwrap(), &"no-cache".parse().unwrap())
        );
    }
    let (status, headers, _) = get("/assets/view-1.js").await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (StatusCode::OK, "text/javascript"));
    assert!(headers["cache-control"].to_str().unwrap().contains("immutable"));
    for path in ["/assets/none.js", "/assets/../view.html", "/assets/..%2fview.html", "/assets/"] {
        assert_eq!(get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}
