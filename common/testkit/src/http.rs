//! Sends raw HTTP/1.1 on connections that a test controls.

use socket2::SockRef;
use std::{
    io,
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Bounds every read, so that a test that hangs fails with an error. No response takes this long on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(90);

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status line and headers, with the blank line.
    pub head: String,
    /// Body, by the length in `content-length`.
    pub body: String,
}

impl Response {
    /// Status code.
    ///
    /// # Panics
    /// The response does not start with a status line of HTTP/1.1.
    pub fn status(&self) -> u16 {
        let status = self.head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        status.and_then(|status| status.parse().ok()).expect("a response starts with a status line of HTTP/1.1")
    }
}

/// Connects from `client`, which can be any address in 127.0.0.0/8.
///
/// # Errors
/// The address cannot be bound, or the server refuses the connection.
pub async fn connect_from(client: Ipv4Addr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((client, 0).into())?;
    socket.connect(server).await
}

/// Whether the connection is open and has no unread data. It peeks at the socket, because the runtime may not have
/// noticed an end yet.
pub fn is_open(stream: &TcpStream) -> bool {
    let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Sends a request and reads the response.
///
/// # Errors
/// The connection failed, or the response did not arrive within 90 s.
pub async fn exchange(stream: &mut TcpStream, request: &str) -> io::Result<Response> {
    stream.write_all(request.as_bytes()).await?;
    read_response(stream).await
}

/// Reads a response.
///
/// # Errors
/// The connection failed, or the response did not arrive within 90 s.
pub async fn read_response(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Response> {
    let head = read_head(stream).await?;
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    within_timeout(stream.read_exact(&mut body)).await?;
    Ok(Response { head, body: String::from_utf8(body).map_err(io::Error::other)? })
}

/// Reads the head of a request or response, and leaves the body unread.
///
/// # Errors
/// The connection failed, or the head did not arrive within 90 s.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within_timeout(stream.read_u8()).await?);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

async fn within_timeout<T>(reading: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(TIMEOUT, reading).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
