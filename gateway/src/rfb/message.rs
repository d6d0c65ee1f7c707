//! The messages of a client after the handshake: their lengths, and the modes that permit them. Pure.

/// Limit of encodings in one `SetEncodings`. noVNC lists about 25, TigerVNC's viewer about 40.
pub const MAX_ENCODINGS: u16 = 128;
/// Limit of text or clipboard data in one message, in bytes. Xvnc's own limit is the same (`MaxCutText`).
pub const MAX_CUT_TEXT: u32 = 256 << 10;
/// Limit of a fence's payload, in bytes, from its specification.
pub const MAX_FENCE: u8 = 64;

/// The actions that the scope of a live-view client permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMode {
    /// View the display.
    View,
    /// View the display, send keys and pointer events, and exchange clipboards.
    Control,
}

/// A message of a client, with the content that determines its length, its permission, and whether it is input. From
/// RFC 6143 section 7.5; the extensions are from the community's `rfbproto.rst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Sets the format of pixels.
    SetPixelFormat,
    /// Lists the encodings that the client supports.
    SetEncodings {
        /// Number of encodings.
        count: u16,
    },
    /// Requests a part of the picture.
    FramebufferUpdateRequest,
    /// A key, by keysym.
    KeyEvent,
    /// The pointer's position and buttons. Always six bytes. The form with a seventh byte is never negotiated (see
    /// [`super::encodings`]), so the display reads that form's marker as one more button.
    PointerEvent,
    /// Text for the session's clipboard.
    ClientCutText {
        /// Bytes of text.
        length: u32,
    },
    /// The extended clipboard: the message type of `ClientCutText` with a negative length.
    ExtendedClipboard {
        /// Number of bytes after the length, including the flags.
        length: u32,
        /// The most significant byte of the flags.
        actions: u8,
    },
    /// Enables updates without a request for each.
    EnableContinuousUpdates,
    /// A response to the display's fence, or a fence of the client.
    ClientFence {
        /// Bytes of payload.
        length: u8,
    },
    /// Shuts down or reboots the machine. Always dropped.
    Xvp,
    /// Resizes the display. Always dropped, because it crashes Xvnc 1.12.
    SetDesktopSize {
        /// Number of screens.
        screens: u8,
    },
    /// A key, by keysym and keycode: QEMU's message 255, submessage 0.
    ExtendedKeyEvent,
}

/// Why a message cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// An unknown message type, whose length is therefore unknown.
    #[error("unknown RFB message type {0}")]
    UnknownType(u8),
    /// An unknown submessage of QEMU's message.
    #[error("unknown submessage {0} of RFB message type 255")]
    UnknownSubmessage(u8),
    /// More encodings than [`MAX_ENCODINGS`].
    #[error("RFB SetEncodings lists {0} encodings; the limit is {MAX_ENCODINGS}")]
    TooManyEncodings(u16),
    /// More text than [`MAX_CUT_TEXT`].
    #[error("the clipboard text has {0} bytes; the limit is {MAX_CUT_TEXT}")]
    CutTextTooLong(u32),
    /// An extended clipboard message that is too short for its flags.
    #[error("the RFB extended clipboard message has {0} bytes; its flags alone take 4")]
    NoClipboardFlags(u32),
    /// More payload than [`MAX_FENCE`].
    #[error("the payload of the RFB fence has {0} bytes; the limit is {MAX_FENCE}")]
    FenceTooLong(u8),
}

const CLIPBOARD_CAPS: u8 = 1;
const CLIPBOARD_NOTIFY: u8 = 1 << 3;
const CLIPBOARD_PROVIDE: u8 = 1 << 4;

impl Message {
    /// Parses a message from its first bytes. None when more bytes are needed.
    pub fn parse(head: &[u8]) -> Result<Option<Self>, MessageError> {
        let message = match *head {
            [] => return Ok(None),
            [0, ..] => Self::SetPixelFormat,
            [2, _, a, b, ..] => Self::SetEncodings { count: u16::from_be_bytes([a, b]) },
            [3, ..] => Self::FramebufferUpdateRequest,
            [4, ..] => Self::KeyEvent,
            [5, ..] => Self::PointerEvent,
            [6, _, _, _, a, b, c, d, ref data @ ..] => {
                match (i32::from_be_bytes([a, b, c, d]), data) {
                    (text @ 0.., _) => Self::ClientCutText { length: text.unsigned_abs() },
                    (extended, [actions, ..]) => {
                        Self::ExtendedClipboard { length: extended.unsigned_abs(), actions: *actions }
                    }
                    // Reject an invalid length at once, not after one more byte.
                    (extended, []) => {
                        Self::ExtendedClipboard { length: extended.unsigned_abs(), actions: 0 }.validate()?;
                        return Ok(None);
                    }
                }
            }
            [150, ..] => Self::EnableContinuousUpdates,
            [248, _, _, _, _, _, _, _, length, ..] => Self::ClientFence { length },
            [250, ..] => Self::Xvp,
            [251, _, _, _, _, _, screens, ..] => Self::SetDesktopSize { screens },
            [255, 0, ..] => Self::ExtendedKeyEvent,
            [255, submessage, ..] => return Err(MessageError::UnknownSubmessage(submessage)),
            [2 | 6 | 248 | 251 | 255, ..] => return Ok(None),
            [unknown, ..] => return Err(MessageError::UnknownType(unknown)),
        };
        message.validate().map(Some)
    }

    fn validate(self) -> Result<Self, MessageError> {
        match self {
            Self::SetEncodings { count } if count > MAX_ENCODINGS => Err(MessageError::TooManyEncodings(count)),
            Self::ClientCutText { length } | Self::ExtendedClipboard { length, .. } if length > MAX_CUT_TEXT => {
                Err(MessageError::CutTextTooLong(length))
            }
            Self::ExtendedClipboard { length, .. } if length < 4 => Err(MessageError::NoClipboardFlags(length)),
            Self::ClientFence { length } if length > MAX_FENCE => Err(MessageError::FenceTooLong(length)),
            message => Ok(message),
        }
    }

    /// Length of the whole message in bytes, including its type.
    pub fn length(self) -> usize {
        match self {
            Self::SetPixelFormat => 20,
            Self::SetEncodings { count } => 4 + 4 * usize::from(count),
            Self::FramebufferUpdateRequest => 10,
            Self::KeyEvent => 8,
            Self::PointerEvent => 6,
            Self::ClientCutText { length } | Self::ExtendedClipboard { length, .. } => 8 + length as usize,
            Self::EnableContinuousUpdates => 10,
            Self::ClientFence { length } => 9 + usize::from(length),
            Self::Xvp => 4,
            Self::SetDesktopSize { screens } => 8 + 16 * usize::from(screens),
            Self::ExtendedKeyEvent => 12,
        }
    }

    /// Whether the mode permits the message. Other messages are dropped, and the connection continues.
    pub fn is_allowed_for(self, mode: ClientMode) -> bool {
        match self {
            Self::SetPixelFormat
            | Self::SetEncodings { .. }
            | Self::FramebufferUpdateRequest
            | Self::EnableContinuousUpdates
            | Self::ClientFence { .. } => true,
            Self::KeyEvent
            | Self::PointerEvent
            | Self::ClientCutText { .. }
            | Self::ExtendedClipboard { .. }
            | Self::ExtendedKeyEvent => mode == ClientMode::Control,
            Self::Xvp | Self::SetDesktopSize { .. } => false,
        }
    }

    /// Whether a person caused the message. Clients answer the display's clipboard messages, fences and updates
    /// automatically.
    pub fn is_input(self) -> bool {
        match self {
            Self::KeyEvent | Self::PointerEvent | Self::ClientCutText { .. } | Self::ExtendedKeyEvent => true,
            Self::ExtendedClipboard { actions, .. } => {
                actions & CLIPBOARD_CAPS == 0 && actions & (CLIPBOARD_NOTIFY | CLIPBOARD_PROVIDE) != 0
            }
            Self::SetPixelFormat
            | Self::SetEncodings { .. }
            | Self::FramebufferUpdateRequest
            | Self::EnableContinuousUpdates
            | Self::ClientFence { .. }
            | Self::Xvp
            | Self::SetDesktopSize { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &[u8]) -> Message {
        let message = Message::parse(head).unwrap().unwrap();
        for end in 0..head.len() {
            assert_eq!(Message::parse(&head[..end]), Ok(None), "{head:?}");
        }
        message
    }

    #[test]
    fn parses_each_message_from_its_shortest_head() {
        let lengths = [
            (&[0][..], 20),
            (&[2, 9, 0, 0], 4),
            (&[2, 9, 0, 128], 516),
            (&[3], 10),
            (&[4], 8),
            (&[5], 6),
            (&[6, 9, 9, 9, 0, 0, 0, 0], 8),
            (&[6, 9, 9, 9, 0, 4, 0, 0], 8 + (256 << 10)),
            (&[6, 9, 9, 9, 0xff, 0xff, 0xff, 0xfc, 1], 12),
            (&[6, 9, 9, 9, 0xff, 0xfc, 0, 0, 1], 8 + (256 << 10)),
            (&[150], 10),
            (&[248, 9, 9, 9, 9, 9, 9, 9, 0], 9),
            (&[248, 9, 9, 9, 9, 9, 9, 9, 64], 73),
            (&[250], 4),
            (&[251, 9, 9, 9, 9, 9, 255], 8 + 16 * 255),
            (&[255, 0], 12),
        ];
        for (head, length) in lengths {
            assert_eq!(parsed(head).length(), length, "{head:?}");
        }
    }

    #[test]
    fn rejects_an_invalid_message_at_its_first_invalid_byte() {
        let rejects = |head: &[u8], error| {
            assert_eq!(Message::parse(head), Err(error));
            assert_eq!(Message::parse(&head[..head.len() - 1]), Ok(None));
        };
        rejects(&[1], MessageError::UnknownType(1));
        rejects(&[7], MessageError::UnknownType(7));
        rejects(&[253], MessageError::UnknownType(253));
        rejects(&[255, 1], MessageError::UnknownSubmessage(1));
        rejects(&[2, 0, 0, 129], MessageError::TooManyEncodings(129));
        rejects(&[2, 0, 255, 255], MessageError::TooManyEncodings(65535));
        rejects(&[6, 0, 0, 0, 0, 4, 0, 1], MessageError::CutTextTooLong((256 << 10) + 1));
        rejects(&[6, 0, 0, 0, 0x7f, 255, 255, 255], MessageError::CutTextTooLong(i32::MAX.unsigned_abs()));
        rejects(&[6, 0, 0, 0, 0x80, 0, 0, 0], MessageError::CutTextTooLong(1 << 31));
        rejects(&[6, 0, 0, 0, 255, 255, 255, 253], MessageError::NoClipboardFlags(3));
        rejects(&[248, 0, 0, 0, 0, 0, 0, 0, 65], MessageError::FenceTooLong(65));
    }

    #[test]
    fn only_notify_and_provide_of_the_extended_clipboard_are_input() {
        let clipboard = |actions| Message::ExtendedClipboard { length: 4, actions };
        // noVNC sends its capabilities, its request for a copied text and its answer to a peek automatically. It sends
        // the last two after a paste.
        assert!(!clipboard(0b1_1111).is_input());
        assert!(!clipboard(0b0_0010).is_input());
        assert!(!clipboard(0b0_0100).is_input());
        assert!(clipboard(CLIPBOARD_NOTIFY).is_input());
        assert!(clipboard(CLIPBOARD_PROVIDE).is_input());
    }

    #[test]
    fn every_error_fits_into_a_close_frame() {
        let longest = [
            MessageError::UnknownSubmessage(255),
            MessageError::TooManyEncodings(u16::MAX),
            MessageError::CutTextTooLong(u32::MAX),
            MessageError::NoClipboardFlags(3),
            MessageError::FenceTooLong(255),
        ];
        let errors = longest.map(crate::rfb::RfbError::from).into_iter();
        for error in errors.chain([crate::rfb::RfbError::ClientHandshake, crate::rfb::RfbError::DisplayHandshake]) {
            assert!(error.to_string().len() <= 123, "{error}");
        }
    }
}
