//! Fixtures that tests of several crates share. [`collector`] receives traces, and [`metrics`] reads metrics.

pub mod collector;
pub mod metrics;
