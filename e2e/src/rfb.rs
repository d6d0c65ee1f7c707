//! Displays of sessions: at their runners, and at the gateway.

use crate::{Session, Space, doors, tokens::Key};
use anyhow::Result;
use camofleet_auth::token::Scope;
use camofleet_crds::v1alpha1::RunnerRef;
use camofleet_testkit::rfb::{Picture, Viewer};
use futures::{SinkExt, StreamExt};
use reqwest::{
    StatusCode,
    header::{CONNECTION, UPGRADE},
};
use std::io;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message},
};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

/// The ground of the pages that are looked for on a display: `#0a7b53`.
pub const GREEN: [u8; 3] = [0x0a, 0x7b, 0x53];

/// The display of a session at its runner, by a hop token of the gateway's with the scope `view`.
///
/// # Errors
/// When the runner refuses, or what it passes on is not RFB.
pub async fn picture(gateway: &Key, runner: &RunnerRef, session_uid: &str) -> Result<Picture> {
    let token = gateway.signer().hop_token(&runner.uid, session_uid, Scope::View, None);
    let client = reqwest::Client::builder().no_proxy().build()?;
    let answer = client
        .get(format!("http://{}/v1/sessions/{session_uid}/vnc", runner.address))
        .bearer_auth(token)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "rfb")
        .send()
        .await?;
    let status = answer.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        anyhow::bail!("the runner answers {status}: {}", answer.text().await?);
    }
    Viewer::connect(answer.upgrade().await?).await?.picture().await
}

/// A viewer at the gateway, with a token, and the scope that it was granted, as a subprotocol of the live view.
pub async fn at_gateway(
    space: &Space,
    session: &Session,
    token: &str,
) -> Result<(Viewer<impl AsyncRead + AsyncWrite + Unpin + use<>>, String)> {
    let (socket, granted) = doors::watch(space, &session.name, token).await?;
    Ok((over(socket).await?, granted))
}

/// A viewer at the other end of a WebSocket.
pub async fn over(
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
) -> Result<Viewer<impl AsyncRead + AsyncWrite + Unpin + use<>>> {
    let (to_display, from_display) = socket.split();
    let pictures = from_display.filter_map(async |message| match message {
        Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
        Ok(_) => None,
        Err(error) => Some(Err(io::Error::other(error))),
    });
    let messages = to_display.with(async |bytes| Ok::<_, tungstenite::Error>(Message::Binary(bytes)));
    let read = StreamReader::new(Box::pin(pictures));
    let write = SinkWriter::new(CopyToBytes::new(Box::pin(messages.sink_map_err(io::Error::other))));
    Viewer::connect(tokio::io::join(read, write)).await
}
