//! Tracks the ordinals of a pool: which lack a pod, and which pods are being created.

use crate::core::{clock::Monotonic, ids::Uid, pool::launch_budget::MissingOrdinal};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// Time after which a created pod that the watch has not delivered counts as lost.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(in crate::core) struct Ordinals {
    /// Ordinals without a pod, and since when.
    missing: BTreeMap<u32, Monotonic>,
    /// Pods that are being created, by name, until the watch delivers them.
    creating: BTreeMap<String, Creating>,
    /// The last pod that was seen for each ordinal.
    last: HashMap<u32, Uid>,
}

#[derive(Debug)]
struct Creating {
    ordinal: u32,
    revision: String,
    since: Monotonic,
}

impl Ordinals {
    /// Forgets the creates of a former leader. The watch delivers the pods that exist.
    pub(in crate::core) fn begin_term(&mut self) {
        self.missing.clear();
        self.creating.clear();
    }

    /// Records that the watch has delivered a pod of the pool.
    pub(in crate::core) fn pod_seen(&mut self, ordinal: u32, name: &str, pod: &Uid) {
        self.creating.remove(name);
        self.missing.remove(&ordinal);
        self.last.insert(ordinal, pod.clone());
    }

    /// Forgets creates that were started more than [`CREATE_TIMEOUT`] ago.
    pub(in crate::core) fn expire_creations(&mut self, now: Monotonic) {
        self.creating.retain(|_, creating| now.since(creating.since) < CREATE_TIMEOUT);
    }

    pub(in crate::core) fn clear_missing(&mut self) {
        self.missing.clear();
    }

    /// Sets the number of ordinals that need a pod, besides the `occupied` ones. An ordinal keeps the time since which
    /// it has no pod.
    pub(in crate::core) fn set_missing(&mut self, wanted: usize, occupied: &[u32], now: Monotonic) {
        let creating: Vec<u32> = self.ordinals_creating().collect();
        let is_free = |ordinal: &u32| !occupied.contains(ordinal) && !creating.contains(ordinal);
        let free: Vec<u32> = (0..).filter(is_free).take(wanted).collect();
        self.missing.retain(|ordinal, _| free.contains(ordinal));
        for ordinal in free {
            self.missing.entry(ordinal).or_insert(now);
        }
    }

    fn ordinals_creating(&self) -> impl Iterator<Item = u32> {
        self.creating.values().map(|creating| creating.ordinal)
    }

    /// Number of pods that are being created.
    pub(in crate::core) fn creating(&self) -> usize {
        self.creating.len()
    }

    pub(in crate::core) fn revisions_creating(&self) -> impl Iterator<Item = &str> {
        self.creating.values().map(|creating| creating.revision.as_str())
    }

    pub(in crate::core) fn lacks_pods(&self) -> bool {
        !self.missing.is_empty()
    }

    /// The ordinals without a pod. With `canary`, the last one gets the canary of the update shape.
    pub(in crate::core) fn missing(&self, canary: bool) -> impl Iterator<Item = MissingOrdinal> {
        let last = self.missing.keys().next_back().copied().filter(|_| canary);
        let missing = move |(ordinal, since): (&u32, &Monotonic)| MissingOrdinal {
            since: *since,
            ordinal: *ordinal,
            canary: Some(*ordinal) == last,
        };
        self.missing.iter().map(missing)
    }

    /// UID of the last pod that was seen for an ordinal.
    pub(in crate::core) fn last(&self, ordinal: u32) -> Option<&str> {
        self.last.get(&ordinal).map(String::as_str)
    }

    pub(in crate::core) fn begin_create(&mut self, ordinal: u32, name: String, revision: &str, now: Monotonic) {
        self.missing.remove(&ordinal);
        self.creating.insert(name, Creating { ordinal, revision: revision.to_owned(), since: now });
    }

    /// Records that a create failed. Returns the pod's revision, or `None` if the pod was seen or the create timed out
    /// before.
    pub(in crate::core) fn create_failed(&mut self, name: &str) -> Option<String> {
        self.creating.remove(name).map(|creating| creating.revision)
    }

    /// When pending creates time out.
    pub(in crate::core) fn timers(&self) -> impl Iterator<Item = Monotonic> {
        self.creating.values().map(|creating| creating.since.after(CREATE_TIMEOUT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(ordinals: &Ordinals, canary: bool) -> Vec<(u32, i64, bool)> {
        ordinals.missing(canary).map(|missing| (missing.ordinal, missing.since.0, missing.canary)).collect()
    }

    #[test]
    fn keeps_the_time_since_which_an_ordinal_has_no_pod() {
        let mut ordinals = Ordinals::default();
        ordinals.set_missing(2, &[1], Monotonic(5));
        assert_eq!(missing(&ordinals, false), [(0, 5, false), (2, 5, false)]);
        ordinals.set_missing(3, &[0, 1], Monotonic(9));
        assert_eq!(missing(&ordinals, true), [(2, 5, false), (3, 9, false), (4, 9, true)]);
        ordinals.clear_missing();
        assert!(!ordinals.lacks_pods());
    }

    #[test]
    fn a_pod_being_created_holds_its_ordinal_until_it_is_seen_or_times_out() {
        let mut ordinals = Ordinals::default();
        ordinals.set_missing(1, &[], Monotonic(0));
        ordinals.begin_create(0, "p-a".into(), "r1", Monotonic(0));
        ordinals.set_missing(1, &[], Monotonic(1));
        assert_eq!((missing(&ordinals, false), ordinals.creating()), (vec![(1, 1, false)], 1));
        assert_eq!(ordinals.revisions_creating().collect::<Vec<_>>(), ["r1"]);
        assert_eq!(ordinals.timers().collect::<Vec<_>>(), [Monotonic(30_000)]);
        ordinals.expire_creations(Monotonic(29_999));
        assert_eq!(ordinals.creating(), 1);
        ordinals.expire_creations(Monotonic(30_000));
        assert_eq!((ordinals.creating(), ordinals.create_failed("p-a")), (0, None));

        ordinals.begin_create(1, "p-b".into(), "r2", Monotonic(0));
        assert_eq!(ordinals.create_failed("p-b"), Some("r2".into()));
        ordinals.begin_create(1, "p-c".into(), "r2", Monotonic(0));
        ordinals.pod_seen(1, "p-c", &"uid".to_owned());
        assert_eq!((ordinals.creating(), ordinals.last(1), ordinals.last(0)), (0, Some("uid"), None));
        assert_eq!(missing(&ordinals, false), []);
    }
}
