//! Decides which session gets which browser, and when browsers are launched and stopped. A pure state machine without
//! clock, processes or sockets: it takes events with the current time and returns effects, which a driver applies.
//!
//! `state_machine` routes events and calls, and `config` holds its limits. `sessions` and `stack` hold the sessions and
//! the browsers, `smoke_test` the state of the test that a runner has to pass before it counts as warm, and `backoff`
//! the delay after failed launches. `action` lists which actions a session allows in which phase, and `term` rejects
//! calls of earlier leaders.

mod action;
mod backoff;
mod config;
mod messages;
mod session;
mod sessions;
mod smoke_test;
mod stack;
mod state_machine;
mod term;

pub use action::Action;
pub use config::{DisplayKind, RunnerConfig};
pub use messages::{Effect, Event};
pub use stack::StackId;
pub use state_machine::StateMachine;
pub use term::{HighestEpoch, Term};
