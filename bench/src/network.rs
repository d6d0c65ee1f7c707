//! Loopback networks 127.N.0.0/16, one per harness, so that several harnesses can run on one machine.

use anyhow::{Context, Result};
use camofleet_runner_api::PORT;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};
use tokio::net::TcpSocket;

/// Length of the accept queue of a listener.
const BACKLOG: u32 = 64;
/// A claimed 127.N.0.0/16. The listener on its first address excludes other harnesses until this is dropped.
#[derive(Debug)]
pub struct LoopbackNetwork {
    octet: u8,
    _claim: TcpListener,
}

impl LoopbackNetwork {
    /// Claims a free network.
    ///
    /// # Errors
    /// Returns an error if all networks are in use.
    pub fn claim() -> Result<Self> {
        let claim = |octet| Some(Self { octet, _claim: listen([127, octet, 0, 0].into(), PORT).ok()? });
        (1..u8::MAX)
            .find_map(claim)
            .with_context(|| format!("cannot listen on port {PORT} of any address from 127.1.0.0 to 127.254.0.0"))
    }

    /// Second octet of the addresses.
    pub fn octet(&self) -> u8 {
        self.octet
    }

    /// Address of the control plane and the operators. Outgoing connections use 127.0.0.1, so they take no ports here.
    pub fn host(&self) -> IpAddr {
        Ipv4Addr::new(127, self.octet, 0, 1).into()
    }

    /// A free port of [`LoopbackNetwork::host`].
    ///
    /// # Errors
    /// Returns an error if no port is free.
    pub fn free_address(&self) -> Result<SocketAddr> {
        let free = TcpListener::bind((self.host(), 0)).and_then(|listener| listener.local_addr());
        free.with_context(|| format!("no port is free on {}", self.host()))
    }
}

/// Listens on an address even if connections of a former listener are in TIME_WAIT.
pub(crate) fn listen(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((address, port).into())?;
    socket.listen(BACKLOG)?.into_std()
}
