//! Configures the sockets of accepted and dialled TCP connections, and detects dead peers.

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use nix::{getsockopt_impl, libc, sockopt_impl, sys::socket::getsockopt};
use socket2::{SockRef, TcpKeepalive};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpStream, tcp::OwnedWriteHalf},
    time::sleep,
};

/// Time after which a peer that acknowledges nothing counts as dead. Keepalive probes cover idle connections. The user
/// timeout covers connections with unacknowledged data, and those whose peer keeps its window closed (tcp(7)).
const DEAD_AFTER: Duration = Duration::from_secs(45);
/// Interval of checks by [`peer_death`].
const CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// Unanswered retransmissions or window probes of a dead peer. The first may still be on its way, because the kernel
/// sends window probes up to two minutes apart (`TCP_RTO_MAX` in `include/net/tcp.h` of Linux).
const UNANSWERED: u8 = 2;
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

/// Splits the TCP connection of an upgraded HTTP/1.1 connection. Bytes that were already read come first.
///
/// # Panics
/// If the connection was neither accepted by [`server`](crate::server) nor opened over a [`TcpStream`].
pub fn split(upgraded: Upgraded) -> (impl AsyncRead + Unpin, OwnedWriteHalf) {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().expect("HTTP/1.1 runs over plain TCP");
    let (read, write) = parts.io.into_inner().into_split();
    (io::Cursor::new(parts.read_buf).chain(read), write)
}

/// Lets the peer of a connection stop reading for any length of time, as a program does in a debugger. Returns a future
/// that resolves after the peer has acknowledged nothing for 45 s, and not before the kernel has repeated its data or
/// its window probe twice. Drop the future with the connection, because it keeps the connection open.
///
/// # Errors
/// The peer has already closed the connection, or the process has no file descriptor left.
pub fn peer_death(stream: &TcpStream) -> io::Result<impl Future<Output = ()> + use<>> {
    let socket = SockRef::from(stream).try_clone()?;
    // The user timeout would close a connection whose peer acknowledges window probes, but keeps its window closed.
    socket.set_tcp_user_timeout(None)?;
    Ok(async move {
        loop {
            sleep(CHECK_INTERVAL).await;
            if getsockopt(&socket, TcpInfo).is_ok_and(|info| is_dead(&info)) {
                return;
            }
        }
    })
}

sockopt_impl!(
    /// State of a TCP connection (`TCP_INFO` in tcp(7)).
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

fn is_dead(info: &libc::tcp_info) -> bool {
    let unanswered = info.tcpi_retransmits.max(info.tcpi_probes);
    unanswered >= UNANSWERED && Duration::from_millis(info.tcpi_last_ack_recv.into()) >= DEAD_AFTER
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A connection that accepts no more data, because its peer does not read, and the peer.
    async fn stuck_connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stream, accepted) =
            tokio::try_join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept()).unwrap();
        prepare(&stream).unwrap();
        while stream.try_write(&[0; 8 << 10]).is_ok() {}
        (stream, accepted.0)
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_alive() {
        let (stream, _peer) = stuck_connection().await;
        let death = peer_death(&stream).unwrap();
        assert_eq!(SockRef::from(&stream).tcp_user_timeout().unwrap(), None);
        let info = getsockopt(&stream, TcpInfo).unwrap();
        assert!(!is_dead(&info));
        assert!(Duration::from_millis(info.tcpi_last_ack_recv.into()) < DEAD_AFTER, "its acknowledgements are counted");
        drop(death);
    }

    #[tokio::test]
    async fn a_peer_is_dead_after_45_s_with_unanswered_retransmissions_or_probes() {
        let (stream, _peer) = stuck_connection().await;
        let info = getsockopt(&stream, TcpInfo).unwrap();
        let with = |tcpi_last_ack_recv, tcpi_retransmits, tcpi_probes| {
            is_dead(&libc::tcp_info { tcpi_last_ack_recv, tcpi_retransmits, tcpi_probes, ..info })
        };
        assert!(with(45_000, 2, 0), "unacknowledged data");
        assert!(with(45_000, 0, 2), "unanswered window probes");
        assert!(!with(44_999, 2, 2), "too early");
        assert!(!with(120_000, 0, 0), "an idle connection, which keepalive probes check");
        assert!(!with(120_000, 0, 1), "the response to a late probe may be on its way");
    }
}
