//! Runs the built runner binary with its real launcher outside a pod, and calls it with the operator's client and
//! valid tokens.

#![allow(dead_code, reason = "each file of tests uses its part")]

use camofleet_auth::token::{Issuer, Scope, Signer};
use camofleet_crds::v1alpha1::{Display, StartUrlWait};
use camofleet_runner_api::{
    BindRequest, BindResponse, PORT, PROBE_PORT, RunnerState, Session, SessionPhase,
    client::{CallError, RunnerClient},
};
use camofleet_testkit::{
    http::read_head,
    keys::{public_keys, signer},
};
use futures::StreamExt;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    pin::pin,
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, SystemTime},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// Longer than any step takes on a loaded machine, so that a hung test fails with a message.
pub const TIMEOUT: Duration = Duration::from_secs(90);
pub const POD: &str = "b8a9f4d6-pod";
pub const EPOCH: u64 = 7;

pub struct TestRunner {
    child: Child,
    pid: u32,
    pub address: IpAddr,
    pub operator: Signer,
    pub gateway: Signer,
    pub client: RunnerClient,
    dir: TempDir,
}

pub fn launcher() -> PathBuf {
    let launcher = Path::new(env!("CARGO_MANIFEST_DIR")).join("launcher");
    let playwright = launcher.join("node_modules/playwright-core/package.json");
    assert!(playwright.exists(), "the launcher's packages are missing: run `npm ci --prefix runner/launcher`");
    launcher
}

/// Returns a command that runs the built runner without the relevant environment variables of the test process.
pub fn runner_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_camofleet-runner"));
    command.env_remove("CAMOUFOX_EXECUTABLE_PATH").env_remove("CAMOUFOX_INSTALL_DIR").env("RUST_LOG", "info");
    command.arg("--launcher").arg(launcher().join("main.js")).kill_on_drop(true);
    command
}

impl TestRunner {
    /// Starts a runner with these flags and waits until it accepts connections.
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, |_, _| {}).await
    }

    /// Like [`TestRunner::start`]. `adjust` can change the command and gets the runner's temporary directory.
    pub async fn start_with(flags: &[&str], adjust: impl FnOnce(&mut Command, &Path)) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        // All runners listen on the same port, so each gets its own loopback address in 127/8.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address = IpAddr::V4(Ipv4Addr::new(127, 64 | high, low, NEXT.fetch_add(1, Ordering::Relaxed)));
        let [operator, gateway] = [Issuer::Operator, Issuer::Gateway].map(signer);
        let dir = tempfile::Builder::new().prefix("camofleet-").tempdir().unwrap();
        write_keys(&dir.path().join("keys"), &[(Issuer::Operator, &operator), (Issuer::Gateway, &gateway)]);
        let mut command = runner_command();
        command
            .args(["--listen", &format!("{address}:{PORT}"), "--probe-listen", &format!("{address}:{PROBE_PORT}")])
            .args(["--pod-uid", POD])
            .arg("--keys-file")
            .arg(dir.path().join("keys"))
            .arg("--state-dir")
            .arg(dir.path().join("state"))
            .args(flags);
        adjust(&mut command, dir.path());
        let child = command.spawn().unwrap();
        let pid = child.id().expect("the process was just started");
        let runner = Self { child, pid, address, operator, gateway, client: RunnerClient::default(), dir };
        runner.wait_until_listening().await;
        runner
    }

    async fn wait_until_listening(&self) {
        let url = self.url("/healthz");
        timeout(TIMEOUT, async {
            while reqwest::get(&url).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the runner listens");
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}:{PORT}{path}", self.address)
    }

    pub fn keys_file(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    /// Returns the profile of the only browser.
    pub fn profile(&self) -> PathBuf {
        let mut stacks = fs::read_dir(self.dir.path().join("state")).unwrap();
        let profile = stacks.next().expect("a browser").unwrap().path().join("profile");
        assert!(stacks.next().is_none(), "more than one browser");
        profile
    }

    pub fn token(&self) -> String {
        self.operator.operator_token(POD, EPOCH, SystemTime::now())
    }

    pub async fn bind(&self, uid: &str, request: &BindRequest) -> Result<BindResponse, CallError> {
        self.bind_traced(None, uid, request).await
    }

    /// Like [`TestRunner::bind`], as part of a trace.
    pub async fn bind_traced(
        &self,
        traceparent: Option<&str>,
        uid: &str,
        request: &BindRequest,
    ) -> Result<BindResponse, CallError> {
        self.client.bind(self.address, &self.token(), uid, request, traceparent).await
    }

    pub async fn end(&self, uid: &str) {
        self.client.end(self.address, &self.token(), uid).await.unwrap();
    }

    /// Follows the runner's events until `found` returns a value. `what` describes it in failures.
    pub async fn wait_for<T>(&self, what: &str, found: impl Fn(&RunnerState) -> Option<T>) -> T {
        let mut last = None;
        let follow = async {
            let mut events = pin!(self.client.events(self.address, &self.token(), 32).await.unwrap());
            while let Some(state) = events.next().await {
                let state = last.insert(state.unwrap().decode().unwrap());
                if let Some(found) = found(state) {
                    return Some(found);
                }
            }
            None
        };
        let found = timeout(TIMEOUT, follow).await;
        let found = found.unwrap_or_else(|_| panic!("timed out after {TIMEOUT:?} waiting for {what}: {last:#?}"));
        found.unwrap_or_else(|| panic!("the event stream ended while waiting for {what}"))
    }

    pub async fn state(&self) -> RunnerState {
        self.wait_for("anything", |state| Some(state.clone())).await
    }

    pub async fn wait_until_warm(&self) -> RunnerState {
        self.wait_for("warm", |state| state.warm.then(|| state.clone())).await
    }

    pub async fn wait_for_phase(&self, uid: &str, phase: SessionPhase) -> Session {
        let reached = |state: &RunnerState| state.session(uid).filter(|session| session.phase >= phase).cloned();
        self.wait_for(&format!("{uid} {phase:?}"), reached).await
    }

    /// Returns the session's URL for this scope, and a token for it.
    pub fn endpoint(&self, uid: &str, scope: Scope) -> (String, String) {
        let path = match scope {
            Scope::Connect => "playwright",
            Scope::Control | Scope::View => "vnc",
        };
        (self.url(&format!("/v1/sessions/{uid}/{path}")), self.gateway.hop_token(POD, uid, scope, None))
    }

    /// Starts a Playwright client that connects to a session and runs a task of `client.js`.
    pub fn playwright(&self, uid: &str, task: &str) -> Client {
        let (url, token) = self.endpoint(uid, Scope::Connect);
        let mut command = Command::new("node");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/client.js"));
        command.arg(launcher()).args([url.replace("http:", "ws:"), token, task.to_owned()]);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("node is installed");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Client { child, lines }
    }

    /// Opens a connection to a session and sends an upgrade request with these headers. Returns the head of the
    /// response.
    pub async fn upgrade(&self, uid: &str, scope: Scope, headers: &str) -> (TcpStream, String) {
        let (_, token) = self.endpoint(uid, scope);
        self.upgrade_with(&token, uid, scope, headers).await
    }

    /// Like [`TestRunner::upgrade`], with that token.
    pub async fn upgrade_with(&self, token: &str, uid: &str, scope: Scope, headers: &str) -> (TcpStream, String) {
        let (url, _) = self.endpoint(uid, scope);
        let path = url.split_once("8070").unwrap().1;
        let mut stream = TcpStream::connect((self.address, PORT)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: runner\r\nAuthorization: Bearer {token}\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        (stream, head)
    }

    /// Returns the ids of this runner's child processes whose command line contains `command`.
    pub async fn pids(&self, command: &str) -> Vec<i32> {
        let boot_id = self.state().await.boot_id;
        stack_pids(&boot_id).into_iter().filter(|pid| read_proc(*pid, "cmdline").contains(command)).collect()
    }

    /// Returns the process id of the only browser: the leader of its process group.
    pub async fn browser_pid(&self) -> i32 {
        let leads = |pid: &i32| {
            nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(*pid))).is_ok_and(|group| group.as_raw() == *pid)
        };
        let leaders: Vec<_> = self.pids("firefox-esr").await.into_iter().filter(leads).collect();
        let [leader] = leaders[..] else { panic!("not one browser but {leaders:?}") };
        leader
    }

    /// Sends SIGTERM and waits until the runner has exited.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait_for_exit().await
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        kill(i32::try_from(self.child.id().unwrap()).unwrap(), signal);
    }

    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        timeout(TIMEOUT, self.child.wait()).await.expect("the runner exits").unwrap()
    }

    /// Asserts that no processes, files or display locks of sessions are left.
    pub fn assert_cleaned_up(&self, boot_id: &str) {
        let left: Vec<_> = stack_pids(boot_id).iter().map(|pid| read_proc(*pid, "cmdline")).collect();
        assert!(left.is_empty(), "processes are left: {left:#?}");
        let files: Vec<_> =
            fs::read_dir(self.dir.path().join("state")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.is_empty(), "files are left: {files:?}");
        let locks: Vec<_> = fs::read_dir("/tmp")
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().is_some_and(|path| path.starts_with("/tmp/.X") && path.ends_with("-lock")))
            .filter(|lock| fs::read_to_string(lock).is_ok_and(|owner| owner.trim() == self.pid.to_string()))
            .collect();
        assert!(locks.is_empty(), "display locks are left: {locks:?}");
    }
}

pub fn write_keys(file: &Path, signers: &[(Issuer, &Signer)]) {
    fs::write(file, serde_json::to_vec(&public_keys(signers)).unwrap()).unwrap();
}

pub fn request(display: Display) -> BindRequest {
    BindRequest {
        namespace: "test".into(),
        name: "session".into(),
        display,
        idle_timeout_seconds: 300,
        max_lifetime_seconds: 600,
        start_url: None,
        start_url_wait: StartUrlWait::Load,
        reconnect_grace_seconds: 60,
    }
}

/// A Playwright client in a process of its own.
pub struct Client {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// Returns the next message that the client prints.
    pub async fn next_message(&mut self) -> serde_json::Value {
        let line = timeout(TIMEOUT, self.lines.next_line()).await.expect("the client prints a message").unwrap();
        serde_json::from_str(&line.expect("the client prints a message before it exits")).unwrap()
    }

    /// Returns the client's only message after it has exited. Dropping a client instead kills it before it closes its
    /// connection.
    pub async fn message_after_exit(mut self) -> serde_json::Value {
        let message = self.next_message().await;
        let status = timeout(TIMEOUT, self.child.wait()).await.expect("the client exits").unwrap();
        assert!(status.success(), "{status}: {message}");
        message
    }

    /// Kills the client, which sends no Close frame, as in a node failure.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

pub fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

fn stack_pids(boot_id: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| read_proc(*pid, "environ").contains(&format!("CAMOFLEET_STACK={boot_id}."))).collect()
}

fn read_proc(pid: i32, file: &str) -> String {
    fs::read(format!("/proc/{pid}/{file}"))
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .unwrap_or_default()
}
