//! Levels and cycles of a graph of files.

use crate::imports::Edges;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The files, and which imports which.
pub struct Graph<'a> {
    edges: usize,
    /// For each file those that its imports lead to, directly or through others. A file in a cycle leads to itself.
    reachable: BTreeMap<&'a Path, BTreeSet<&'a Path>>,
}

impl<'a> Graph<'a> {
    /// Edges to and from other files are left out.
    pub fn new(files: &BTreeSet<&'a Path>, edges: &Edges<'a>) -> Self {
        let mut imported: BTreeMap<_, Vec<_>> = files.iter().map(|&file| (file, Vec::new())).collect();
        for &(from, to) in edges.keys().filter(|(from, to)| files.contains(from) && files.contains(to)) {
            imported.entry(from).or_default().push(to);
        }
        let edges = imported.values().map(Vec::len).sum();
        let reachable = files.iter().map(|&file| (file, reachable(file, &imported))).collect();
        Self { edges, reachable }
    }

    /// How many there are.
    pub fn edges(&self) -> usize {
        self.edges
    }

    /// How many files the longest chain of imports has, where a cycle counts as one file.
    pub fn levels(&self) -> usize {
        let mut files: Vec<_> = self.reachable.iter().collect();
        // a file outside of a cycle reaches fewer files than what leads to it, so its level is known first
        files.sort_by_key(|(_, reachable)| reachable.len());
        let mut levels: BTreeMap<&Path, usize> = BTreeMap::new();
        for (file, reachable) in files {
            let below = reachable.iter().filter(|other| !self.reachable[*other].contains(file));
            let level = 1 + below.filter_map(|other| levels.get(other)).max().unwrap_or(&0);
            levels.insert(file, level);
        }
        levels.into_values().max().unwrap_or(0)
    }

    /// The files of each cycle, sorted. The largest cycle comes first.
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
