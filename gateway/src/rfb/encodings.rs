//! Filters the encodings that a client requests. Pure.
//!
//! Some encodings do not describe pixels but negotiate further messages. The gateway must not let client and display
//! negotiate a message that the filter does not know, because the display would then parse the client's bytes
//! differently from the filter. Therefore only the encodings on an allow-list are forwarded. Left out on purpose are
//! the extended mouse buttons (-316, a pointer event with a seventh byte), `ExtendedDesktopSize` (-308, resizing; the
//! plain `DesktopSize` still reports a new size), xvp (-309), gii (-305), QEMU's audio (-259) and all future encodings.

use crate::rfb::message::ClientMode;

/// The pseudo-encoding that negotiates the extended clipboard.
const EXTENDED_CLIPBOARD: i32 = 0xc0a1_e5ce_u32.cast_signed();

/// Messages that the gateway sends to the display before the first message of a view-only client. They announce the
/// extended clipboard, and that for text the client accepts notifications and at most 0 bytes of unrequested data.
///
/// Without them, Xvnc sends every text that is copied in the session, such as a password, to every client immediately.
/// With them, it only notifies the client of a new text, and the filter drops the client's request for the text. The
/// client must support the extended clipboard, as noVNC does, because the notifications have a negative length.
pub(super) const CLIPBOARD_NOTIFY_ONLY: [u8; 28] = [
    // SetEncodings: Raw and ExtendedClipboard.
    2, 0, 0, 2, 0, 0, 0, 0, 0xc0, 0xa1, 0xe5, 0xce,
    // ClientCutText with length -8: capabilities and notify; text; its size.
    6, 0, 0, 0, 0xff, 0xff, 0xff, 0xf8, 0x09, 0, 0, 1, 0, 0, 0, 0,
];

/// Whether a client is allowed to request the encoding.
fn is_allowed(encoding: i32) -> bool {
    const VMWARE_CURSOR: i32 = 0x574d_5664;
    const VMWARE_CURSOR_POSITION: i32 = 0x574d_5666;
    const VMWARE_LED_STATE: i32 = 0x574d_5668;
    matches!(
        encoding,
        // Pictures: Raw, CopyRect, RRE, CoRRE, Hextile, zlib, Tight, ZRLE, JPEG, H.264, TightPNG.
        0 | 1 | 2 | 4 | 5 | 6 | 7 | 16 | 21 | 50 | -260
        // Parameters of pictures: JPEG quality (coarse and fine), compression, chroma subsampling.
        | -32..=-23 | -512..=-412 | -256..=-247 | -768..=-763
        // Other messages of the display: DesktopSize, LastRect, cursors, LED states, name.
        | -224..=-223 | -240..=-239 | -314 | -261 | -307
        | VMWARE_CURSOR | VMWARE_CURSOR_POSITION | VMWARE_LED_STATE
        // Messages that the filter can parse: extended keys, fences, continuous updates, extended clipboard.
        | -258 | -312 | -313 | EXTENDED_CLIPBOARD
    )
}

/// Appends the allowed encodings of a complete `SetEncodings` message as a new message. For a view-only client, adds
/// the extended clipboard.
pub(super) fn append_allowed(message: &[u8], mode: ClientMode, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([message[0], 0, 0, 0]);
    let (listed, _) = message[4..].as_chunks::<4>();
    let mut count = 0_u16;
    let mut has_extended_clipboard = mode == ClientMode::Control;
    for encoding in listed.iter().map(|encoding| i32::from_be_bytes(*encoding)).filter(|it| is_allowed(*it)) {
        out.extend(encoding.to_be_bytes());
        count += 1;
        has_extended_clipboard |= encoding == EXTENDED_CLIPBOARD;
    }
    if !has_extended_clipboard {
        out.extend(EXTENDED_CLIPBOARD.to_be_bytes());
        count += 1;
    }
    out[start + 2..start + 4].copy_from_slice(&count.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(encodings: &[i32]) -> Vec<u8> {
        let mut message = vec![2, 0];
        message.extend(u16::try_from(encodings.len()).unwrap().to_be_bytes());
        message.extend(encodings.iter().flat_map(|it| it.to_be_bytes()));
        message
    }

    fn allowed(encodings: &[i32], mode: ClientMode) -> Vec<u8> {
        let mut out = b"before".to_vec();
        append_allowed(&set(encodings), mode, &mut out);
        out.split_off(6)
    }

    #[test]
    fn removes_encodings_that_change_the_format_of_client_messages() {
        // noVNC 1.7.0's list: with xvp, the extended desktop size and the extended mouse buttons.
        let novnc = [
            1,
            50,
            7,
            -260,
            16,
            21,
            5,
            2,
            6,
            0,
            -26,
            -254,
            -223,
            -224,
            -258,
            -261,
            -308,
            -309,
            -312,
            -313,
            -307,
            EXTENDED_CLIPBOARD,
            -316,
            0x574d_5664,
            -239,
        ];
        let left = novnc.into_iter().filter(|it| ![-308, -309, -316].contains(it)).collect::<Vec<_>>();
        assert_eq!(left.len(), novnc.len() - 3);
        assert_eq!(allowed(&novnc, ClientMode::Control), set(&left));
        assert_eq!(allowed(&novnc, ClientMode::View), set(&left));
        for grammar in [-305, -259, -308, -309, -316, 0x574d_5665, 0x574d_5667, i32::MIN, i32::MAX, 8, -1, -33, -22] {
            assert_eq!(allowed(&[7, grammar, 0], ClientMode::Control), set(&[7, 0]), "{grammar}");
        }
    }

    #[test]
    fn a_view_only_client_always_announces_the_extended_clipboard() {
        assert_eq!(allowed(&[], ClientMode::View), set(&[EXTENDED_CLIPBOARD]));
        assert_eq!(allowed(&[7], ClientMode::View), set(&[7, EXTENDED_CLIPBOARD]));
        assert_eq!(allowed(&[7], ClientMode::Control), set(&[7]));
        assert_eq!(allowed(&[], ClientMode::Control), set(&[]));
        assert!(CLIPBOARD_NOTIFY_ONLY.starts_with(&set(&[0, EXTENDED_CLIPBOARD])));
    }
}
