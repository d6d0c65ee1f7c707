//! Negotiates the live view's WebSocket subprotocol (`Sec-WebSocket-Protocol`), which carries the client's token and
//! the scope that it requests.

use camofleet_auth::token::Scope;
use http::{HeaderMap, header::SEC_WEBSOCKET_PROTOCOL};

/// The client requests control, or was granted control.
const CONTROL: &str = "camofleet.control";
/// The client requests to view only, or was granted no more.
const VIEW: &str = "camofleet.view";
/// Prefix of the token. The token is a subprotocol because pages cannot set headers and proxies log URLs.
const BEARER: &str = "camofleet.bearer.";
/// Requested by plain RFB clients.
const BINARY: &str = "binary";

/// The subprotocols that a live-view client requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedSubprotocols {
    token: Option<String>,
    control: bool,
    view: bool,
    binary: bool,
}

impl RequestedSubprotocols {
    /// Parses the headers of a handshake.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut requested = Self::default();
        let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
        for protocol in values.flat_map(|value| value.split(',')).map(str::trim) {
            match protocol {
                CONTROL => requested.control = true,
                VIEW => requested.view = true,
                BINARY => requested.binary = true,
                other => requested.token = other.strip_prefix(BEARER).map(str::to_owned).or(requested.token),
            }
        }
        requested
    }

    /// The token among them.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The requested scopes, the preferred one first. `camofleet.view` without `camofleet.control` requests only the
    /// view scope.
    pub fn scopes(&self) -> &'static [Scope] {
        if self.view && !self.control { &[Scope::View] } else { &[Scope::Control, Scope::View] }
    }

    /// Selects the requested protocol for the granted scope, or else `binary` if it was requested.
    pub fn select(&self, granted: Scope) -> Option<&'static str> {
        match granted {
            Scope::Control if self.control => Some(CONTROL),
            Scope::View if self.view => Some(VIEW),
            _ => self.binary.then_some(BINARY),
        }
    }
}
