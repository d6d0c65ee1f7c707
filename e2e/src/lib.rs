//! What the end-to-end tests are made of. They drive the cluster that `dev/up` makes: its API server, its gateway, its
//! runners, and stock Playwright clients. They run on the machine that the cluster's node runs on, as root: some of them
//! kill processes inside pods.
//!
//! A test is a function that is given a [`Space`]: a namespace of its own, with whatever pools it makes in it. Tests run
//! one after another, whatever the test harness thinks, because each has the whole machine. After each, nothing of it may
//! be left: no pod, no process.

pub mod clients;
pub mod doors;
pub mod fleet;
pub mod history;
pub mod host;
pub mod metrics;
pub mod rest;
pub mod rfb;
pub mod site;
mod space;
pub mod tokens;
pub mod wait;

pub use fleet::Fleet;
pub use space::{Session, Space, rounds, test, test_alone, test_of_gateways, test_of_operator};
