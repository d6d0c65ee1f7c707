//! The frames that the gateway itself says to a client (RFC 6455 section 5.5), unmasked as a server's are. Pure.

/// A Ping without a payload.
pub const PING: [u8; 2] = [0x89, 0];

/// What a control frame can carry at most, less the two bytes of the code.
const MAX_REASON: usize = 123;

/// As much of a reason as fits into a Close frame.
pub fn truncate_reason(reason: &str) -> &str {
    let end = (0..=reason.len().min(MAX_REASON)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    &reason[..end]
}

/// A Close frame with a code (section 7.4) and a reason, which is cut to what fits.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    let reason = truncate_reason(reason);
    let length = u8::try_from(2 + reason.len()).expect("the reason was cut to 123 bytes");
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
