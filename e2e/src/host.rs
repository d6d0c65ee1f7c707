//! The processes of pods, as the machine sees them on which the node runs.

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A process of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id on the host.
    pub pid: i32,
    /// Its command line.
    pub command: Vec<String>,
}

/// The processes of the pod with this UID.
pub fn processes_of(pod_uid: &str) -> Vec<Process> {
    pod_processes().filter(|(uid, _)| uid == pod_uid).map(|(_, process)| process).collect()
}

/// The processes of all pods of the cluster, each with the UID of its pod.
pub fn pod_processes() -> impl Iterator<Item = (String, Process)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| Some((pod_of(pid)?, Process { pid, command: command_of(pid)? })))
}

/// The UID of the pod that a process belongs to. The kubelet (driver `cgroupfs`) names a pod's cgroup `pod<uid>`, under
/// both cgroup versions.
fn pod_of(pid: i32) -> Option<String> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find(|path| path.contains("kubepods"))?;
    path.split('/').find_map(|part| part.strip_prefix("pod")).map(str::to_owned)
}

/// None of a zombie: what is dead and not yet reaped is no process any more.
fn command_of(pid: i32) -> Option<Vec<String>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|line| !line.is_empty())?;
    let words = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
    Some(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

impl Process {
    /// Whether its program is called so.
    pub fn runs(&self, program: &str) -> bool {
        self.command.first().is_some_and(|path| Path::new(path).file_name().is_some_and(|name| name == program))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone, or may not be signalled.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid), signal).with_context(|| format!("cannot send {signal} to {:?}", self.command))
    }

    /// Whether it is still there.
    pub fn is_alive(&self) -> bool {
        command_of(self.pid).as_ref() == Some(&self.command)
    }

    /// A path as this process sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// The TCP ports on which something listens that is not on loopback, in the network namespace of this process.
    pub fn listening_ports(&self) -> Result<Vec<u16>> {
        const LISTEN: &str = "0A";
        let mut ports = Vec::new();
        for table in ["tcp", "tcp6"] {
            let text = fs::read_to_string(format!("/proc/{}/net/{table}", self.pid))?;
            for line in text.lines().skip(1) {
                let fields: Vec<_> = line.split_whitespace().collect();
                let [_, local, _, state, ..] = fields[..] else { bail!("{table} has an odd line: {line}") };
                let (address, port) = local.split_once(':').context("an address without a port")?;
                // 127.0.0.0/8 and ::1 in the kernel's notation: hexadecimal, in host order by 4 bytes.
                let loopback =
                    address.len() == 8 && address.ends_with("7F") || address == "00000000000000000000000001000000";
                if state == LISTEN && !loopback {
                    ports.push(u16::from_str_radix(port, 16)?);
                }
            }
        }
        ports.sort_unstable();
        ports.dedup();
        Ok(ports)
    }
}

/// The one process that `is_it`.
///
/// # Errors
/// When there are none or several.
pub fn find_process(pod_uid: &str, what: &str, is_it: impl Fn(&Process) -> bool) -> Result<Process> {
    let all = processes_of(pod_uid);
    let mut found: Vec<_> = all.iter().filter(|process| is_it(process)).cloned().collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        count => bail!("{count} processes in pod {pod_uid} are {what}, of {all:#?}"),
    }
}

/// The browser's own process: the one that is no helper of a browser.
pub fn is_browser(process: &Process) -> bool {
    process.runs("firefox-esr") && !is_browser_child(process)
}

/// A browser's process for pages, sockets and the like. They come and go, and write their whole command line as one word.
pub fn is_browser_child(process: &Process) -> bool {
    process.command.iter().any(|word| word.contains("-contentproc"))
}

/// The Playwright server.
pub fn is_playwright_server(process: &Process) -> bool {
    process.runs("node")
}
