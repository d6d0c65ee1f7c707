//! The public listener: what clients can hold before one of their credentials was accepted, and which credentials that are.

use crate::common::{ADMIN, Runner, Served, VIEWER, logged, serve_gateway, serve_gateway_with};
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

const PATIENCE: Duration = Duration::from_secs(60);
const ATTACKERS: usize = 1300;

async fn until(served: &Served, what: &str, reached: impl Fn(Counts) -> bool) -> Counts {
    let counts = || served.gateway.clients.counts();
    let wait = async {
        while !reached(counts()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: {:?}", counts()));
    counts()
}

/// Sends a request, and returns the head of the response.
async fn ask(stream: &mut TcpStream, request: &str) -> String {
    http::exchange(stream, request).await.unwrap().head
}

async fn connect_from(client: [u8; 4], server: SocketAddr) -> TcpStream {
    http::connect_from(client.into(), server).await.unwrap()
}

#[tokio::test]
async fn the_beginnings_of_heads_are_held_by_few_and_never_long() {
    // This process is the attacker, too.
    files::raise_limit(u64::MAX).unwrap();
    let served = serve_gateway().await;
    let mut user = connect_from([127, 0, 0, 2], served.address).await;
    let mine = format!("GET /api/login HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {ADMIN}\r\n\r\n");
    assert!(ask(&mut user, &mine).await.starts_with("HTTP/1.1 200"));

    // Heads that are too long are not held at all, however many come. 400 KB each were, for 75 s.
    let filler = format!("X-Filler: {}\r\n", "a".repeat(4000));
    let long = format!("GET / HTTP/1.1\r\nHost: gateway\r\n{}", filler.repeat(100));
    let mut attackers = Vec::new();
    for _ in 0..ATTACKERS {
        let mut stream = connect_from([127, 0, 0, 3], served.address).await;
        // What is beyond the limit may meet the closed connection.
        stream.write_all(&long.as_bytes()[..MAX_HEAD]).await.ok();
        attackers.push(stream);
    }
    for stream in &mut attackers {
        // The end of it, after a 431, or a reset.
        timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.unwrap().ok();
    }
    let counts = until(&served, "only the user is left", |counts| counts.connections == 1).await;
    assert_eq!(counts.anonymous, 0);
    attackers.clear();

    // Shorter ones are, by as many connections as one address, and all of them, may have.
    let shed = counts.shed;
    for _ in 0..ATTACKERS {
        let mut stream = connect_from([127, 0, 0, 3], served.address).await;
        stream.write_all(&long.as_bytes()[..MAX_HEAD - 1]).await.ok();
        attackers.push(stream);
    }
    let counts = until(&served, "one address has 128", |counts| counts.shed - shed == ATTACKERS as u64 - 128).await;
    assert_eq!(counts.anonymous, 128);
    until(&served, "the others are closed", |counts| counts.connections == 129).await;
    let open: Vec<_> = attackers.iter().map(is_open).collect();
    assert!(open[ATTACKERS - 128..].iter().all(|open| *open), "the latest are left");
    for index in 0..ATTACKERS {
        let [_, _, high, low] = u32::try_from(index).unwrap().to_be_bytes();
        let mut stream = connect_from([127, 1, high, low], served.address).await;
        stream.write_all(&long.as_bytes()[..MAX_HEAD - 1]).await.ok();
        attackers.push(stream);
    }
    let counts = until(&served, "all have 1024", |now| now.shed - counts.shed == ATTACKERS as u64 + 128 - 1024).await;
    assert_eq!(counts.anonymous, 1024);
    until(&served, "the others are closed", |counts| counts.connections == 1025).await;

    // A client with a token kept its connection, and a new client is served.
    assert!(ask(&mut user, &mine).await.starts_with("HTTP/1.1 200"));
    let mut newcomer = connect_from([127, 0, 0, 4], served.address).await;
    assert!(ask(&mut newcomer, &mine).await.starts_with("HTTP/1.1 200"));
    drop(attackers);
    until(&served, "the attack is over", |counts| counts.connections == 2 && counts.anonymous == 0).await;
}

#[tokio::test]
async fn every_kind_of_credential_frees_its_connection() {
    let served = serve_gateway().await;
    let runner = Runner::start().await;
    served.tell("s", "u1", runner.ready());
    let connect = async || TcpStream::connect(served.address).await.unwrap();
    let get = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: gateway\r\n{headers}\r\n");
    let anonymous = || served.gateway.clients.counts().anonymous;

    let mut stream = connect().await;
    for refused in ["", "Authorization: Bearer wrong\r\n", "Cookie: camofleet_login=wrong\r\n"] {
        assert!(ask(&mut stream, &get("/api/workers", refused)).await.starts_with("HTTP/1.1 401"));
        assert_eq!(anonymous(), 1, "{refused:?}");
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
    assert_eq!(anonymous(), 1);
    let answer = ask(&mut stream, &login(VIEWER)).await;
    assert_eq!(anonymous(), 0, "a login");
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
        assert_eq!(anonymous(), 0, "{accepted}");
        streams.push(stream);
    }
    assert_eq!(served.gateway.clients.counts().connections, 4);
    drop(streams);
    until(&served, "all are gone", |counts| counts.connections == 0).await;

    // A session token, and what it is exchanged for: a WebSocket, which counts until it is closed.
    let token = SessionToken { session: "u1".into(), scope: Scope::Connect, expires: u64::MAX / 2, once: None };
    let client = served.connect_with("s", &served.gateway.signer.session_token(token)).await.unwrap();
    assert_eq!(served.gateway.clients.counts(), Counts { connections: 1, ..Counts::default() });
    drop(client);
    until(&served, "it is gone", |counts| counts.connections == 0).await;
}

#[tokio::test]
async fn a_login_is_bounded_though_it_takes_no_token() {
    let served = serve_gateway().await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let head =
        "POST /api/login HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: 65537\r\n\r\n";
    let body = " ".repeat(65_537);
    let answer = ask(&mut stream, &[head, &body].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_proxy_that_is_not_named_is_reported_once() {
    let proxies = TrustedProxies::new(vec!["127.0.0.1/32".parse().unwrap()]);
    let served = serve_gateway_with(|gateway| {
        gateway.clients = Clients::new(proxies);
    })
    .await;
    // A client whose address is known does not hide a proxy for good.
    served.ask_plainly("/view/ns/s", &[("host", "gateway"), ("x-forwarded-for", "192.0.2.1")]).await;
    // The named proxy is behind another one, which is not. Health checks of its own come between.
    let headers = [("host", "gateway"), ("x-forwarded-for", "192.0.2.1, 198.51.100.77")];
    for _ in 0..210 {
        served.ask_plainly("/view/ns/s", &headers).await;
        served.ask_plainly("/view/ns/s", &[("host", "gateway")]).await;
    }
    let logged = logged();
    // Gateways of other tests log here too.
    let is_report = |line: &&str| line.contains("gateway.trustedProxies") && line.contains("198.51.100.77");
    assert_eq!(logged.lines().filter(is_report).count(), 1);
}

#[tokio::test]
async fn probes_and_metrics_survive_those_that_hold_their_port() {
    // This process is the attacker, too.
    files::raise_limit(u64::MAX).unwrap();
    let served = serve_gateway().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin::serve(Arc::clone(&served.gateway), listener));
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
