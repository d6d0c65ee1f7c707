//! Sessions: state, reconciliation and published status.

pub(in crate::core) mod answers;
pub(in crate::core) mod queued_writes;
pub(in crate::core) mod reconcile;
pub(in crate::core) mod stale;
pub(in crate::core) mod state;
pub(in crate::core) mod status;
