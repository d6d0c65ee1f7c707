//! A program that runs beside this one and does not outlive it.

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

/// How many bytes of a log are shown when its program failed.
const LOG_TAIL_BYTES: usize = 2000;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What it is called in messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(String, OsString)>,
    /// Where its output goes; a later start adds to it.
    pub log: PathBuf,
}

/// A program that was started, and can be started again the same way.
#[derive(Debug)]
pub struct Daemon {
    spec: Spec,
    child: Option<Child>,
}

impl Daemon {
    /// Starts it.
    ///
    /// # Errors
    /// When the program or its log cannot be opened.
    pub fn start(spec: Spec) -> Result<Self> {
        let mut daemon = Self { spec, child: None };
        daemon.start_again()?;
        Ok(daemon)
    }

    /// Starts it again after it was killed or has ended.
    ///
    /// # Errors
    /// When it still runs, or cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(!self.is_running(), "{} runs already: kill it before it is started again", self.spec.name);
        let Spec { name, program, args, env, log } = &self.spec;
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("cannot open the log of {name}, {}", log.display()))?;
        // In a process group of its own, a Ctrl+C at the terminal is for the harness alone, which then ends all in order.
        // Should the harness itself be killed, the kernel kills what it started.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        command.env_clear().envs(env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn();
        self.child = Some(child.with_context(|| format!("cannot run {} by setpriv", program.display()))?);
        Ok(())
    }

    /// Its process, while it runs.
    ///
    /// # Errors
    /// When it has ended, with the last words of its log.
    pub fn pid(&mut self) -> Result<u32> {
        let running = self.is_running();
        let pid = self.child.as_ref().and_then(Child::id).filter(|_| running);
        pid.with_context(|| format!("{} has ended: {}", self.spec.name, self.log_tail()))
    }

    /// Its process, while nobody has found out that it has ended.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Errors
    /// When the kernel does not let it be killed.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.with_context(|| format!("cannot kill {}", self.spec.name))?;
        }
        Ok(())
    }

    /// Asks it to end, and kills it when it has not after that time.
    ///
    /// # Errors
    /// When the kernel does not let it be killed.
    pub async fn terminate(&mut self, timeout: Duration) -> Result<()> {
        if self.is_running() {
            self.signal(Signal::SIGTERM)?;
            if let Some(child) = &mut self.child {
                // Whether it ended in time or not, `kill` below finds out.
                let _ = tokio::time::timeout(timeout, child.wait()).await;
            }
        }
        self.kill().await
    }

    /// Stops it where it is.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?).context("no process has so high a number")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to {}", self.spec.name))
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.spec.log).with_context(|| format!("cannot read the log of {}", self.spec.name))
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.spec.log).unwrap_or_else(|error| format!("its log cannot be read: {error}"))
    }
}

fn tail(log: &Path) -> std::io::Result<String> {
    let bytes = fs::read(log)?;
    let from = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    Ok(String::from_utf8_lossy(&bytes[from..]).into_owned())
}
