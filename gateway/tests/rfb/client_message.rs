//! The messages of a client, encoded from the specifications, independently of the gateway's code.

use camofleet_gateway::rfb::{ClientMode, message::Message};
use proptest::{collection::vec, prelude::*};
use std::ops::RangeInclusive;

/// Version, security type None, and a `ClientInit` without the shared flag, which would disconnect other clients.
pub const HANDSHAKE: &[u8] = b"RFB 003.008\n\x01\0";
pub const EXTENDED_CLIPBOARD: i32 = 0xc0a1_e5ce_u32.cast_signed();

/// Encodings that add no messages of the client, or only messages that the filter can parse, from the registry of the
/// RFB protocol (github.com/rfbproto/rfbproto).
const HARMLESS: &[RangeInclusive<i32>] = &[
    0..=2,                     // Raw, CopyRect, RRE
    4..=7,                     // CoRRE, Hextile, zlib, Tight
    16..=16,                   // ZRLE
    21..=21,                   // JPEG
    50..=50,                   // Open H.264
    -260..=-260,               // TightPNG
    -32..=-23,                 // JPEG quality
    -512..=-412,               // JPEG quality in fine steps
    -768..=-763,               // JPEG chroma subsampling
    -256..=-247,               // compression
    -224..=-223,               // LastRect, DesktopSize
    -240..=-239,               // XCursor, Cursor
    -314..=-314,               // cursor with alpha
    -261..=-261,               // LED state
    -307..=-307,               // DesktopName
    -258..=-258,               // QEMU extended key events
    -313..=-312,               // continuous updates, fence
    0x574d_5664..=0x574d_5664, // VMware cursor
    0x574d_5666..=0x574d_5666, // VMware cursor position
    0x574d_5668..=0x574d_5668, // VMware LED state
    EXTENDED_CLIPBOARD..=EXTENDED_CLIPBOARD,
];

/// A message. Fields whose values do not matter are raw bytes.
#[derive(Clone, Debug)]
pub enum ClientMessage {
    PixelFormat([u8; 16]),
    Encodings(Vec<i32>),
    Update { incremental: bool, place: [u16; 4] },
    Key { down: bool, symbol: u32 },
    Pointer { buttons: u8, x: u16, y: u16 },
    CutText(Vec<u8>),
    ExtendedClipboard { flags: u32, data: Vec<u8> },
    ContinuousUpdates([u8; 9]),
    Fence { flags: u32, payload: Vec<u8> },
    Xvp([u8; 2]),
    Resize { width: u16, height: u16, screens: Vec<[u8; 16]> },
    ExtendedKey { down: bool, symbol: u32, code: u32 },
}

impl ClientMessage {
    pub fn encode(&self) -> Vec<u8> {
        let be = |number: usize| u32::try_from(number).unwrap().to_be_bytes();
        match self {
            Self::PixelFormat(format) => [&[0, 0, 0, 0], &format[..]].concat(),
            Self::Encodings(list) => {
                let count = u16::try_from(list.len()).unwrap().to_be_bytes();
                let list = list.iter().flat_map(|it| it.to_be_bytes()).collect::<Vec<_>>();
                [&[2, 0], &count[..], &list].concat()
            }
            Self::Update { incremental, place } => {
                let place = place.map(u16::to_be_bytes).concat();
                [&[3, u8::from(*incremental)], &place[..]].concat()
            }
            Self::Key { down, symbol } => [&[4, u8::from(*down), 0, 0], &symbol.to_be_bytes()[..]].concat(),
            Self::Pointer { buttons, x, y } => [&[5, *buttons], &x.to_be_bytes()[..], &y.to_be_bytes()].concat(),
            Self::CutText(text) => [&[6, 0, 0, 0], &be(text.len())[..], text].concat(),
            Self::ExtendedClipboard { flags, data } => {
                let length = -i32::try_from(4 + data.len()).unwrap();
                [&[6, 0, 0, 0], &length.to_be_bytes()[..], &flags.to_be_bytes(), data].concat()
            }
            Self::ContinuousUpdates(rest) => [&[150], &rest[..]].concat(),
            Self::Fence { flags, payload } => {
                let length = u8::try_from(payload.len()).unwrap();
                [&[248, 0, 0, 0], &flags.to_be_bytes()[..], &[length], payload].concat()
            }
            Self::Xvp([version, code]) => vec![250, 0, *version, *code],
            Self::Resize { width, height, screens } => {
                let count = u8::try_from(screens.len()).unwrap();
                let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
                [&[251, 0], &size[..], &[count, 0], &screens.concat()].concat()
            }
            Self::ExtendedKey { down, symbol, code } => {
                [&[255, 0, 0, u8::from(*down)], &symbol.to_be_bytes()[..], &code.to_be_bytes()].concat()
            }
        }
    }

    /// The gateway's expected representation of the message.
    pub fn parsed(&self) -> Message {
        let long = |length: usize| u32::try_from(length).unwrap();
        match self {
            Self::PixelFormat(_) => Message::SetPixelFormat,
            Self::Encodings(list) => Message::SetEncodings { count: u16::try_from(list.len()).unwrap() },
            Self::Update { .. } => Message::FramebufferUpdateRequest,
            Self::Key { .. } => Message::KeyEvent,
            Self::Pointer { .. } => Message::PointerEvent,
            Self::CutText(text) => Message::ClientCutText { length: long(text.len()) },
            Self::ExtendedClipboard { flags, data } => {
                Message::ExtendedClipboard { length: 4 + long(data.len()), actions: flags.to_be_bytes()[0] }
            }
            Self::ContinuousUpdates(_) => Message::EnableContinuousUpdates,
            Self::Fence { payload, .. } => Message::ClientFence { length: u8::try_from(payload.len()).unwrap() },
            Self::Xvp(_) => Message::Xvp,
            Self::Resize { screens, .. } => Message::SetDesktopSize { screens: u8::try_from(screens.len()).unwrap() },
            Self::ExtendedKey { .. } => Message::ExtendedKeyEvent,
        }
    }

    /// The message that the filter must forward. None when it must drop the message.
    pub fn filtered(&self, mode: ClientMode) -> Option<Self> {
        match self {
            Self::Encodings(list) => {
                let mut list = list
                    .iter()
                    .copied()
                    .filter(|it| HARMLESS.iter().any(|range| range.contains(it)))
                    .collect::<Vec<_>>();
                if mode == ClientMode::View && !list.contains(&EXTENDED_CLIPBOARD) {
                    list.push(EXTENDED_CLIPBOARD);
                }
                Some(Self::Encodings(list))
            }
            Self::PixelFormat(_) | Self::Update { .. } | Self::ContinuousUpdates(_) | Self::Fence { .. } => {
                Some(self.clone())
            }
            Self::Xvp(_) | Self::Resize { .. } => None,
            _ => (mode == ClientMode::Control).then(|| self.clone()),
        }
    }

    /// Whether a person caused the message.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Key { .. } | Self::Pointer { .. } | Self::CutText(_) | Self::ExtendedKey { .. } => true,
            // Bit 24 is for capabilities, 27 for notify, 28 for provide.
            Self::ExtendedClipboard { flags, .. } => flags & (1 << 24) == 0 && flags & (3 << 27) != 0,
            _ => false,
        }
    }
}

pub fn mode() -> impl Strategy<Value = ClientMode> {
    prop_oneof![Just(ClientMode::View), Just(ClientMode::Control)]
}

pub fn client_message() -> impl Strategy<Value = ClientMessage> {
    let encoding = prop_oneof![any::<i32>(), -600..60, Just(EXTENDED_CLIPBOARD), Just(0x574d_5664)];
    prop_oneof![
        any::<[u8; 16]>().prop_map(ClientMessage::PixelFormat),
        vec(encoding, 0..=128).prop_map(ClientMessage::Encodings),
        any::<(bool, [u16; 4])>().prop_map(|(incremental, place)| ClientMessage::Update { incremental, place }),
        any::<(bool, u32)>().prop_map(|(down, symbol)| ClientMessage::Key { down, symbol }),
        any::<(u8, u16, u16)>().prop_map(|(buttons, x, y)| ClientMessage::Pointer { buttons, x, y }),
        vec(any::<u8>(), 0..300).prop_map(ClientMessage::CutText),
        (any::<u32>(), vec(any::<u8>(), 0..300))
            .prop_map(|(flags, data)| ClientMessage::ExtendedClipboard { flags, data }),
        any::<[u8; 9]>().prop_map(ClientMessage::ContinuousUpdates),
        (any::<u32>(), vec(any::<u8>(), 0..=64)).prop_map(|(flags, payload)| ClientMessage::Fence { flags, payload }),
        any::<[u8; 2]>().prop_map(ClientMessage::Xvp),
        (any::<(u16, u16)>(), vec(any::<[u8; 16]>(), 0..=255))
            .prop_map(|((width, height), screens)| ClientMessage::Resize { width, height, screens }),
        any::<(bool, u32, u32)>().prop_map(|(down, symbol, code)| ClientMessage::ExtendedKey { down, symbol, code }),
    ]
}
