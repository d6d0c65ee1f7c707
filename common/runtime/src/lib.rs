//! What the operator, the gateway and the runner share as processes. It knows nothing of browsers, sessions or Kubernetes.
//!
//! [`server`] serves HTTP/1.1 to clients that it does not trust yet, [`client_address`] finds a client's address behind proxies,
//! and [`tcp`] sets up connections.

pub mod client_address;
pub mod server;
pub mod tcp;
