//! Starts and stops the processes of one stack. Each is started in its own process group and with the stack's marker in
//! its environment. A stack is stopped by process group; processes that remain are found by the marker and killed.
//!
//! The runner waits only for processes that it spawned itself, because a `waitpid(-1)` would steal exit codes from
//! tokio. A process that leaves its group, as Firefox's crash helper does, keeps the marker and is reaped by the init
//! process.

use crate::supervisor::lines::Lines;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs, io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::AsyncRead,
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
    time::timeout,
};

/// Environment variable that marks every process of a stack. Child processes inherit it.
const MARKER_VARIABLE: &str = "CAMOFLEET_STACK";
/// Number of lines of standard error in an exit message.
const STDERR_LINES: usize = 8;
const MAX_LINE_CHARS: usize = 300;
/// Bytes of a line that are read; the rest is discarded.
const MAX_LINE_BYTES: usize = 8 << 10;
/// How long to wait for the end of an exited process's standard error, which a child process can keep open.
const STDERR_TIMEOUT: Duration = Duration::from_millis(200);
/// Interval at which killed processes are checked until they are gone.
const SWEEP_INTERVAL: Duration = Duration::from_millis(20);

/// Value of the environment variable `CAMOFLEET_STACK`, which identifies the processes of one stack.
#[derive(Clone, Debug)]
pub(crate) struct StackMarker(pub(crate) String);

impl StackMarker {
    /// Returns a command whose process has this marker, its own process group, and its home and temporary directory in
    /// `dir`.
    pub(crate) fn command(&self, program: &OsStr, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.env(MARKER_VARIABLE, &self.0).env("HOME", dir).env("TMPDIR", dir.join("tmp")).current_dir(dir);
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Kills every process with this marker and returns once none is left. Retries when `/proc` cannot be read, for
    /// example for lack of file descriptors, because only a complete scan proves that none is left.
    pub(crate) async fn sweep(&self) {
        let mut rounds = 0_u32;
        loop {
            let left = self.processes();
            if matches!(&left, Ok(left) if left.is_empty()) {
                return;
            }
            for pid in left.iter().flatten() {
                // An error means that the process has already exited.
                kill(*pid, Signal::SIGKILL).ok();
            }
            rounds += 1;
            if rounds.is_multiple_of(100) {
                match left {
                    Ok(_) => tracing::warn!(
                        stack = self.0,
                        "kept the slot occupied, because killed processes have not exited"
                    ),
                    Err(error) => {
                        tracing::warn!(stack = self.0, %error, "kept the slot occupied, because the processes could not be listed");
                    }
                }
            }
            tokio::time::sleep(SWEEP_INTERVAL).await;
        }
    }

    /// Kills the process group of this leader, if the leader exists and has this marker.
    pub(crate) fn kill_group(&self, leader: i32) {
        if self.has_marker(leader).unwrap_or(false) {
            killpg(Pid::from_raw(leader), Signal::SIGKILL).ok();
        }
    }

    /// Whether this process is running and has this marker.
    pub(crate) fn is_alive(&self, pid: i32) -> bool {
        // A process whose environment cannot be read counts as alive.
        self.has_marker(pid).unwrap_or(true)
    }

    fn processes(&self) -> io::Result<Vec<Pid>> {
        let mut marked = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if self.has_marker(pid)? {
                marked.push(Pid::from_raw(pid));
            }
        }
        Ok(marked)
    }

    /// Zombies have an empty environment, and those of other users' processes are not readable. Neither kind has to
    /// be killed.
    fn has_marker(&self, pid: i32) -> io::Result<bool> {
        let marker = format!("{MARKER_VARIABLE}={}", self.0);
        match fs::read(format!("/proc/{pid}/environ")) {
            Ok(variables) => Ok(variables.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT | Errno::ESRCH | Errno::EACCES | Errno::EPERM) => Ok(false),
                _ => Err(error),
            },
        }
    }
}

/// A child process of the runner.
pub(crate) struct Process {
    /// Name in messages, such as `the display (Xvnc)`.
    name: &'static str,
    child: Child,
    pid: u32,
    stderr_tail: Arc<Mutex<VecDeque<String>>>,
    stderr_reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts a command and collects its standard error, which must be piped.
    pub(crate) fn spawn(name: &'static str, mut command: Command) -> Result<Self, String> {
        let program = command.as_std().get_program().to_owned();
        let mut child =
            command.spawn().map_err(|error| format!("cannot start {name}, {}: {error}", program.display()))?;
        let pid = child.id().expect("a child that was not waited for has an id");
        let stderr_tail = Arc::new(Mutex::new(VecDeque::new()));
        let stderr_reader = child.stderr.take().map(|stderr| tokio::spawn(collect_stderr(stderr, stderr_tail.clone())));
        Ok(Self { name, child, pid, stderr_tail, stderr_reader })
    }

    /// Takes the pipe of its standard output. Panics if it is not piped or was taken before.
    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("standard output is piped, and taken once")
    }

    /// Takes the pipe of its standard input. Panics if it is not piped or was taken before.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("standard input is piped, and taken once")
    }

    /// Waits until the process has exited. Returns a message with its exit status and its last output.
    pub(crate) async fn wait(&mut self) -> String {
        let how = match self.child.wait().await {
            Ok(status) => describe_exit(status.code(), status.signal().map(signal_name).as_deref()),
            Err(error) => format!("exited with an unknown status: {error}"),
        };
        if let Some(stderr_reader) = self.stderr_reader.take() {
            timeout(STDERR_TIMEOUT, stderr_reader).await.ok();
        }
        let tail = self.stderr_tail.lock().unwrap_or_else(PoisonError::into_inner);
        with_output(&format!("{} {how}", self.name), tail.iter().map(String::as_str))
    }

    /// Stops the process group with SIGTERM, and with SIGKILL after `grace`.
    pub(crate) async fn stop(&mut self, grace: Duration) {
        if self.status().is_none() {
            self.signal(Signal::SIGTERM);
            if timeout(grace, self.child.wait()).await.is_err() {
                self.signal(Signal::SIGKILL);
                self.child.wait().await.ok();
            }
        }
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Signals the process group. Its leader has not been waited for, so the id cannot have been reused.
    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.pid).expect("process ids are positive ints");
        if let Err(error) = killpg(Pid::from_raw(group), signal)
            && error != Errno::ESRCH
        {
            tracing::warn!(process = self.name, %error, "could not send {signal}");
        }
    }
}

/// Describes an exit: `exited with code 1`, or `was killed by SIGKILL`.
pub(crate) fn describe_exit(code: Option<i32>, signal: Option<&str>) -> String {
    match (code, signal) {
        (_, Some(signal)) => format!("was killed by {signal}"),
        (Some(code), None) => format!("exited with code {code}"),
        (None, None) => "exited".to_owned(),
    }
}

/// Appends the last lines of a process's output to a sentence.
pub(crate) fn with_output<'a>(sentence: &str, output: impl Iterator<Item = &'a str>) -> String {
    let output: Vec<_> = output.collect();
    if output.is_empty() { sentence.to_owned() } else { format!("{sentence}; last output:\n{}", output.join("\n")) }
}

fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.to_string())
}

async fn collect_stderr(stderr: impl AsyncRead + Unpin, tail: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = Lines::new(stderr, MAX_LINE_BYTES);
    while let Some(line) = lines.next().await {
        let line: String = line.trim_end().chars().take(MAX_LINE_CHARS).collect();
        if line.is_empty() {
            continue;
        }
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == STDERR_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
}

/// Removes a directory with its contents. Retries until it succeeds, so a directory that cannot be removed keeps its
/// slot occupied.
pub(crate) async fn remove_directory(dir: &Path) {
    loop {
        match tokio::fs::remove_dir_all(dir).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(dir = %dir.display(), %error, "could not remove a session's files, retrying");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(()) | Err(_) => return,
        }
    }
}
