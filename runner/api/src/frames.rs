//! Finds WebSocket frame boundaries (RFC 6455 section 5.2) in a byte stream, for relays that forward the bytes
//! unchanged.
//!
//! The scanner reads only frame headers and the status code of Close frames. It skips payloads of any size and
//! buffers at most one partial header. Extensions (RSV bits) and masking are left to the two endpoints.

/// Largest payload of a data frame, in bytes: the largest message that Playwright accepts.
pub const MAX_PAYLOAD: u64 = 256 << 20;

/// Two bytes, an extended length of eight and a masking key of four.
const MAX_HEADER: usize = 14;
/// Largest payload of a control frame (section 5.5), in bytes.
const MAX_CONTROL_PAYLOAD: u64 = 125;
/// Status code of a Close frame without one (section 7.1.5).
const NO_STATUS_RECEIVED: u16 = 1005;

/// Tracks the frames of one direction of a WebSocket, starting after the opening handshake.
#[derive(Clone, Debug, Default)]
pub struct FrameScanner {
    header: [u8; MAX_HEADER],
    /// Bytes of `header` received.
    header_len: usize,
    /// The frame whose payload is being skipped; present once its header is complete.
    frame: Option<Frame>,
}

/// Findings in one chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Whether the chunk contains bytes of a data frame (opcode 0, 1 or 2).
    pub data: bool,
    /// Status code of a Close frame that ends in the chunk; 1005 for a Close frame without a code.
    pub close: Option<u16>,
    /// Offset of that Close frame, if it also begins in the chunk.
    pub close_start: Option<usize>,
    /// Offset just after the last frame that ends in the chunk. A relay can insert a frame there.
    pub boundary: Option<usize>,
}

/// The stream violates the protocol or a limit. The scanner has lost track of it, so the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// An opcode that RFC 6455 reserves.
    #[error("reserved WebSocket opcode {0:#x}")]
    ReservedOpcode(u8),
    /// A fragmented control frame (Close, Ping or Pong), which section 5.5 forbids.
    #[error("fragmented WebSocket control frame")]
    FragmentedControl,
    /// A control frame longer than 125 bytes, or a Close frame with a payload of one byte.
    #[error("WebSocket control frame with a payload of {0} bytes")]
    ControlLength(u64),
    /// A data frame longer than [`MAX_PAYLOAD`].
    #[error("WebSocket frame of {0} bytes; the limit is {MAX_PAYLOAD}")]
    TooLong(u64),
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    mask: [u8; 4],
    length: u64,
    /// Bytes of the payload not yet received.
    remaining: u64,
    /// The first two bytes of a Close frame, unmasked.
    code: [u8; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Data,
    Close,
    PingOrPong,
}

impl Opcode {
    fn parse(first_byte: u8) -> Result<Self, FrameError> {
        match first_byte & 0x0f {
            0..=2 => Ok(Self::Data),
            8 => Ok(Self::Close),
            9 | 10 => Ok(Self::PingOrPong),
            reserved => Err(FrameError::ReservedOpcode(reserved)),
        }
    }
}

impl FrameScanner {
    /// Scans the next bytes of the stream. Chunks can begin and end anywhere in a frame.
    ///
    /// # Errors
    /// When the bytes are not valid frames. The scanner must not be used after an error.
    pub fn scan(&mut self, chunk: &[u8]) -> Result<Scan, FrameError> {
        let mut scan = Scan::default();
        let mut at = 0;
        let mut frame_start = None;
        while at < chunk.len() {
            if self.at_boundary() {
                frame_start = Some(at);
            }
            match &mut self.frame {
                None => {
                    let taken = self.expected_header_len().saturating_sub(self.header_len).min(chunk.len() - at);
                    self.header[self.header_len..self.header_len + taken].copy_from_slice(&chunk[at..at + taken]);
                    self.header_len += taken;
                    at += taken;
                    scan.data |= Opcode::parse(self.header[0])? == Opcode::Data;
                    if self.header_len == self.expected_header_len() {
                        self.frame = Some(Frame::parse(&self.header[..self.header_len])?);
                    }
                }
                Some(frame) => {
                    let taken = usize::try_from(frame.remaining).unwrap_or(usize::MAX).min(chunk.len() - at);
                    frame.skip(&chunk[at..at + taken]);
                    at += taken;
                    scan.data |= frame.opcode == Opcode::Data;
                }
            }
            if let Some(frame) = self.frame.filter(|frame| frame.remaining == 0) {
                if let (None, Some(code)) = (scan.close, frame.close_code()) {
                    (scan.close, scan.close_start) = (Some(code), frame_start);
                }
                scan.boundary = Some(at);
                *self = Self::default();
            }
        }
        Ok(scan)
    }

    /// Whether the bytes so far end with a complete frame, so that a relay can insert one.
    pub fn at_boundary(&self) -> bool {
        self.header_len == 0
    }

    /// Length of the header, as far as the bytes received determine it.
    fn expected_header_len(&self) -> usize {
        if self.header_len < 2 {
            return 2;
        }
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }
}

impl Frame {
    /// Parses a complete header.
    fn parse(header: &[u8]) -> Result<Self, FrameError> {
        let opcode = Opcode::parse(header[0])?;
        let (head, mask) = match header.split_last_chunk() {
            Some((head, mask)) if header[1] & 0x80 != 0 => (head, *mask),
            _ => (header, [0; 4]),
        };
        let length = match head.len() {
            2 => u64::from(head[1] & 0x7f),
            _ => head[2..].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        match opcode {
            Opcode::Data if length > MAX_PAYLOAD => Err(FrameError::TooLong(length)),
            Opcode::Data => Ok(()),
            _ if header[0] & 0x80 == 0 => Err(FrameError::FragmentedControl),
            _ if length > MAX_CONTROL_PAYLOAD => Err(FrameError::ControlLength(length)),
            Opcode::Close if length == 1 => Err(FrameError::ControlLength(length)),
            _ => Ok(()),
        }?;
        Ok(Self { opcode, mask, length, remaining: length, code: [0; 2] })
    }

    fn skip(&mut self, bytes: &[u8]) {
        if self.opcode == Opcode::Close {
            // A control frame has at most 125 bytes, so the conversion is exact.
            let start = usize::try_from(self.length - self.remaining).unwrap_or(usize::MAX);
            for (at, byte) in (start..self.code.len()).zip(bytes) {
                self.code[at] = byte ^ self.mask[at];
            }
        }
        self.remaining -= bytes.len() as u64;
    }

    fn close_code(&self) -> Option<u16> {
        let code = if self.length == 0 { NO_STATUS_RECEIVED } else { u16::from_be_bytes(self.code) };
        (self.opcode == Opcode::Close).then_some(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Encodes a frame (RFC 6455 section 5.2).
    fn frame(fin: bool, opcode: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let masked = if mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![u8::from(fin) << 7 | opcode];
        match payload.len() {
            short @ 0..=125 => bytes.push(masked | u8::try_from(short).unwrap()),
            medium @ 126..=0xffff => {
                bytes.push(masked | 0x7e);
                bytes.extend(u16::try_from(medium).unwrap().to_be_bytes());
            }
            long => {
                bytes.push(masked | 127);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        let key = mask.unwrap_or_default();
        bytes.extend(mask.into_iter().flatten());
        bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]));
        bytes
    }

    /// Merges the findings of all chunks except `close_start`, with the boundary as an offset in the stream, and returns
    /// whether the stream ends at one.
    fn scan_all<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<(Scan, bool), FrameError> {
        let (mut scanner, mut whole, mut passed) = (FrameScanner::default(), Scan::default(), 0);
        for chunk in chunks {
            let scan = scanner.scan(chunk)?;
            whole.data |= scan.data;
            whole.close = whole.close.or(scan.close);
            whole.boundary = scan.boundary.map(|at| passed + at).or(whole.boundary);
            passed += chunk.len();
        }
        Ok((whole, scanner.at_boundary()))
    }

    fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }

    fn any_frame() -> impl Strategy<Value = (u8, Vec<u8>, Vec<u8>)> {
        let mask = prop::option::of(any::<[u8; 4]>());
        let length = prop_oneof![4 => 0_usize..200, 2 => 120_usize..130, 1 => 65_530_usize..65_540];
        let data = (0_u8..3, any::<bool>(), length).prop_map(|(opcode, fin, length)| (opcode, fin, vec![0x88; length]));
        let ping = (9_u8..11, 0_usize..126).prop_map(|(opcode, length)| (opcode, true, vec![0x88; length]));
        let close =
            prop_oneof![Just(vec![]), prop::collection::vec(any::<u8>(), 2..126)].prop_map(|body| (8, true, body));
        (prop_oneof![4 => data, 2 => ping, 1 => close], mask)
            .prop_map(|((opcode, fin, payload), mask)| (opcode, payload.clone(), frame(fin, opcode, mask, &payload)))
    }

    proptest! {
        #[test]
        fn scans_frames_regardless_of_chunk_boundaries(
            frames in prop::collection::vec(any_frame(), 0..6),
            tail in any_frame(),
            kept in any::<prop::sample::Index>(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let whole: Vec<u8> = frames.iter().flat_map(|(_, _, bytes)| bytes.clone()).collect();
            let part = &tail.2[..kept.index(tail.2.len())];
            let stream = [whole.as_slice(), part].concat();
            let code = |payload: &[u8]| payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
            let expected = Scan {
                data: frames.iter().any(|(opcode, ..)| *opcode < 3) || (tail.0 < 3 && !part.is_empty()),
                close: frames.iter().find(|(opcode, ..)| *opcode == 8).map(|(_, payload, _)| code(payload)),
                close_start: None,
                boundary: (!frames.is_empty()).then_some(whole.len()),
            };
            prop_assert_eq!(scan_all(cut(&stream, &cuts)), Ok((expected, part.is_empty())));
            prop_assert_eq!(scan_all(stream.chunks(1)), Ok((expected, part.is_empty())));
        }

        #[test]
        fn rejects_invalid_frames_regardless_of_chunk_boundaries(
            bad in prop::sample::select(vec![
                (vec![0x83, 0], FrameError::ReservedOpcode(3)),
                (vec![0x8b, 0], FrameError::ReservedOpcode(11)),
                (vec![0x09, 0], FrameError::FragmentedControl),
                (vec![0x89, 126, 0, 126], FrameError::ControlLength(126)),
                (vec![0x88, 1, 3], FrameError::ControlLength(1)),
                (vec![0x82, 127, 0, 0, 0, 0, 0x10, 0, 0, 1], FrameError::TooLong(MAX_PAYLOAD + 1)),
                (vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], FrameError::TooLong(1 << 63)),
            ]),
            good in prop::collection::vec(any_frame(), 0..3),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut stream: Vec<u8> = good.into_iter().flat_map(|(_, _, bytes)| bytes).collect();
            stream.extend(bad.0);
            prop_assert_eq!(scan_all(cut(&stream, &cuts)), Err(bad.1));
        }

        #[test]
        fn never_panics(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let _ = scan_all(chunks.iter().map(Vec::as_slice));
        }
    }

    #[test]
    fn accepts_a_frame_of_the_maximum_size() {
        let mut scanner = FrameScanner::default();
        let header = [0x82, 127, 0, 0, 0, 0, 0x10, 0, 0, 0];
        assert_eq!(scanner.scan(&header), Ok(Scan { data: true, ..Scan::default() }));
        assert!(!scanner.at_boundary());
    }

    #[test]
    fn finds_the_start_of_a_close_frame_unless_it_is_in_an_earlier_chunk() {
        let (text, close) = (frame(true, 1, None, b"last"), frame(true, 8, None, &1001_u16.to_be_bytes()));
        let stream = [&text[..], &close].concat();
        let scan = FrameScanner::default().scan(&stream).unwrap();
        assert_eq!((scan.close, scan.close_start), (Some(1001), Some(text.len())));
        let mut scanner = FrameScanner::default();
        scanner.scan(&stream[..=text.len()]).unwrap();
        let scan = scanner.scan(&stream[text.len() + 1..]).unwrap();
        assert_eq!((scan.close, scan.close_start), (Some(1001), None));
    }

    #[test]
    fn ignores_frame_headers_inside_a_payload() {
        let bytes = frame(true, 2, Some([1, 2, 3, 4]), &frame(true, 8, None, &1000_u16.to_be_bytes()));
        assert_eq!(scan_all([bytes.as_slice()]).unwrap().0.close, None);
    }
}
