//! Playwright connections: authorization, finding and waiting for sessions, relaying, and closing.

use crate::common::{
    ADMIN, POD_UID, Runner, VIEWER, expect_close, key, log_output, ready, start_gateway, start_gateway_with,
};
use camofleet_auth::token::{Caller, Scope};
use camofleet_crds::v1alpha1::SessionState;
use camofleet_gateway::{
    auth::static_tokens::StaticTokens,
    cache::session::{FinishedReason, Readiness},
};
use camofleet_testkit::http::read_head;
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt};
use tokio_tungstenite::tungstenite::{Error, Message, error::ProtocolError, protocol::CloseFrame};

fn waiting() -> Readiness {
    Readiness::NotReady(SessionState::Starting)
}

fn finished() -> Readiness {
    Readiness::Finished(FinishedReason { reason: "IdleTimeout".into(), message: "nothing for 30 s".into() })
}

fn detail(body: &str) -> String {
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    body["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn connects_a_client_to_its_session_with_a_hop_token() {
    let gateway = start_gateway().await;
    let mut runner = Runner::start().await;
    gateway.put_session("demo", "uid-1", runner.ready());
    let mut client = gateway.connect("demo").await.unwrap();
    let mut connection = runner.accept_connection().await;

    assert_eq!(connection.path, "/v1/sessions/uid-1/playwright");
    assert_eq!(connection.headers["user-agent"], "Playwright/1.62.1");
    let hop_token = connection.headers["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap();
    assert_eq!(
        gateway.keys.verify(hop_token, POD_UID).unwrap(),
        Caller::Gateway { session: "uid-1".into(), scope: Scope::Connect, single_use_id: None }
    );

    client.send(Message::text("ask")).await.unwrap();
    assert_eq!(connection.socket.next().await.unwrap().unwrap(), Message::text("ask"));
    connection.socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(vec![1, 2, 3]));
    assert!(gateway.metrics().contains("camofleet_gateway_connections_open 1"), "{}", gateway.metrics());
}

#[tokio::test]
async fn forwards_only_the_client_options_of_a_query() {
    let gateway = start_gateway().await;
    let mut runner = Runner::start().await;
    gateway.put_session("demo", "uid-1", runner.ready());
    let headers = [
        ("x-playwright-launch-options", r#"{"executablePath":"/bin/sh"}"#),
        ("x-camofleet-page", "new"),
        ("x-camofleet-start-page", "shown"),
    ];
    let target = format!("/ws/ns/demo?client=worker.1&token={ADMIN}");
    let (status, ..) = gateway.handshake(&target, &headers).await;
    assert_eq!(status, StatusCode::SWITCHING_PROTOCOLS);
    let connection = runner.accept_connection().await;
    assert_eq!(connection.path, "/v1/sessions/uid-1/playwright?page=new&client=worker.1");
    for (name, _) in headers {
        assert!(!connection.headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn rejects_invalid_client_options_with_400() {
    let gateway = start_gateway().await;
    gateway.put_session("demo", "uid-1", waiting());
    for (query, headers, expected) in [
        ("?page=first", [].as_slice(), "page (open, none or new)"),
        ("?client=a%2Fb", &[], "1 to 63 letters, digits, dots, underscores and hyphens"),
        ("?launch-options=%7B%7D", &[], "unknown field `launch-options`"),
        ("", &[("x-playwright-proxy", "*")], "sessions do not support exposeNetwork"),
    ] {
        let admin = [("authorization", "Bearer admin-token")];
        let (status, _, body) = gateway.handshake(&format!("/ws/ns/demo{query}"), &[&admin, headers].concat()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query} {headers:?}: {body}");
        assert!(detail(&body).contains(expected), "{body}");
    }
    // A client without permission does not learn what is wrong with its query.
    assert_eq!(gateway.handshake("/ws/ns/demo?page=first", &[]).await.0, StatusCode::UNAUTHORIZED);
    assert!(gateway.metrics().contains(r#"connections_total{outcome="BadRequest"} 4"#), "{}", gateway.metrics());
}

#[tokio::test]
async fn returns_409_with_the_holder_of_the_initial_page() {
    let gateway = start_gateway().await;
    let held = Runner::answering(concat!(
        "HTTP/1.1 409 Conflict\r\ncontent-length: 94\r\n\r\n",
        r#"{"reason":"InitialPageHeld","message":"the initial page is held by client \"worker-1\": wait"}"#,
    ))
    .await;
    gateway.put_session("demo", "uid-1", ready(held));
    let (status, _, body) = gateway.rejection("demo").await;
    let message = r#"the initial page is held by client "worker-1": wait"#;
    assert_eq!((status, detail(&body).as_str()), (StatusCode::CONFLICT, message));
    assert!(gateway.metrics().contains(r#"connections_total{outcome="InitialPageHeld"} 2"#), "{}", gateway.metrics());
}

#[tokio::test]
async fn relays_large_messages_both_ways() {
    let gateway = start_gateway().await;
    let mut runner = Runner::start().await;
    gateway.put_session("demo", "uid-1", runner.ready());
    let mut client = gateway.connect("demo").await.unwrap();
    let mut connection = runner.accept_connection().await;
    let pattern = |length: usize| -> Vec<u8> { (0..length).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect() };
    for length in [5 << 20, 20 << 20] {
        let (up, down) = (Message::binary(pattern(length)), Message::binary(pattern(length + 1)));
        let (sent, received) = tokio::join!(client.send(up.clone()), connection.socket.next());
        sent.unwrap();
        assert!(received.unwrap().unwrap() == up, "{length} bytes up");
        let (sent, received) = tokio::join!(connection.socket.send(down.clone()), client.next());
        sent.unwrap();
        assert!(received.unwrap().unwrap() == down, "{length} bytes down");
    }
}

#[tokio::test]
async fn relays_bytes_that_arrive_with_the_runners_handshake() {
    let gateway = start_gateway().await;
    // The accept key for the handshake below (RFC 6455 section 1.3), and a text frame in the same segment.
    let address = Runner::answering(concat!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n",
        "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x01\x00\x00\x02hi",
    ))
    .await;
    gateway.put_session("demo", "uid-1", ready(address));
    let mut stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let request = format!(
        "GET /ws/ns/demo?token={ADMIN} HTTP/1.1\r\nhost: g\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await.unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    let mut frames = [0; 6];
    stream.read_exact(&mut frames).await.unwrap();
    assert_eq!(&frames, b"\x01\x00\x00\x02hi");
}

#[tokio::test]
async fn forwards_close_codes_both_ways() {
    let gateway = start_gateway().await;
    let mut runner = Runner::start().await;
    gateway.put_session("demo", "uid-1", runner.ready());
    let mut client = gateway.connect("demo").await.unwrap();
    let mut connection = runner.accept_connection().await;
    connection.socket.close(Some(CloseFrame { code: 4002.into(), reason: "why".into() })).await.unwrap();
    assert_eq!(expect_close(client.next().await), (4002, "why".into()));

    let mut client = gateway.connect("demo").await.unwrap();
    let mut connection = runner.accept_connection().await;
    client.close(Some(CloseFrame { code: 1000.into(), reason: "done".into() })).await.unwrap();
    assert_eq!(expect_close(connection.socket.next().await), (1000, "done".into()));
}

#[tokio::test]
async fn a_lost_client_drops_the_runners_side_without_a_close_frame() {
    let gateway = start_gateway().await;
    let mut runner = Runner::start().await;
    gateway.put_session("demo", "uid-1", runner.ready());
    let client = gateway.connect("demo").await.unwrap();
    let mut connection = runner.accept_connection().await;
    drop(client);
    let end = connection.socket.next().await.unwrap().unwrap_err();
    assert!(matches!(end, Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)), "{end:?}");
}

#[tokio::test]
async fn a_drain_sends_1001_to_the_client_and_no_close_frame_to_the_runner() {
    let gateway = start_gateway().await;
    let mut runner = Runner::start().await;
    gateway.put_session("demo", "uid-1", runner.ready());
    gateway.put_session("slow", "uid-2", waiting());
    let mut client = gateway.connect("demo").await.unwrap();
    let mut connection = runner.accept_connection().await;
    assert_eq!(gateway.state.unready_reason(), None);
    let draining = tokio::spawn({
        let state = Arc::clone(&gateway.state);
        async move { state.shutdown.drain(Duration::ZERO).await }
    });
    assert_eq!(expect_close(client.next().await), (1001, "the gateway is shutting down; connect again".into()));
    // The client answers the Close frame, as Playwright does.
    while client.next().await.is_some() {}
    let end = connection.socket.next().await.unwrap().unwrap_err();
    assert!(matches!(end, Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)), "{end:?}");
    draining.await.unwrap();
    assert_eq!(gateway.state.unready_reason(), Some("shutting down"));
    assert!(gateway.state.shutdown.tasks().is_empty());
    assert!(matches!(gateway.connect("demo").await, Err(Error::Io(_))), "the gateway accepts no connections");
    assert!(gateway.metrics().contains(r#"connections_total{outcome="Drained"} 1"#), "{}", gateway.metrics());
}

#[tokio::test]
async fn a_drain_ends_the_wait_for_a_session_with_503() {
    let gateway = start_gateway().await;
    gateway.put_session("slow", "uid-2", waiting());
    let rejected = gateway.handshake("/ws/ns/slow", &[("authorization", "Bearer admin-token")]);
    let drained = async {
        // Wait until the gateway has accepted the connection, which is then one of its tasks.
        while gateway.state.shutdown.tasks().is_empty() {
            tokio::task::yield_now().await;
        }
        gateway.state.shutdown.drain(Duration::ZERO).await;
    };
    let ((status, headers, body), ()) = tokio::join!(rejected, drained);
    assert_eq!(
        (status, detail(&body).as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "the gateway is shutting down: connect again")
    );
    assert!(headers.contains_key("retry-after"));
}

#[tokio::test]
async fn closes_connections_with_the_reason_when_their_session_ends() {
    let gateway = start_gateway().await;
    let mut runner = Runner::start().await;
    for (finish, reason) in
        [(Some(finished()), "the session has ended: IdleTimeout: nothing for 30 s"), (None, "the session was deleted")]
    {
        gateway.put_session("demo", "uid-1", runner.ready());
        let mut client = gateway.connect("demo").await.unwrap();
        let mut connection = runner.accept_connection().await;
        match finish {
            Some(finish) => gateway.put_session("demo", "uid-1", finish),
            None => gateway.state.sessions.remove(&key("demo")),
        }
        assert_eq!(expect_close(client.next().await), (1001, reason.into()));
        assert!(!matches!(connection.socket.next().await, Some(Ok(_))));
    }
}

#[tokio::test]
async fn a_recreated_session_is_another_session() {
    let gateway = start_gateway().await;
    let mut runner = Runner::start().await;
    gateway.put_session("demo", "uid-1", runner.ready());
    let mut first = gateway.connect("demo").await.unwrap();
    let _first_connection = runner.accept_connection().await;
    gateway.put_session("demo", "uid-2", runner.ready());
    assert_eq!(expect_close(first.next().await), (1001, "the session was deleted".into()));
    let mut second = gateway.connect("demo").await.unwrap();
    let mut connection = runner.accept_connection().await;
    assert_eq!(connection.path, "/v1/sessions/uid-2/playwright");
    second.send(Message::text("hello")).await.unwrap();
    assert_eq!(connection.socket.next().await.unwrap().unwrap(), Message::text("hello"));
}

#[tokio::test]
async fn waits_for_a_starting_session() {
    let gateway = start_gateway().await;
    let mut runner = Runner::start().await;
    gateway.put_session("demo", "uid-1", waiting());
    let connecting = gateway.connect("demo");
    let becoming_ready = async {
        while gateway.state.shutdown.tasks().is_empty() {
            tokio::task::yield_now().await;
        }
        gateway.put_session("demo", "uid-1", runner.ready());
        runner.accept_connection().await
    };
    let (client, connection) = tokio::join!(connecting, becoming_ready);
    client.unwrap();
    assert_eq!(connection.path, "/v1/sessions/uid-1/playwright");
}

#[tokio::test]
async fn looks_up_a_session_that_is_not_cached() {
    let gateway = start_gateway().await;
    let mut runner = Runner::start().await;
    gateway.create_uncached("fresh", "uid-1");
    let connecting = gateway.connect("fresh");
    let watch = async {
        while gateway.state.shutdown.tasks().is_empty() {
            tokio::task::yield_now().await;
        }
        gateway.put_session("fresh", "uid-1", runner.ready());
        runner.accept_connection().await
    };
    let (client, _) = tokio::join!(connecting, watch);
    client.unwrap();
}

#[tokio::test]
async fn connects_to_a_recreated_session_while_the_finished_one_is_cached() {
    let gateway = start_gateway().await;
    let mut runner = Runner::start().await;
    gateway.put_session("demo", "uid-1", finished());
    gateway.create_uncached("demo", "uid-2");
    let connecting = gateway.connect("demo");
    let watch = async {
        while gateway.api_requests.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        gateway.put_session("demo", "uid-2", runner.ready());
        runner.accept_connection().await
    };
    let (client, connection) = tokio::join!(connecting, watch);
    client.unwrap();
    assert_eq!(connection.path, "/v1/sessions/uid-2/playwright");

    // The session at the API server has finished as well.
    gateway.put_session("demo", "uid-2", finished());
    assert_eq!(gateway.rejection("demo").await.0, StatusCode::GONE);
}

#[tokio::test]
async fn counts_a_client_that_disconnects_while_waiting() {
    let gateway = start_gateway().await;
    gateway.create_uncached("slow", "uid-1");
    let mut waiting = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let handshake = format!(
        "GET /ws/ns/slow HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {ADMIN}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    waiting.write_all(handshake.as_bytes()).await.unwrap();
    while gateway.api_requests.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    drop(waiting);
    let counted = async {
        while !gateway.metrics().contains(r#"connections_total{outcome="ClientLeft"} 1"#) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), counted).await.expect("the outcome ClientLeft is counted");
}

#[tokio::test]
async fn revoking_a_token_closes_only_its_connections() {
    let gateway = start_gateway().await;
    let mut runner = Runner::start().await;
    gateway.put_session("demo", "uid-1", runner.ready());
    let both = StaticTokens::parse([("admin", format!("{ADMIN}\nother").as_bytes())]);
    gateway.state.auth.set_tokens(Some(both));
    let mut client = gateway.connect("demo").await.unwrap();
    let mut connection = runner.accept_connection().await;
    let mut other = gateway.connect_with("demo", "other").await.unwrap();
    let mut other_connection = runner.accept_connection().await;

    gateway.state.auth.set_tokens(Some(StaticTokens::parse([("admin", b"new\nother".as_slice())])));
    assert_eq!(expect_close(client.next().await), (4401, "the token is no longer valid".into()));
    // No Close frame reaches the runner, so the session keeps its pages for a client with a valid token.
    let end = connection.socket.next().await.unwrap().unwrap_err();
    assert!(matches!(end, Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)), "{end:?}");
    other.send(Message::text("still here")).await.unwrap();
    assert_eq!(other_connection.socket.next().await.unwrap().unwrap(), Message::text("still here"));
    drop(client);
    while !gateway.metrics().contains(r#"connections_total{outcome="Revoked"} 1"#) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn logs_only_the_session_name_of_a_url() {
    let gateway = start_gateway().await;
    for (id, target) in [
        ("log-1", "/ws/ns/demo?token=a-token-in-a-url"),
        ("log-2", "/ws/ns/what%20a%20stranger%20likes"),
        ("log-3", "/and/whatever/else"),
    ] {
        gateway.handshake(target, &[("x-request-id", id)]).await;
    }
    let log = log_output();
    let answered = |id: &str| {
        let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let answers: Vec<_> = lines.filter(|line| line["message"] == "answered" && line["id"] == id).collect();
        assert_eq!(answers.len(), 1, "{id}: {log}");
        answers[0].clone()
    };
    let named = answered("log-1");
    assert_eq!((&named["namespace"], &named["name"]), (&"ns".into(), &"demo".into()));
    for id in ["log-2", "log-3"] {
        answered(id);
    }
    for word in ["a-token-in-a-url", "stranger", "whatever"] {
        assert!(!log.contains(word), "{word}: {log}");
    }
}

#[tokio::test]
async fn times_out_waiting_for_a_session() {
    let gateway = start_gateway_with(|gateway| gateway.ready_timeout = Duration::from_millis(1)).await;
    gateway.put_session("demo", "uid-1", waiting());
    let (status, headers, body) = gateway.rejection("demo").await;
    assert_eq!(
        (status, detail(&body).as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "the session is not ready: its state is Starting")
    );
    assert_eq!(headers["retry-after"], "5");
}

#[tokio::test]
async fn rejects_finished_and_unknown_sessions() {
    let gateway = start_gateway().await;
    gateway.put_session("over", "uid-1", finished());
    let (status, _, body) = gateway.rejection("over").await;
    assert_eq!(
        (status, detail(&body).as_str()),
        (StatusCode::GONE, "the session has ended: IdleTimeout: nothing for 30 s")
    );
    let (status, _, body) = gateway.rejection("never").await;
    assert_eq!(
        (status, detail(&body).as_str()),
        (StatusCode::NOT_FOUND, "Session not found: there is no session ns/never")
    );
    for path in ["/ws/ns/..%2f..%2fsecrets", "/ws/ns/%ff", "/ws/ns/Demo", "/ws/ns", "/nothing"] {
        let (status, _, body) = gateway.handshake(path, &[("authorization", "Bearer admin-token")]).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert!(detail(&body).starts_with("no resource matches this path"), "{body}");
    }
}

#[tokio::test]
async fn rejects_clients_without_permission() {
    let gateway = start_gateway().await;
    gateway.put_session("demo", "uid-1", waiting());
    let admin = format!("Bearer {ADMIN}");
    let viewer = format!("Bearer {VIEWER}");
    let path = "/ws/ns/demo";
    let by_query = format!("{path}?token={VIEWER}");
    let cases = [
        (
            path,
            [].as_slice(),
            StatusCode::UNAUTHORIZED,
            "the request has no token: send `Authorization: Bearer <token>`, or add `?token=<token>` to the URL",
        ),
        (path, &[("authorization", "Bearer other")], StatusCode::UNAUTHORIZED, "the token is not valid"),
        // An unauthenticated client does not learn whether a session exists.
        ("/ws/ns/never", &[("authorization", "Bearer other")], StatusCode::UNAUTHORIZED, "the token is not valid"),
        (
            path,
            &[("authorization", &viewer)],
            StatusCode::FORBIDDEN,
            "the token does not permit this: use a token with the scope connect, or an admin token",
        ),
        (
            &by_query,
            &[],
            StatusCode::FORBIDDEN,
            "the token does not permit this: use a token with the scope connect, or an admin token",
        ),
        (
            path,
            &[("authorization", &admin), ("origin", "https://evil.example")],
            StatusCode::FORBIDDEN,
            "web pages cannot connect to /ws (the request has an Origin header): connect from a Playwright client",
        ),
    ];
    for (target, sent, expected, message) in cases {
        let (status, headers, body) = gateway.handshake(target, sent).await;
        assert_eq!((status, detail(&body).as_str()), (expected, message), "{target} {sent:?}");
        assert_eq!(headers.contains_key("www-authenticate"), status == StatusCode::UNAUTHORIZED);
        assert!(headers.contains_key("x-request-id"));
    }
    assert!(gateway.metrics().contains(r#"connections_total{outcome="Forbidden"} 3"#), "{}", gateway.metrics());
    assert!(gateway.metrics().contains(r#"connections_total{outcome="Unauthorized"} 3"#), "{}", gateway.metrics());
}

#[tokio::test]
async fn static_tokens_follow_the_secret() {
    let gateway = start_gateway().await;
    gateway.put_session("over", "uid-1", finished());
    assert_eq!(gateway.rejection("over").await.0, StatusCode::GONE);
    let others = StaticTokens::parse([("admin", b"another".as_slice())]);
    gateway.state.auth.set_tokens(Some(others));
    assert_eq!(gateway.rejection("over").await.0, StatusCode::UNAUTHORIZED);
    gateway.state.auth.set_tokens(None);
    assert_eq!(gateway.rejection("over").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn requires_a_websocket_handshake() {
    let gateway = start_gateway().await;
    let (status, headers, body) = gateway.get(&format!("/ws/ns/demo?token={ADMIN}"), &[("host", "gateway")]).await;
    assert_eq!(status, StatusCode::UPGRADE_REQUIRED);
    assert_eq!(headers["upgrade"], "websocket");
    assert!(detail(&body).contains("firefox.connect()"));
}

#[tokio::test]
async fn answers_clients_of_other_protocols() {
    let gateway = start_gateway().await;
    for base in ["", "/ws/ns/demo"] {
        let (head, body) = gateway.send(&format!("GET {base}/json/version HTTP/1.1")).await;
        assert!(head.starts_with("HTTP/1.1 404 Not Found (this is a Playwright server"), "{head}");
        assert!(detail(&body).contains("firefox.connect()"), "{body}");
        let (head, body) = gateway.send(&format!("POST {base}/session HTTP/1.1")).await;
        assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["value"]["error"], "session not created");
        assert!(body["value"]["message"].as_str().unwrap().contains("firefox.connect()"), "{body}");
    }
}

#[tokio::test]
async fn forwards_the_runners_rejection_of_a_playwright_version() {
    let gateway = start_gateway().await;
    let address = Runner::answering(
        "HTTP/1.1 428 Precondition Required\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\r\nserver: v1.62",
    )
    .await;
    gateway.put_session("demo", "uid-1", ready(address));
    let (status, headers, body) = gateway.rejection("demo").await;
    assert_eq!((status.as_u16(), body.as_str()), (428, "server: v1.62"));
    assert_eq!(headers["content-type"], "text/plain");
}

#[tokio::test]
async fn returns_503_for_an_unreachable_or_rejecting_runner() {
    let gateway = start_gateway().await;
    let refusing = Runner::answering(concat!(
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 55\r\n\r\n",
        r#"{"reason":"Unauthorized","message":"unknown signature"}"#,
    ))
    .await;
    gateway.put_session("rejected", "uid-1", ready(refusing));
    let admin = [("authorization", "Bearer admin-token")];
    let (status, headers, body) = gateway.handshake("/ws/ns/rejected", &admin).await;
    let message = "the session's runner rejected the gateway's request: unknown signature";
    assert_eq!((status, detail(&body).as_str()), (StatusCode::SERVICE_UNAVAILABLE, message));
    assert!(headers.contains_key("retry-after"));

    let closed_port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    gateway.put_session("unreachable", "uid-2", ready(closed_port));
    let (status, _, body) = gateway.handshake("/ws/ns/unreachable", &admin).await;
    assert_eq!(
        (status, detail(&body).as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "the session's runner did not answer: try again")
    );
}

#[tokio::test]
async fn returns_the_end_reason_that_arrives_after_the_runners_404() {
    let gateway = start_gateway().await;
    let address = Runner::answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    gateway.put_session("demo", "uid-1", ready(address));
    let rejected = gateway.handshake("/ws/ns/demo", &[("authorization", "Bearer admin-token")]);
    let ending = async {
        while !gateway.metrics().contains("dial_seconds_count 1") {
            tokio::task::yield_now().await;
        }
        gateway.put_session("demo", "uid-1", finished());
    };
    let ((status, _, body), ()) = tokio::join!(rejected, ending);
    assert_eq!(
        (status, detail(&body).as_str()),
        (StatusCode::GONE, "the session has ended: IdleTimeout: nothing for 30 s")
    );
}
