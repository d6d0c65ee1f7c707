//! What the operator decides: a state machine without IO. It is told what happened ([`Event`]) and says what is to be
//! done ([`Effect`]); every effect is safe to repeat, and every answer comes back as an input.
//!
//! - `session`, `runner`, `pool`: the things, their states, and what happens to them.
//! - `scheduler`: which sessions a pool accepts, the queue, and the assignment of slots.
//! - `orphans`: sessions that a runner reports and no object stands for. `ends`: how often a runner is asked to end a
//! session.
//! - `status`: what is published, as a function of all that. `status_write`: its writes.
//! - `messages`: the events that the core receives and the effects that it returns.
//!
//! A follower is told everything, too, and does nothing: its caches are warm when it becomes the leader. A new leader
//! believes the objects first, then asks every runner, and only then gives out slots ([`Core::may_schedule`]).

mod clock;
mod cluster;
mod coordinator;
mod ids;
mod messages;
mod orphans;
mod outbox;
mod pool;
mod retry;
pub mod runner;
mod scheduler;
mod session;
mod status_write;
mod timers;
mod tombstones;

pub use clock::{Interval, Mono, Now};
pub use coordinator::{Core, Load, Waiting};
pub use ids::{Key, Uid};
pub use messages::*;
pub use pool::state::{FINALIZER, finalizer_removal};
pub use runner::report::{Implausible, Report};
