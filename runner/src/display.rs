//! The display of a headful browser: one Xvnc, which listens on nothing but the session's own socket.

use crate::{
    config::Screen,
    lines::Lines,
    process::{Mark, Process},
};
use nix::unistd::gethostname;
use std::{
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

/// The line with the display's number in bytes, and room for words that would say what is wrong.
const LONGEST_NUMBER: usize = 256;

/// Starts Xvnc for the session that has this directory.
pub(crate) fn start(mark: &Mark, dir: &Path, screen: Screen) -> Result<Process, String> {
    let authority = dir.join(XAUTHORITY);
    write_authority(&authority).map_err(|error| format!("cannot write {}: {error}", authority.display()))?;
    let mut command = mark.command("Xvnc".as_ref(), dir);
    command
        // The server looks for a free number by itself, and tells it once it is up.
        .args(["-displayfd", "1"])
        .args(["-geometry", &format!("{}x{}", screen.width, screen.height), "-depth", "24"])
        // RFB on the socket only. X11 on its socket file only: no TCP, and no abstract socket, which has no file mode.
        .args(["-rfbport", "-1", "-SecurityTypes", "None", "-AlwaysShared", "-nolisten", "tcp", "-nolisten", "local"])
        // A SetDesktopSize message of a viewer crashes this server unless it is refused.
        .arg("-AcceptSetDesktopSize=0")
        .arg("-rfbunixpath")
        .arg(dir.join(VNC_SOCKET))
        .arg("-auth")
        .arg(&authority)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Process::spawn("the display (Xvnc)", command)
}

/// The display's name (`:1`), once X clients can connect.
pub(crate) async fn name(xvnc: &mut Process) -> Result<String, String> {
    let Some(line) = Lines::new(xvnc.take_stdout(), LONGEST_NUMBER).next().await else {
        return Err(xvnc.ended().await);
    };
    match line.trim().parse::<u16>() {
        Ok(number) => Ok(format!(":{number}")),
        Err(_) => Err(format!("the display (Xvnc) gave no number but {line:?}")),
    }
}

/// Removes what an Xvnc that was killed left in /tmp. Its process id stands in its lock file; whoever took over the number
/// since has written another.
pub(crate) fn remove_remains(pid: u32) {
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(".X")?.strip_suffix("-lock"));
        let owner = || fs::read_to_string(entry.path()).ok()?.trim().parse::<u32>().ok();
        if let Some(number) = number
            && owner() == Some(pid)
        {
            fs::remove_file(format!("/tmp/.X11-unix/X{number}")).ok();
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Writes an Xauthority file with one fresh cookie for every display of this host. Its format (Xau(3)): family, then
/// address, display number, name and data, each of them behind its length, all in network order.
fn write_authority(path: &Path) -> io::Result<()> {
    const FAMILY_LOCAL: u16 = 256;
    let cookie = *uuid::Uuid::new_v4().as_bytes();
    let host = gethostname()?;
    let mut entry = FAMILY_LOCAL.to_be_bytes().to_vec();
    // An empty number stands for all: Xvnc has not chosen one yet.
    for part in [host.as_encoded_bytes(), b"", b"MIT-MAGIC-COOKIE-1", &cookie] {
        entry.extend(u16::try_from(part.len()).map_err(io::Error::other)?.to_be_bytes());
        entry.extend(part);
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(&entry)
}
