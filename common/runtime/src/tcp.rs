//! Configures the sockets of accepted and dialled TCP connections.

use socket2::{SockRef, TcpKeepalive};
use std::{io, time::Duration};
use tokio::net::TcpStream;

/// Time after which a peer that acknowledges nothing counts as dead. Keepalive probes cover idle connections. The user
/// timeout covers connections with unacknowledged data, and those whose peer keeps its window closed (tcp(7)).
const DEAD_AFTER: Duration = Duration::from_secs(45);
/// Maximum amount of unsent data in the kernel, in bytes. More would delay Pings behind it, and cost memory per
/// connection.
const UNSENT: u32 = 256 << 10;

/// Disables Nagle's algorithm, and lets the kernel detect dead peers.
///
/// # Errors
/// The peer has already closed the connection.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probe = DEAD_AFTER / 3;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(probe).with_interval(probe).with_retries(2))?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    socket.set_tcp_notsent_lowat(UNSENT)
}
