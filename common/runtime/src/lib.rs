//! The process-level code of the operator, the gateway and the runner. It has no types of browsers, sessions or pools.
//!
//! [`server`] serves HTTP/1.1 to clients that it does not trust yet, [`admin`] serves probes and metrics, [`client_address`] finds a
//! client's address behind proxies, [`tcp`] sets up connections, and `watch` follows objects of the API server. [`logging`], `traces`
//! and `tls` are set up once, at the start of the process; [`signals`] ends it, [`files`] raises the limit of open files, and
//! [`backoff`] paces retries.

pub mod admin;
pub mod backoff;
pub mod client_address;
pub mod files;
pub mod logging;
pub mod server;
pub mod signals;
pub mod tcp;
#[cfg(feature = "kube")]
pub mod tls;
#[cfg(feature = "traces")]
pub mod traces;
#[cfg(feature = "kube")]
pub mod watch;
