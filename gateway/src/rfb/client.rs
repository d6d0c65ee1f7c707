//! What a viewer says, less what its role may not. Pure.

use crate::rfb::{
    encodings,
    message::{MAX_ENCODINGS, Message, ViewerRole},
    protocol::{NO_SECURITY, RfbError, SHARED, VERSION},
};
use std::mem;

/// The longest that is kept: a whole `SetEncodings`, which is rewritten.
const HELD: usize = 4 + 4 * MAX_ENCODINGS as usize;

/// Follows what a viewer says, however its bytes were cut, and lets through what its role may say.
///
/// Memory is a constant: of a message only the bytes that tell its length are kept, and the whole of a `SetEncodings`.
/// All else passes, or is dropped, as it comes.
#[derive(Clone, Debug)]
pub struct ClientFilter {
    role: ViewerRole,
    awaited: Awaited,
    held: [u8; HELD],
    /// Bytes of `held` that have come.
    have: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Awaited {
    /// The handshake, after so many bytes of it.
    Handshake(usize),
    /// The bytes that tell a message by [`Message::parse`].
    Head,
    /// The rest of a list of encodings, which is held: so many bytes.
    Encodings(usize),
    /// The rest of a message: so many bytes, and whether they pass.
    Body(usize, bool),
}

impl ClientFilter {
    /// For a viewer that is just about to begin.
    pub fn new(role: ViewerRole) -> Self {
        Self { role, awaited: Awaited::Handshake(0), held: [0; HELD], have: 0 }
    }

    /// Appends to `out` what may pass of the next bytes, in general as many as came; at most twice as many and 1 KiB.
    /// Says whether a controller did something in them, which keeps the session from being idle: keys, pointer or
    /// clipboard, let through.
    ///
    /// # Errors
    /// When the bytes cannot be followed. The filter is of no use after that; what it appended before may pass.
    pub fn filter(&mut self, mut chunk: &[u8], out: &mut Vec<u8>) -> Result<bool, RfbError> {
        let mut input = false;
        while let Some((first, _)) = chunk.split_first() {
            match &mut self.awaited {
                Awaited::Handshake(at) => {
                    let said = handshake(*at, *first).ok_or(RfbError::ClientHandshake)?;
                    out.push(said);
                    *at += 1;
                    if *at == HANDSHAKE {
                        self.awaited = Awaited::Head;
                        if self.role == ViewerRole::View {
                            out.extend(encodings::KEEP_CLIPBOARD);
                        }
                    }
                    chunk = &chunk[1..];
                }
                Awaited::Head => {
                    self.held[self.have] = *first;
                    self.have += 1;
                    if let Some(message) = Message::parse(&self.held[..self.have])? {
                        input |= self.begin(message, out);
                    }
                    chunk = &chunk[1..];
                }
                Awaited::Encodings(left) => {
                    let taken = (*left).min(chunk.len());
                    self.held[self.have..self.have + taken].copy_from_slice(&chunk[..taken]);
                    self.have += taken;
                    *left -= taken;
                    chunk = &chunk[taken..];
                }
                Awaited::Body(left, passes) => {
                    let taken = (*left).min(chunk.len());
                    if *passes {
                        out.extend(&chunk[..taken]);
                    }
                    *left -= taken;
                    chunk = &chunk[taken..];
                }
            }
            self.end_of_message(out);
        }
        Ok(input)
    }

    /// The message is told by what is held; decides on the rest of it. Says whether it is input that passes.
    fn begin(&mut self, message: Message, out: &mut Vec<u8>) -> bool {
        let left = message.length() - self.have;
        if matches!(message, Message::SetEncodings { .. }) {
            self.awaited = Awaited::Encodings(left);
            return false;
        }
        let passes = message.is_for(self.role);
        let head = &self.held[..mem::take(&mut self.have)];
        if passes {
            out.extend(head);
        }
        self.awaited = Awaited::Body(left, passes);
        passes && message.is_input()
    }

    fn end_of_message(&mut self, out: &mut Vec<u8>) {
        match self.awaited {
            Awaited::Encodings(0) => {
                encodings::append_allowed(&self.held[..mem::take(&mut self.have)], self.role, out);
                self.awaited = Awaited::Head;
            }
            Awaited::Body(0, _) => self.awaited = Awaited::Head,
            _ => {}
        }
    }
}

/// Version, security type and `ClientInit`.
const HANDSHAKE: usize = VERSION.len() + 2;

/// What is passed on of the byte at that place of a viewer's handshake. None when it says something else than it must.
fn handshake(at: usize, byte: u8) -> Option<u8> {
    match VERSION.get(at) {
        Some(expected) => (byte == *expected).then_some(byte),
        None if at == VERSION.len() => (byte == NO_SECURITY).then_some(byte),
        None => Some(SHARED),
    }
}
