//! Tests the server over real sockets: the limits and deadlines of unauthenticated clients.

#![allow(clippy::unwrap_used, reason = "a test can panic")]

use axum::{Extension, Router, body::Bytes, http::HeaderMap, http::StatusCode, response::IntoResponse, routing::any};
use camofleet_runtime::{
    client_address::TrustedProxies,
    server::{ConnectionHandle, Counts, Limits, MAX_HEAD, Server, listen},
};
use camofleet_testkit::http::{self, is_open};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Bounds every wait, so that a test that hangs fails with a message. No wait takes this long on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Deadline that a test waits for.
const SHORT: Duration = Duration::from_millis(100);
/// Limits whose deadlines do not pass during a test.
const LIMITS: Limits = Limits {
    connections: 1000,
    unauthenticated: 4,
    unauthenticated_per_address: 1000,
    first_head_timeout: Duration::from_secs(600),
    exchange_timeout: Duration::from_secs(600),
    idle_timeout: Duration::from_secs(600),
    authenticated_idle_timeout: Duration::from_secs(600),
    keep_alive: true,
};
const WITH_TOKEN: &str = "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: good\r\n\r\n";
const WITHOUT_TOKEN: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

struct Served {
    server: Server,
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    /// Each permit releases the response to one request for `/held`.
    release: Arc<Semaphore>,
}

fn serve(limits: Limits) -> Served {
    serve_behind(limits, &[])
}

fn serve_behind(limits: Limits, proxies: &[&str]) -> Served {
    let accept = |handle: &ConnectionHandle, headers: &HeaderMap| {
        let is_good = headers.get("authorization").is_some_and(|token| token == "good");
        if is_good {
            handle.authenticated();
        }
        is_good
    };
    let release = Arc::new(Semaphore::new(0));
    let held = {
        let release = Arc::clone(&release);
        async move |Extension(handle): Extension<ConnectionHandle>, headers: HeaderMap| {
            accept(&handle, &headers);
            release.acquire().await.unwrap().forget();
            "released"
        }
    };
    let root = async move |Extension(handle): Extension<ConnectionHandle>, headers: HeaderMap, body: Bytes| {
        let status = if accept(&handle, &headers) { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        (status, format!("{} sent {}", handle.client_address(), body.len()))
    };
    let upgrade = async move |Extension(handle): Extension<ConnectionHandle>, mut request: axum::extract::Request| {
        accept(&handle, request.headers());
        let upgrade = request.extensions_mut().remove::<OnUpgrade>().unwrap();
        tokio::spawn(async move {
            let _place = handle;
            let mut connection = TokioIo::new(upgrade.await.unwrap());
            let (mut from, mut to) = tokio::io::split(&mut connection);
            tokio::io::copy(&mut from, &mut to).await
        });
        (StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", "echo")]).into_response()
    };
    let router = Router::new().route("/", any(root)).route("/held", any(held)).route("/upgrade", any(upgrade));
    let proxies = TrustedProxies::new(proxies.iter().map(|network| network.parse().unwrap()).collect());
    let server = Server::new("test", limits, proxies);
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (serving, stopping, tracked) = (server.clone(), shutdown.clone(), tasks.clone());
    tokio::spawn(async move { serving.serve(listener, router, stopping, tracked).await });
    Served { server, address, shutdown, tasks, release }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn connect_from(&self, client: &str) -> TcpStream {
        http::connect_from(client.parse().unwrap(), self.address).await.unwrap()
    }

    async fn until(&self, what: &str, reached: impl Fn(Counts) -> bool) {
        let wait = async {
            while !reached(self.server.counts()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TIMEOUT, wait).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.server.counts()));
    }

    /// Opens connections that send these bytes, each after the previous one was counted.
    async fn open(&self, count: usize, sent: &str) -> Vec<TcpStream> {
        let mut streams = Vec::new();
        for _ in 0..count {
            let before = self.server.counts();
            let mut stream = self.connect().await;
            stream.write_all(sent.as_bytes()).await.unwrap();
            self.until("one more", |now| {
                now.connections > before.connections || now.shed > before.shed || now.refused > before.refused
            })
            .await;
            streams.push(stream);
        }
        streams
    }
}

/// Sends a request, and returns the status and the body of the response.
async fn exchange(stream: &mut TcpStream, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    response(stream).await
}

async fn response(stream: &mut TcpStream) -> (u16, String) {
    let response = http::read_response(stream).await.unwrap();
    (response.status(), response.body)
}

/// Waits until the server has closed the connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    match timeout(TIMEOUT, stream.read_to_end(&mut rest)).await.expect("the connection is closed") {
        Ok(_) => assert!(rest.is_empty(), "unexpected data before the end: {}", String::from_utf8_lossy(&rest)),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

/// A complete head of this size in bytes.
fn head_of(length: usize) -> String {
    let frame = "GET / HTTP/1.1\r\nHost: x\r\nX-Long: \r\n\r\n";
    frame.replace("X-Long: ", &format!("X-Long: {}", "a".repeat(length - frame.len())))
}

#[tokio::test]
async fn a_head_over_the_limit_is_answered_with_431() {
    let served = serve(LIMITS);
    let mut stream = served.connect().await;
    assert_eq!(exchange(&mut stream, &head_of(MAX_HEAD)).await.0, 401, "the longest head");
    assert_eq!(exchange(&mut stream, &head_of(MAX_HEAD + 1)).await.0, 431);
    closed(&mut stream).await;
    // The same applies to a head that never ends.
    let mut stream = served.connect().await;
    assert_eq!(exchange(&mut stream, &head_of(MAX_HEAD + 4)[..MAX_HEAD]).await.0, 431);
    closed(&mut stream).await;
    served.until("no connection", |counts| counts.connections == 0).await;
}

#[tokio::test]
async fn sheds_the_oldest_connection_without_a_credential() {
    let served = serve(LIMITS);
    let mut authenticated = served.connect().await;
    assert_eq!(exchange(&mut authenticated, WITH_TOKEN).await.0, 200);
    let mut silent = served.open(LIMITS.unauthenticated, "").await;
    assert_eq!(served.server.counts(), Counts { connections: 5, unauthenticated: 4, shed: 0, refused: 0 });
    let mut newcomer = served.connect().await;
    assert_eq!(exchange(&mut newcomer, WITHOUT_TOKEN).await.0, 401, "the newcomer is served");
    closed(&mut silent[0]).await;
    assert!(silent[1..].iter().all(is_open), "only the oldest was closed");
    // A flood does not displace authenticated connections.
    drop(served.open(20, "GET / HTT").await);
    assert_eq!(exchange(&mut authenticated, WITH_TOKEN).await.0, 200);
    closed(&mut newcomer).await;
    assert_eq!(served.server.counts().shed, 21);
    drop((silent, authenticated));
    served.until("nothing is left", |counts| counts.connections == 0 && counts.unauthenticated == 0).await;
}

#[tokio::test]
async fn refuses_a_new_connection_only_if_all_have_credentials() {
    let served = serve(Limits { connections: 3, ..LIMITS });
    let mut silent = served.open(1, "").await;
    let mut authenticated = Vec::new();
    for _ in 0..3 {
        let mut stream = served.connect().await;
        assert_eq!(exchange(&mut stream, WITH_TOKEN).await.0, 200);
        authenticated.push(stream);
    }
    closed(&mut silent[0]).await;
    served.until("three", |counts| counts.connections == 3).await;
    closed(&mut served.connect().await).await;
    assert_eq!(served.server.counts(), Counts { connections: 3, unauthenticated: 0, shed: 1, refused: 1 });
    for stream in &mut authenticated {
        assert_eq!(exchange(stream, WITH_TOKEN).await.0, 200);
    }
}

#[tokio::test]
async fn an_address_over_its_limit_loses_its_own_oldest_connection() {
    let served = serve(Limits { unauthenticated: 10, unauthenticated_per_address: 2, ..LIMITS });
    let mut other = served.connect_from("127.0.0.2").await;
    served.until("the first", |counts| counts.unauthenticated == 1).await;
    let mut own = served.open(3, "").await;
    closed(&mut own[0]).await;
    assert!(own[1..].iter().all(is_open));
    // The limit does not apply to authenticated connections.
    for stream in &mut own[1..] {
        assert_eq!(exchange(stream, WITH_TOKEN).await.0, 200);
    }
    let more = served.open(2, "").await;
    assert!(own[1..].iter().chain(&more).all(is_open));
    assert_eq!(exchange(&mut other, WITHOUT_TOKEN).await.0, 401, "another address is not affected");
    assert_eq!(served.server.counts(), Counts { connections: 5, unauthenticated: 3, shed: 1, refused: 0 });
}

#[tokio::test]
async fn sheds_from_the_address_with_most_connections() {
    let served = serve(LIMITS);
    let first = served.connect_from("127.0.0.2").await;
    served.until("the first", |counts| counts.unauthenticated == 1).await;
    let mut many = served.open(3, "").await;
    let mut newcomer = served.connect_from("127.0.0.3").await;
    assert_eq!(exchange(&mut newcomer, WITHOUT_TOKEN).await.0, 401);
    closed(&mut many[0]).await;
    assert!(is_open(&first) && many[1..].iter().all(is_open), "the oldest has only one");
}

#[tokio::test]
async fn closes_slow_clients_at_their_deadline() {
    let with_body = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n";
    for (limits, sent) in [
        (Limits { first_head_timeout: SHORT, ..LIMITS }, ""),
        (Limits { first_head_timeout: SHORT, ..LIMITS }, "GET / HTTP/1.1\r\nHos"),
        (Limits { exchange_timeout: SHORT, ..LIMITS }, with_body),
        (Limits { exchange_timeout: SHORT, ..LIMITS }, "GET /held HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        let served = serve(limits);
        let mut stream = served.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        closed(&mut stream).await;
        served
            .until("the connection is no longer counted", |counts| {
                counts.connections == 0 && counts.unauthenticated == 0
            })
            .await;
        assert_eq!(served.server.counts().shed, 0, "a deadline is not shedding");
    }
    let served = serve(Limits { idle_timeout: SHORT, ..LIMITS });
    for next in ["", "GET / HTT"] {
        let mut stream = served.connect().await;
        assert_eq!(exchange(&mut stream, WITHOUT_TOKEN).await.0, 401);
        stream.write_all(next.as_bytes()).await.unwrap();
        closed(&mut stream).await;
    }
}

#[tokio::test]
async fn an_accepted_credential_ends_the_deadlines() {
    let served = serve(Limits { exchange_timeout: SHORT, idle_timeout: SHORT, ..LIMITS });
    let mut authenticated = served.connect().await;
    assert_eq!(exchange(&mut authenticated, WITH_TOKEN).await.0, 200);
    let mut held = served.connect().await;
    held.write_all(b"GET /held HTTP/1.1\r\nHost: x\r\nAuthorization: good\r\n\r\n").await.unwrap();
    served.until("both have a credential", |counts| counts == Counts { connections: 2, ..Counts::default() }).await;
    // Two later connections without a credential miss their deadlines.
    let mut idle = served.connect().await;
    assert_eq!(exchange(&mut idle, WITHOUT_TOKEN).await.0, 401);
    closed(&mut idle).await;
    let mut slow = served.connect().await;
    slow.write_all(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    closed(&mut slow).await;
    assert_eq!(exchange(&mut authenticated, WITHOUT_TOKEN).await.0, 401, "the connection stays authenticated");
    served.release.add_permits(1);
    assert_eq!(response(&mut held).await, (200, "released".to_owned()));
    drop(authenticated);

    let served = serve(Limits { authenticated_idle_timeout: SHORT, ..LIMITS });
    let mut idle = served.connect().await;
    assert_eq!(exchange(&mut idle, WITH_TOKEN).await.0, 200);
    closed(&mut idle).await;
}

const UPGRADE: &str =
    "GET /upgrade HTTP/1.1\r\nHost: x\r\nAuthorization: good\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";

async fn echoes(upgraded: &mut TcpStream) {
    upgraded.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    upgraded.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
}

#[tokio::test]
async fn an_upgraded_connection_counts_until_it_is_closed() {
    let served = serve(Limits { exchange_timeout: SHORT, idle_timeout: SHORT, unauthenticated: 1, ..LIMITS });
    let mut upgraded = served.connect().await;
    assert_eq!(exchange(&mut upgraded, UPGRADE).await.0, 101);
    // Deadlines pass, and new connections need permits.
    let mut idle = served.connect().await;
    assert_eq!(exchange(&mut idle, WITHOUT_TOKEN).await.0, 401);
    closed(&mut idle).await;
    drop(served.open(3, "").await);
    echoes(&mut upgraded).await;
    served
        .until("only the upgraded connection is left", |counts| counts.connections == 1 && counts.unauthenticated == 0)
        .await;
    drop(upgraded);
    served.until("the upgraded connection is gone", |counts| counts.connections == 0).await;
}

#[tokio::test]
async fn limits_requests_behind_a_trusted_proxy_by_client() {
    let limits = Limits { unauthenticated: 10, unauthenticated_per_address: 2, ..LIMITS };
    let served = serve_behind(limits, &["127.0.0.1/32"]);
    let request = |path: &str, client: &str, token: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.9, {client}\r\n{token}\r\n")
    };
    let mut stream = served.connect().await;
    let answered = exchange(&mut stream, &request("/", "192.0.2.1", "")).await;
    assert_eq!(answered, (401, "192.0.2.1 sent 0".to_owned()), "the proxy forwards the client's address");

    // The proxy's own connections are neither limited per address nor counted as unauthenticated.
    let idle = served.open(20, "").await;
    assert_eq!(served.server.counts(), Counts { connections: 21, ..Counts::default() });
    // The third request of one client sheds its first. Requests of other clients, and authenticated ones, do not count.
    let mut held = Vec::new();
    for (client, token, counted) in [
        ("192.0.2.1", "Authorization: good\r\n", 0),
        ("192.0.2.1", "", 1),
        ("192.0.2.1", "Authorization: good\r\n", 1),
        ("192.0.2.2", "", 2),
        ("192.0.2.1", "", 3),
    ] {
        let mut stream = served.connect().await;
        stream.write_all(request("/held", client, token).as_bytes()).await.unwrap();
        let open = 22 + held.len();
        served.until("the request is counted", |now| (now.connections, now.unauthenticated) == (open, counted)).await;
        held.push(stream);
    }
    let refused = {
        let mut third = served.connect().await;
        third.write_all(request("/held", "192.0.2.1", "").as_bytes()).await.unwrap();
        held.push(third);
        response(&mut held[1]).await
    };
    assert_eq!(refused.0, 429, "{}", refused.1);
    assert_eq!(served.server.counts().shed, 1);
    // The proxy can reuse the connection for its next client.
    assert_eq!(exchange(&mut held[1], &request("/", "192.0.2.2", "Authorization: good\r\n")).await.0, 200);
    served.release.add_permits(5);
    for at in [0, 2, 3, 4, 5] {
        assert_eq!(response(&mut held[at]).await.0, 200, "{at}");
    }
    assert!(idle.iter().all(is_open));
    served.until("no request is under way", |now| now.unauthenticated == 0).await;
    assert_eq!(served.server.counts().connections, 27);
}

#[tokio::test]
async fn sheds_idle_proxy_connections_for_new_ones() {
    let served = serve_behind(Limits { connections: 3, ..LIMITS }, &["127.0.0.0/8"]);
    let mut upgraded = vec![served.connect().await];
    assert_eq!(exchange(&mut upgraded[0], UPGRADE).await.0, 101);
    let [mut first, mut second] = [served.connect().await, served.connect().await];
    assert_eq!(exchange(&mut first, WITH_TOKEN).await.0, 200);
    assert_eq!(exchange(&mut second, WITHOUT_TOKEN).await.0, 401);
    for mut given_up in [first, second] {
        upgraded.push(served.connect().await);
        assert_eq!(exchange(upgraded.last_mut().unwrap(), UPGRADE).await.0, 101);
        closed(&mut given_up).await;
    }
    closed(&mut served.connect().await).await;
    assert_eq!(served.server.counts(), Counts { connections: 3, unauthenticated: 0, shed: 2, refused: 1 });
    for upgraded in &mut upgraded {
        echoes(upgraded).await;
    }
}

#[tokio::test]
async fn a_credential_behind_a_proxy_covers_only_its_request() {
    let served = serve_behind(Limits { exchange_timeout: SHORT, ..LIMITS }, &["127.0.0.1/32"]);
    let mut stream = served.connect().await;
    assert_eq!(exchange(&mut stream, WITH_TOKEN).await.0, 200);
    stream.write_all(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    closed(&mut stream).await;
}

#[tokio::test]
async fn ignores_forwarded_addresses_of_untrusted_peers() {
    let served = serve_behind(LIMITS, &["10.0.0.0/8"]);
    let mut stream = served.connect().await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    assert_eq!(exchange(&mut stream, request).await, (401, "127.0.0.1 sent 0".to_owned()));
}

#[tokio::test]
async fn a_probe_listener_closes_after_one_request() {
    let served = serve(Limits::PROBES);
    let mut stream = served.connect().await;
    assert_eq!(exchange(&mut stream, WITHOUT_TOKEN).await.0, 401);
    closed(&mut stream).await;
}

#[tokio::test]
async fn shutdown_finishes_requests_under_way_and_closes_idle_connections() {
    let served = serve(LIMITS);
    let mut idle = served.connect().await;
    assert_eq!(exchange(&mut idle, WITH_TOKEN).await.0, 200);
    let mut held = served.connect().await;
    held.write_all(b"GET /held HTTP/1.1\r\nHost: x\r\nAuthorization: good\r\n\r\n").await.unwrap();
    served.until("both have a credential", |counts| counts == Counts { connections: 2, ..Counts::default() }).await;
    served.shutdown.cancel();
    served.tasks.close();
    closed(&mut idle).await;
    served.release.add_permits(1);
    assert_eq!(response(&mut held).await.1, "released");
    closed(&mut held).await;
    timeout(TIMEOUT, served.tasks.wait()).await.unwrap();
    assert!(TcpStream::connect(served.address).await.is_err(), "the listener is closed");
}
