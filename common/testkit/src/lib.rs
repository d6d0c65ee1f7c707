//! Test fixtures that several crates share. [`collector`] receives traces, [`http`] sends raw HTTP, [`keys`] generates
//! signing keys, [`metrics`] parses metrics, and [`rfb`] is a client for displays.

pub mod collector;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod rfb;
