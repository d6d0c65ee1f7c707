//! The listeners: limits of unauthenticated connections, the credentials that lift them, and the report of untrusted
//! proxies.

use crate::common::{ADMIN, Runner, TestGateway, VIEWER, log_output, start_gateway, start_gateway_with};
use camofleet_auth::token::{Scope, SessionToken};
use camofleet_gateway::server::{admin, clients::Clients};
use camofleet_runtime::{
    client_address::TrustedProxies,
    files,
    server::{Counts, MAX_HEAD},
};
use camofleet_testkit::http::{self, is_open};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const TIMEOUT: Duration = Duration::from_secs(60);
const ATTACKERS: usize = 1300;

async fn until(gateway: &TestGateway, what: &str, reached: impl Fn(Counts) -> bool) -> Counts {
    let counts = || gateway.state.clients.counts();
    let wait = async {
        while !reached(counts()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TIMEOUT, wait).await.unwrap_or_else(|_| panic!("{what}: {:?}", counts()));
    counts()
}

/// Sends a request and returns the head of the response.
async fn ask(stream: &mut TcpStream, request: &str) -> String {
    http::exchange(stream, request).await.unwrap().head
}

async fn connect_from(client: [u8; 4], server: SocketAddr) -> TcpStream {
    http::connect_from(client.into(), server).await.unwrap()
}

#[tokio::test]
async fn limits_connections_with_unfinished_request_heads() {
    // The attackers run in this process, too.
    files::raise_limit(u64::MAX).unwrap();
    let gateway = start_gateway().await;
    let mut user = connect_from([127, 0, 0, 2], gateway.address).await;
    let mine = format!("GET /api/login HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {ADMIN}\r\n\r\n");
    assert!(ask(&mut user, &mine).await.starts_with("HTTP/1.1 200"));

    // A connection whose request head is too long is closed at once. An earlier version kept 400 KB of it for 75 s.
    let filler = format!("X-Filler: {}\r\n", "a".repeat(4000));
    let long = format!("GET / HTTP/1.1\r\nHost: gateway\r\n{}", filler.repeat(100));
    let mut attackers = Vec::new();
    for _ in 0..ATTACKERS {
        let mut stream = connect_from([127, 0, 0, 3], gateway.address).await;
        // The write can fail, because the gateway closes the connection at the limit.
        stream.write_all(&long.as_bytes()[..MAX_HEAD]).await.ok();
        attackers.push(stream);
    }
    for stream in &mut attackers {
        // The connection ends after a 431 response, or with a reset.
        timeout(TIMEOUT, stream.read_to_end(&mut Vec::new())).await.unwrap().ok();
    }
    let counts = until(&gateway, "only the user's connection is open", |counts| counts.connections == 1).await;
    assert_eq!(counts.unauthenticated, 0);
    attackers.clear();

    // Connections with a shorter unfinished head stay open, up to 128 from one address and 1024 in total.
    let shed = counts.shed;
    for _ in 0..ATTACKERS {
        let mut stream = connect_from([127, 0, 0, 3], gateway.address).await;
        stream.write_all(&long.as_bytes()[..MAX_HEAD - 1]).await.ok();
        attackers.push(stream);
    }
    let counts =
        until(&gateway, "one address has 128 connections", |counts| counts.shed - shed == ATTACKERS as u64 - 128).await;
    assert_eq!(counts.unauthenticated, 128);
    until(&gateway, "the other connections are closed", |counts| counts.connections == 129).await;
    let open: Vec<_> = attackers.iter().map(is_open).collect();
    assert!(open[ATTACKERS - 128..].iter().all(|open| *open), "the latest connections stay open");
    for index in 0..ATTACKERS {
        let [_, _, high, low] = u32::try_from(index).unwrap().to_be_bytes();
        let mut stream = connect_from([127, 1, high, low], gateway.address).await;
        stream.write_all(&long.as_bytes()[..MAX_HEAD - 1]).await.ok();
        attackers.push(stream);
    }
    let counts = until(&gateway, "all addresses together have 1024 connections", |now| {
        now.shed - counts.shed == ATTACKERS as u64 + 128 - 1024
    })
    .await;
    assert_eq!(counts.unauthenticated, 1024);
    until(&gateway, "the other connections are closed", |counts| counts.connections == 1025).await;

    // The authenticated client keeps its connection, and a new client is served.
    assert!(ask(&mut user, &mine).await.starts_with("HTTP/1.1 200"));
    let mut newcomer = connect_from([127, 0, 0, 4], gateway.address).await;
    assert!(ask(&mut newcomer, &mine).await.starts_with("HTTP/1.1 200"));
    drop(attackers);
    until(&gateway, "the attackers' connections are closed", |counts| {
        counts.connections == 2 && counts.unauthenticated == 0
    })
    .await;
}

#[tokio::test]
async fn every_kind_of_credential_authenticates_its_connection() {
    let gateway = start_gateway().await;
    let runner = Runner::start().await;
    gateway.put_session("s", "u1", runner.ready());
    let connect = async || TcpStream::connect(gateway.address).await.unwrap();
    let get = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: gateway\r\n{headers}\r\n");
    let unauthenticated = || gateway.state.clients.counts().unauthenticated;

    let mut stream = connect().await;
    for rejected in ["", "Authorization: Bearer wrong\r\n", "Cookie: camofleet_login=wrong\r\n"] {
        assert!(ask(&mut stream, &get("/api/workers", rejected)).await.starts_with("HTTP/1.1 401"));
        assert_eq!(unauthenticated(), 1, "{rejected:?}");
    }
    let login = |token: &str| {
        let body = format!(r#"{{"token":"{token}"}}"#);
        let length = body.len();
        format!(
            "POST /api/login HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    };
    assert!(ask(&mut stream, &login("wrong")).await.starts_with("HTTP/1.1 401"));
    assert_eq!(unauthenticated(), 1);
    let answer = ask(&mut stream, &login(VIEWER)).await;
    assert_eq!(unauthenticated(), 0, "a login");
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let cookie = cookie.split(';').next().unwrap();

    let mut streams = vec![stream];
    for accepted in
        [format!("Authorization: Bearer {ADMIN}\r\n"), format!("Cookie: {cookie}\r\n"), "X: y\r\n".to_owned()]
    {
        let path =
            if accepted.starts_with('X') { format!("/api/workers?token={VIEWER}") } else { "/api/workers".into() };
        let mut stream = connect().await;
        assert!(ask(&mut stream, &get(&path, &accepted)).await.starts_with("HTTP/1.1 200"), "{accepted}");
        assert_eq!(unauthenticated(), 0, "{accepted}");
        streams.push(stream);
    }
    assert_eq!(gateway.state.clients.counts().connections, 4);
    drop(streams);
    until(&gateway, "all connections are closed", |counts| counts.connections == 0).await;

    // A session token authenticates a WebSocket connection, which counts until it is closed.
    let token =
        SessionToken { session: "u1".into(), scope: Scope::Connect, expires: u64::MAX / 2, single_use_id: None };
    let client = gateway.connect_with("s", &gateway.state.signer.session_token(token)).await.unwrap();
    assert_eq!(gateway.state.clients.counts(), Counts { connections: 1, ..Counts::default() });
    drop(client);
    until(&gateway, "the connection is closed", |counts| counts.connections == 0).await;
}

#[tokio::test]
async fn limits_the_body_of_an_unauthenticated_login() {
    let gateway = start_gateway().await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head =
        "POST /api/login HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: 65537\r\n\r\n";
    let body = " ".repeat(65_537);
    let answer = ask(&mut stream, &[head, &body].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn reports_an_untrusted_proxy_once() {
    let proxies = TrustedProxies::new(vec!["127.0.0.1/32".parse().unwrap()]);
    let gateway = start_gateway_with(|gateway| {
        gateway.clients = Clients::new(proxies);
    })
    .await;
    // An earlier request from another address does not prevent the report.
    gateway.get("/view/ns/s", &[("host", "gateway"), ("x-forwarded-for", "192.0.2.1")]).await;
    // An untrusted proxy is in front of the trusted one, whose own health checks come in between.
    let headers = [("host", "gateway"), ("x-forwarded-for", "192.0.2.1, 198.51.100.77")];
    for _ in 0..210 {
        gateway.get("/view/ns/s", &headers).await;
        gateway.get("/view/ns/s", &[("host", "gateway")]).await;
    }
    let log_output = log_output();
    // The gateways of other tests write to the same log.
    let is_report = |line: &&str| line.contains("gateway.trustedProxies") && line.contains("198.51.100.77");
    assert_eq!(log_output.lines().filter(is_report).count(), 1);
}

#[tokio::test]
async fn serves_probes_and_metrics_while_attackers_hold_connections() {
    // The attackers run in this process, too.
    files::raise_limit(u64::MAX).unwrap();
    let gateway = start_gateway().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin::serve(Arc::clone(&gateway.state), listener));
    let mut attackers = Vec::new();
    for index in 0..ATTACKERS {
        let [_, _, high, low] = u32::try_from(index).unwrap().to_be_bytes();
        let mut stream = connect_from([127, 2, high, low], address).await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: gate").await.ok();
        attackers.push(stream);
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let answer = ask(&mut stream, &format!("GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(attackers.iter().filter(|stream| is_open(stream)).count() <= 64);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let long = format!("GET /healthz HTTP/1.1\r\nHost: gateway\r\nX-Long: {}\r\n\r\n", "a".repeat(MAX_HEAD));
    assert!(ask(&mut stream, &long).await.starts_with("HTTP/1.1 431"));
}
