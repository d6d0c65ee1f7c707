//! Remembers deleted sessions and pods for 10 minutes. A runner that still lists a deleted session gets a `DELETE`
//! without a read of the API server, and an answer that arrives after the watch event does not restore a deleted
//! object.

use crate::core::{clock::Monotonic, ids::Uid};
use std::{collections::HashMap, time::Duration};

const RETENTION: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(in crate::core) struct Tombstones {
    deleted: HashMap<Uid, Monotonic>,
}

impl Tombstones {
    pub(in crate::core) fn insert(&mut self, uid: &Uid, now: Monotonic) {
        self.deleted.retain(|_, at| now.since(*at) < RETENTION);
        self.deleted.insert(uid.clone(), now);
    }

    pub(in crate::core) fn contains(&self, uid: &Uid) -> bool {
        self.deleted.contains_key(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_a_deletion_for_ten_minutes() {
        let mut tombstones = Tombstones::default();
        let (first, second) = ("first".to_owned(), "second".to_owned());
        tombstones.insert(&first, Monotonic(0));
        tombstones.insert(&second, Monotonic(599_999));
        assert!(tombstones.contains(&first) && tombstones.contains(&second));
        tombstones.insert(&second, Monotonic(600_000));
        assert!(!tombstones.contains(&first) && tombstones.contains(&second));
    }
}
