//! The live view's protocol: RFB 3.8 (RFC 6143) between a viewer and the display of a session. Pure: bytes go in, and
//! the bytes that may pass come out; sockets and clocks are the caller's.
//!
//! ```text
//! viewer ── ClientFilter: by role, message by message ──► display (Xvnc)
//! viewer ◄─ DisplayCheck: the handshake, then untouched ── display
//! ```
//!
//! The two directions share nothing, so each can run in a task of its own. Neither answers on behalf of the other: the
//! handshake is the viewer's and the display's own, only that nothing but version 3.8 without a password is let through
//! (the viewer was authenticated before), and that the display is always asked to be shared.
//!
//! What a viewer says is parsed by an allow-list and exact lengths ([`message`]), because a length that is wrong by
//! one would let the payload of one message be read as the next one: a key, for example. What the display says is not
//! parsed: it is trusted, it is most of the bytes, and its pictures can only be followed by decoding them.

mod client;
mod display;
mod encodings;
pub mod message;
mod protocol;

pub use client::ClientFilter;
pub use display::DisplayCheck;
pub use message::{MessageError, ViewerRole};
pub use protocol::RfbError;
