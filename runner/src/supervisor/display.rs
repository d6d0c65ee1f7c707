//! Starts the display of a headful browser: one Xvnc process, which listens only on Unix sockets.

use crate::{
    config::Screen,
    supervisor::{
        lines::Lines,
        process::{Process, StackMarker},
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

/// Name of the X authority file in the stack's directory.
pub(crate) const XAUTHORITY: &str = "Xauthority";
/// Name of the RFB socket in the stack's directory.
pub(crate) const VNC_SOCKET: &str = "vnc.sock";

/// Exclusive upper bound of display numbers: far more than there are displays, and 6000 plus the number is a valid
/// port.
const DISPLAY_NUMBERS: u16 = 30_000;
/// Limit of the line with the display's number, with room for an error message.
const MAX_LINE_BYTES: usize = 256;

/// A display number that is reserved on this machine until it is dropped.
///
/// Xvnc cannot choose the number itself: with `-displayfd` it takes no lock file, and detects used numbers only by
/// the sockets that are disabled here, so every server would choose 0 and replace the socket of the previous one.
pub(crate) struct DisplayNumber(u16);

impl DisplayNumber {
    /// Claims a number by creating its lock file, as X servers do (Xserver(1)). The search starts at a random number,
    /// so that runners on one machine do not contend for the same ones.
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
        free.unwrap_or_else(|| Err(io::Error::other("all display numbers are in use")))
    }
}

impl Drop for DisplayNumber {
    fn drop(&mut self) {
        // A killed server leaves its socket behind.
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

/// Starts Xvnc for the stack with this directory.
pub(crate) fn start(marker: &StackMarker, dir: &Path, screen: Screen) -> Result<(Process, DisplayNumber), String> {
    let authority = dir.join(XAUTHORITY);
    write_authority(&authority).map_err(|error| format!("cannot write {}: {error}", authority.display()))?;
    let number = DisplayNumber::claim().map_err(|error| format!("cannot reserve a display number: {error}"))?;
    let mut command = marker.command("Xvnc".as_ref(), dir);
    command
        .arg(number.to_string())
        // Xvnc writes its number to standard output once it accepts clients.
        .args(["-displayfd", "1"])
        .args(["-geometry", &format!("{}x{}", screen.width, screen.height), "-depth", "24"])
        // RFB only on its Unix socket, X11 only on its socket file: no TCP, and no abstract socket, which has no file
        // mode.
        .args(["-rfbport", "-1", "-SecurityTypes", "None", "-AlwaysShared", "-nolisten", "tcp", "-nolisten", "local"])
        // Xvnc blacklists by address, and all clients share the socket's: a few incomplete handshakes would lock out
        // every client.
        .arg("-UseBlacklist=0")
        // A client's SetDesktopSize message crashes this server unless the server rejects it.
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

/// Waits until Xvnc accepts X clients.
pub(crate) async fn wait_until_ready(xvnc: &mut Process, number: &DisplayNumber) -> Result<(), String> {
    let Some(line) = Lines::new(xvnc.take_stdout(), MAX_LINE_BYTES).next().await else {
        return Err(xvnc.wait().await);
    };
    if line.trim().parse() == Ok(number.0) {
        Ok(())
    } else {
        Err(format!("the display (Xvnc) was started as {number} but reported {line:?}"))
    }
}

/// Writes an Xauthority file with a new cookie for all displays of this host. Format (Xau(3)): the family, then
/// address, display number, name and data, each preceded by its length, in network byte order.
fn write_authority(path: &Path) -> io::Result<()> {
    const FAMILY_LOCAL: u16 = 256;
    let cookie = *uuid::Uuid::new_v4().as_bytes();
    let host = gethostname()?;
    let mut entry = FAMILY_LOCAL.to_be_bytes().to_vec();
    // An empty number matches every display.
    for part in [host.as_encoded_bytes(), b"", b"MIT-MAGIC-COOKIE-1", &cookie] {
        entry.extend(u16::try_from(part.len()).map_err(io::Error::other)?.to_be_bytes());
        entry.extend(part);
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(&entry)
}
