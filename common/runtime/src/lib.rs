//! What the operator, the gateway and the runner share as processes. It knows nothing of browsers, sessions or Kubernetes.
//!
//! [`server`] serves HTTP/1.1 to clients that it does not trust yet, [`client_address`] finds a client's address behind proxies,
//! [`tcp`] sets up connections, [`files`] raises the limit of open files, and `traces` exports spans.

pub mod client_address;
pub mod files;
pub mod server;
pub mod tcp;
#[cfg(feature = "traces")]
pub mod traces;
