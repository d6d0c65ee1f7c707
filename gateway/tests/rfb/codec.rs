//! The client's filter on generated streams in random chunks.
//! `PROPTEST_CASES=1000000 cargo test -p camofleet-gateway --test rfb codec` fuzzes for longer.

use crate::client_message::{ClientMessage, HANDSHAKE, client_message, mode};
use camofleet_gateway::rfb::{ClientFilter, ClientMode, RfbError, message::Message};
use proptest::{collection::vec, prelude::*, sample::Index};

/// The result of filtering a stream.
#[derive(Debug, PartialEq, Eq)]
struct Filtered {
    passed: Vec<u8>,
    input: bool,
    error: Option<RfbError>,
}

/// Filters the stream in chunks that end at these offsets.
fn filter(mode: ClientMode, stream: &[u8], cuts: &[Index]) -> Filtered {
    let mut cuts = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect::<Vec<_>>();
    cuts.push(stream.len());
    cuts.sort_unstable();
    let mut filter = ClientFilter::new(mode);
    let mut all = Filtered { passed: Vec::new(), input: false, error: None };
    let mut start = 0;
    for end in cuts {
        let before = all.passed.len();
        match filter.filter(&stream[start..end], &mut all.passed) {
            Ok(input) => all.input |= input,
            // Input in the invalid chunk does not count.
            Err(error) => {
                all.error = Some(error);
                all.input = false;
                return all;
            }
        }
        assert!(all.passed.len() - before <= 2 * (end - start) + 1024, "memory is bounded");
        start = end;
    }
    all
}

/// The bytes that a display receives before the first message.
fn greeting(mode: ClientMode) -> Vec<u8> {
    let mut received = b"RFB 003.008\n\x01\x01".to_vec();
    if mode == ClientMode::View {
        received.extend(b"\x02\0\0\x02\0\0\0\0\xc0\xa1\xe5\xce");
        received.extend(b"\x06\0\0\0\xff\xff\xff\xf8\x09\0\0\x01\0\0\0\0");
    }
    received
}

fn stream(messages: &[ClientMessage]) -> Vec<u8> {
    [HANDSHAKE.to_vec(), messages.iter().flat_map(ClientMessage::encode).collect()].concat()
}

/// Parses the bytes as a display does, with a separate table of lengths, and panics on a message that a view-only
/// client is not permitted.
fn assert_no_input(mut received: &[u8]) {
    while let [kind, ..] = *received {
        let length = match (kind, received) {
            (0, _) => 20,
            (2, [_, _, a, b, ..]) => 4 + 4 * (usize::from(*a) << 8 | usize::from(*b)),
            (3 | 150, _) => 10,
            (248, [_, _, _, _, _, _, _, _, length, ..]) => 9 + usize::from(*length),
            (2 | 248, _) => return,
            other => panic!("a message of a view-only client was forwarded: {other:?}"),
        };
        // The stream can end inside a message.
        received = received.get(length..).unwrap_or_default();
    }
}

proptest! {
    #[test]
    fn parses_every_encoded_message(message in client_message()) {
        let bytes = message.encode();
        let ends = (1..=bytes.len()).find_map(|end| Some((end, Message::parse(&bytes[..end]).unwrap()?)));
        let (end, parsed) = ends.unwrap();
        prop_assert_eq!(parsed, message.parsed());
        prop_assert_eq!(parsed.length(), bytes.len());
        // More bytes do not change the result.
        prop_assert_eq!(Message::parse(&bytes), Ok(Some(parsed)));
        prop_assert!(end <= 13);
    }

    #[test]
    fn forwards_exactly_what_the_mode_permits(
        mode in mode(),
        messages in vec(client_message(), 0..12),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let passed = messages.iter().filter_map(|it| it.filtered(mode)).collect::<Vec<_>>();
        let input = passed.iter().any(ClientMessage::is_input);
        let received = [greeting(mode), passed.iter().flat_map(ClientMessage::encode).collect()].concat();
        let expected = Filtered { passed: received, input, error: None };
        prop_assert_eq!(filter(mode, &stream(&messages), &cuts), expected);
    }

    #[test]
    fn single_byte_chunks_give_the_same_output(mode in mode(), messages in vec(client_message(), 0..4)) {
        let stream = stream(&messages);
        let mut filter_of_bytes = ClientFilter::new(mode);
        let mut passed = Vec::new();
        for byte in &stream {
            filter_of_bytes.filter(&[*byte], &mut passed).unwrap();
        }
        prop_assert_eq!(passed, filter(mode, &stream, &[]).passed);
    }

    /// Fuzzes the filter: messages with changed and inserted bytes, followed by noise.
    #[test]
    fn a_hostile_stream_gives_the_same_output_in_any_chunks_and_no_input_of_a_client(
        mode in mode(),
        messages in vec(client_message(), 0..6),
        noise in vec(any::<u8>(), 0..200),
        changes in vec(any::<(Index, u8, bool)>(), 0..6),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let mut hostile = [stream(&messages), noise].concat();
        for (place, byte, insert) in changes {
            // The handshake is not changed, because the filter rejects everything after an invalid handshake.
            let place = HANDSHAKE.len() + place.index(hostile.len() - HANDSHAKE.len() + 1);
            if insert || place == hostile.len() {
                hostile.insert(place, byte);
            } else {
                hostile[place] = byte;
            }
        }
        let whole = filter(mode, &hostile, &[]);
        prop_assert_eq!(&filter(mode, &hostile, &cuts), &whole);
        prop_assert!(mode == ClientMode::Control || !whole.input);
        if mode == ClientMode::View {
            let received = whole.passed.strip_prefix(&greeting(mode)[..]);
            assert_no_input(received.unwrap());
        }
    }

    #[test]
    fn rejects_an_invalid_handshake(mode in mode(), noise in vec(any::<u8>(), 1..40), cuts in vec(any::<Index>(), 0..5)) {
        prop_assume!(noise[..noise.len().min(13)] != HANDSHAKE[..noise.len().min(13)]);
        let all = filter(mode, &noise, &cuts);
        prop_assert_eq!(all.error, Some(RfbError::ClientHandshake));
        prop_assert!(HANDSHAKE.starts_with(&all.passed), "only the valid part of the handshake is forwarded");
    }
}

#[test]
fn limits_the_clipboard_to_256_kib() {
    let paste = |length: usize| filter(ClientMode::Control, &stream(&[ClientMessage::CutText(vec![4; length])]), &[]);
    let largest = paste(256 << 10);
    assert_eq!((largest.error, largest.input), (None, true));
    assert_eq!(largest.passed.len(), HANDSHAKE.len() + 8 + (256 << 10));
    let error = paste((256 << 10) + 1).error.unwrap();
    assert_eq!(error.to_string(), "the clipboard text has 262145 bytes; the limit is 262144");
}

#[test]
fn ignores_keys_inside_the_payload_of_another_message() {
    // The payload of each message is a KeyEvent. The last message is a real KeyEvent.
    let key = ClientMessage::Key { down: true, symbol: 0x61 };
    let fence = ClientMessage::Fence { flags: 0, payload: key.encode() };
    let cut_text = ClientMessage::CutText(key.encode());
    let clipboard = ClientMessage::ExtendedClipboard { flags: 1 << 28 | 1, data: key.encode() };
    let messages = [fence.clone(), cut_text, clipboard, key];
    let view = filter(ClientMode::View, &stream(&messages), &[]);
    assert_eq!(view.passed, [greeting(ClientMode::View), fence.encode()].concat());
    assert!(!view.input);
    let control = filter(ClientMode::Control, &stream(&messages), &[]);
    assert_eq!(
        control.passed,
        [greeting(ClientMode::Control), messages.iter().flat_map(ClientMessage::encode).collect()].concat()
    );
    assert!(control.input);
}
