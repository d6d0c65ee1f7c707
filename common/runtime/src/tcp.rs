//! TCP settings of accepted and dialled connections.

use socket2::{SockRef, TcpKeepalive};
use std::{io, time::Duration};
use tokio::net::TcpStream;

/// A peer that has acknowledged nothing for this long is treated as dead: keepalive probes an idle connection, the user timeout
/// covers one with unacknowledged data and one whose peer keeps its window shut (tcp(7)).
const DEAD_AFTER: Duration = Duration::from_secs(45);
/// Bytes that may wait unsent in the kernel. More would delay a Ping behind them, and cost memory for each connection.
const UNSENT: u32 = 256 << 10;

/// Sends small messages at once, and lets the kernel detect dead peers.
///
/// # Errors
/// The peer has closed the connection already.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probe = DEAD_AFTER / 3;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(probe).with_interval(probe).with_retries(2))?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    socket.set_tcp_notsent_lowat(UNSENT)
}
