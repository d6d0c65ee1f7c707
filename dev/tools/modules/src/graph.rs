//! Computes the levels and cycles of the import graph between files.

use crate::imports::Edges;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The import graph of a set of files.
pub struct Graph<'a> {
    edges: usize,
    /// For each file, the files that it imports directly or transitively. A file in a cycle reaches itself.
    reachable: BTreeMap<&'a Path, BTreeSet<&'a Path>>,
}

impl<'a> Graph<'a> {
    /// Ignores edges from or to files outside `files`.
    pub fn new(files: &BTreeSet<&'a Path>, edges: &Edges<'a>) -> Self {
        let mut imported: BTreeMap<_, Vec<_>> = files.iter().map(|&file| (file, Vec::new())).collect();
        for &(from, to) in edges.keys().filter(|(from, to)| files.contains(from) && files.contains(to)) {
            imported.entry(from).or_default().push(to);
        }
        let edges = imported.values().map(Vec::len).sum();
        let reachable = files.iter().map(|&file| (file, reachable(file, &imported))).collect();
        Self { edges, reachable }
    }

    /// The number of edges.
    pub fn edges(&self) -> usize {
        self.edges
    }

    /// The number of files on the longest chain of imports. A cycle counts as one file.
    pub fn levels(&self) -> usize {
        let mut files: Vec<_> = self.reachable.iter().collect();
        // A file outside a cycle reaches fewer files than the files that import it, so its level is computed first.
        files.sort_by_key(|(_, reachable)| reachable.len());
        let mut levels: BTreeMap<&Path, usize> = BTreeMap::new();
        for (file, reachable) in files {
            let below = reachable.iter().filter(|other| !self.reachable[*other].contains(file));
            let level = 1 + below.filter_map(|other| levels.get(other)).max().unwrap_or(&0);
            levels.insert(file, level);
        }
        levels.into_values().max().unwrap_or(0)
    }

    /// The sorted files of each cycle, the largest cycle first.
    pub fn cycles(&self) -> Vec<Vec<&'a Path>> {
        let cycles: BTreeSet<Vec<_>> = self
            .reachable
            .iter()
            .map(|(file, reachable)| {
                reachable.iter().copied().filter(|other| self.reachable[other].contains(file)).collect()
            })
            .filter(|cycle: &Vec<_>| !cycle.is_empty())
            .collect();
        let mut cycles: Vec<_> = cycles.into_iter().collect();
        cycles.sort_by_key(|cycle| Reverse(cycle.len()));
        cycles
    }
}

fn reachable<'a>(file: &'a Path, imported: &BTreeMap<&'a Path, Vec<&'a Path>>) -> BTreeSet<&'a Path> {
    let mut found = BTreeSet::new();
    let mut open = vec![file];
    while let Some(file) = open.pop() {
        open.extend(imported[file].iter().copied().filter(|&next| found.insert(next)));
    }
    found
}
