//! The constants of RFB's handshake, and the error that both directions share.

use crate::rfb::message::MessageError;

/// `ProtocolVersion` (section 7.1.1), the same from both sides.
pub(super) const VERSION: &[u8] = b"RFB 003.008\n";
/// The security type None (section 7.2.1).
pub(super) const NO_SECURITY: u8 = 1;
/// The shared flag of `ClientInit` (section 7.3.1): other viewers stay.
pub(super) const SHARED: u8 = 1;

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
