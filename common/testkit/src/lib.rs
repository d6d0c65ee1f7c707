//! Fixtures that tests of several crates share. [`collector`] receives traces.

pub mod collector;
