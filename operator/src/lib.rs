//! Schedules browser sessions onto runner pods and keeps the pools of runners.
//!
//! `core` decides and does no IO; `shell` watches, calls and writes, and decides nothing.

pub mod core;
pub mod shell;
