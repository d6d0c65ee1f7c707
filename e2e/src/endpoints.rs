//! Requests to the HTTP endpoints of gateways and runners, and WebSocket handshakes without a Playwright client.

use anyhow::{Context, Result, ensure};
use camofleet_runner_api::RunnerState;
use reqwest::{
    Method, Response, StatusCode,
    header::{AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT},
};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{client::IntoClientRequest, handshake::client::generate_key, http::HeaderValue},
};

/// The User-Agent of a client with the Playwright version that the runners support.
pub const COMPATIBLE_CLIENT: &str = "Playwright/1.62.1 (x64; debian 12) node/24.0";

/// A WebSocket that this process opened.
pub type ClientSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Requests a WebSocket upgrade at an `http://` URL, and returns the response: 101 or a rejection.
pub async fn request_upgrade(url: &str, token: Option<&str>, user_agent: &str) -> Result<Response> {
    let request = http_client()?
        .get(url)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, generate_key())
        .header(USER_AGENT, user_agent);
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    Ok(request.send().await?)
}

/// Sends a request without a body, and returns the response's status.
pub async fn status_of(method: Method, url: &str, token: Option<&str>) -> Result<StatusCode> {
    let request = http_client()?.request(method, url);
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    Ok(request.send().await?.status())
}

/// Reads the state that the runner at `address` reports.
///
/// # Errors
/// If the response is not a success, with its status and body.
pub async fn runner_state(address: &str, token: &str) -> Result<RunnerState> {
    let response = http_client()?.get(format!("http://{address}/v1/sessions")).bearer_auth(token).send().await?;
    let status = response.status();
    ensure!(status.is_success(), "runner {address} responded {status}: {}", response.text().await?);
    Ok(response.json().await?)
}

/// Opens a WebSocket to a session as a compatible client would, without Playwright on it.
pub async fn open_websocket(ws_url: &str, token: &str) -> Result<ClientSocket> {
    let mut request = ws_url.into_client_request()?;
    request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}"))?);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(COMPATIBLE_CLIENT));
    let (socket, _) = connect_async(request).await.with_context(|| format!("cannot connect to {ws_url}"))?;
    Ok(socket)
}

/// An HTTP client that ignores proxy settings, because gateways and runners are on this machine.
pub(crate) fn http_client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().build()?)
}
