//! A runner as the leader sees it, and how much room it has: the ledger.

use crate::core::{
    clock::{Mono, Now},
    ids::Uid,
    retry::Pending,
    runner::{
        pod_read::{Fate, RunnerPod},
        report::Report,
    },
};
use camofleet_crds::v1alpha1::Display;
use camofleet_runner_api::{Hot, SessionPhase, token::PublicKeys};
use std::{collections::BTreeSet, time::Duration};

/// A pod that was to be gone so long ago sits on a node that does not answer: it does not count any more.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// A runner that was silent for so long makes its sessions' Ready unknown.
pub(in crate::core) const SHOW_UNREACHABLE_AFTER: Duration = Duration::from_secs(15);
/// A runner that is not warm after so long is broken rather than busy launching.
const LAUNCH_TIME: Duration = Duration::from_secs(120);
/// From a pod's creation to the start of its container, when nothing holds it up. A pod that takes longer waits for a volume, an
/// image or an init container, and makes no CPU busy.
const START_TIME: Duration = Duration::from_secs(5);
/// Lookups of unknown sessions that one runner can cause at once, and the time after which it can cause another one.
const LOOKUPS_AT_ONCE: u32 = 16;
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(in crate::core) struct Runner {
    pub(in crate::core) pod: RunnerPod,
    pub(in crate::core) link: Link,
    /// What it reported last, even if it does not answer now.
    pub(in crate::core) state: Option<Report>,
    /// Every session that it may have is known: it has reported to this leader, or was created in its term.
    pub(in crate::core) accounted: bool,
    /// It said no since it last told its state, or that does not tell of what it took: what is known of its room is not true.
    pub(in crate::core) refused: bool,
    /// It was told to go.
    pub(in crate::core) leaving: bool,
    /// Its browsers were all hot once.
    pub(in crate::core) was_warm: bool,
    /// When they were for the first time, as far as is known here.
    pub(in crate::core) warm_since: Option<Mono>,
    /// Since when they are not. Absent: they are, or never were.
    pub(in crate::core) cold_since: Option<Mono>,
    /// Sessions that are bound here or may be.
    pub(in crate::core) sessions: BTreeSet<Uid>,
    /// When it was made, on the monotonic clock.
    pub(in crate::core) created: Mono,
    /// When its container was first seen to run. The creation, where that was before this process knew the pod.
    running_since: Option<Mono>,
    /// When the lookups of unknown sessions that it caused are paid for, at one every [`LOOKUP_INTERVAL`].
    lookups_paid: Mono,
    /// Its events are followed.
    pub(in crate::core) followed: bool,
    /// The write of its annotation.
    pub(in crate::core) annotation: Pending,
    /// Its deletion, while it is wanted and not done.
    pub(in crate::core) removal: Pending,
    /// Its early end was counted as a failure of its pool.
    pub(in crate::core) mourned: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) enum Link {
    /// Nobody follows it, or it has not spoken yet.
    Unknown,
    /// It speaks.
    Up,
    /// It does not answer.
    Silent { since: Mono },
}

impl Runner {
    pub(in crate::core) fn new(pod: RunnerPod, now: Now) -> Self {
        let created = now.mono_of(pod.created);
        Self {
            running_since: (pod.fate == Fate::Running).then_some(created),
            lookups_paid: now.mono,
            pod,
            link: Link::Unknown,
            state: None,
            accounted: false,
            refused: false,
            leaving: false,
            was_warm: false,
            warm_since: None,
            cold_since: None,
            sessions: BTreeSet::new(),
            created,
            followed: false,
            annotation: Pending::Idle,
            removal: Pending::Idle,
            mourned: false,
        }
    }

    /// Takes a later version of its pod.
    pub(in crate::core) fn replace_pod(&mut self, pod: RunnerPod, now: Now) {
        self.pod = pod;
        if self.pod.fate == Fate::Running {
            self.running_since.get_or_insert(now.mono);
        }
    }

    /// Whether it may have sessions that this leader does not know of. It counts as busy, and offers no slot.
    pub(in crate::core) fn is_unheard(&self) -> bool {
        !self.accounted && self.pod.address.is_some() && !self.pod.is_over()
    }

    /// Takes one lookup of an unknown session that it lists, if it has one left. Each is a read of the API server, so a runner
    /// that invents sessions gets only a few.
    pub(in crate::core) fn may_look_up(&mut self, now: Mono) -> bool {
        let paid = self.lookups_paid.max(now).after(LOOKUP_INTERVAL);
        let granted = paid <= now.after(LOOKUP_INTERVAL * LOOKUPS_AT_ONCE);
        if granted {
            self.lookups_paid = paid;
        }
        granted
    }

    /// The annotation with the public keys, when it has to be written. An issuer of which no key is published keeps those that the
    /// runner has: without any, the runner would refuse all of that issuer's calls.
    pub(in crate::core) fn wanted_keys(&self, published: Option<&str>) -> Option<String> {
        let published = published.filter(|published| *published != self.pod.keys)?;
        let parse = |keys: &str| serde_json::from_str::<PublicKeys>(keys);
        let wanted = match (parse(published), parse(&self.pod.keys)) {
            (Ok(published), Ok(had)) => {
                serde_json::to_string(&published.or_those_of(had)).expect("a map of strings serializes")
            }
            _ => published.to_owned(),
        };
        (wanted != self.pod.keys).then_some(wanted)
    }

    /// Whether it is on its way out.
    pub(in crate::core) fn goes(&self) -> bool {
        self.leaving || self.pod.killed_at.is_some() || self.pod.is_over()
    }

    /// Whether it takes a place in its pool.
    pub(in crate::core) fn counts(&self, now: Now) -> bool {
        !self.pod.is_over() && !self.is_stuck(now)
    }

    /// Whether it should long be gone.
    pub(in crate::core) fn is_stuck(&self, now: Now) -> bool {
        self.stuck_from(now).is_some_and(|at| at <= now.mono)
    }

    /// From when on it should long be gone.
    pub(in crate::core) fn stuck_from(&self, now: Now) -> Option<Mono> {
        let killed_at = self.pod.killed_at?;
        let left = Duration::try_from(killed_at.duration_since(now.wall)).unwrap_or_default();
        Some(now.mono_of(killed_at).after(left).after(STUCK_AFTER))
    }

    /// Whether it answers.
    pub(in crate::core) fn is_up(&self) -> bool {
        self.link == Link::Up
    }

    /// Whether it has all the hot browsers that it is to have.
    pub(in crate::core) fn is_warm(&self) -> bool {
        self.is_up() && self.state.as_ref().is_some_and(|state| state.warm)
    }

    /// For how many sessions more it can be counted on, of a runner with so many slots, where it cannot be counted as an idle one.
    /// What drains, is spent or does not answer takes none.
    pub(in crate::core) fn keeps(&self, slots: u32) -> Option<u32> {
        let lost = self.goes() || matches!(self.link, Link::Silent { .. });
        match self.state.as_ref().filter(|_| !lost) {
            Some(state) if state.draining || state.spent => Some(0),
            Some(state) => {
                let free = state.free.min(slots).saturating_sub(small(self.unlisted().count()));
                (free < slots || !self.is_idle()).then_some(free)
            }
            None => (lost || !self.is_idle()).then_some(0),
        }
    }

    /// Whether it takes sessions or serves them.
    pub(in crate::core) fn serves(&self) -> bool {
        self.is_up() && !self.goes() && (self.is_warm() || self.used() > 0)
    }

    /// Whether it has its place: one that drains does for as long as its sessions live.
    pub(in crate::core) fn is_in_place(&self) -> bool {
        self.serves() || self.goes() && self.used() > 0
    }

    /// Whether it goes, and is known to have no session: nobody has to wait for it.
    pub(in crate::core) fn is_going_idle(&self) -> bool {
        self.goes() && self.is_idle() && self.state.is_some()
    }

    /// Whether it never came up, or came up once and launches no browser any more.
    pub(in crate::core) fn is_useless(&self) -> bool {
        match &self.state {
            Some(state) => !state.warm && (!self.was_warm || state.launch_error.is_some()),
            None => matches!(self.pod.fate, Fate::Pending(_)),
        }
    }

    /// Whether it takes no session any more, as it has served as many as it may.
    pub(in crate::core) fn is_spent(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.spent)
    }

    /// Whether it makes the CPUs busy with launching, or is about to.
    pub(in crate::core) fn is_launching(&self, now: Now) -> bool {
        match self.pod.fate {
            _ if self.goes() => false,
            Fate::Pending(None) => now.mono.since(self.created) < START_TIME,
            Fate::Running => !self.has_launched() && self.has_run_for(now) < LAUNCH_TIME,
            Fate::Pending(Some(_)) | Fate::Over { .. } => false,
        }
    }

    /// A runner is overdue when it has had neither a session of ours nor a hot browser for longer than a launch takes. Sessions that
    /// it invents make no difference, and neither does having been warm before.
    pub(in crate::core) fn is_overdue(&self, now: Now) -> bool {
        let launches = self.pod.fate == Fate::Running && !self.goes() && self.sessions.is_empty();
        let cold_for = self.cold_since.map_or(Duration::MAX, |since| now.mono.since(since));
        launches && !self.has_launched() && self.has_run_for(now).min(cold_for) >= LAUNCH_TIME
    }

    fn has_launched(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.spent || state.warm)
    }

    fn has_run_for(&self, now: Now) -> Duration {
        self.running_since.map_or(Duration::ZERO, |since| now.mono.since(since))
    }

    /// Whether no session is here, as far as anybody knows.
    pub(in crate::core) fn is_idle(&self) -> bool {
        let lists_none = self.state.as_ref().is_none_or(|state| state.sessions().is_empty());
        self.sessions.is_empty() && lists_none && !self.is_unheard()
    }

    /// Sessions that hold a slot here, or may.
    pub(in crate::core) fn used(&self) -> usize {
        let listed = self.state.iter().flat_map(Report::sessions);
        listed.filter(|session| session.phase != SessionPhase::Ended).count() + self.unlisted().count()
    }

    /// What more it would take: its own word, but no more than its slots and its list can hold, less what it was sent and has not
    /// reported yet.
    pub(in crate::core) fn room(&self, slots: u32, display_of: impl Fn(&Uid) -> Option<Display>) -> Option<Room> {
        if !self.is_up() || self.refused || self.goes() || self.is_unheard() {
            return None;
        }
        let state = self.state.as_ref().filter(|state| !state.draining)?;
        let mut room = Room { free: state.free.min(slots).min(state.room_in_list()), hot: state.hot };
        for session in self.unlisted() {
            room.take(display_of(session).unwrap_or_default());
        }
        (room.free > 0).then_some(room)
    }

    fn unlisted(&self) -> impl Iterator<Item = &Uid> {
        self.sessions.iter().filter(|uid| self.state.as_ref().is_none_or(|state| state.session(uid).is_none()))
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Room for sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) struct Room {
    pub(in crate::core) free: u32,
    pub(in crate::core) hot: Hot,
}

impl Room {
    /// One session of that display less. It takes a hot browser where there is one, and else displaces one of the other
    /// kind when the hot ones fill all slots.
    pub(in crate::core) fn take(&mut self, display: Display) {
        self.free = self.free.saturating_sub(1);
        let (own, other) = match display {
            Display::Headless => (&mut self.hot.headless, &mut self.hot.headful),
            Display::Headful | Display::LiveView => (&mut self.hot.headful, &mut self.hot.headless),
        };
        if *own > 0 {
            *own -= 1;
        } else if *other > self.free {
            *other = self.free;
        }
    }
}
