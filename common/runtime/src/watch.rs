//! Watches of the API server: how much a list reads at once, and how a broken watch is retried.

use kube::runtime::{
    utils::Backoff,
    watcher::{self, DefaultBackoff},
};
use std::time::Duration;

/// A watch that was broken begins again after so long at most.
const LONGEST: Duration = Duration::from_secs(5);
/// Objects per page of a list. An object has up to 1.5 MiB (etcd's `--max-request-bytes`), and a page is read whole before it is
/// parsed: kube's default of 500 could exceed the memory limit of the process.
const PAGE_SIZE: u32 = 50;

/// The pauses of a watch after failures: kube's own, which grow from 0.8 s, but not up to 30 s. Clients wait until an API server
/// that is back is heard, and these are a few watches, not one of each node.
#[derive(Default)]
pub struct Pauses(DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(LONGEST))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// The configuration with which every watch starts: the memory that a list takes is bounded.
pub fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_but_not_far() {
        let pauses: Vec<_> = Pauses::default().take(20).collect();
        assert!(pauses[0] < LONGEST && pauses[19] == LONGEST, "{pauses:?}");
    }
}
