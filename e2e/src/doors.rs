//! WebSocket handshakes at gateway and runners, without a client behind them.

use crate::{Space, rest::Rest};
use anyhow::{Context, Result, ensure};
use camofleet_runner_api::RunnerState;
use reqwest::{
    Method, Response, StatusCode,
    header::{
        AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
        USER_AGENT,
    },
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{client::IntoClientRequest, handshake::client::generate_key, http::HeaderValue},
};

/// The User-Agent of a client whose version fits.
pub const FITTING_CLIENT: &str = "Playwright/1.62.1 (x64; debian 12) node/24.0";

/// Asks for a WebSocket at an http:// URL, and hands over the answer: 101, or a refusal.
pub async fn knock(url: &str, token: Option<&str>, user_agent: &str) -> Result<Response> {
    let request = http()?
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

/// Sends a plain request, and hands over the status.
pub async fn status_of(method: Method, url: &str, token: Option<&str>) -> Result<StatusCode> {
    let request = http()?.request(method, url);
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    Ok(request.send().await?.status())
}

/// What a runner says of itself.
pub async fn runner_state(address: &str, token: &str) -> Result<RunnerState> {
    let answer = http()?.get(format!("http://{address}/v1/sessions")).bearer_auth(token).send().await?;
    let status = answer.status();
    ensure!(status.is_success(), "runner {address} answers {status}: {}", answer.text().await?);
    Ok(answer.json().await?)
}

/// An open WebSocket to a session, with no client behind it.
pub async fn open(ws_url: &str, token: &str) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>> {
    let mut request = ws_url.into_client_request()?;
    request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}"))?);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(FITTING_CLIENT));
    let (socket, _) = connect_async(request).await.with_context(|| format!("cannot connect to {ws_url}"))?;
    Ok(socket)
}

/// An open live view of a session, and the scope that was granted, as a subprotocol.
pub async fn watch(
    space: &Space,
    name: &str,
    token: &str,
) -> Result<(WebSocketStream<MaybeTlsStream<TcpStream>>, String)> {
    let url = format!("{}/vnc/{}/{name}", space.fleet.gateway_url()?, space.namespace).replacen("http", "ws", 1);
    let mut request = url.as_str().into_client_request()?;
    let offer = format!("camofleet.control, camofleet.view, camofleet.bearer.{token}");
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&offer)?);
    let (socket, answer) = connect_async(request).await.with_context(|| format!("cannot connect to {url}"))?;
    let granted = answer.headers().get(SEC_WEBSOCKET_PROTOCOL).context("no subprotocol was selected")?;
    Ok((socket, granted.to_str()?.to_owned()))
}

/// A token for a session, as an admin asks for it.
pub async fn share(space: &Space, name: &str, asked: &Value) -> Result<String> {
    let rest = Rest::of(space)?;
    let given =
        rest.expect(StatusCode::CREATED, Method::POST, &format!("/sessions/-/{name}/tokens"), Some(asked)).await?;
    Ok(given["token"].as_str().context("no token was given")?.to_owned())
}

/// A client that asks no proxy: everything here is near.
pub(crate) fn http() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().build()?)
}
