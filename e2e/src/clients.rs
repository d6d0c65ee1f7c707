//! Stock Playwright clients, of Node and of Python; and one that asks the REST API what nobody would.

use crate::{Session, TestNamespace, fleet::repository_path, host::Process};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::{
    path::PathBuf,
    process::{Command as Installation, Stdio},
    sync::OnceLock,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// The browser that is driven without a fleet, for comparison: Debian's, which the runners of `dev/up` have in their image, too.
pub const FIREFOX: &str = "/usr/bin/firefox-esr";

/// The folder that has the clients; they are installed when they are not there.
fn clients_folder() -> Result<PathBuf> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = FOLDER.get() {
        return Ok(folder.clone());
    }
    let output = Installation::new(repository_path("e2e/clients/install")).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "e2e/clients/install failed: {}", output.status);
    let folder = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    Ok(FOLDER.get_or_init(|| folder).clone())
}

/// A Node process that does with Playwright what it is told, a piece of JavaScript at a time.
pub struct NodeClient {
    process: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Value(Value),
    Error(String),
}

impl NodeClient {
    /// Starts a client of a session, which does not connect yet.
    pub async fn start(ns: &TestNamespace, session: &Session) -> Result<Self> {
        Self::start_at(ns, session, "").await
    }

    /// Starts a client of a session and connects it: `browser`, `context` and `page` are there.
    pub async fn connect(ns: &TestNamespace, session: &Session) -> Result<Self> {
        let mut client = Self::start(ns, session).await?;
        client.run("await connect()").await?;
        Ok(client)
    }

    /// The same, with pages to go to at `site`.
    pub async fn connect_with_site(ns: &TestNamespace, session: &Session, site: &str) -> Result<Self> {
        let mut client = Self::start_at(ns, session, site).await?;
        client.run("await connect()").await?;
        Ok(client)
    }

    async fn start_at(ns: &TestNamespace, session: &Session, site: &str) -> Result<Self> {
        Self::start_with(ns, &session.ws_endpoint().await?, site)
    }

    /// Starts a client of whatever session that URL is for, and connects it.
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
        let stdin = process.stdin.take().context("standard input is piped")?;
        let stdout = BufReader::new(process.stdout.take().context("standard output is piped")?).lines();
        Ok(Self { process, stdin, stdout })
    }

    /// Runs the body of an async function, and hands over what it returns.
    ///
    /// # Errors
    /// When it throws, or does not come to an end.
    pub async fn run(&mut self, code: &str) -> Result<Value> {
        let mut line = serde_json::to_string(code)?;
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).await?;
        let answer = timeout(crate::wait::DEADLINE, self.stdout.next_line()).await;
        let line = answer.with_context(|| format!("the client does not come to an end with: {code}"))??;
        match serde_json::from_str(&line.context("the client has ended")?)? {
            Answer::Value(value) => Ok(value),
            Answer::Error(error) => bail!("the client failed with {code}\n{error}"),
        }
    }

    /// The process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn process(&self) -> Result<Process> {
        let pid = self.process.id().context("the client has ended")?;
        Ok(Process { pid: i32::try_from(pid)?, command: vec!["node".to_owned()] })
    }

    /// Kills the process (SIGKILL), so that its connection is lost without a word.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}

/// Has a Python client do a page's work in a session, and hands over what came of it.
pub async fn run_python_client(ns: &TestNamespace, session: &Session, site: &str) -> Result<Value> {
    let mut client = Command::new(clients_folder()?.join("python/bin/python"));
    client.arg(repository_path("e2e/clients/python/drive.py"));
    client.args([&session.ws_endpoint().await?, &ns.fleet.admin_token()?, site]);
    let work = stdout_of("the Python client", client.stderr(Stdio::inherit())).await?;
    Ok(serde_json::from_slice(work.as_bytes())?)
}

/// Has schemathesis ask the REST API, about a test's namespace, all that its OpenAPI document makes one think of, and compare what is
/// answered with what the document promises. That session should be there.
///
/// # Errors
/// When an answer is another, with the calls that show it.
pub async fn fuzz_rest(ns: &TestNamespace, session: &Session) -> Result<()> {
    let gateway = ns.fleet.gateway_url()?;
    let token = ns.fleet.admin_token()?;
    // It keeps what it has seen where it runs.
    let notes = tempfile::tempdir()?;
    let mut fuzz = Command::new(clients_folder()?.join("python/bin/schemathesis"));
    fuzz.arg("--config-file").arg(repository_path("e2e/clients/python/schemathesis.toml"));
    fuzz.args(["run", &format!("{gateway}/api/openapi.json")]).current_dir(&notes);
    fuzz.envs([
        ("BASE_URL", format!("{gateway}/api/namespaces/{}", ns.name)),
        ("TOKEN", token),
        ("SESSION", session.name.clone()),
    ]);
    stdout_of("schemathesis", &mut fuzz).await.map(drop)
}

async fn stdout_of(name: &str, program: &mut Command) -> Result<String> {
    let output = timeout(crate::wait::DEADLINE, program.kill_on_drop(true).output());
    let output = output.await.with_context(|| format!("{name} does not come to an end"))??;
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{name} failed, {}: {said}", output.status);
    Ok(said)
}
