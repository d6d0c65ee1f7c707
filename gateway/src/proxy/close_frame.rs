//! Encodes the control frames that the gateway itself sends to a client (RFC 6455 section 5.5). They are unmasked, as
//! all frames of a server. Pure.

/// A Ping without a payload.
pub const PING: [u8; 2] = [0x89, 0];

/// Longest reason in bytes: a control frame carries at most 125 bytes, and the close code takes 2 of them.
const MAX_REASON: usize = 123;

/// Truncates a reason to 123 bytes, at a character boundary, so that it fits into a Close frame.
pub fn truncate_reason(reason: &str) -> &str {
    let end = (0..=reason.len().min(MAX_REASON)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    &reason[..end]
}

/// Encodes a Close frame with a code (section 7.4) and a reason, which is truncated to 123 bytes.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    let reason = truncate_reason(reason);
    let length = u8::try_from(2 + reason.len()).expect("the reason has at most 123 bytes");
    [&[0x88, length], &code.to_be_bytes(), reason.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_frame_holds_code_and_reason() {
        assert_eq!(close(1001, "bye"), [0x88, 5, 0x03, 0xe9, b'b', b'y', b'e']);
        assert_eq!(close(1000, ""), [0x88, 2, 0x03, 0xe8]);
    }

    #[test]
    fn a_long_reason_is_truncated_at_a_character_boundary() {
        let frame = close(1001, &"ä".repeat(100));
        assert_eq!(frame[1], 124);
        assert_eq!(std::str::from_utf8(&frame[4..]).unwrap(), "ä".repeat(61));
    }
}
