//! The places of a pool: which have no pod, and which pods are being created.

use crate::core::{clock::Mono, ids::Uid, pool::launches::Place};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// A pod that was created and is not seen for so long was lost on the way.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(in crate::core) struct Places {
    /// Places without a pod, and since when.
    missing: BTreeMap<u32, Mono>,
    /// Pods that are being created and were not seen yet, by name.
    creating: BTreeMap<String, Creating>,
    /// The last pod that was seen in each place.
    last: HashMap<u32, Uid>,
}

#[derive(Debug)]
struct Creating {
    ordinal: u32,
    revision: String,
    since: Mono,
}

impl Places {
    /// What a former leader created is seen, or is not there.
    pub(in crate::core) fn begin_term(&mut self) {
        self.missing.clear();
        self.creating.clear();
    }

    /// A pod of the pool was seen.
    pub(in crate::core) fn pod_seen(&mut self, ordinal: u32, name: &str, pod: &Uid) {
        self.creating.remove(name);
        self.missing.remove(&ordinal);
        self.last.insert(ordinal, pod.clone());
    }

    /// Gives up pods whose creation is too long ago.
    pub(in crate::core) fn expire_creations(&mut self, now: Mono) {
        self.creating.retain(|_, creating| now.since(creating.since) < CREATE_TIMEOUT);
    }

    /// No place needs a pod any more.
    pub(in crate::core) fn clear_missing(&mut self) {
        self.missing.clear();
    }

    /// So many places need a pod now, besides those that are `occupied` by one. A place keeps the time since which it has none.
    pub(in crate::core) fn set_missing(&mut self, wanted: usize, occupied: &[u32], now: Mono) {
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

    /// How many pods are being created.
    pub(in crate::core) fn creating(&self) -> usize {
        self.creating.len()
    }

    /// The revisions of the pods that are being created.
    pub(in crate::core) fn revisions_creating(&self) -> impl Iterator<Item = &str> {
        self.creating.values().map(|creating| creating.revision.as_str())
    }

    pub(in crate::core) fn lacks_pods(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Places without a pod. With `canary`, the pod of the last one is to test a new shape.
    pub(in crate::core) fn missing(&self, canary: bool) -> impl Iterator<Item = Place> {
        let last = self.missing.keys().next_back().copied().filter(|_| canary);
        let place = move |(ordinal, since): (&u32, &Mono)| Place {
            since: *since,
            ordinal: *ordinal,
            canary: Some(*ordinal) == last,
        };
        self.missing.iter().map(place)
    }

    /// UID of the last pod that was seen in a place.
    pub(in crate::core) fn last(&self, ordinal: u32) -> Option<&str> {
        self.last.get(&ordinal).map(String::as_str)
    }

    /// Begins the creation of the pod of a place.
    pub(in crate::core) fn begin_create(&mut self, ordinal: u32, name: String, revision: &str, now: Mono) {
        self.missing.remove(&ordinal);
        self.creating.insert(name, Creating { ordinal, revision: revision.to_owned(), since: now });
    }

    /// The creation failed. Returns the revision; none when the pod was seen all the same, or was given up.
    pub(in crate::core) fn create_failed(&mut self, name: &str) -> Option<String> {
        self.creating.remove(name).map(|creating| creating.revision)
    }

    /// When pods that are being created are given up.
    pub(in crate::core) fn timers(&self) -> impl Iterator<Item = Mono> {
        self.creating.values().map(|creating| creating.since.after(CREATE_TIMEOUT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(places: &Places, canary: bool) -> Vec<(u32, i64, bool)> {
        places.missing(canary).map(|place| (place.ordinal, place.since.0, place.canary)).collect()
    }

    #[test]
    fn keeps_the_time_since_which_an_ordinal_has_no_pod() {
        let mut places = Places::default();
        places.set_missing(2, &[1], Mono(5));
        assert_eq!(missing(&places, false), [(0, 5, false), (2, 5, false)]);
        places.set_missing(3, &[0, 1], Mono(9));
        assert_eq!(missing(&places, true), [(2, 5, false), (3, 9, false), (4, 9, true)]);
        places.clear_missing();
        assert!(!places.lacks_pods());
    }

    #[test]
    fn a_pod_being_created_holds_its_ordinal_until_it_is_seen_or_times_out() {
        let mut places = Places::default();
        places.set_missing(1, &[], Mono(0));
        places.begin_create(0, "p-a".into(), "r1", Mono(0));
        places.set_missing(1, &[], Mono(1));
        assert_eq!((missing(&places, false), places.creating()), (vec![(1, 1, false)], 1));
        assert_eq!(places.revisions_creating().collect::<Vec<_>>(), ["r1"]);
        assert_eq!(places.timers().collect::<Vec<_>>(), [Mono(30_000)]);
        places.expire_creations(Mono(29_999));
        assert_eq!(places.creating(), 1);
        places.expire_creations(Mono(30_000));
        assert_eq!((places.creating(), places.create_failed("p-a")), (0, None));

        places.begin_create(1, "p-b".into(), "r2", Mono(0));
        assert_eq!(places.create_failed("p-b"), Some("r2".into()));
        places.begin_create(1, "p-c".into(), "r2", Mono(0));
        places.pod_seen(1, "p-c", &"uid".to_owned());
        assert_eq!((places.creating(), places.last(1), places.last(0)), (0, Some("uid"), None));
        assert_eq!(missing(&places, false), []);
    }
}
