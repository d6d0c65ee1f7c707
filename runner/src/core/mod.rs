//! What a runner decides: which session gets which browser, what is launched and what is ended, and when. No clock, no process, no
//! socket: events go in with the time at which they are handled, effects come out, and a driver carries them out.
//!
//! `machine` routes. `session` and `sessions` know sessions, `stack` browsers, `proof` whether the runner has to prove itself first, and
//! `backoff` when the next launch may follow one that failed. `question` says what a session allows in which phase, `term` which operator
//! may still ask.

mod backoff;
mod machine;
mod messages;
mod plan;
mod proof;
mod question;
mod session;
mod sessions;
mod stack;
mod term;

pub use machine::Chart;
pub use messages::{Effect, Event};
pub use plan::{Kind, Plan};
pub use question::Question;
pub use stack::StackId;
pub use term::{Epochs, Term};
