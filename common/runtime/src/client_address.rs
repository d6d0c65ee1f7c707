//! Determines the client address of a request, which behind a trusted proxy is not the peer of the connection.

use http::{HeaderMap, HeaderName};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Networks of the proxies whose `X-Forwarded-For` is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts the proxies in these networks. An IPv4 network also covers its addresses in IPv4-mapped form, and can be
    /// given in that form (`::ffff:10.0.0.0/104` is `10.0.0.0/8`).
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks.into_iter().map(canonical).collect())
    }

    /// Whether the address belongs to a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Client address of a request that arrived with these headers on a connection from `peer`: the address of the
    /// peer, or, if the peer is a trusted proxy, the last address in `X-Forwarded-For` that is not a trusted proxy's.
    /// Each proxy appends the address that it saw, so the list is read from the end. The client can forge everything
    /// before the first untrusted address. An entry that is not an address ends the walk, and the address that was read
    /// before it, a trusted proxy's, is returned.
    pub fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let lines = headers.get_all(FORWARDED_FOR).into_iter().rev();
        let mut entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        let mut client = peer.to_canonical();
        while self.contains(client) {
            match entries.next().and_then(parse) {
                Some(address) => client = address.to_canonical(),
                None => break,
            }
        }
        client
    }
}

/// Converts an IPv4-mapped network to IPv4, because addresses are compared in their canonical form.
fn canonical(network: IpNet) -> IpNet {
    // The first 96 bits of an IPv4-mapped address are the mapping (RFC 4291 section 2.5.5.2).
    let prefix = network.prefix_len().checked_sub(96);
    let ipv4 = |network: Ipv6Net| Ipv4Net::new(network.addr().to_ipv4_mapped()?, prefix?).ok();
    match network {
        IpNet::V4(_) => network,
        IpNet::V6(mapped) => ipv4(mapped).map_or(network, IpNet::V4),
    }
}

/// Parses an entry: an address, to which some proxies add the client's port or brackets.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim();
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    entry.parse().ok().or_else(bracketed).or_else(with_port)
}

/// Address to which per-client limits apply: an IPv4 address, or the /64 network of an IPv6 address, because one host
/// can use all addresses of a /64 (RFC 4291 section 2.5.4). An IPv4-mapped address counts as its IPv4 address.
pub fn limit_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a valid address")
    }

    #[test]
    fn takes_the_last_untrusted_address() {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a valid network"));
        let trusted = TrustedProxies::new(networks.to_vec());
        for (case, peer, lines, client) in [
            ("the peer is not a proxy", "192.0.2.1", &["198.51.100.7"][..], "192.0.2.1"),
            ("an untrusted peer, mapped", "::ffff:192.0.2.1", &[], "192.0.2.1"),
            ("one proxy", "10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("one proxy, mapped", "::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("a chain of proxies", "10.0.0.1", &["198.51.100.7, 10.0.0.9 ,10.0.0.2"], "198.51.100.7"),
            ("an entry that the client forged", "10.0.0.1", &["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
            ("a client that claims to be a proxy", "10.0.0.1", &["10.0.0.3, 198.51.100.7"], "198.51.100.7"),
            ("several lines", "10.0.0.1", &["203.0.113.9", "198.51.100.7, 10.0.0.5", "10.0.0.2"], "198.51.100.7"),
            ("no header", "10.0.0.1", &[], "10.0.0.1"),
            ("an empty header", "10.0.0.1", &[""], "10.0.0.1"),
            ("only proxies", "10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("garbage", "10.0.0.1", &["198.51.100.7, unknown, 10.0.0.2"], "10.0.0.2"),
            ("garbage at the end", "10.0.0.1", &["198.51.100.7, "], "10.0.0.1"),
            ("not text", "10.0.0.1", &["198.51.100.7, \u{ff}"], "10.0.0.1"),
            ("a port", "10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("IPv6", "fd00::1", &["2001:db8::7"], "2001:db8::7"),
            ("IPv6 in brackets", "fd00::1", &["[2001:db8::7]"], "2001:db8::7"),
            ("IPv6 with a port", "fd00::1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("mapped in the header", "fd00::1", &["198.51.100.7, ::ffff:10.0.0.2"], "198.51.100.7"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, HeaderValue::from_bytes(line.as_bytes()).expect("a valid header value"));
            }
            assert_eq!(trusted.client_address(ip(peer), &headers), ip(client), "{case}");
        }
        let none = TrustedProxies::default();
        let headers = HeaderMap::from_iter([(FORWARDED_FOR, HeaderValue::from_static("198.51.100.7"))]);
        assert_eq!(none.client_address(ip("10.0.0.1"), &headers), ip("10.0.0.1"));
    }

    #[test]
    fn treats_an_ipv4_mapped_network_as_ipv4() {
        for (network, address, is_trusted) in [
            ("::ffff:10.0.0.0/104", "10.255.0.1", true),
            ("::ffff:10.0.0.0/104", "::ffff:10.255.0.1", true),
            ("::ffff:10.0.0.0/104", "11.0.0.1", false),
            ("::ffff:a00:1/128", "10.0.0.1", true),
            ("::ffff:a00:1/128", "10.0.0.2", false),
            ("::ffff:0:0/96", "192.0.2.1", true),
            ("::ffff:0:0/96", "2001:db8::1", false),
            // Wider than all of IPv4, so it stays IPv6.
            ("::ffff:0:0/95", "192.0.2.1", false),
            ("::ffff:0:0/95", "::fffe:0:1", true),
            ("::/96", "192.0.2.1", false),
            ("::/96", "::1", true),
        ] {
            let proxies = TrustedProxies::new(vec![network.parse().expect("a valid network")]);
            assert_eq!(proxies.contains(ip(address)), is_trusted, "{address} in {network}");
        }
    }

    #[test]
    fn limits_ipv6_clients_by_their_64() {
        for (address, limited) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::1", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ] {
            assert_eq!(limit_key(ip(address)), ip(limited), "{address}");
        }
    }
}
