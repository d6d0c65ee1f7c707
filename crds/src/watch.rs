//! How operator and gateway go on after a watch was broken.

use kube::runtime::{utils::Backoff, watcher::DefaultBackoff};
use std::time::Duration;

/// A watch that was broken begins again after so long at most.
const LONGEST: Duration = Duration::from_secs(5);

/// The pauses of a watch after failures: kube's own, which grow from 0.8 s, but not up to 30 s. Sessions wait until an API server
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_but_not_far() {
        let pauses: Vec<_> = Pauses::default().take(20).collect();
        assert!(pauses[0] < LONGEST && pauses[19] == LONGEST, "{pauses:?}");
    }
}
