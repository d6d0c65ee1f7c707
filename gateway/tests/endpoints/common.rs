//! Fixtures: a gateway on a real port, runners that accept upgrades, and an API server with sessions set by the test.

use axum::body::Bytes;
use camofleet_auth::token::{Issuer, PublicKeys};
use camofleet_crds::v1alpha1::{BrowserSession, BrowserSessionSpec, BrowserSessionStatus, LiveViewUrls, RunnerRef};
use camofleet_gateway::{
    Gateway,
    auth::static_tokens::StaticTokens,
    cache::session::{Key, Readiness, Session},
    server::listener,
};
use camofleet_runtime::logging;
use camofleet_testkit::{
    http::read_head,
    keys::{public_keys, signer},
};
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, accept_hdr_async_with_config, connect_async_with_config,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        handshake::server::{ErrorResponse, Request as Handshake, Response as Accepted},
        protocol::WebSocketConfig,
    },
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

pub const ADMIN: &str = "admin-token";
pub const VIEWER: &str = "viewer-token";
pub const POD_UID: &str = "pod-uid";

pub type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The log of all tests of this program. They share one subscriber, which is set before the first event. With one
/// subscriber per thread, an event that another thread logged first without a subscriber would be missing, because
/// tracing caches a callsite's interest.
static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::registry().with(logging::json(move || writer.clone()).with_filter(LevelFilter::INFO)).init();
    log
});

/// The log so far, with one JSON object per line.
pub fn log_output() -> String {
    String::from_utf8(LOG.0.lock().unwrap().clone()).unwrap()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A running gateway, and the state that a test controls.
pub struct TestGateway {
    pub state: Arc<Gateway>,
    pub address: SocketAddr,
    /// The public keys that runners trust.
    pub keys: PublicKeys,
    /// Sessions that the API server has. The cache is filled separately.
    pub uncached: Arc<Mutex<Vec<BrowserSession>>>,
    /// Number of requests to the API server.
    pub api_requests: Arc<AtomicU32>,
}

pub async fn start_gateway() -> TestGateway {
    start_gateway_with(|_| ()).await
}

pub async fn start_gateway_with(change: impl FnOnce(&mut Gateway)) -> TestGateway {
    LazyLock::force(&LOG);
    let signer = signer(Issuer::Gateway);
    let keys = public_keys(&[(Issuer::Gateway, &signer)]);
    let (uncached, api_requests) = (Arc::default(), Arc::default());
    let mut gateway = Gateway::new(api_server(Arc::clone(&uncached), Arc::clone(&api_requests)), "ns".into(), signer);
    change(&mut gateway);
    let tokens = StaticTokens::parse([("admin", ADMIN.as_bytes()), ("viewer", VIEWER.as_bytes())]);
    gateway.auth.set_tokens(Some(tokens));
    gateway.sessions.replace_all(Vec::new());
    gateway.pools.replace_all(Vec::new());
    let state = Arc::new(gateway);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(listener::serve(Arc::clone(&state), listener, ui()));
    TestGateway { state, address, keys, uncached, api_requests }
}

/// A directory with the layout of the UI's build.
fn ui() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/endpoints/ui")
}

/// An API server that handles GET and DELETE of a session. A POST creates the session, but returns an error.
fn api_server(sessions: Arc<Mutex<Vec<BrowserSession>>>, api_requests: Arc<AtomicU32>) -> kube::Client {
    let answer =
        move |request: Request<kube::client::Body>| -> BoxFuture<'static, Result<_, std::convert::Infallible>> {
            api_requests.fetch_add(1, Ordering::Relaxed);
            let sessions = Arc::clone(&sessions);
            Box::pin(async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let mut sessions = sessions.lock().unwrap();
                let named = sessions.iter().position(|session| path_of(session) == head.uri.path());
                let (status, body) = match (head.method, named) {
                    (Method::POST, _) => {
                        sessions.push(serde_json::from_slice(&body).unwrap());
                        failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")
                    }
                    (_, None) => failure(StatusCode::NOT_FOUND, "NotFound"),
                    (Method::DELETE, Some(at)) if is_for_another(&body, &sessions[at]) => {
                        failure(StatusCode::CONFLICT, "Conflict")
                    }
                    (Method::DELETE, Some(at)) => (StatusCode::OK, serde_json::to_vec(&sessions.remove(at)).unwrap()),
                    (_, Some(at)) => (StatusCode::OK, serde_json::to_vec(&sessions[at]).unwrap()),
                };
                Ok(Response::builder().status(status).body(Full::<Bytes>::from(body)).unwrap())
            })
        };
    kube::Client::new(tower::service_fn(answer), "default")
}

fn path_of(session: &BrowserSession) -> String {
    let (namespace, name) = (session.namespace().unwrap(), session.name_any());
    format!("/apis/camofleet.dev/v1alpha1/namespaces/{namespace}/browsersessions/{name}")
}

/// Whether the preconditions of a deletion have another UID.
fn is_for_another(options: &[u8], session: &BrowserSession) -> bool {
    let options: Value = serde_json::from_slice(options).unwrap();
    options["preconditions"]["uid"].as_str().is_some_and(|only| session.uid().as_deref() != Some(only))
}

fn failure(code: StatusCode, reason: &str) -> (StatusCode, Vec<u8>) {
    let status =
        json!({ "kind": "Status", "status": "Failure", "reason": reason, "code": code.as_u16(), "message": reason });
    (code, serde_json::to_vec(&status).unwrap())
}

impl TestGateway {
    /// Puts a session into the cache, as a watch event does.
    pub fn put_session(&self, name: &str, uid: &str, readiness: Readiness) {
        let mut object = object(name, uid);
        object.status =
            Some(BrowserSessionStatus { vnc: Some(LiveViewUrls::default()), ..BrowserSessionStatus::default() });
        self.state.sessions.put(key(name), Session { readiness, object: Arc::new(object) });
    }

    /// Adds a session to the API server, but not to the cache.
    pub fn create_uncached(&self, name: &str, uid: &str) {
        self.uncached.lock().unwrap().push(object(name, uid));
    }

    pub fn url(&self, name: &str) -> String {
        format!("ws://{}/ws/ns/{name}", self.address)
    }

    /// Connects like Playwright, with an admin token and Playwright's User-Agent.
    pub async fn connect(&self, name: &str) -> Result<Client, Error> {
        self.connect_with(name, ADMIN).await
    }

    /// Connects like Playwright, with this token.
    pub async fn connect_with(&self, name: &str, token: &str) -> Result<Client, Error> {
        let mut request = self.url(name).into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.headers_mut().insert("user-agent", "Playwright/1.62.1".parse().unwrap());
        connect_async_with_config(request, Some(large()), true).await.map(|(client, _)| client)
    }

    /// Connects and expects a rejection. Returns its status, headers and body.
    pub async fn rejection(&self, name: &str) -> (StatusCode, HeaderMap, String) {
        match self.connect(name).await {
            Err(Error::Http(response)) => {
                // The WebSocket client does not read the body, so the request is repeated without it.
                let rejection =
                    self.handshake(&format!("/ws/ns/{name}"), &[("authorization", &format!("Bearer {ADMIN}"))]).await;
                assert_eq!(rejection.0, response.status());
                rejection
            }
            other => panic!("expected a rejection, got {other:?}"),
        }
    }

    /// Sends a WebSocket handshake with these additional headers, and reads the whole response.
    pub async fn handshake(&self, target: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
        let handshake = [
            ("host", "gateway"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        self.get(target, &[&handshake, headers].concat()).await
    }

    /// Sends a GET request with exactly these headers.
    pub async fn get(&self, target: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = headers.iter().fold(Request::get(target), |request, (name, value)| request.header(*name, *value));
        let response = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Sends a request without a body, given its request line, and returns the head and the body of the response.
    pub async fn send(&self, request_line: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{request_line}\r\nhost: gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// The rendered metrics.
    pub fn metrics(&self) -> String {
        self.state.metrics.render(self.state.clients.counts()).unwrap()
    }
}

fn object(name: &str, uid: &str) -> BrowserSession {
    let mut object = BrowserSession::new(name, BrowserSessionSpec::default());
    object.metadata.namespace = Some("ns".into());
    object.metadata.uid = Some(uid.into());
    object
}

pub fn key(name: &str) -> Key {
    Key::new("ns", name).unwrap()
}

/// A connection that a runner accepted.
pub struct RunnerConnection {
    pub path: String,
    pub headers: HeaderMap,
    pub socket: WebSocketStream<TcpStream>,
}

/// A runner that hands the test its end of each connection.
pub struct Runner {
    pub address: SocketAddr,
    connections: mpsc::UnboundedReceiver<RunnerConnection>,
}

impl Runner {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, connections) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accept(stream, sender.clone()));
            }
        });
        Self { address, connections }
    }

    /// Starts a runner that answers every request with these bytes.
    pub async fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                read_head(&mut stream).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }

    pub async fn accept_connection(&mut self) -> RunnerConnection {
        self.connections.recv().await.unwrap()
    }

    pub fn ready(&self) -> Readiness {
        ready(self.address)
    }
}

pub fn ready(address: SocketAddr) -> Readiness {
    Readiness::Ready(RunnerRef { name: "pod".into(), uid: POD_UID.into(), address: address.to_string() })
}

async fn accept(stream: TcpStream, connections: mpsc::UnboundedSender<RunnerConnection>) {
    let (mut path, mut headers) = (String::new(), HeaderMap::new());
    #[allow(clippy::result_large_err, reason = "tungstenite's own type")]
    let note = |request: &Handshake, accepted: Accepted| -> Result<Accepted, ErrorResponse> {
        path = request.uri().to_string();
        headers = request.headers().clone();
        Ok(accepted)
    };
    let socket = accept_hdr_async_with_config(stream, note, Some(large())).await.unwrap();
    let _ = connections.send(RunnerConnection { path, headers, socket });
}

/// Limits that allow messages as large as Playwright's.
fn large() -> WebSocketConfig {
    WebSocketConfig::default().max_frame_size(Some(256 << 20)).max_message_size(Some(256 << 20))
}

/// Expects a Close frame, and returns its code and reason.
pub fn expect_close(message: Option<Result<Message, Error>>) -> (u16, String) {
    match message {
        Some(Ok(Message::Close(Some(close)))) => (close.code.into(), close.reason.to_string()),
        other => panic!("expected a Close frame, got {other:?}"),
    }
}
