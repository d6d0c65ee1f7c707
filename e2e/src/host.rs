//! Finds and signals processes of pods through the /proc of the node's machine.

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
    /// PID on the host.
    pub pid: i32,
    /// Command line, split into arguments.
    pub command: Vec<String>,
}

/// The processes of the pod with that UID.
pub fn processes_of(pod_uid: &str) -> Vec<Process> {
    pod_processes().filter(|(uid, _)| uid == pod_uid).map(|(_, process)| process).collect()
}

/// The processes of all pods on the node, each with the UID of its pod.
pub fn pod_processes() -> impl Iterator<Item = (String, Process)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| Some((pod_of(pid)?, Process { pid, command: command_of(pid)? })))
}

/// The UID of a process's pod. The kubelet (driver `cgroupfs`) names a pod's cgroup `pod<uid>`, with cgroup v1 and v2.
fn pod_of(pid: i32) -> Option<String> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find(|path| path.contains("kubepods"))?;
    path.split('/').find_map(|part| part.strip_prefix("pod")).map(str::to_owned)
}

/// `None` for a zombie, whose command line is empty.
fn command_of(pid: i32) -> Option<Vec<String>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|line| !line.is_empty())?;
    let words = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
    Some(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

impl Process {
    /// Whether the process runs a program with that file name.
    pub fn runs(&self, program: &str) -> bool {
        self.command.first().is_some_and(|path| Path::new(path).file_name().is_some_and(|name| name == program))
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// If the process does not exist or permission is missing.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid), signal).with_context(|| format!("cannot send {signal} to {:?}", self.command))
    }

    /// Whether the process still exists.
    pub fn is_alive(&self) -> bool {
        command_of(self.pid).as_ref() == Some(&self.command)
    }

    /// The host path of a path in the process's mount namespace.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// The TCP ports with a listener that is not on loopback, in the process's network namespace.
    pub fn listening_ports(&self) -> Result<Vec<u16>> {
        const LISTEN: &str = "0A";
        let mut ports = Vec::new();
        for table in ["tcp", "tcp6"] {
            let text = fs::read_to_string(format!("/proc/{}/net/{table}", self.pid))?;
            for line in text.lines().skip(1) {
                let fields: Vec<_> = line.split_whitespace().collect();
                let [_, local, _, state, ..] = fields[..] else { bail!("cannot parse a line of {table}: {line}") };
                let (address, port) = local.split_once(':').context("an address without a port")?;
                // 127.0.0.0/8 and ::1 in the kernel's notation: hexadecimal, in host byte order by groups of 4 bytes.
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

/// The only process of a pod for which `matches` holds. `what` names it in errors.
///
/// # Errors
/// If there is none or more than one.
pub fn find_process(pod_uid: &str, what: &str, matches: impl Fn(&Process) -> bool) -> Result<Process> {
    let all = processes_of(pod_uid);
    let mut found: Vec<_> = all.iter().filter(|process| matches(process)).cloned().collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        count => bail!("found {count} processes of {what} in pod {pod_uid}: {all:#?}"),
    }
}

/// Whether the process is a browser's main process.
pub fn is_browser(process: &Process) -> bool {
    process.runs("firefox-esr") && !is_browser_child(process)
}

/// Whether the process is a browser's child process for pages, sockets and the like. Browsers start and stop them at
/// any time. Their whole command line is a single word.
pub fn is_browser_child(process: &Process) -> bool {
    process.command.iter().any(|word| word.contains("-contentproc"))
}

/// Whether the process is a Playwright server.
pub fn is_playwright_server(process: &Process) -> bool {
    process.runs("node")
}
