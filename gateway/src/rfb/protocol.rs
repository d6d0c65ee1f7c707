//! Constants of the RFB handshake, and the error type of both directions.

use crate::rfb::message::MessageError;

/// `ProtocolVersion` (section 7.1.1), which both sides send.
pub(super) const VERSION: &[u8] = b"RFB 003.008\n";
/// The security type None (section 7.2.1).
pub(super) const NO_SECURITY: u8 = 1;
/// The shared flag of `ClientInit` (section 7.3.1), which keeps other clients connected.
pub(super) const SHARED: u8 = 1;

/// A protocol violation. The rest of the stream cannot be parsed, so the connection must be closed. The message fits
/// into a Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RfbError {
    /// The client's handshake is not that of RFB 3.8 with security type None.
    #[error("the live view supports only RFB 3.8 with security type None; the client's handshake differs")]
    ClientHandshake,
    /// The display's greeting is not the one of a runner's display.
    #[error("the session's display did not offer RFB 3.8 with security type None")]
    DisplayHandshake,
    /// An invalid message of the client, after the handshake.
    #[error(transparent)]
    Message(#[from] MessageError),
}
