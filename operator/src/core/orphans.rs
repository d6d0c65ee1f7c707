//! Sessions that runners list and no known object stands for. The object may be on its way here, or may have been deleted while
//! no operator led; a read past the cache tells. What a runner invents costs no more than a few reads.

use crate::core::{
    clock::Mono,
    ids::{Key, Uid},
    retry::Pending,
    runner::report::{Listed, Report},
};
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

/// An unknown session is looked up after this time: its object may be on its way here. Not later, because a session that was
/// deleted while no operator led holds its slot until then.
const PATIENCE: Duration = Duration::from_secs(2);
/// Unknown sessions of one runner that are followed at once. The others have their turn when these are settled.
const MAX_PER_RUNNER: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Orphans {
    orphans: HashMap<Uid, Orphan>,
    /// The orphans of each runner, by its pod.
    by_runner: HashMap<Uid, BTreeSet<Uid>>,
}

/// One unknown session.
#[derive(Debug)]
pub(super) struct Orphan {
    /// The name that its runner gives it.
    pub(super) key: Key,
    /// The pod of the runner that listed it first.
    pub(super) runner: Uid,
    since: Mono,
    /// The read of the API server. Refused: the API server will not answer it, and asking again is no use.
    pub(super) lookup: Pending,
}

impl Orphan {
    /// When it is to be looked up; none while that is under way, or was refused.
    pub(super) fn due(&self) -> Option<Mono> {
        match self.lookup {
            Pending::Idle => Some(self.since.after(PATIENCE)),
            Pending::Pause { until, .. } => Some(until),
            Pending::InFlight { .. } | Pending::Refused => None,
        }
    }
}

impl Orphans {
    /// Begins to follow a session that a runner lists. False: it is followed already, or this runner has too many.
    pub(super) fn insert(&mut self, runner: &Uid, listed: &Listed, now: Mono) -> bool {
        let of_runner = self.by_runner.entry(runner.clone()).or_default();
        if self.orphans.contains_key(&listed.uid) || of_runner.len() >= MAX_PER_RUNNER {
            return false;
        }
        of_runner.insert(listed.uid.clone());
        let key = Key { namespace: listed.namespace.clone(), name: listed.name.clone() };
        let orphan = Orphan { key, runner: runner.clone(), since: now, lookup: Pending::Idle };
        self.orphans.insert(listed.uid.clone(), orphan);
        true
    }

    pub(super) fn get_mut(&mut self, uid: &Uid) -> Option<&mut Orphan> {
        self.orphans.get_mut(uid)
    }

    /// Its object came, or there is none. True: it was followed.
    pub(super) fn remove(&mut self, uid: &Uid) -> bool {
        let Some(orphan) = self.orphans.remove(uid) else { return false };
        if let Some(of_runner) = self.by_runner.get_mut(&orphan.runner) {
            of_runner.remove(uid);
        }
        true
    }

    /// Drops the orphans of a runner that it does not list any more.
    pub(super) fn keep_listed(&mut self, runner: &Uid, report: &Report) {
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

    /// Its runner is gone, and all that it listed.
    pub(super) fn forget_runner(&mut self, runner: &Uid) {
        for uid in self.by_runner.remove(runner).unwrap_or_default() {
            self.orphans.remove(&uid);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
