//! The RFB filters: on generated streams, and between clients and a real display.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod client_message;
mod codec;
mod display;
