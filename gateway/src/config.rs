//! Command-line flags and environment variables, all validated before a socket is opened.

use clap::Parser;
use ipnet::IpNet;
use std::{net::SocketAddr, path::PathBuf};

/// The gateway of Camo-fleet: authenticates clients, finds the runners of their sessions and relays the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(version)]
pub struct Config {
    /// Address of the public listener: REST API, Playwright, live view and dashboard.
    #[arg(long, env = "CAMOFLEET_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Address of the admin listener: /healthz, /readyz and /metrics.
    #[arg(long, env = "CAMOFLEET_ADMIN_LISTEN", default_value = "0.0.0.0:8081")]
    pub admin_listen: SocketAddr,
    /// Networks of trusted proxies, as comma-separated CIDRs. X-Forwarded-For is read only from these proxies.
    #[arg(long, env = "CAMOFLEET_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNet>,
    /// Directory with the UI's build.
    #[arg(long, env = "CAMOFLEET_UI", default_value = "/usr/share/camofleet/ui")]
    pub ui: PathBuf,
    /// Namespace of the release, which has the gateway's signing key and its static tokens.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Name of this replica's pod, for the logs.
    #[arg(long, env = "POD_NAME")]
    pub identity: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from([&["camofleet-gateway"], arguments].concat())
    }

    #[test]
    fn ports_have_defaults() {
        let config = parse(&["--namespace", "camo-fleet", "--identity", "gateway-0"]).unwrap();
        assert_eq!((config.listen.port(), config.admin_listen.port()), (8080, 8081));
    }

    #[test]
    fn parses_trusted_proxies_as_networks() {
        let config = |proxies: &str| parse(&["--namespace", "n", "--identity", "i", "--trusted-proxies", proxies]);
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        assert_eq!(config("10.0.0.0/8,fd00::/8").unwrap().trusted_proxies, networks);
        let error = config("10.0.0.0/8,proxy.example.org").unwrap_err();
        assert!(error.to_string().contains("--trusted-proxies"), "{error}");
    }

    #[test]
    fn an_error_names_the_invalid_argument() {
        let error = parse(&["--namespace", "n", "--identity", "i", "--listen", "everywhere"]).unwrap_err();
        assert!(error.to_string().contains("--listen"), "{error}");
    }
}
