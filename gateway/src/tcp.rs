//! How the gateway's TCP connections behave, towards clients and runners alike.

use socket2::{SockRef, TcpKeepalive};
use std::{io, time::Duration};
use tokio::net::TcpStream;

/// A peer that acknowledges nothing for so long is dead. Keepalive asks in silence, the user time-out counts while data
/// is on its way.
const DEAD_AFTER: Duration = Duration::from_secs(45);
/// How much may wait in the kernel unsent. More would only delay a Ping behind it, and cost memory for each connection.
const UNSENT: u32 = 256 << 10;

/// Small messages at once, dead peers noticed.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probe = DEAD_AFTER / 3;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(probe).with_interval(probe).with_retries(2))?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    socket.set_tcp_notsent_lowat(UNSENT)
}
