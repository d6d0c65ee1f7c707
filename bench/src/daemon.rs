//! Child processes of the harness: started, signalled, restarted, and killed when the harness ends.

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::{Child, Command};

/// Bytes of a log that an error message quotes.
const LOG_TAIL_BYTES: usize = 2000;

/// How to start a process.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name in error messages.
    pub name: String,
    /// Path of the executable.
    pub program: PathBuf,
    /// Arguments.
    pub args: Vec<OsString>,
    /// The complete environment; nothing is inherited.
    pub env: Vec<(String, OsString)>,
    /// Log file for stdout and stderr. Later starts append to it.
    pub log: PathBuf,
}

/// A child process that can be started again with the same arguments.
#[derive(Debug)]
pub struct Daemon {
    spec: Spec,
    child: Option<Child>,
}

impl Daemon {
    /// Starts the process.
    ///
    /// # Errors
    /// Returns an error if the program or its log cannot be opened.
    pub fn start(spec: Spec) -> Result<Self> {
        let mut daemon = Self { spec, child: None };
        daemon.start_again()?;
        Ok(daemon)
    }

    /// Starts the process again after it was killed or has exited.
    ///
    /// # Errors
    /// Returns an error if the process still runs or cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(!self.is_running(), "{} is still running; kill it before starting it again", self.spec.name);
        let Spec { name, program, args, env, log } = &self.spec;
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("cannot open the log of {name}, {}", log.display()))?;
        // With its own process group, Ctrl+C at the terminal reaches only the harness, which then stops everything in
        // order. PDEATHSIG covers the case that the harness itself is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        command.env_clear().envs(env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn();
        self.child = Some(child.with_context(|| format!("cannot run {} with setpriv", program.display()))?);
        Ok(())
    }

    /// The process ID, if the process runs.
    ///
    /// # Errors
    /// Returns an error with the end of the log if the process has exited.
    pub fn pid(&mut self) -> Result<u32> {
        let running = self.is_running();
        let pid = self.child.as_ref().and_then(Child::id).filter(|_| running);
        pid.with_context(|| format!("{} has exited; its log ends: {}", self.spec.name, self.log_tail()))
    }

    /// The process ID. The process may have exited since the last check.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Kills the process and waits until it has exited.
    ///
    /// # Errors
    /// Returns an error if the process cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.with_context(|| format!("cannot kill {}", self.spec.name))?;
        }
        Ok(())
    }

    /// Sends SIGTERM, and SIGKILL after `timeout`.
    ///
    /// # Errors
    /// Returns an error if the process cannot be killed.
    pub async fn terminate(&mut self, timeout: Duration) -> Result<()> {
        if self.is_running() {
            self.signal(Signal::SIGTERM)?;
            if let Some(child) = &mut self.child {
                // The result does not matter: `kill` below handles both cases.
                let _ = tokio::time::timeout(timeout, child.wait()).await;
            }
        }
        self.kill().await
    }

    /// Sends SIGSTOP.
    ///
    /// # Errors
    /// Returns an error if the process has exited.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Sends SIGCONT.
    ///
    /// # Errors
    /// Returns an error if the process has exited.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?).context("the process ID exceeds the range of pid_t")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to {}", self.spec.name))
    }

    /// Whether the process is running.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The whole log.
    ///
    /// # Errors
    /// Returns an error if the log cannot be read.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.spec.log).with_context(|| format!("cannot read the log of {}", self.spec.name))
    }

    /// The end of the log, at most 2000 bytes.
    pub fn log_tail(&self) -> String {
        tail(&self.spec.log).unwrap_or_else(|error| format!("(cannot read the log: {error})"))
    }
}

fn tail(log: &Path) -> std::io::Result<String> {
    let bytes = fs::read(log)?;
    let from = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    Ok(String::from_utf8_lossy(&bytes[from..]).into_owned())
}
