//! Counts the modules of each crate, the imports between them, and the import cycles. `dev/modules --help` describes the
//! arguments.
//!
//! - `workspace`: which crates there are, and the root files of each.
//! - `source`: parses a crate into modules, with what each defines, imports and mentions.
//! - `imports`: resolves what a module mentions to the file that defines it.
//! - `graph`: levels and cycles of the graph of files.

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

/// Counts the modules (files) of each crate, the imports between them, the levels (files on the longest chain of imports,
/// where a cycle counts as one file), and the import cycles. Tests are left out, as are re-exports of a module's own
/// descendants. An import of a re-exported item counts as an import of the file that defines it. Method calls are not
/// resolved to a type, so they do not count.
#[derive(Parser)]
struct Arguments {
    /// Exit with status 1 if there is an import cycle
    #[arg(long)]
    check: bool,
    /// Print every import between two files, with the names that are imported
    #[arg(long)]
    edges: bool,
    /// Folders of crates, or of a part of one, such as operator/src/core [default: the current folder]
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
        eprintln!("error: import cycles in {}; --edges prints what imports what", with_cycles.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns whether there is a cycle.
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
