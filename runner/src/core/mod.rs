//! Decides which session gets which browser, and which browsers are launched and ended, and when. It has no clock, process or socket:
//! events go in with the time at which they are handled, effects come out, and a driver carries them out.
//!
//! `machine` routes events to what they concern: `sessions` and `stack` hold the sessions and the browsers, `smoke_test` whether the runner has
//! to load a page before it counts as warm, and `backoff` when a launch may follow one that failed. `action` says what a session allows in
//! which phase, and `term` which operator's calls are still valid.

mod action;
mod backoff;
mod machine;
mod messages;
mod plan;
mod session;
mod sessions;
mod smoke_test;
mod stack;
mod term;

pub use action::Action;
pub use machine::Machine;
pub use messages::{Effect, Event};
pub use plan::{Kind, Plan};
pub use stack::StackId;
pub use term::{Epochs, Term};
