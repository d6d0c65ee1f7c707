//! Lists the crates of a workspace with `cargo metadata`.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The fields of `cargo metadata`'s output that this program uses.
#[derive(Deserialize)]
pub struct Workspace {
    workspace_root: PathBuf,
    packages: Vec<Package>,
}

/// A package: a library, programs, or both.
#[derive(Deserialize)]
pub struct Package {
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    src_path: PathBuf,
}

impl Workspace {
    /// The workspace that contains the folder.
    pub fn containing(folder: &Path) -> Result<Self> {
        let output = Command::new("cargo")
            .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
            .current_dir(folder)
            .output()
            .context("cannot run cargo metadata")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cargo metadata failed in {}: {errors}", folder.display());
        serde_json::from_slice(&output.stdout).context("cannot parse the output of cargo metadata")
    }

    /// The packages inside the folder or, if there are none, the package that contains it. Each comes with the folder
    /// whose files count.
    pub fn packages_in<'a>(&'a self, folder: &'a Path) -> Vec<(&'a Package, &'a Path)> {
        let mut inside: Vec<_> = self
            .packages
            .iter()
            .map(|package| (package, package.folder()))
            .filter(|(_, own)| own.starts_with(folder))
            .collect();
        inside.sort_by_key(|(_, own)| *own);
        if inside.is_empty() {
            let around = self.packages.iter().filter(|package| folder.starts_with(package.folder()));
            // The innermost of nested packages.
            inside.extend(
                around.max_by_key(|package| package.folder().as_os_str().len()).map(|package| (package, folder)),
            );
        }
        inside
    }

    /// The path relative to the root of the workspace.
    pub fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.workspace_root).unwrap_or(path)
    }
}

impl Package {
    /// The library's crate name and root file.
    pub fn library(&self) -> Option<(&str, &Path)> {
        self.of_kind("lib").map(|target| (target.name.as_str(), target.src_path.as_path())).next()
    }

    /// The root files of the package's programs.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        self.of_kind("bin").map(|target| target.src_path.as_path())
    }

    fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(move |target| target.kind.iter().any(|own| own == kind))
    }
}
