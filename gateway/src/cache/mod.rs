//! The sessions and pools of the cluster, as a watch tells them, and what changed of them.

pub mod activity;
pub mod changes;
pub mod pools;
pub mod session;
pub mod sessions;
