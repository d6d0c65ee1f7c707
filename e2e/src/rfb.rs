//! Looks at a session's display, and types into it: the Remote Framebuffer protocol (RFC 6143), raw encoding.

use crate::{Session, Space, doors, tokens::Key};
use anyhow::{Context, Result, ensure};
use camofleet_auth::token::Role;
use camofleet_crds::v1alpha1::RunnerRef;
use futures::{SinkExt, StreamExt};
use reqwest::{
    StatusCode,
    header::{CONNECTION, UPGRADE},
};
use std::io;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message},
};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

/// 32 bits for a pixel, little-endian, true colour: red, green and blue in the lower three bytes (RFC 6143 section 7.4).
const PIXEL_FORMAT: [u8; 16] = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0];
const BYTES_PER_PIXEL: usize = 4;

/// The ground of the pages that are looked for on a display: `#0a7b53`.
pub const GREEN: [u8; 3] = [0x0a, 0x7b, 0x53];

/// What a display shows.
pub struct Picture {
    /// Width in pixels.
    pub width: u16,
    /// Height in pixels.
    pub height: u16,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// The share of pixels that have this colour, from 0 to 1.
    pub fn share_of(&self, colour: [u8; 3]) -> f64 {
        let count = |pixels: usize| f64::from(u32::try_from(pixels).expect("a display has less than 4 billion pixels"));
        count(self.pixels.iter().filter(|pixel| **pixel == colour).count()) / count(self.pixels.len())
    }
}

/// The display of a session at its runner, by a hop token of the gateway's with the role `view`.
///
/// # Errors
/// When the runner refuses, or what it passes on is not RFB.
pub async fn picture(gateway: &Key, runner: &RunnerRef, session_uid: &str) -> Result<Picture> {
    let token = gateway.signer().hop_token(&runner.uid, session_uid, Role::View, None);
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
    Viewer::begin(answer.upgrade().await?).await?.picture().await
}

/// Somebody before a display.
pub struct Viewer<D> {
    display: D,
    size: (u16, u16),
}

impl Viewer<()> {
    /// A viewer at the gateway, with a token, and the role that it was granted: a subprotocol of the live view.
    pub async fn at_gateway(
        space: &Space,
        session: &Session,
        token: &str,
    ) -> Result<(Viewer<impl AsyncRead + AsyncWrite + Unpin + use<>>, String)> {
        let (socket, granted) = doors::watch(space, &session.name, token).await?;
        Ok((Self::over(socket).await?, granted))
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
        Viewer::begin(tokio::io::join(read, write)).await
    }
}

impl<D: AsyncRead + AsyncWrite + Unpin> Viewer<D> {
    /// Shakes hands with a display, and asks for pictures that are easy to read.
    async fn begin(mut display: D) -> Result<Self> {
        let size = shake_hands(&mut display).await?;
        let mut viewer = Self { display, size };
        let mut set_pixel_format = vec![0, 0, 0, 0];
        set_pixel_format.extend(PIXEL_FORMAT);
        viewer.say(&set_pixel_format).await?;
        let set_encodings_to_raw = [2, 0, 0, 1, 0, 0, 0, 0];
        viewer.say(&set_encodings_to_raw).await?;
        Ok(viewer)
    }

    /// Says a message, or anything else.
    pub async fn say(&mut self, message: &[u8]) -> Result<()> {
        self.display.write_all(message).await?;
        Ok(self.display.flush().await?)
    }

    /// Presses a key and lets it go (section 7.5.4), a letter or a digit.
    pub async fn press(&mut self, key: u8) -> Result<()> {
        self.say(&[4, 1, 0, 0, 0, 0, 0, key, 4, 0, 0, 0, 0, 0, 0, key]).await
    }

    /// Asks for the whole display (section 7.5.3).
    pub async fn ask_for_all(&mut self) -> Result<()> {
        let (width, height) = self.size;
        let mut request = vec![3, 0, 0, 0, 0, 0];
        request.extend(width.to_be_bytes());
        request.extend(height.to_be_bytes());
        self.say(&request).await
    }

    /// The whole display as it is now. All that was said before has been heard then.
    pub async fn picture(&mut self) -> Result<Picture> {
        self.ask_for_all().await?;
        let (width, height) = self.size;
        let display = &mut self.display;
        let size = usize::from(width) * usize::from(height);
        let mut pixels = vec![[0; 3]; size];
        let mut painted = 0;
        while painted < size {
            match display.read_u8().await? {
                0 => painted += read_update(display, width, &mut pixels).await?,
                2 => {} // Bell
                3 => {
                    let mut padding = [0; 3];
                    display.read_exact(&mut padding).await?;
                    // Negative: the extended clipboard, which the gateway keeps on for those who may only look.
                    let mut text = vec![0; usize::try_from(display.read_i32().await?.unsigned_abs())?];
                    display.read_exact(&mut text).await?;
                }
                kind => anyhow::bail!("the display sends a message of type {kind}, which was not asked for"),
            }
        }
        Ok(Picture { width, height, pixels })
    }
}

/// RFC 6143 sections 7.1 to 7.3: version 3.8, no security of its own, a shared display.
async fn shake_hands(display: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(u16, u16)> {
    let mut version = [0; 12];
    display.read_exact(&mut version).await?;
    ensure!(&version == b"RFB 003.008\n", "not RFB 3.8: {:?}", String::from_utf8_lossy(&version));
    display.write_all(&version).await?;
    display.flush().await?;
    let mut kinds = vec![0; display.read_u8().await?.into()];
    display.read_exact(&mut kinds).await?;
    ensure!(kinds.contains(&1), "the display wants a password: {kinds:?}");
    display.write_all(&[1]).await?;
    display.flush().await?;
    ensure!(display.read_u32().await? == 0, "the display refuses");
    display.write_all(&[1]).await?;
    display.flush().await?;
    let (width, height) = (display.read_u16().await?, display.read_u16().await?);
    let mut format = [0; 16];
    display.read_exact(&mut format).await?;
    let mut name = vec![0; usize::try_from(display.read_u32().await?)?];
    display.read_exact(&mut name).await?;
    Ok((width, height))
}

/// RFC 6143 section 7.6.1. Says how many pixels were painted.
async fn read_update(display: &mut (impl AsyncRead + Unpin), width: u16, pixels: &mut [[u8; 3]]) -> Result<usize> {
    display.read_u8().await?;
    let mut painted = 0;
    for _ in 0..display.read_u16().await? {
        let (x, y) = (display.read_u16().await?, display.read_u16().await?);
        let (columns, rows) = (display.read_u16().await?, display.read_u16().await?);
        ensure!(display.read_i32().await? == 0, "the display sends an encoding that was not asked for");
        let mut row = vec![0; usize::from(columns) * BYTES_PER_PIXEL];
        for line in 0..rows {
            display.read_exact(&mut row).await?;
            let start = (usize::from(y) + usize::from(line)) * usize::from(width) + usize::from(x);
            let target = pixels.get_mut(start..start + usize::from(columns)).context("outside of the display")?;
            for (pixel, bytes) in target.iter_mut().zip(row.chunks_exact(BYTES_PER_PIXEL)) {
                pixel.copy_from_slice(&bytes[..3]);
            }
        }
        painted += usize::from(columns) * usize::from(rows);
    }
    Ok(painted)
}
