//! Tracks orphans: sessions that runners list and that have no known object. The watch event of the object may be late,
//! or the object was deleted while no operator led. An uncached read decides. The number of reads per runner is
//! limited, because a runner can invent sessions.

use crate::core::{
    clock::Monotonic,
    ids::{Key, Uid},
    retry::RetryState,
    runner::report::{ListedSession, Report},
};
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

/// Delay before an orphan is looked up, because its watch event may be late. The delay is short, because a session that
/// was deleted while no operator led keeps its slot until then.
const LOOKUP_DELAY: Duration = Duration::from_secs(2);
/// Orphans of one runner that are tracked at once. Further ones are tracked once these are settled.
const MAX_PER_RUNNER: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Orphans {
    orphans: HashMap<Uid, Orphan>,
    /// The orphans of each runner, by its pod.
    by_runner: HashMap<Uid, BTreeSet<Uid>>,
}

#[derive(Debug)]
struct Orphan {
    /// The name that the runner reported.
    key: Key,
    /// The pod of the runner that listed the session first.
    runner: Uid,
    since: Monotonic,
    /// The read of the API server. A rejected read is not repeated.
    lookup: RetryState,
}

impl Orphans {
    /// Starts to track a session that a runner lists. Returns `false` if it is tracked already, or the runner has too
    /// many orphans.
    pub(super) fn insert(&mut self, runner: &Uid, listed: &ListedSession, now: Monotonic) -> bool {
        let of_runner = self.by_runner.entry(runner.clone()).or_default();
        if self.orphans.contains_key(&listed.uid) || of_runner.len() >= MAX_PER_RUNNER {
            return false;
        }
        of_runner.insert(listed.uid.clone());
        let key = Key { namespace: listed.namespace.clone(), name: listed.name.clone() };
        let orphan = Orphan { key, runner: runner.clone(), since: now, lookup: RetryState::Idle };
        self.orphans.insert(listed.uid.clone(), orphan);
        true
    }

    pub(super) fn contains(&self, uid: &Uid) -> bool {
        self.orphans.contains_key(uid)
    }

    /// The pod of the orphan's runner, and when the lookup is due. `None` if the session is not tracked, or its lookup
    /// is in flight or was rejected.
    pub(super) fn due(&self, uid: &Uid) -> Option<(&Uid, Monotonic)> {
        let orphan = self.orphans.get(uid)?;
        let at = match orphan.lookup {
            RetryState::Idle => orphan.since.after(LOOKUP_DELAY),
            RetryState::Pause { until, .. } => until,
            RetryState::InFlight { .. } | RetryState::Rejected => return None,
        };
        Some((&orphan.runner, at))
    }

    /// Starts the lookup, and returns the name to read.
    pub(super) fn begin_lookup(&mut self, uid: &Uid) -> Option<Key> {
        let orphan = self.orphans.get_mut(uid)?;
        orphan.lookup = orphan.lookup.started();
        Some(orphan.key.clone())
    }

    /// Schedules the lookup again after a pause.
    pub(super) fn lookup_failed(&mut self, uid: &Uid, now: Monotonic) {
        if let Some(orphan) = self.orphans.get_mut(uid) {
            orphan.lookup = orphan.lookup.failed(uid, now);
        }
    }

    /// Records that the API server rejected the lookup, so that it is not repeated.
    pub(super) fn lookup_rejected(&mut self, uid: &Uid) {
        if let Some(orphan) = self.orphans.get_mut(uid) {
            orphan.lookup = RetryState::Rejected;
        }
    }

    /// Stops tracking a session. Returns whether it was tracked.
    pub(super) fn remove(&mut self, uid: &Uid) -> bool {
        let Some(orphan) = self.orphans.remove(uid) else { return false };
        if let Some(of_runner) = self.by_runner.get_mut(&orphan.runner) {
            of_runner.remove(uid);
        }
        true
    }

    /// Drops the orphans that a runner no longer lists.
    pub(super) fn drop_unlisted(&mut self, runner: &Uid, report: &Report) {
        let Some(of_runner) = self.by_runner.get_mut(runner) else { return };
        let orphans = &mut self.orphans;
        of_runner.retain(|uid| {
            let listed = report.session(uid).is_some();
            if !listed {
                orphans.remove(uid);
            }
            listed
        });
    }

    /// Drops all orphans of a runner.
    pub(super) fn forget_runner(&mut self, runner: &Uid) {
        for uid in self.by_runner.remove(runner).unwrap_or_default() {
            self.orphans.remove(&uid);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::v1alpha1::{Display, StartTier};
    use camofleet_runner_api::{RunnerState, Session, SessionPhase, StartPage};

    fn report(uids: &[&str]) -> Report {
        let session = |uid: &&str| Session {
            uid: (*uid).to_owned(),
            namespace: "ns".into(),
            name: (*uid).to_owned(),
            phase: SessionPhase::Ready,
            display: Display::Headless,
            tier: StartTier::Hot,
            start_page: StartPage::None,
            clients: 0,
            end: None,
        };
        let sessions = uids.iter().map(session).collect();
        let state = RunnerState { boot_id: "boot".into(), slots: 32, sessions, ..RunnerState::default() };
        Report::new(state, 32).unwrap()
    }

    fn insert(orphans: &mut Orphans, runner: &str, uid: &str, now: i64) -> bool {
        orphans.insert(&runner.to_owned(), report(&[uid]).session(uid).unwrap(), Monotonic(now))
    }

    fn due(orphans: &Orphans, uid: &str) -> Option<(String, i64)> {
        orphans.due(&uid.to_owned()).map(|(runner, Monotonic(at))| (runner.clone(), at))
    }

    #[test]
    fn looks_up_an_orphan_after_two_seconds_and_retries_after_pauses() {
        let (mut orphans, uid) = (Orphans::default(), "s".to_owned());
        assert!(insert(&mut orphans, "a", "s", 0));
        assert!(!insert(&mut orphans, "b", "s", 1), "another runner lists the session too");
        assert_eq!(due(&orphans, "s"), Some(("a".into(), 2000)));
        assert_eq!(orphans.begin_lookup(&uid), Some(Key { namespace: "ns".into(), name: "s".into() }));
        assert_eq!(due(&orphans, "s"), None, "the lookup is in flight");
        orphans.lookup_failed(&uid, Monotonic(2000));
        assert!(due(&orphans, "s").unwrap().1 > 2100);
        orphans.lookup_rejected(&uid);
        assert_eq!(due(&orphans, "s"), None);
        assert!(orphans.remove(&uid) && !orphans.remove(&uid));
        assert_eq!(orphans.begin_lookup(&uid), None);
    }

    #[test]
    fn tracks_at_most_sixteen_orphans_per_runner() {
        let mut orphans = Orphans::default();
        let uids: Vec<_> = (0..20).map(|at| format!("s-{at:02}")).collect();
        let tracked = uids.iter().filter(|uid| insert(&mut orphans, "a", uid, 0)).count();
        assert_eq!(tracked, MAX_PER_RUNNER);
        assert!(insert(&mut orphans, "b", "t", 0), "each runner has its own limit");
        orphans.drop_unlisted(&"a".to_owned(), &report(&["s-03", "s-19"]));
        let left: Vec<_> = uids.iter().filter(|uid| orphans.contains(uid)).collect();
        assert_eq!(left, ["s-03"]);
        assert!(insert(&mut orphans, "a", "s-19", 0));
        orphans.forget_runner(&"a".to_owned());
        assert!(!orphans.contains(&uids[3]) && !orphans.contains(&uids[19]) && orphans.contains(&"t".to_owned()));
    }
}
