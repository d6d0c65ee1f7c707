//! Drives stock Playwright clients in Node and Python, and fuzzes the REST API with schemathesis.

use crate::{Session, TestNamespace, fleet::repository_path, host::Process};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::{path::PathBuf, process::Stdio, sync::OnceLock};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// Debian's Firefox on this machine, for comparisons without a fleet. The runners' image in `dev/up` has the same
/// browser.
pub const FIREFOX: &str = "/usr/bin/firefox-esr";

/// The folder of the clients. Installs them on first use.
fn clients_folder() -> Result<PathBuf> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = FOLDER.get() {
        return Ok(folder.clone());
    }
    let output =
        std::process::Command::new(repository_path("e2e/clients/install")).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "e2e/clients/install failed: {}", output.status);
    let folder = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    Ok(FOLDER.get_or_init(|| folder).clone())
}

/// A Node process with Playwright, which runs one piece of JavaScript at a time (`clients/node/client.cjs`).
pub struct NodeClient {
    process: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Response {
    Value(Value),
    Error(String),
}

impl NodeClient {
    /// Starts a client of a session without connecting it.
    pub async fn start(ns: &TestNamespace, session: &Session) -> Result<Self> {
        Self::start_at(ns, session, "").await
    }

    /// Starts a client of a session and connects it, which sets the globals `browser`, `context` and `page`.
    pub async fn connect(ns: &TestNamespace, session: &Session) -> Result<Self> {
        let mut client = Self::start(ns, session).await?;
        client.run("await connect()").await?;
        Ok(client)
    }

    /// Like [`connect`](Self::connect), with the URL of a [`Site`](crate::site::Site) as the global `site`.
    pub async fn connect_with_site(ns: &TestNamespace, session: &Session, site: &str) -> Result<Self> {
        let mut client = Self::start_at(ns, session, site).await?;
        client.run("await connect()").await?;
        Ok(client)
    }

    async fn start_at(ns: &TestNamespace, session: &Session, site: &str) -> Result<Self> {
        Self::start_with(ns, &session.ws_endpoint().await?, site)
    }

    /// Starts a client of the session at `ws_endpoint` and connects it.
    pub async fn connect_to_url(ns: &TestNamespace, ws_endpoint: &str) -> Result<Self> {
        let mut client = Self::start_with(ns, ws_endpoint, "")?;
        client.run("await connect()").await?;
        Ok(client)
    }

    fn start_with(ns: &TestNamespace, ws_endpoint: &str, site: &str) -> Result<Self> {
        let mut process = Command::new("node")
            .arg(repository_path("e2e/clients/node/client.cjs"))
            .args([ws_endpoint, &ns.fleet.admin_token()?, site])
            .env("NODE_PATH", clients_folder()?.join("node/node_modules"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start node")?;
        let stdin = process.stdin.take().context("stdin is not piped")?;
        let stdout = BufReader::new(process.stdout.take().context("stdout is not piped")?).lines();
        Ok(Self { process, stdin, stdout })
    }

    /// Runs `code` as the body of an async function and returns its result.
    ///
    /// # Errors
    /// If the code throws or does not finish within [`DEADLINE`](crate::wait::DEADLINE).
    pub async fn run(&mut self, code: &str) -> Result<Value> {
        let mut line = serde_json::to_string(code)?;
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).await?;
        let response = timeout(crate::wait::DEADLINE, self.stdout.next_line()).await;
        let line = response.with_context(|| format!("the client did not finish: {code}"))??;
        match serde_json::from_str(&line.context("the client exited")?)? {
            Response::Value(value) => Ok(value),
            Response::Error(error) => bail!("the client failed in {code}\n{error}"),
        }
    }

    /// The client's process.
    ///
    /// # Errors
    /// If it has exited.
    pub fn process(&self) -> Result<Process> {
        let pid = self.process.id().context("the client has exited")?;
        Ok(Process { pid: i32::try_from(pid)?, command: vec!["node".to_owned()] })
    }

    /// Kills the process (SIGKILL), so that its connection is lost without a Close frame.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}

/// Drives a page of a session with the Python client and returns its results (`clients/python/drive.py`).
pub async fn run_python_client(ns: &TestNamespace, session: &Session, site: &str) -> Result<Value> {
    let mut client = Command::new(clients_folder()?.join("python/bin/python"));
    client.arg(repository_path("e2e/clients/python/drive.py"));
    client.args([&session.ws_endpoint().await?, &ns.fleet.admin_token()?, site]);
    let results = stdout_of("the Python client", client.stderr(Stdio::inherit())).await?;
    Ok(serde_json::from_str(&results)?)
}

/// Fuzzes the REST API of a test's namespace with schemathesis, which generates requests from the OpenAPI document and
/// checks the responses against it. `session` must exist during the run.
///
/// # Errors
/// If a response does not conform to the document, with the requests that reproduce it.
pub async fn fuzz_rest(ns: &TestNamespace, session: &Session) -> Result<()> {
    let gateway = ns.fleet.gateway_url()?;
    let token = ns.fleet.admin_token()?;
    // schemathesis stores its state in the current folder.
    let folder = tempfile::tempdir()?;
    let mut fuzz = Command::new(clients_folder()?.join("python/bin/schemathesis"));
    fuzz.arg("--config-file").arg(repository_path("e2e/clients/python/schemathesis.toml"));
    fuzz.args(["run", &format!("{gateway}/api/openapi.json")]).current_dir(&folder);
    fuzz.envs([
        ("BASE_URL", format!("{gateway}/api/namespaces/{}", ns.name)),
        ("TOKEN", token),
        ("SESSION", session.name.clone()),
    ]);
    stdout_of("schemathesis", &mut fuzz).await.map(drop)
}

async fn stdout_of(name: &str, program: &mut Command) -> Result<String> {
    let output = timeout(crate::wait::DEADLINE, program.kill_on_drop(true).output());
    let output = output.await.with_context(|| format!("{name} did not finish"))??;
    let stdout = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{name} failed, {}: {stdout}", output.status);
    Ok(stdout)
}
