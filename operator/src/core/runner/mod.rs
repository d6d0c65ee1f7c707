//! Runners: their pods, reports and state, and how the operator reconciles them.

mod delete_calls;
pub mod pod_build;
pub mod pod_read;
pub(in crate::core) mod reconcile;
pub(in crate::core) mod report;
pub(in crate::core) mod state;
