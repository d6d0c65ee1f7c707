//! A client of the Remote Framebuffer protocol (RFC 6143) with raw encoding and key events.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// 32 bits per pixel, little-endian, true colour, with red, green and blue in the lower three bytes (RFC 6143 section
/// 7.4).
const PIXEL_FORMAT: [u8; 16] = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0];
const BYTES_PER_PIXEL: usize = 4;

/// Content of a display.
pub struct Picture {
    /// Width in pixels.
    pub width: u16,
    /// Height in pixels.
    pub height: u16,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// Red, green and blue of a pixel.
    ///
    /// # Panics
    /// The pixel is outside the picture.
    pub fn colour(&self, x: u16, y: u16) -> [u8; 3] {
        assert!(x < self.width, "x = {x} is outside the picture");
        self.pixels[usize::from(y) * usize::from(self.width) + usize::from(x)]
    }

    /// Share of pixels with this colour, from 0 to 1.
    pub fn share_of(&self, colour: [u8; 3]) -> f64 {
        let count = |pixels: usize| f64::from(u32::try_from(pixels).expect("a display has less than 4 billion pixels"));
        count(self.pixels.iter().filter(|pixel| **pixel == colour).count()) / count(self.pixels.len())
    }
}

/// A connected RFB client.
pub struct RfbClient<D> {
    display: D,
    security_types: Vec<u8>,
    size: (u16, u16),
}

impl<D: AsyncRead + AsyncWrite + Unpin> RfbClient<D> {
    /// Completes the handshake with a display, and sets the pixel format and the raw encoding.
    ///
    /// # Errors
    /// The display does not support RFB 3.8, or requires a password.
    pub async fn connect(mut display: D) -> Result<Self> {
        let (security_types, size) = shake_hands(&mut display).await?;
        let mut client = Self { display, security_types, size };
        let mut set_pixel_format = vec![0, 0, 0, 0];
        set_pixel_format.extend(PIXEL_FORMAT);
        client.send(&set_pixel_format).await?;
        let set_encodings_to_raw = [2, 0, 0, 1, 0, 0, 0, 0];
        client.send(&set_encodings_to_raw).await?;
        Ok(client)
    }

    /// Security types that the display offered (section 7.1.2).
    pub fn security_types(&self) -> &[u8] {
        &self.security_types
    }

    /// Width and height of the display in pixels.
    pub fn size(&self) -> (u16, u16) {
        self.size
    }

    /// Sends raw bytes, which need not be a valid message.
    pub async fn send(&mut self, message: &[u8]) -> Result<()> {
        self.display.write_all(message).await?;
        Ok(self.display.flush().await?)
    }

    /// Presses and releases a key (section 7.5.4), given as the ASCII code of a letter or digit.
    pub async fn press(&mut self, key: u8) -> Result<()> {
        self.send(&[4, 1, 0, 0, 0, 0, 0, key, 4, 0, 0, 0, 0, 0, 0, key]).await
    }

    /// Requests a non-incremental update of the whole display (section 7.5.3).
    pub async fn request_full_update(&mut self) -> Result<()> {
        let (width, height) = self.size;
        let mut request = vec![3, 0, 0, 0, 0, 0];
        request.extend(width.to_be_bytes());
        request.extend(height.to_be_bytes());
        self.send(&request).await
    }

    /// Reads the current content of the whole display. The display has processed all earlier messages by then.
    pub async fn picture(&mut self) -> Result<Picture> {
        self.request_full_update().await?;
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
                    // A negative length marks the extended clipboard, which the gateway leaves enabled for scope
                    // `view`.
                    let mut text = vec![0; usize::try_from(display.read_i32().await?.unsigned_abs())?];
                    display.read_exact(&mut text).await?;
                }
                kind => anyhow::bail!("the display sent an unexpected message of type {kind}"),
            }
        }
        Ok(Picture { width, height, pixels })
    }
}

/// Handshake (RFC 6143 sections 7.1 to 7.3) with version 3.8, security type None, and a shared display. Returns the
/// offered security types and the size of the display.
async fn shake_hands(display: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(Vec<u8>, (u16, u16))> {
    let mut version = [0; 12];
    display.read_exact(&mut version).await?;
    ensure!(&version == b"RFB 003.008\n", "not RFB 3.8: {:?}", String::from_utf8_lossy(&version));
    display.write_all(&version).await?;
    display.flush().await?;
    let mut kinds = vec![0; display.read_u8().await?.into()];
    display.read_exact(&mut kinds).await?;
    ensure!(kinds.contains(&1), "the display requires a password: {kinds:?}");
    display.write_all(&[1]).await?;
    display.flush().await?;
    ensure!(display.read_u32().await? == 0, "the display rejected the client");
    display.write_all(&[1]).await?;
    display.flush().await?;
    let (width, height) = (display.read_u16().await?, display.read_u16().await?);
    let mut format = [0; 16];
    display.read_exact(&mut format).await?;
    let mut name = vec![0; usize::try_from(display.read_u32().await?)?];
    display.read_exact(&mut name).await?;
    Ok((kinds, (width, height)))
}

/// Reads a framebuffer update (RFC 6143 section 7.6.1). Returns the number of painted pixels.
async fn read_update(display: &mut (impl AsyncRead + Unpin), width: u16, pixels: &mut [[u8; 3]]) -> Result<usize> {
    display.read_u8().await?;
    let mut painted = 0;
    for _ in 0..display.read_u16().await? {
        let (x, y) = (display.read_u16().await?, display.read_u16().await?);
        let (columns, rows) = (display.read_u16().await?, display.read_u16().await?);
        ensure!(display.read_i32().await? == 0, "the display sent an encoding other than raw");
        let mut row = vec![0; usize::from(columns) * BYTES_PER_PIXEL];
        for line in 0..rows {
            display.read_exact(&mut row).await?;
            let start = (usize::from(y) + usize::from(line)) * usize::from(width) + usize::from(x);
            let target =
                pixels.get_mut(start..start + usize::from(columns)).context("the update is outside the display")?;
            for (pixel, bytes) in target.iter_mut().zip(row.chunks_exact(BYTES_PER_PIXEL)) {
                pixel.copy_from_slice(&bytes[..3]);
            }
        }
        painted += usize::from(columns) * usize::from(rows);
    }
    Ok(painted)
}
