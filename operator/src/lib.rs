//! Schedules browser sessions onto runner pods and keeps the pools of runners.
//!
//! `core` decides and does no IO; `io` watches, calls and writes, and decides nothing. `hooks` is what the
//! chart has done once, by Jobs. `finalizers` lets pools go that no operator will drain.

pub mod core;
pub mod finalizers;
pub mod hooks;
pub mod io;
