//! Filters the messages of a client by its mode. Pure.

use crate::rfb::{
    encodings,
    message::{ClientMode, MAX_ENCODINGS, Message},
    protocol::{NO_SECURITY, RfbError, SHARED, VERSION},
};
use std::mem;

/// Size of the buffer: a whole `SetEncodings`, which is rewritten.
const BUFFER: usize = 4 + 4 * MAX_ENCODINGS as usize;

/// Parses a client's byte stream, in chunks of any size, and forwards the messages that the client's mode permits.
///
/// Memory is constant: the filter buffers only the head of a message, which determines its length, and a whole
/// `SetEncodings`. All other bytes are forwarded or dropped as they arrive.
#[derive(Clone, Debug)]
pub struct ClientFilter {
    mode: ClientMode,
    state: State,
    buffer: [u8; BUFFER],
    /// Number of bytes in `buffer`.
    filled: usize,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum State {
    /// The handshake. Contains the number of its bytes so far.
    Handshake(usize),
    /// The head of a message, which [`Message::parse`] needs.
    Head,
    /// The rest of a `SetEncodings`, which is buffered. Contains the number of bytes left.
    Encodings(usize),
    /// The rest of a message. Contains the number of bytes left, and whether they are forwarded.
    Body(usize, bool),
}

impl ClientFilter {
    /// Starts before the handshake.
    pub fn new(mode: ClientMode) -> Self {
        Self { mode, state: State::Handshake(0), buffer: [0; BUFFER], filled: 0 }
    }

    /// Appends the permitted bytes of the chunk to `out`: usually as many as the chunk has, at most twice as many plus
    /// 1 KiB. Returns whether they contain input of a controller (keys, pointer or clipboard), which counts as activity
    /// of the session.
    ///
    /// # Errors
    /// When the bytes violate the protocol. Do not use the filter afterwards. The bytes that it appended before can be
    /// forwarded.
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
                        if self.mode == ClientMode::View {
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

    /// Forwards or drops the buffered head of a message and decides about its rest. Returns whether the message is
    /// permitted input.
    fn begin_message(&mut self, message: Message, out: &mut Vec<u8>) -> bool {
        let left = message.length() - self.filled;
        if matches!(message, Message::SetEncodings { .. }) {
            self.state = State::Encodings(left);
            return false;
        }
        let passes = message.is_allowed_for(self.mode);
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
                encodings::append_allowed(&self.buffer[..mem::take(&mut self.filled)], self.mode, out);
                self.state = State::Head;
            }
            State::Body(0, _) => self.state = State::Head,
            _ => {}
        }
    }
}

/// Length of the client's handshake: version, security type and `ClientInit`.
const HANDSHAKE: usize = VERSION.len() + 2;

/// Returns the byte to forward for the byte at position `at` of a client's handshake. None when the byte is invalid.
fn handshake(at: usize, byte: u8) -> Option<u8> {
    match VERSION.get(at) {
        Some(expected) => (byte == *expected).then_some(byte),
        None if at == VERSION.len() => (byte == NO_SECURITY).then_some(byte),
        None => Some(SHARED),
    }
}
