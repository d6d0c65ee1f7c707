//! The operator's decisions: a state machine without I/O ([`Coordinator`]). It receives events ([`Event`]) and returns
//! effects ([`Effect`]). Every call to the API server or a runner is safe to repeat, and its answer comes back as an
//! event. `PublishEvent`, `Observe` and `DeletePoolMetrics` have no answer, and a repeated `Observe` counts twice.
//!
//! - `session`, `runner`, `pool`: state, reconciliation and published status of each.
//! - `scheduler`: admission of sessions to pools, the queue, and the assignment of slots.
//! - `orphans`: sessions that a runner reports and that have no known object.
//! - `status_write`: the write of a status, and the detection of fields that were not stored.
//! - `messages`: the events and effects.
//!
//! A follower receives all events, so that its caches are warm when it becomes the leader, but reconciles nothing. A
//! new leader reads the objects, streams the reports of every runner, and assigns slots only when all have reported
//! ([`Coordinator::may_schedule`]).

mod clock;
mod cluster;
mod coordinator;
mod ids;
mod messages;
mod orphans;
mod pool;
mod retry;
pub mod runner;
mod scheduler;
mod session;
mod status_write;
mod step_context;
mod timers;
mod tombstones;

pub use clock::{Interval, Monotonic, Now};
pub use coordinator::{Coordinator, FleetStats, QueueStats};
pub use ids::{Key, Uid};
pub use messages::*;
pub use pool::state::{FINALIZER, finalizer_removal};
pub use runner::report::{InvalidReport, Report};
