//! The display of a headful browser: one Xvnc, which listens on nothing but the session's own socket.

use crate::{
    config::Screen,
    supervisor::{
        lines::Lines,
        process::{Mark, Process},
    },
};
use nix::unistd::gethostname;
use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::Stdio,
};

/// The file that lets X clients in, in the session's directory.
pub(crate) const XAUTHORITY: &str = "Xauthority";
/// The socket that speaks RFB, in the session's directory.
pub(crate) const VNC_SOCKET: &str = "vnc.sock";

/// Numbers are taken below this: many more than there are displays, and 6000 and the number is still a port.
const DISPLAY_NUMBERS: u16 = 30_000;
/// The line with the display's number in bytes, and room for words that would say what is wrong.
const MAX_LINE_BYTES: usize = 256;

/// A display number that nobody else on this machine uses, until it is dropped.
///
/// Xvnc is not left to choose one: with `-displayfd` it takes no lock, and tells a number that is taken only by sockets that
/// are switched off here, so that every server would take 0 and the socket of the one before.
pub(crate) struct DisplayNumber(u16);

impl DisplayNumber {
    /// Claims one by its lock file, as X servers do (Xserver(1)). Counted from anywhere, so that runners of one machine do
    /// not all ask for the same.
    fn claim() -> io::Result<Self> {
        let [high, low, ..] = *uuid::Uuid::new_v4().as_bytes();
        let from = u16::from_be_bytes([high, low]) % DISPLAY_NUMBERS;
        let free =
            (0..DISPLAY_NUMBERS).map(|step| (from + step) % DISPLAY_NUMBERS).find_map(
                |number| match OpenOptions::new().write(true).create_new(true).open(lock_path(number)) {
                    Ok(mut lock) => Some(writeln!(lock, "{:>10}", std::process::id()).map(|()| Self(number))),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                    Err(error) => Some(Err(error)),
                },
            );
        free.unwrap_or_else(|| Err(io::Error::other("all numbers are taken")))
    }
}

impl Drop for DisplayNumber {
    fn drop(&mut self) {
        // A server that was killed leaves its socket.
        fs::remove_file(format!("/tmp/.X11-unix/X{}", self.0)).ok();
        fs::remove_file(lock_path(self.0)).ok();
    }
}

impl fmt::Display for DisplayNumber {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, ":{}", self.0)
    }
}

fn lock_path(number: u16) -> String {
    format!("/tmp/.X{number}-lock")
}

/// Starts Xvnc for the session that has this directory.
pub(crate) fn start(mark: &Mark, dir: &Path, screen: Screen) -> Result<(Process, DisplayNumber), String> {
    let authority = dir.join(XAUTHORITY);
    write_authority(&authority).map_err(|error| format!("cannot write {}: {error}", authority.display()))?;
    let number = DisplayNumber::claim().map_err(|error| format!("there is no number for a display: {error}"))?;
    let mut command = mark.command("Xvnc".as_ref(), dir);
    command
        .arg(number.to_string())
        // It tells its number once it is up.
        .args(["-displayfd", "1"])
        .args(["-geometry", &format!("{}x{}", screen.width, screen.height), "-depth", "24"])
        // RFB on the socket only. X11 on its socket file only: no TCP, and no abstract socket, which has no file mode.
        .args(["-rfbport", "-1", "-SecurityTypes", "None", "-AlwaysShared", "-nolisten", "tcp", "-nolisten", "local"])
        // All viewers come from one address, that of the socket: half a dozen who have not shaken hands yet would shut out all.
        .arg("-UseBlacklist=0")
        // A SetDesktopSize message of a viewer crashes this server unless it is refused.
        .arg("-AcceptSetDesktopSize=0")
        .arg("-rfbunixpath")
        .arg(dir.join(VNC_SOCKET))
        .arg("-auth")
        .arg(&authority)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok((Process::spawn("the display (Xvnc)", command)?, number))
}

/// Waits until X clients can connect.
pub(crate) async fn wait_until_ready(xvnc: &mut Process, number: &DisplayNumber) -> Result<(), String> {
    let Some(line) = Lines::new(xvnc.take_stdout(), MAX_LINE_BYTES).next().await else {
        return Err(xvnc.wait().await);
    };
    if line.trim().parse() == Ok(number.0) {
        Ok(())
    } else {
        Err(format!("the display (Xvnc) was told to be {number}, and said {line:?}"))
    }
}

/// Writes an Xauthority file with one fresh cookie for every display of this host. Its format (Xau(3)): family, then
/// address, display number, name and data, each of them behind its length, all in network order.
fn write_authority(path: &Path) -> io::Result<()> {
    const FAMILY_LOCAL: u16 = 256;
    let cookie = *uuid::Uuid::new_v4().as_bytes();
    let host = gethostname()?;
    let mut entry = FAMILY_LOCAL.to_be_bytes().to_vec();
    // An empty number stands for all.
    for part in [host.as_encoded_bytes(), b"", b"MIT-MAGIC-COOKIE-1", &cookie] {
        entry.extend(u16::try_from(part.len()).map_err(io::Error::other)?.to_be_bytes());
        entry.extend(part);
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(&entry)
}
