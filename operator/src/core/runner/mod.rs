//! Runners: their pods, their state, what is believed of their reports, and what happens to them.

mod ends;
pub mod pod_build;
pub mod pod_read;
pub(in crate::core) mod reconcile;
pub(in crate::core) mod report;
pub(in crate::core) mod state;
