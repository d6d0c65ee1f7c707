//! What a viewer says, less what its role may not. Pure.

use crate::rfb::{
    encodings,
    message::{MAX_ENCODINGS, Message, ViewerRole},
    protocol::{NO_SECURITY, RfbError, SHARED, VERSION},
};
use std::mem;

/// The longest that is kept: a whole `SetEncodings`, which is rewritten.
const BUFFER: usize = 4 + 4 * MAX_ENCODINGS as usize;

/// Follows what a viewer says, however its bytes were cut, and lets through what its role may say.
///
/// Memory is a constant: of a message only the bytes that tell its length are kept, and the whole of a `SetEncodings`.
/// All else passes, or is dropped, as it comes.
#[derive(Clone, Debug)]
pub struct ClientFilter {
    role: ViewerRole,
    state: State,
    buffer: [u8; BUFFER],
    /// Bytes of `held` that have come.
    filled: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum State {
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
        Self { role, state: State::Handshake(0), buffer: [0; BUFFER], filled: 0 }
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
            match &mut self.state {
                State::Handshake(at) => {
                    let byte = handshake(*at, *first).ok_or(RfbError::ClientHandshake)?;
                    out.push(byte);
                    *at += 1;
                    if *at == HANDSHAKE {
                        self.state = State::Head;
                        if self.role == ViewerRole::View {
                            out.extend(encodings::CLIPBOARD_NOTIFY_ONLY);
                        }
                    }
                    chunk = &chunk[1..];
                }
                State::Head => {
                    self.buffer[self.filled] = *first;
                    self.filled += 1;
                    if let Some(message) = Message::parse(&self.buffer[..self.filled])? {
                        input |= self.begin_message(message, out);
                    }
                    chunk = &chunk[1..];
                }
                State::Encodings(left) => {
                    let taken = (*left).min(chunk.len());
                    self.buffer[self.filled..self.filled + taken].copy_from_slice(&chunk[..taken]);
                    self.filled += taken;
                    *left -= taken;
                    chunk = &chunk[taken..];
                }
                State::Body(left, passes) => {
                    let taken = (*left).min(chunk.len());
                    if *passes {
                        out.extend(&chunk[..taken]);
                    }
                    *left -= taken;
                    chunk = &chunk[taken..];
                }
            }
            self.finish_message(out);
        }
        Ok(input)
    }

    /// The message is told by what is held; decides on the rest of it. Says whether it is input that passes.
    fn begin_message(&mut self, message: Message, out: &mut Vec<u8>) -> bool {
        let left = message.length() - self.filled;
        if matches!(message, Message::SetEncodings { .. }) {
            self.state = State::Encodings(left);
            return false;
        }
        let passes = message.is_allowed_for(self.role);
        let head = &self.buffer[..mem::take(&mut self.filled)];
        if passes {
            out.extend(head);
        }
        self.state = State::Body(left, passes);
        passes && message.is_input()
    }

    fn finish_message(&mut self, out: &mut Vec<u8>) {
        match self.state {
            State::Encodings(0) => {
                encodings::append_allowed(&self.buffer[..mem::take(&mut self.filled)], self.role, out);
                self.state = State::Head;
            }
            State::Body(0, _) => self.state = State::Head,
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
