//! The programs that the harness runs: where they are, and how they are made.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::Command;

/// The folder with etcd and Kubernetes.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    folder: PathBuf,
}

impl Kubernetes {
    /// Those in that folder, else those that `dev/up` uses too; these are built when they are not there.
    ///
    /// # Errors
    /// When they cannot be built, or one is missing.
    pub async fn find(folder: Option<PathBuf>) -> Result<Self> {
        let folder = match folder {
            Some(folder) => folder,
            None => built_folder().await?,
        };
        let found = Self { folder };
        for program in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
            let path = found.program(program);
            ensure!(path.is_file(), "{} is missing: build it with dev/kubernetes-bin", path.display());
        }
        Ok(found)
    }

    /// Where the program of that name is.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

async fn built_folder() -> Result<PathBuf> {
    let script = repository().join("dev/kubernetes-bin");
    let built = Command::new(&script).stderr(Stdio::inherit()).kill_on_drop(true).output().await;
    let built = built.with_context(|| format!("cannot run {}", script.display()))?;
    ensure!(built.status.success(), "{} failed: see above", script.display());
    Ok(PathBuf::from(String::from_utf8(built.stdout).context("a path is text")?.trim()))
}

/// The checkout that this was built from, or that cargo runs it in.
fn repository() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The operator's program, and what is known of how it was made.
#[derive(Clone, Debug)]
pub struct OperatorProgram {
    /// Where it is.
    pub path: PathBuf,
    /// The cargo profile that it was built with; absent when somebody else built it.
    pub profile: Option<&'static str>,
    /// The commit that is checked out, with `-dirty` when there is more than that; absent when somebody else built it.
    pub commit: Option<String>,
}

impl OperatorProgram {
    /// The one at that path, else the one of this checkout, which is built.
    ///
    /// # Errors
    /// When it cannot be built, or is not there.
    pub async fn find(path: Option<PathBuf>) -> Result<Self> {
        if let Some(path) = path {
            ensure!(path.is_file(), "{} is no file: give --operator the operator's program", path.display());
            return Ok(Self { path, profile: None, commit: None });
        }
        let path = build_operator(&["--release", "--package", "camofleet-operator"]).await?;
        Ok(Self { path, profile: Some("release"), commit: commit().await })
    }

    /// The one of this checkout as tests have it, which is built: with the workspace, so that nothing is compiled twice.
    ///
    /// # Errors
    /// When it cannot be built.
    pub async fn for_tests() -> Result<Self> {
        let path = build_operator(&["--workspace", "--bin", "camofleet-operator"]).await?;
        Ok(Self { path, profile: Some("dev"), commit: commit().await })
    }
}

async fn build_operator(selection: &[&str]) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.arg("build").args(selection).args(["--message-format", "json-render-diagnostics"]);
    command.current_dir(repository()).stderr(Stdio::inherit()).kill_on_drop(true);
    let built = command.output().await.context("cannot run cargo to build the operator")?;
    ensure!(built.status.success(), "the operator cannot be built: see above");
    let messages = String::from_utf8_lossy(&built.stdout);
    match messages.lines().rev().find_map(operator_artifact) {
        Some(path) => Ok(path),
        None => bail!("cargo did not say where it put the operator"),
    }
}

fn operator_artifact(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_operator = message["target"]["name"] == "camofleet-operator";
    message["executable"].as_str().filter(|_| is_operator).map(PathBuf::from)
}

async fn commit() -> Option<String> {
    let mut command = Command::new("git");
    command.args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]).current_dir(repository());
    let described = command.output().await.ok().filter(|described| described.status.success())?;
    Some(String::from_utf8(described.stdout).ok()?.trim().to_owned())
}
