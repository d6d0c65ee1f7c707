//! Caches of the cluster's sessions and pools, fed by watches, and a log of their changes. Does no I/O.

pub mod activity;
pub mod changes;
pub mod pools;
pub mod session;
pub mod sessions;
