//! Fixtures that tests of several crates share. [`collector`] receives traces, [`http`] speaks HTTP by hand, [`keys`] makes
//! signing keys, [`metrics`] reads metrics, and [`rfb`] views displays.

pub mod collector;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod rfb;
