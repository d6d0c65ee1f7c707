//! I/O of the operator: watches the API server, calls runners, writes objects, and takes part in leader election. The
//! core makes the decisions.

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
