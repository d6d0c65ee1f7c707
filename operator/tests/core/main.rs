//! Scenarios of the operator's core that the random histories of the model test reach too seldom, or cannot check.
#![allow(clippy::unwrap_used, reason = "a test may panic when its fixture is wrong")]

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
