//! Single turns of the operator's core that random histories meet too seldom, or cannot tell from others.
#![allow(clippy::unwrap_used, reason = "a test may panic where its own world is wrong")]

mod fleet;
mod hostile;
mod observations;
mod pods;
mod pruned;
mod races;
mod rollout;
mod scaling;
mod sharing;
#[path = "../support/mod.rs"]
mod support;
