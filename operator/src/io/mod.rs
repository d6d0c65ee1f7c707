//! The I/O around the core: it watches, calls and writes, and decides nothing.

mod admin;
mod api_writes;
mod clock;
mod election;
mod executor;
mod metrics;
mod pruned;
mod rate_limit;
mod run;
mod runner_calls;
mod runners;
mod throttle;
mod traces;
mod watch;

pub use election::NAME as LEASE;
pub use run::{Options, run};
