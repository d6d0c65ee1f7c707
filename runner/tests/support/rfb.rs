//! A viewer: as much of RFB 3.8 (RFC 6143) as it takes to see one picture.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The picture of a display: rows of pixels as blue, green, red, nothing.
pub struct Picture {
    pub width: u16,
    pub height: u16,
    pixels: Vec<u8>,
}

impl Picture {
    /// Red, green and blue at a place.
    pub fn colour(&self, x: u16, y: u16) -> [u8; 3] {
        let at = (usize::from(y) * usize::from(self.width) + usize::from(x)) * 4;
        [self.pixels[at + 2], self.pixels[at + 1], self.pixels[at]]
    }
}

/// Shakes hands without a password (sections 7.1 to 7.3). Returns width and height.
pub async fn greet(stream: &mut TcpStream) -> (u16, u16) {
    let mut version = [0; 12];
    stream.read_exact(&mut version).await.unwrap();
    assert_eq!(&version, b"RFB 003.008\n");
    stream.write_all(b"RFB 003.008\n").await.unwrap();
    let count = stream.read_u8().await.unwrap();
    let mut types = vec![0; count.into()];
    stream.read_exact(&mut types).await.unwrap();
    assert_eq!(types, [1], "no password is asked for: the gateway is the door");
    stream.write_all(&[1]).await.unwrap();
    assert_eq!(stream.read_u32().await.unwrap(), 0);
    // Shared, then the server's size, its pixel format and its name.
    stream.write_all(&[1]).await.unwrap();
    let size = (stream.read_u16().await.unwrap(), stream.read_u16().await.unwrap());
    let mut format = [0; 16];
    stream.read_exact(&mut format).await.unwrap();
    let mut name = vec![0; stream.read_u32().await.unwrap() as usize];
    stream.read_exact(&mut name).await.unwrap();
    // SetPixelFormat (32 bits, little-endian, 8 each), SetEncodings (Raw).
    stream.write_all(&[0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]).await.unwrap();
    stream.write_all(&[2, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
    size
}

/// Asks for the whole picture (section 7.5.3), and puts it together.
pub async fn look(stream: &mut TcpStream, (width, height): (u16, u16)) -> Picture {
    let mut ask = vec![3, 0, 0, 0, 0, 0];
    ask.extend(width.to_be_bytes());
    ask.extend(height.to_be_bytes());
    stream.write_all(&ask).await.unwrap();
    let (row, mut left) = (usize::from(width) * 4, usize::from(width) * usize::from(height));
    let mut pixels = vec![0; left * 4];
    while left > 0 {
        assert_eq!(stream.read_u8().await.unwrap(), 0, "FramebufferUpdate");
        stream.read_u8().await.unwrap();
        for _ in 0..stream.read_u16().await.unwrap() {
            let mut place = [0_usize; 4];
            for number in &mut place {
                *number = stream.read_u16().await.unwrap().into();
            }
            assert_eq!(stream.read_i32().await.unwrap(), 0, "Raw");
            let [x, y, wide, high] = place;
            for line in y..y + high {
                let from = line * row + x * 4;
                stream.read_exact(&mut pixels[from..from + wide * 4]).await.unwrap();
            }
            left = left.saturating_sub(wide * high);
        }
    }
    Picture { width, height, pixels }
}
