//! Filters RFB 3.8 (RFC 6143) between a client of the live view and the display of a session. Pure: takes received
//! bytes and returns the bytes to forward; the caller owns sockets and clocks.
//!
//! ```text
//! client ── ClientFilter: drops messages by mode ─────────► display (Xvnc)
//! client ◄─ DisplayCheck: verifies the handshake only ──── display
//! ```
//!
//! The two directions share no state, so each can run in its own task. The gateway takes no part in the handshake
//! between client and display, with two exceptions: it accepts only version 3.8 without a password (the client was
//! authenticated before), and it always sets the display's shared flag.
//!
//! The client's messages are parsed by an allow-list with exact lengths ([`message`]). A length that is wrong by one
//! byte would let the display read the payload of one message as the next message, for example as a key event. The
//! display's messages are not parsed: the display is trusted, it sends most of the bytes, and finding the end of a
//! picture requires decoding it.

mod client;
mod display;
mod encodings;
pub mod message;
mod protocol;

pub use client::ClientFilter;
pub use display::DisplayCheck;
pub use message::{ClientMode, MessageError};
pub use protocol::RfbError;
