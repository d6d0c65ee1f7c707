//! Client of the runner's API. Each request uses its own HTTP/1.1 connection, which can be upgraded to WebSocket or
//! RFB.

use axum::body::Bytes;
use camofleet_runner_api::{ClientOptions, SessionReport};
use camofleet_runtime::tcp;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
        SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
    },
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::{io, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tracing::Instrument;

/// Timeout of the TCP connection. The runner is in the same cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of a response. Long, because the Playwright server itself responds to the handshake and can be busy.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest response body, in bytes.
const MAX_BODY: usize = 64 << 10;

const HANDSHAKE_HEADERS: [HeaderName; 5] =
    [USER_AGENT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL];
/// Headers of the runner's 101 that are forwarded to the client.
const SWITCHING_HEADERS: [HeaderName; 5] =
    [UPGRADE, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL];

/// A response of a runner.
pub enum RunnerResponse {
    /// 101 Switching Protocols.
    Upgraded {
        /// Headers for the client's 101.
        headers: HeaderMap,
        /// Resolves to the upgraded connection.
        connection: hyper::upgrade::OnUpgrade,
    },
    /// Any other status.
    Other {
        /// The status code.
        status: StatusCode,
        /// The header `Content-Type`.
        content_type: Option<HeaderValue>,
        /// The body, at most 64 KiB.
        body: Bytes,
    },
}

/// Why a request to a runner failed.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The TCP connection failed.
    #[error("could not connect to runner {address}: {source}")]
    Connect {
        /// The runner's `ip:port`.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// The HTTP exchange failed.
    #[error("the runner did not answer: {0}")]
    Http(#[from] hyper::Error),
    /// The runner returned a status that the request does not expect.
    #[error("the runner answered {0}")]
    UnexpectedStatus(StatusCode),
    /// The runner accepted the connection, but did not answer in time.
    #[error("the runner did not answer within {} s", RESPONSE_TIMEOUT.as_secs())]
    Timeout,
    /// The response body is malformed, incomplete or too long.
    #[error("could not read the body of the runner's answer {status}: {source}")]
    Body {
        /// Status of the response.
        status: StatusCode,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A service of a session on its runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// The Playwright server, over WebSocket. The client's handshake and what the client asks for are forwarded.
    Playwright(ClientOptions),
    /// The display, over plain RFB.
    Display,
}

impl Service {
    fn path(&self, uid: &str) -> String {
        match self {
            Self::Playwright(options) => {
                let query = serde_urlencoded::to_string(options).expect("two optional strings serialize");
                let separator = if query.is_empty() { "" } else { "?" };
                format!("/v1/sessions/{uid}/playwright{separator}{query}")
            }
            Self::Display => format!("/v1/sessions/{uid}/vnc"),
        }
    }

    fn protocol(&self) -> &'static str {
        match self {
            Self::Playwright(_) => "websocket",
            Self::Display => "rfb",
        }
    }

    /// The client's headers to forward: User-Agent, from which the server checks the Playwright version, and the
    /// headers of the WebSocket handshake.
    fn forwarded_headers(&self) -> &'static [HeaderName] {
        match self {
            Self::Playwright(_) => &HANDSHAKE_HEADERS,
            Self::Display => &[],
        }
    }
}

/// Requests an upgrade to a session's service from the runner at `address` (`ip:port`). `client`: the headers of the
/// client's request.
pub async fn upgrade(
    address: &str,
    uid: &str,
    service: &Service,
    hop_token: &str,
    client: &HeaderMap,
) -> Result<RunnerResponse, RunnerError> {
    let mut request = request(Method::GET, address, &service.path(uid), hop_token);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    request.headers_mut().insert(UPGRADE, HeaderValue::from_static(service.protocol()));
    request.headers_mut().extend(select_headers(client, service.forwarded_headers()));
    send_to(address, request).await
}

/// Resets a session's idle time on the runner at `address` (`ip:port`).
pub async fn touch(address: &str, uid: &str, hop_token: &str) -> Result<(), RunnerError> {
    let request = request(Method::POST, address, &format!("/v1/sessions/{uid}/touch"), hop_token);
    match send_to(address, request).await? {
        RunnerResponse::Other { status, .. } if status.is_success() => Ok(()),
        RunnerResponse::Other { status, .. } => Err(RunnerError::UnexpectedStatus(status)),
        RunnerResponse::Upgraded { .. } => Err(RunnerError::UnexpectedStatus(StatusCode::SWITCHING_PROTOCOLS)),
    }
}

/// Reads the report of a session, including its idle time, from the runner at `address` (`ip:port`).
pub async fn report(address: &str, uid: &str, hop_token: &str) -> Result<SessionReport, RunnerError> {
    let request = request(Method::GET, address, &format!("/v1/sessions/{uid}"), hop_token);
    match send_to(address, request).await? {
        RunnerResponse::Other { status, body, .. } if status.is_success() => {
            serde_json::from_slice(&body).map_err(|error| RunnerError::Body { status, source: error.into() })
        }
        RunnerResponse::Other { status, .. } => Err(RunnerError::UnexpectedStatus(status)),
        RunnerResponse::Upgraded { .. } => Err(RunnerError::UnexpectedStatus(StatusCode::SWITCHING_PROTOCOLS)),
    }
}

async fn send_to(address: &str, request: Request<Empty<Bytes>>) -> Result<RunnerResponse, RunnerError> {
    let stream =
        connect(address).await.map_err(|source| RunnerError::Connect { address: address.to_owned(), source })?;
    timeout(RESPONSE_TIMEOUT, send(stream, request)).await.map_err(|_| RunnerError::Timeout)?
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await.map_err(io::Error::other)??;
    tcp::prepare(&stream)?;
    Ok(stream)
}

fn request(method: Method, address: &str, path: &str, hop_token: &str) -> Request<Empty<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address)
        .header(AUTHORIZATION, format!("Bearer {hop_token}"))
        .body(Empty::new())
        .expect("a UID, an address and a JWT are valid in a path and in headers")
}

async fn send(stream: TcpStream, request: Request<Empty<Bytes>>) -> Result<RunnerResponse, RunnerError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The task ends with the upgrade, or after the response body.
    tokio::spawn(connection.with_upgrades().instrument(tracing::Span::current()));
    let response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let headers = select_headers(response.headers(), &SWITCHING_HEADERS).collect();
        return Ok(RunnerResponse::Upgraded { headers, connection: hyper::upgrade::on(response) });
    }
    read_body(response).await
}

async fn read_body(response: http::Response<Incoming>) -> Result<RunnerResponse, RunnerError> {
    let (head, body) = response.into_parts();
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(RunnerResponse::Other {
            status: head.status,
            content_type: head.headers.get(CONTENT_TYPE).cloned(),
            body: body.to_bytes(),
        }),
        Err(source) => Err(RunnerError::Body { status: head.status, source }),
    }
}

fn select_headers<'a>(
    headers: &'a HeaderMap,
    names: &'a [HeaderName],
) -> impl Iterator<Item = (HeaderName, HeaderValue)> + 'a {
    names.iter().flat_map(|name| headers.get_all(name).iter().map(move |value| (name.clone(), value.clone())))
}
