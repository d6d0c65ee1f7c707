//! Counts the modules of each crate, the imports between them, and the import cycles. `dev/modules --help` documents
//! the arguments.
//!
//! - `workspace`: lists the crates and their root files.
//! - `source`: parses a crate into modules, with the items, imports and paths of each.
//! - `imports`: resolves these paths to the files that define the items.
//! - `graph`: computes levels and cycles of the import graph.

mod graph;
mod imports;
mod source;
#[cfg(test)]
mod tests;
mod workspace;

use anyhow::{Context, Result};
use clap::Parser;
use graph::Graph;
use imports::Edges;
use source::Modules;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};
use workspace::Workspace;

/// Counts the modules (files) of each crate, the imports between them, the levels (files on the longest chain of
/// imports, where a cycle counts as one file), and the import cycles. Ignores tests and a module's re-exports of its
/// own descendants. An import of a re-exported item counts as an import of the file that defines it. Method calls do
/// not count, because they are not resolved to a type.
#[derive(Parser)]
struct Arguments {
    /// Exit with status 1 if there is an import cycle
    #[arg(long)]
    check: bool,
    /// Print every import between two files, with the imported names
    #[arg(long)]
    edges: bool,
    /// Folders of crates or of parts of a crate, such as operator/src/core [default: the current folder]
    folders: Vec<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let folders = if arguments.folders.is_empty() { vec![PathBuf::from(".")] } else { arguments.folders };
    let mut with_cycles = Vec::new();
    println!("{:<28} {:>7} {:>6} {:>6} {:>6}", "crate", "modules", "edges", "levels", "cycles");
    for folder in folders {
        let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
        let workspace = Workspace::containing(&folder)?;
        for (package, part) in workspace.packages_in(&folder) {
            let modules = Modules::read(package.library(), package.roots())?;
            let edges = modules.edges();
            let files = modules.files().filter(|file| file.starts_with(part)).collect();
            let name = workspace.relative(part).display().to_string();
            if print_row(&name, &workspace, &files, &edges, arguments.edges) {
                with_cycles.push(name);
            }
        }
    }
    if arguments.check && !with_cycles.is_empty() {
        eprintln!("error: import cycles in {}; --edges prints all imports", with_cycles.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the counts of a crate. Returns whether it has a cycle.
fn print_row(name: &str, workspace: &Workspace, files: &BTreeSet<&Path>, edges: &Edges<'_>, with_edges: bool) -> bool {
    let graph = Graph::new(files, edges);
    let cycles = graph.cycles();
    println!("{name:<28} {:>7} {:>6} {:>6} {:>6}", files.len(), graph.edges(), graph.levels(), cycles.len());
    for cycle in &cycles {
        println!("    cycle of {}:", cycle.len());
        for file in cycle {
            println!("        {}", workspace.relative(file).display());
        }
    }
    if with_edges {
        for ((from, to), names) in edges {
            if files.contains(from) && files.contains(to) {
                let names: Vec<_> = names.iter().copied().collect();
                let (from, to) = (workspace.relative(from).display(), workspace.relative(to).display());
                println!("    {from} -> {to}: {}", names.join(", "));
            }
        }
    }
    !cycles.is_empty()
}
