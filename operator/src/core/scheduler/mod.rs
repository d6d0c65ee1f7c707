//! Schedules sessions: admission to pools, the queue, and the assignment of slots.

pub(in crate::core) mod admission;
pub(in crate::core) mod placement;
pub(in crate::core) mod queue;
