//! Supervises the displays, Playwright servers and browsers of one pod, for the operator and the gateway.
//!
//! `core` decides, without clock or I/O. `supervisor` carries it out: its `driver` is the one task that owns a core, and makes the
//! processes of displays, Playwright servers and browsers. `http` is what operator and gateway call; `traces` reports sessions' starts.
//! The simulated runners of the benchmarks and failure tests drive the same `core`.
#![forbid(unsafe_code)]

mod app;
pub mod config;
pub mod core;
mod http;
mod supervisor;
mod traces;

pub use app::run;
