//! Addresses that no other harness of this machine has: 127.N.0.0/16, N being another one for each.

use anyhow::{Context, Result};
use camofleet_runner_api::PORT;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};
use tokio::net::TcpSocket;

/// The kernel's queue of connections to one listener that were not accepted yet.
const BACKLOG: u32 = 64;
/// A network of this machine's loopback, for as long as this is there: who listens on its first address has it.
#[derive(Debug)]
pub struct LoopbackNetwork {
    octet: u8,
    _claim: TcpListener,
}

impl LoopbackNetwork {
    /// Claims one that is free.
    ///
    /// # Errors
    /// When none is.
    pub fn claim() -> Result<Self> {
        let claim = |octet| Some(Self { octet, _claim: listen([127, octet, 0, 0].into(), PORT).ok()? });
        (1..u8::MAX)
            .find_map(claim)
            .with_context(|| format!("port {PORT} cannot be had on any of 127.1.0.0 to 127.254.0.0"))
    }

    /// The second part of its addresses.
    pub fn octet(&self) -> u8 {
        self.octet
    }

    /// Where the control plane and the operators listen. Connections out begin elsewhere, so none takes a port here.
    pub fn host(&self) -> IpAddr {
        Ipv4Addr::new(127, self.octet, 0, 1).into()
    }

    /// A port of the host that nobody has now.
    ///
    /// # Errors
    /// When none is free.
    pub fn free_address(&self) -> Result<SocketAddr> {
        let free = TcpListener::bind((self.host(), 0)).and_then(|listener| listener.local_addr());
        free.with_context(|| format!("no port is free on {}", self.host()))
    }
}

/// Listens there, whatever is left of former connections.
pub(crate) fn listen(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((address, port).into())?;
    socket.listen(BACKLOG)?.into_std()
}
