//! What the end-to-end tests are made of. They drive the cluster that `dev/up` makes: its API server, its gateway, its
//! runners, and stock Playwright clients. They run on the machine that the cluster's node runs on, as root: some of them
//! kill processes inside pods.
//!
//! A test is a function that is given a [`TestNamespace`]: a namespace of its own, with whatever pools it makes in it. Tests run
//! one after another, whatever the test harness thinks, because each has the whole machine. After each, nothing of it may
//! be left: no pod, no process.

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
