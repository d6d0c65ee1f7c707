//! Verifies the handshake of a display. Pure.

use crate::rfb::protocol::{NO_SECURITY, RfbError, VERSION};

/// What a runner's display sends before `ServerInit`: its version, one security type (section 7.1.2), and
/// `SecurityResult` OK (section 7.1.3). It is the same for every client whose handshake
/// [`ClientFilter`](crate::rfb::ClientFilter) forwards.
const GREETING: [u8; 18] = {
    let mut greeting = [0; 18];
    greeting.split_at_mut(VERSION.len()).0.copy_from_slice(VERSION);
    greeting[12] = 1;
    greeting[13] = NO_SECURITY;
    greeting
};

/// Verifies that a display sends the greeting on which the filter of the client's direction relies. All later bytes are
/// accepted.
#[derive(Clone, Debug, Default)]
pub struct DisplayCheck {
    /// Number of bytes of the greeting received so far.
    received: usize,
}

impl DisplayCheck {
    /// Checks the next chunk, which can have any size. The caller forwards the chunk unchanged.
    ///
    /// # Errors
    /// When the greeting differs. The caller must not forward the chunk.
    pub fn check(&mut self, chunk: &[u8]) -> Result<(), RfbError> {
        let rest = &GREETING[self.received..];
        let compared = rest.len().min(chunk.len());
        if rest[..compared] != chunk[..compared] {
            return Err(RfbError::DisplayHandshake);
        }
        self.received += compared;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_greeting_of_the_runners_display() {
        assert_eq!(&GREETING, b"RFB 003.008\n\x01\x01\0\0\0\0");
        let mut display = DisplayCheck::default();
        for cut in [&GREETING[..3], &[], &GREETING[3..], b"RFB 003.003\n", &[2, 3, 4]] {
            assert_eq!(display.check(cut), Ok(()));
        }
    }

    #[test]
    fn rejects_any_other_greeting() {
        // Another version, VNC authentication, no security type but a reason, a failed SecurityResult.
        for other in
            [&b"RFB 003.003\n"[..], b"RFB 003.008\n\x01\x02", b"RFB 003.008\n\0", b"RFB 003.008\n\x01\x01\0\0\0\x01"]
        {
            assert_eq!(DisplayCheck::default().check(other), Err(RfbError::DisplayHandshake));
            let mut split = DisplayCheck::default();
            let (last, before) = other.split_last().unwrap();
            if split.check(before).is_ok() {
                assert_eq!(split.check(&[*last]), Err(RfbError::DisplayHandshake));
            }
        }
    }
}
