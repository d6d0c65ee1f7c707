//! What the operator, the gateway and the runner share as processes. It knows nothing of browsers, sessions or Kubernetes.
//!
//! [`server`] serves HTTP/1.1 to clients that it does not trust yet, [`client_address`] finds a client's address behind proxies,
//! [`tcp`] sets up connections, and [`files`] raises the limit of open files.

pub mod client_address;
pub mod files;
pub mod server;
pub mod tcp;
