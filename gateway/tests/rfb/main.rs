//! The RFB filters: on generated streams, and between viewers and a real display.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod codec;
mod display;
mod viewer_message;
