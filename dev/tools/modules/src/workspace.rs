//! Which crates a workspace has, as `cargo metadata` lists them.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The part of `cargo metadata`'s output that is read here.
#[derive(Deserialize)]
pub struct Workspace {
    workspace_root: PathBuf,
    packages: Vec<Package>,
}

/// A crate, or several that share a folder: a library and its programs.
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
    /// The workspace that the folder belongs to.
    pub fn containing(folder: &Path) -> Result<Self> {
        let output = Command::new("cargo")
            .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
            .current_dir(folder)
            .output()
            .context("cannot run cargo metadata")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cargo metadata failed in {}: {errors}", folder.display());
        serde_json::from_slice(&output.stdout).context("cannot read what cargo metadata printed")
    }

    /// The packages inside the folder. If there are none, the package around it. Each comes with the folder that its files
    /// have to be in.
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
            // of packages within each other, the innermost
            inside.extend(
                around.max_by_key(|package| package.folder().as_os_str().len()).map(|package| (package, folder)),
            );
        }
        inside
    }

    /// The path as seen from the root of the workspace.
    pub fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.workspace_root).unwrap_or(path)
    }
}

impl Package {
    /// The name by which the package's programs import its library.
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
