//! Finds or builds the binaries that the harness runs.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::Command;

/// Directory with the etcd and Kubernetes binaries.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    folder: PathBuf,
}

impl Kubernetes {
    /// Uses the given directory, or by default the binaries of `dev/up`, which are built if missing.
    ///
    /// # Errors
    /// Returns an error if the build fails or a binary is missing.
    pub async fn find(folder: Option<PathBuf>) -> Result<Self> {
        let folder = match folder {
            Some(folder) => folder,
            None => built_folder().await?,
        };
        let found = Self { folder };
        for program in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
            let path = found.program(program);
            ensure!(path.is_file(), "{} is missing; build it with dev/kubernetes-bin", path.display());
        }
        Ok(found)
    }

    /// Path of a binary.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

async fn built_folder() -> Result<PathBuf> {
    let script = repository().join("dev/kubernetes-bin");
    let built = Command::new(&script).stderr(Stdio::inherit()).kill_on_drop(true).output().await;
    let built = built.with_context(|| format!("cannot run {}", script.display()))?;
    ensure!(built.status.success(), "{} failed: see above", script.display());
    Ok(PathBuf::from(String::from_utf8(built.stdout).context("dev/kubernetes-bin did not print a UTF-8 path")?.trim()))
}

/// Root of the checkout that cargo runs in, or else of the one that this was compiled from.
fn repository() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// An operator binary and its origin.
#[derive(Clone, Debug)]
pub struct OperatorProgram {
    /// Path of the binary.
    pub path: PathBuf,
    /// Cargo profile of the build. `None` for a binary given by path.
    pub profile: Option<&'static str>,
    /// Commit of the checkout, with `-dirty` if it has uncommitted changes. `None` for a binary given by path.
    pub commit: Option<String>,
}

impl OperatorProgram {
    /// Uses the given binary, or by default builds this checkout's with the release profile.
    ///
    /// # Errors
    /// Returns an error if the build fails or the file does not exist.
    pub async fn find(path: Option<PathBuf>) -> Result<Self> {
        if let Some(path) = path {
            ensure!(path.is_file(), "{} is not a file; pass the path of an operator binary", path.display());
            return Ok(Self { path, profile: None, commit: None });
        }
        let path = build_operator(&["--release", "--package", "camofleet-operator"]).await?;
        Ok(Self { path, profile: Some("release"), commit: commit().await })
    }

    /// Builds this checkout's operator with the dev profile. Building the whole workspace selects the same features as
    /// `cargo test`, so nothing is compiled twice.
    ///
    /// # Errors
    /// Returns an error if the build fails.
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
    ensure!(built.status.success(), "the build of the operator failed: see above");
    let messages = String::from_utf8_lossy(&built.stdout);
    match messages.lines().rev().find_map(operator_artifact) {
        Some(path) => Ok(path),
        None => bail!("cargo reported no executable for the operator"),
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
