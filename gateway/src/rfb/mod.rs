//! The live view's protocol: RFB 3.8 (RFC 6143) between a viewer and the display of a session. Pure: bytes go in, and the
//! bytes that may pass come out; sockets and clocks are the caller's.
//!
//! ```text
//! viewer ── ClientFilter: by role, message by message ──► display (Xvnc)
//! viewer ◄─ DisplayCheck: the handshake, then untouched ── display
//! ```
//!
//! The two directions share nothing, so each can run in a task of its own. Neither answers on behalf of the other: the
//! handshake is the viewer's and the display's own, only that nothing but version 3.8 without a password is let through
//! (who the viewer is was asked at the door), and that the display is always asked to be shared.
//!
//! What a viewer says is parsed by an allow-list and exact lengths ([`message`]), because a length that is wrong by one
//! would let the payload of one message be read as the next one: a key, for example. What the display says is not parsed:
//! it is trusted, it is most of the bytes, and its pictures can only be followed by decoding them.

mod client;
mod display;
mod encodings;
pub mod message;

pub use client::ClientFilter;
pub use display::DisplayCheck;
pub use message::MessageError;

/// What somebody before a live view may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Look.
    View,
    /// Look, type, point, and exchange clipboards.
    Control,
}

/// `ProtocolVersion` (section 7.1.1), the same from both sides.
const VERSION: &[u8] = b"RFB 003.008\n";
/// The security type None (section 7.2.1).
const NO_SECURITY: u8 = 1;
/// The shared flag of `ClientInit` (section 7.3.1): other viewers stay.
const SHARED: u8 = 1;

/// Bytes that may not pass. Nothing can be said of what follows: end the connection. The words fit into a Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RfbError {
    /// The viewer's handshake is another one than the display's.
    #[error("the live view speaks RFB 3.8 with security type None only; this viewer began otherwise")]
    ClientHandshake,
    /// The display's handshake is not what our runners' displays say.
    #[error("the session's display did not greet with RFB 3.8 and security type None")]
    DisplayHandshake,
    /// What the viewer said after the handshake.
    #[error(transparent)]
    Message(#[from] MessageError),
}
