//! Decides which session gets which slot: who may use a pool, who waits, and where there is room.

pub(in crate::core) mod admission;
pub(in crate::core) mod placement;
pub(in crate::core) mod queue;
