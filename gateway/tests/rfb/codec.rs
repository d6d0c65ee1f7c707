//! Any stream, cut anywhere. `PROPTEST_CASES=1000000 cargo test -p camofleet-gateway --test rfb codec` fuzzes for longer.

use crate::said::{HANDSHAKE, Said, role, said};
use camofleet_gateway::rfb::{ClientFilter, RfbError, ViewerRole, message::Message};
use proptest::{collection::vec, prelude::*, sample::Index};

/// What a filter made of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Filtered {
    passed: Vec<u8>,
    input: bool,
    error: Option<RfbError>,
}

/// Filters the stream in the chunks that end at these places.
fn filter(role: ViewerRole, stream: &[u8], cuts: &[Index]) -> Filtered {
    let mut cuts = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect::<Vec<_>>();
    cuts.push(stream.len());
    cuts.sort_unstable();
    let mut filter = ClientFilter::new(role);
    let mut all = Filtered { passed: Vec::new(), input: false, error: None };
    let mut start = 0;
    for end in cuts {
        let before = all.passed.len();
        match filter.filter(&stream[start..end], &mut all.passed) {
            Ok(input) => all.input |= input,
            // What was seen in the chunk that broke the rules does not matter any more.
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

/// What a display hears before the first message.
fn greeting(role: ViewerRole) -> Vec<u8> {
    let mut heard = b"RFB 003.008\n\x01\x01".to_vec();
    if role == ViewerRole::View {
        heard.extend(b"\x02\0\0\x02\0\0\0\0\xc0\xa1\xe5\xce");
        heard.extend(b"\x06\0\0\0\xff\xff\xff\xf8\x09\0\0\x01\0\0\0\0");
    }
    heard
}

fn stream(said: &[Said]) -> Vec<u8> {
    [HANDSHAKE.to_vec(), said.iter().flat_map(Said::encode).collect()].concat()
}

/// Reads what a display would read, by a table of its own: only what a viewer who may only look may say.
fn assert_only_looking(mut heard: &[u8]) {
    while let [kind, ..] = *heard {
        let length = match (kind, heard) {
            (0, _) => 20,
            (2, [_, _, a, b, ..]) => 4 + 4 * (usize::from(*a) << 8 | usize::from(*b)),
            (3 | 150, _) => 10,
            (248, [_, _, _, _, _, _, _, _, length, ..]) => 9 + usize::from(*length),
            (2 | 248, _) => return,
            other => panic!("a viewer got through with {other:?}"),
        };
        // The stream may end in the midst of a message.
        heard = heard.get(length..).unwrap_or_default();
    }
}

proptest! {
    #[test]
    fn parses_every_encoded_message(said in said()) {
        let bytes = said.encode();
        let ends = (1..=bytes.len()).find_map(|end| Some((end, Message::parse(&bytes[..end]).unwrap()?)));
        let (end, message) = ends.unwrap();
        prop_assert_eq!(message, said.message());
        prop_assert_eq!(message.length(), bytes.len());
        // Once told, it stays the same whatever follows.
        prop_assert_eq!(Message::parse(&bytes), Ok(Some(message)));
        prop_assert!(end <= 13);
    }

    #[test]
    fn forwards_exactly_what_the_role_permits(
        role in role(),
        said in vec(said(), 0..12),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let passed = said.iter().filter_map(|it| it.passed(role)).collect::<Vec<_>>();
        let input = passed.iter().any(Said::is_input);
        let heard = [greeting(role), passed.iter().flat_map(Said::encode).collect()].concat();
        let expected = Filtered { passed: heard, input, error: None };
        prop_assert_eq!(filter(role, &stream(&said), &cuts), expected);
    }

    #[test]
    fn single_byte_chunks_give_the_same_output(role in role(), said in vec(said(), 0..4)) {
        let stream = stream(&said);
        let mut filter_of_bytes = ClientFilter::new(role);
        let mut passed = Vec::new();
        for byte in &stream {
            filter_of_bytes.filter(&[*byte], &mut passed).unwrap();
        }
        prop_assert_eq!(passed, filter(role, &stream, &[]).passed);
    }

    /// The fuzz: messages with bytes changed, put in, and cut off, and plain noise.
    #[test]
    fn a_hostile_stream_gives_the_same_output_in_any_chunks_and_no_input_of_a_viewer(
        role in role(),
        said in vec(said(), 0..6),
        noise in vec(any::<u8>(), 0..200),
        changes in vec(any::<(Index, u8, bool)>(), 0..6),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let mut hostile = [stream(&said), noise].concat();
        for (place, byte, insert) in changes {
            // The handshake is left alone, or nothing would be reached behind it.
            let place = HANDSHAKE.len() + place.index(hostile.len() - HANDSHAKE.len() + 1);
            if insert || place == hostile.len() {
                hostile.insert(place, byte);
            } else {
                hostile[place] = byte;
            }
        }
        let whole = filter(role, &hostile, &[]);
        prop_assert_eq!(&filter(role, &hostile, &cuts), &whole);
        prop_assert!(role == ViewerRole::Control || !whole.input);
        if role == ViewerRole::View {
            let heard = whole.passed.strip_prefix(&greeting(role)[..]);
            assert_only_looking(heard.unwrap());
        }
    }

    #[test]
    fn rejects_an_invalid_handshake(role in role(), noise in vec(any::<u8>(), 1..40), cuts in vec(any::<Index>(), 0..5)) {
        prop_assume!(noise[..noise.len().min(13)] != HANDSHAKE[..noise.len().min(13)]);
        let all = filter(role, &noise, &cuts);
        prop_assert_eq!(all.error, Some(RfbError::ClientHandshake));
        prop_assert!(HANDSHAKE.starts_with(&all.passed), "nothing of it passes but what was right");
    }
}

#[test]
fn limits_the_clipboard_to_256_kib() {
    let paste = |length: usize| filter(ViewerRole::Control, &stream(&[Said::CutText(vec![4; length])]), &[]);
    let largest = paste(256 << 10);
    assert_eq!((largest.error, largest.input), (None, true));
    assert_eq!(largest.passed.len(), HANDSHAKE.len() + 8 + (256 << 10));
    let error = paste((256 << 10) + 1).error.unwrap();
    assert_eq!(error.to_string(), "clipboard of 262145 bytes; at most 262144 may be sent");
}

#[test]
fn ignores_keys_inside_the_payload_of_another_message() {
    // Each payload is a KeyEvent, followed by one that is real.
    let key = Said::Key { down: true, symbol: 0x61 };
    let fence = Said::Fence { flags: 0, payload: key.encode() };
    let cut_text = Said::CutText(key.encode());
    let clipboard = Said::ExtendedClipboard { flags: 1 << 28 | 1, data: key.encode() };
    let said = [fence.clone(), cut_text, clipboard, key];
    let view = filter(ViewerRole::View, &stream(&said), &[]);
    assert_eq!(view.passed, [greeting(ViewerRole::View), fence.encode()].concat());
    assert!(!view.input);
    let control = filter(ViewerRole::Control, &stream(&said), &[]);
    assert_eq!(control.passed, [greeting(ViewerRole::Control), said.iter().flat_map(Said::encode).collect()].concat());
    assert!(control.input);
}
