//! The runner: supervises the displays, Playwright servers and browsers of one pod.
//!
//! `core` decides, without clock or I/O. `supervisor` applies its decisions: the `driver` task owns the core and runs
//! the processes. `http` serves the operator's and the gateway's calls, and `traces` exports spans of session starts.
//! The simulated runners of the benchmarks and failure tests drive the same `core`.
#![forbid(unsafe_code)]

mod app;
pub mod config;
pub mod core;
mod http;
mod supervisor;
mod traces;

pub use app::run;
