//! Views the displays of sessions over RFB, at their runners and at the gateway.

use crate::{
    Session, TestNamespace,
    endpoints::{ClientSocket, http_client},
    tokens::Key,
};
use anyhow::{Context, Result};
use camofleet_auth::token::Scope;
use camofleet_crds::v1alpha1::RunnerRef;
use camofleet_testkit::rfb::{Picture, RfbClient};
use futures::{SinkExt, StreamExt};
use reqwest::{
    StatusCode,
    header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE},
};
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{self, Message, client::IntoClientRequest, http::HeaderValue},
};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

/// The background colour of test pages, which tests look for on a display: `#0a7b53`.
pub const GREEN: [u8; 3] = [0x0a, 0x7b, 0x53];

/// Reads a picture of a session's display from its runner, with a hop token of scope `view` signed with the gateway's
/// key.
///
/// # Errors
/// If the runner rejects the request or does not speak RFB.
pub async fn picture(gateway_key: &Key, runner: &RunnerRef, session_uid: &str) -> Result<Picture> {
    let token = gateway_key.signer().hop_token(&runner.uid, session_uid, Scope::View, None);
    let response = http_client()?
        .get(format!("http://{}/v1/sessions/{session_uid}/vnc", runner.address))
        .bearer_auth(token)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "rfb")
        .send()
        .await?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        anyhow::bail!("the runner responded {status}: {}", response.text().await?);
    }
    RfbClient::connect(response.upgrade().await?).await?.picture().await
}

/// Opens the live view of a session at the gateway. Also returns the selected subprotocol, which names the granted
/// scope.
pub async fn open_live_view(ns: &TestNamespace, session: &str, token: &str) -> Result<(ClientSocket, String)> {
    let url = format!("{}/vnc/{}/{session}", ns.fleet.gateway_url()?, ns.name).replacen("http", "ws", 1);
    let mut request = url.as_str().into_client_request()?;
    let offer = format!("camofleet.control, camofleet.view, camofleet.bearer.{token}");
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&offer)?);
    let (socket, response) = connect_async(request).await.with_context(|| format!("cannot connect to {url}"))?;
    let granted = response.headers().get(SEC_WEBSOCKET_PROTOCOL).context("the gateway selected no subprotocol")?;
    Ok((socket, granted.to_str()?.to_owned()))
}

/// Connects an RFB viewer to a session's live view at the gateway. Also returns the selected subprotocol, which names
/// the granted scope.
pub async fn connect_viewer(
    ns: &TestNamespace,
    session: &Session,
    token: &str,
) -> Result<(RfbClient<impl AsyncRead + AsyncWrite + Unpin + use<>>, String)> {
    let (socket, granted) = open_live_view(ns, &session.name, token).await?;
    Ok((viewer_over(socket).await?, granted))
}

/// Starts an RFB viewer over a WebSocket.
pub async fn viewer_over(socket: ClientSocket) -> Result<RfbClient<impl AsyncRead + AsyncWrite + Unpin + use<>>> {
    let (to_display, from_display) = socket.split();
    let pictures = from_display.filter_map(async |message| match message {
        Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
        Ok(_) => None,
        Err(error) => Some(Err(io::Error::other(error))),
    });
    let messages = to_display.with(async |bytes| Ok::<_, tungstenite::Error>(Message::Binary(bytes)));
    let read = StreamReader::new(Box::pin(pictures));
    let write = SinkWriter::new(CopyToBytes::new(Box::pin(messages.sink_map_err(io::Error::other))));
    RfbClient::connect(tokio::io::join(read, write)).await
}
