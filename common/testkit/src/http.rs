//! HTTP/1.1 by hand, on connections that a test holds.

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

/// Longer than an answer takes on a loaded machine: only so that a test that hangs says where.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status line and headers.
    pub head: String,
    /// As many bytes as `content-length` says.
    pub body: String,
}

impl Response {
    /// The status code.
    ///
    /// # Panics
    /// The status line is none of HTTP/1.1.
    pub fn status(&self) -> u16 {
        let status = self.head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        status.and_then(|status| status.parse().ok()).expect("a response of HTTP/1.1 begins with its status line")
    }
}

/// Connects from an address of this host: all of 127/8 is.
///
/// # Errors
/// The address cannot be had, or the server does not accept.
pub async fn connect_from(client: Ipv4Addr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((client, 0).into())?;
    socket.connect(server).await
}

/// The connection is open and the server has sent nothing. The kernel answers, because the runtime may not have seen an end yet.
pub fn is_open(stream: &TcpStream) -> bool {
    let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Sends a request, and reads the response.
///
/// # Errors
/// The connection broke, or the response does not come.
pub async fn exchange(stream: &mut TcpStream, request: &str) -> io::Result<Response> {
    stream.write_all(request.as_bytes()).await?;
    read_response(stream).await
}

/// Reads a response.
///
/// # Errors
/// As above.
pub async fn read_response(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Response> {
    let head = read_head(stream).await?;
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    within_timeout(stream.read_exact(&mut body)).await?;
    Ok(Response { head, body: String::from_utf8(body).map_err(io::Error::other)? })
}

/// Reads the head of a request or a response, and not a byte more.
///
/// # Errors
/// As above.
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
