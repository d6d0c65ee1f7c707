//! Applies the core's decisions: starts, watches and stops the processes of displays, Playwright servers and browsers.

pub(crate) mod display;
pub(crate) mod driver;
pub(crate) mod lines;
pub(crate) mod process;
pub(crate) mod stack;
