//! Schedules browser sessions onto runner pods, and manages the pods of pools.
//!
//! `core` makes all decisions and does no I/O. `io` watches the API server, calls runners and writes objects, and makes
//! no decisions. `hooks` runs in the Jobs of the chart. `finalizers` releases pools that no operator will drain.

pub mod core;
pub mod finalizers;
pub mod hooks;
pub mod io;
