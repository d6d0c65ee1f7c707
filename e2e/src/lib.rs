//! Fixtures and clients of the end-to-end tests, which drive the cluster of `dev/up`: its API server, gateways and
//! runners, with stock Playwright clients. They run as root on the machine of the cluster's node, because some of them
//! kill processes in pods.
//!
//! A test is a function that receives a [`TestNamespace`], a namespace of its own in which it creates pools and
//! sessions. File locks keep a test that disrupts a shared component apart from the tests that use it. After each test,
//! no pod and no process of it must remain.

pub mod clients;
pub mod endpoints;
pub mod fleet;
mod harness;
pub mod history;
pub mod host;
pub mod metrics;
mod namespace;
pub mod rest;
pub mod rfb;
mod session;
pub mod site;
pub mod tokens;
pub mod wait;

pub use fleet::Fleet;
pub use harness::{rounds, test, test_alone, test_disrupting_gateways, test_disrupting_operator};
pub use namespace::TestNamespace;
pub use session::Session;
