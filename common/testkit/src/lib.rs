//! Fixtures that tests of several crates share. [`collector`] receives traces, [`metrics`] reads metrics, and [`rfb`]
//! views displays.

pub mod collector;
pub mod metrics;
pub mod rfb;
