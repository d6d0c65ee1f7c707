//! Process-level code of the operator, the gateway and the runner. It does not know browsers, sessions or pools.
//!
//! [`server`] serves HTTP/1.1 to untrusted clients, [`admin`] serves probes and metrics, [`client_address`] determines
//! client addresses behind proxies, [`tcp`] configures connections, and `watch` watches objects of the API server.
//! [`logging`], `traces` and `tls` are set up once at the start of the process, [`signals`] triggers its shutdown,
//! [`files`] raises the limit of open files, and [`backoff`] paces retries.

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
