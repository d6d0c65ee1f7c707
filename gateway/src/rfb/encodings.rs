//! Which encodings a viewer may ask for, and which it must. Pure.
//!
//! Some encodings are no way to send pixels but an agreement on further messages. One that the gateway cannot follow
//! must never be agreed on: the display would then read the viewer's bytes by another grammar than the filter does. So
//! only these pass, and what is left out is, on purpose: the extended mouse buttons (-316, a pointer event with a
//! seventh byte), `ExtendedDesktopSize` (-308, resizing; the plain `DesktopSize` still tells of a new size), xvp
//! (-309), gii (-305), QEMU's audio (-259) and whatever may be invented.

use crate::rfb::message::ViewerRole;

/// The pseudo-encoding that agrees on the extended clipboard.
const EXTENDED_CLIPBOARD: i32 = 0xc0a1_e5ce_u32.cast_signed();

/// What the display is told before anything that a viewer says who may only look: that it knows the extended clipboard,
/// and that of text it wants to be notified, and to be sent no more than 0 bytes unasked.
///
/// Without it, Xvnc sends every text that is copied in the session, a password perhaps, to every viewer at once. With
/// it, a viewer hears that there is a text, and its request for it is dropped. It must know the extended clipboard for
/// that (noVNC does): the display's notes have a negative length.
pub(super) const CLIPBOARD_NOTIFY_ONLY: [u8; 28] = [
    // SetEncodings: Raw and ExtendedClipboard.
    2, 0, 0, 2, 0, 0, 0, 0, 0xc0, 0xa1, 0xe5, 0xce,
    // ClientCutText with length -8: capabilities and notify; text; its size.
    6, 0, 0, 0, 0xff, 0xff, 0xff, 0xf8, 0x09, 0, 0, 1, 0, 0, 0, 0,
];

/// Whether a viewer may ask for it.
fn is_allowed(encoding: i32) -> bool {
    const VMWARE_CURSOR: i32 = 0x574d_5664;
    const VMWARE_CURSOR_POSITION: i32 = 0x574d_5666;
    const VMWARE_LED_STATE: i32 = 0x574d_5668;
    matches!(
        encoding,
        // Pictures: Raw, CopyRect, RRE, CoRRE, Hextile, zlib, Tight, ZRLE, JPEG, H.264, TightPNG.
        0 | 1 | 2 | 4 | 5 | 6 | 7 | 16 | 21 | 50 | -260
        // How they are made: JPEG quality, fine and coarse, compression, chroma subsampling.
        | -32..=-23 | -512..=-412 | -256..=-247 | -768..=-763
        // What else the display may tell: DesktopSize, LastRect, cursors, lights, name.
        | -224..=-223 | -240..=-239 | -314 | -261 | -307
        | VMWARE_CURSOR | VMWARE_CURSOR_POSITION | VMWARE_LED_STATE
        // Messages that the filter can follow: extended keys, fences, continuous updates, extended clipboard.
        | -258 | -312 | -313 | EXTENDED_CLIPBOARD
    )
}

/// Appends the `SetEncodings` message that stands for the given one, whole, of a viewer in that role.
pub(super) fn append_allowed(message: &[u8], role: ViewerRole, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([message[0], 0, 0, 0]);
    let (listed, _) = message[4..].as_chunks::<4>();
    let mut count = 0_u16;
    let mut has_extended_clipboard = role == ViewerRole::Control;
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

    fn allowed(encodings: &[i32], role: ViewerRole) -> Vec<u8> {
        let mut out = b"before".to_vec();
        append_allowed(&set(encodings), role, &mut out);
        out.split_off(6)
    }

    #[test]
    fn removes_encodings_that_change_the_format_of_viewer_messages() {
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
        assert_eq!(allowed(&novnc, ViewerRole::Control), set(&left));
        assert_eq!(allowed(&novnc, ViewerRole::View), set(&left));
        for grammar in [-305, -259, -308, -309, -316, 0x574d_5665, 0x574d_5667, i32::MIN, i32::MAX, 8, -1, -33, -22] {
            assert_eq!(allowed(&[7, grammar, 0], ViewerRole::Control), set(&[7, 0]), "{grammar}");
        }
    }

    #[test]
    fn a_view_only_viewer_always_announces_the_extended_clipboard() {
        assert_eq!(allowed(&[], ViewerRole::View), set(&[EXTENDED_CLIPBOARD]));
        assert_eq!(allowed(&[7], ViewerRole::View), set(&[7, EXTENDED_CLIPBOARD]));
        assert_eq!(allowed(&[7], ViewerRole::Control), set(&[7]));
        assert_eq!(allowed(&[], ViewerRole::Control), set(&[]));
        assert!(CLIPBOARD_NOTIFY_ONLY.starts_with(&set(&[0, EXTENDED_CLIPBOARD])));
    }
}
