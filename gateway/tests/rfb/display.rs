//! The RFB filters between RFB clients and a real display: Xvnc with the runner's flags. An X client checks which input
//! the display received.

use crate::client_message::ClientMessage;
use camofleet_gateway::rfb::{ClientFilter, ClientMode, DisplayCheck};
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use x11rb::{
    COPY_DEPTH_FROM_PARENT, COPY_FROM_PARENT,
    connection::Connection,
    protocol::{
        Event,
        xproto::{
            AtomEnum, ConnectionExt, CreateWindowAux, EventMask, KeyButMask, PropMode, SELECTION_NOTIFY_EVENT,
            SelectionNotifyEvent, WindowClass,
        },
    },
    rust_connection::RustConnection,
    wrapper::ConnectionExt as _,
};

/// Timeout of every wait in a test.
const TIMEOUT: Duration = Duration::from_secs(30);
const WIDTH: u16 = 320;
const HEIGHT: u16 = 240;

/// Display numbers of this process. Runners use lower numbers, and desktop X servers begin at 0.
static NEXT_NUMBER: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(40_000 + std::process::id() % 10_000));

struct Display {
    xvnc: Child,
    name: String,
    socket: PathBuf,
    _folder: TempDir,
}

impl Display {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vnc.sock");
        // The runner's flags, except that the test's X client has no cookie. The number is fixed, because without a
        // listening socket, Xvnc cannot detect that a number is in use.
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut xvnc = Command::new("Xvnc")
            .args([&format!(":{number}"), "-displayfd", "1"])
            .args(["-geometry", &format!("{WIDTH}x{HEIGHT}"), "-depth", "24", "-rfbport", "-1"])
            .args(["-SecurityTypes", "None", "-AlwaysShared", "-nolisten", "tcp", "-nolisten", "local"])
            .args(["-UseBlacklist=0", "-AcceptSetDesktopSize=0", "-ac", "-rfbunixpath"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvnc is installed (Debian package tigervnc-standalone-server)");
        let mut up = String::new();
        BufReader::new(xvnc.stdout.take().unwrap()).read_line(&mut up).unwrap();
        assert_eq!(up.trim(), number.to_string());
        Self { xvnc, name: format!(":{number}"), socket, _folder: folder }
    }

    fn x_client(&self) -> (RustConnection, u32) {
        let (connection, screen) = RustConnection::connect(Some(&self.name)).unwrap();
        let root = connection.setup().roots[screen].root;
        (connection, root)
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        // On SIGTERM, unlike SIGKILL, Xvnc removes its lock file and its socket.
        Command::new("kill").arg(self.xvnc.id().to_string()).status().ok();
        self.xvnc.wait().ok();
    }
}

/// An RFB client behind both filters of the gateway.
struct RfbClient {
    socket: UnixStream,
    filter: ClientFilter,
    check: DisplayCheck,
    /// Whether any of its messages counted as input.
    input: bool,
}

/// A clipboard message of the display. A negative length means the extended clipboard.
struct CutText {
    length: i32,
    data: Vec<u8>,
}

impl RfbClient {
    fn connect(socket: &Path, role: ClientMode) -> Self {
        let socket = UnixStream::connect(socket).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        let (filter, check) = (ClientFilter::new(role), DisplayCheck::default());
        let mut client = Self { socket, filter, check, input: false };
        assert_eq!(client.read(12), b"RFB 003.008\n");
        client.write(b"RFB 003.008\n");
        assert_eq!(client.read(2), [1, 1], "one security type: None");
        client.write(&[1]);
        assert_eq!(client.read(4), [0; 4], "SecurityResult: OK");
        client.write(&[0]);
        let init = client.read(24);
        assert_eq!(init[..4], [WIDTH.to_be_bytes(), HEIGHT.to_be_bytes()].concat());
        client.read(u32::from_be_bytes(init[20..].try_into().unwrap()) as usize);
        client.send(&ClientMessage::Encodings(vec![0]));
        client
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut passed = Vec::new();
        // In two chunks, as a network can deliver it.
        for half in [&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]] {
            self.input |= self.filter.filter(half, &mut passed).unwrap();
        }
        self.socket.write_all(&passed).unwrap();
    }

    fn send(&mut self, message: &ClientMessage) {
        self.write(&message.encode());
    }

    fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.socket.read_exact(&mut bytes).unwrap();
        self.check.check(&bytes).unwrap();
        bytes
    }

    fn number(&mut self) -> usize {
        u16::from_be_bytes(self.read(2).try_into().unwrap()).into()
    }

    /// Requests the whole picture and receives it. By then, the display has processed all earlier messages. Returns the
    /// number of pixels, and the clipboard messages received meanwhile.
    fn request_picture(&mut self) -> (usize, Vec<CutText>) {
        self.send(&ClientMessage::Update { incremental: false, place: [0, 0, WIDTH, HEIGHT] });
        let (mut pixels, mut texts) = (0, Vec::new());
        while pixels < usize::from(WIDTH) * usize::from(HEIGHT) {
            match self.read(1)[0] {
                0 => {
                    self.read(1);
                    for _ in 0..self.number() {
                        let [_, _, width, height] = [(); 4].map(|()| self.number());
                        assert_eq!(self.read(4), [0; 4], "Raw");
                        self.read(width * height * 4);
                        pixels += width * height;
                    }
                }
                3 => {
                    self.read(3);
                    let length = i32::from_be_bytes(self.read(4).try_into().unwrap());
                    texts.push(CutText { length, data: self.read(length.unsigned_abs() as usize) });
                }
                other => panic!("message type {other}"),
            }
        }
        (pixels, texts)
    }
}

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + TIMEOUT;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < limit, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn forwards_the_input_of_a_controller_and_drops_that_of_a_view_only_client() {
    let display = Display::start();
    let (x, root) = display.x_client();
    let pointer = || {
        let at = x.query_pointer(root).unwrap().reply().unwrap();
        (at.root_x, at.root_y, at.mask)
    };
    let keys = || x.query_keymap().unwrap().reply().unwrap().keys.map(u8::count_ones).iter().sum::<u32>();
    let before = pointer();

    let mut view_only = RfbClient::connect(&display.socket, ClientMode::View);
    let mut controller = RfbClient::connect(&display.socket, ClientMode::Control);
    view_only.request_picture();
    controller.request_picture();
    for hostile in [
        ClientMessage::Key { down: true, symbol: 0x62 },
        ClientMessage::Pointer { buttons: 1, x: 7, y: 7 },
        ClientMessage::CutText(ClientMessage::Key { down: true, symbol: 0x62 }.encode()),
        ClientMessage::ExtendedClipboard { flags: 1 << 28 | 1, data: b"no zlib".to_vec() },
        ClientMessage::ExtendedKey { down: true, symbol: 0x62, code: 0x30 },
        ClientMessage::Resize { width: 100, height: 100, screens: vec![[0; 16]] },
        ClientMessage::Xvp([1, 2]),
    ] {
        view_only.send(&hostile);
        let (pixels, _) = view_only.request_picture();
        assert_eq!(
            pixels,
            usize::from(WIDTH) * usize::from(HEIGHT),
            "the connection continues, and the display has the same size"
        );
    }
    assert!(!view_only.input);
    assert_eq!((pointer(), keys()), (before, 0));

    // After all messages of the view-only client, only the controller sends input.
    controller.send(&ClientMessage::Resize { width: 100, height: 100, screens: vec![[0; 16]] });
    controller.send(&ClientMessage::Pointer { buttons: 0, x: 100, y: 50 });
    controller.send(&ClientMessage::Key { down: true, symbol: 0x61 });
    until("the controller's pointer and key", || {
        (pointer() == (100, 50, KeyButMask::default()) && keys() == 1).then_some(())
    });
    controller.send(&ClientMessage::Key { down: false, symbol: 0x61 });
    until("the release of the key", || (keys() == 0).then_some(()));
    assert!(controller.input);
    controller.request_picture();
    view_only.request_picture();
}

/// Copies a text in the display, as a page does, and serves it to other X clients until the display ends.
fn copy_text(display: &Display, text: &'static str) {
    let (x, root) = display.x_client();
    let atom = |name: &str| x.intern_atom(false, name.as_bytes()).unwrap().reply().unwrap().atom;
    let [clipboard, targets, utf8] = ["CLIPBOARD", "TARGETS", "UTF8_STRING"].map(atom);
    let window = x.generate_id().unwrap();
    let (depth, visual) = (COPY_DEPTH_FROM_PARENT, COPY_FROM_PARENT);
    x.create_window(depth, window, root, 0, 0, 1, 1, 0, WindowClass::INPUT_OUTPUT, visual, &CreateWindowAux::default())
        .unwrap();
    x.set_selection_owner(window, clipboard, x11rb::CURRENT_TIME).unwrap();
    x.flush().unwrap();
    thread::spawn(move || {
        while let Ok(event) = x.wait_for_event() {
            let Event::SelectionRequest(request) = event else { continue };
            let (requestor, property, target) = (request.requestor, request.property, request.target);
            if target == targets {
                x.change_property32(PropMode::REPLACE, requestor, property, AtomEnum::ATOM, &[targets, utf8]).unwrap();
            } else {
                x.change_property8(PropMode::REPLACE, requestor, property, target, text.as_bytes()).unwrap();
            }
            let answer = SelectionNotifyEvent {
                response_type: SELECTION_NOTIFY_EVENT,
                sequence: 0,
                time: request.time,
                requestor,
                selection: request.selection,
                target,
                property,
            };
            x.send_event(false, requestor, EventMask::NO_EVENT, answer).unwrap();
            x.flush().unwrap();
        }
    });
}

#[test]
fn sends_the_clipboard_to_controllers_only() {
    const NOTIFY: u8 = 1 << 3;
    const PEEK_AND_PROVIDE: u8 = 1 << 2 | 1 << 4;
    const CAPS: u8 = 1;
    let display = Display::start();
    let mut view_only = RfbClient::connect(&display.socket, ClientMode::View);
    let mut controller = RfbClient::connect(&display.socket, ClientMode::Control);
    view_only.request_picture();
    controller.request_picture();
    copy_text(&display, "a password");
    until("the controller's clipboard", || {
        controller.request_picture().1.into_iter().find(|text| text.length == 10 && text.data == b"a password")
    });
    // The view-only client is notified of the text and requests it.
    let is_notification = |text: &CutText| text.length < 0 && text.data[0] == NOTIFY && text.data[3] == 1;
    let mut received = Vec::new();
    until("the notification of the view-only client", || {
        received.extend(view_only.request_picture().1);
        received.iter().any(is_notification).then_some(())
    });
    view_only.send(&ClientMessage::ExtendedClipboard { flags: 1 << 25 | 1, data: Vec::new() });
    received.extend(view_only.request_picture().1);
    received.extend(view_only.request_picture().1);
    for text in received {
        assert!(text.length < 0, "the view-only client must not receive plain text");
        assert!(
            text.data[0] & CAPS != 0 || text.data[0] & PEEK_AND_PROVIDE == 0,
            "the view-only client must not receive data of the extended clipboard: {:?}",
            text.data
        );
    }
}
