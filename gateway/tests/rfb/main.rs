//! The live view's protocol: what passes of any stream, cut anywhere, and what a real display makes of it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod codec;
mod display;
mod viewer_message;
