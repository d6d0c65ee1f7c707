//! A runner as the leader sees it, and how much room it has: the ledger.

use crate::core::{
    clock::{Mono, Now},
    ids::Uid,
    retry::RetryState,
    runner::{
        ends::Ends,
        pod_read::{Fate, RunnerPod},
        report::Report,
    },
};
use camofleet_auth::token::PublicKeys;
use camofleet_crds::v1alpha1::{Display, WorkerPool};
use camofleet_runner_api::{Hot, RunnerState, SessionPhase};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    ops::Index,
    time::Duration,
};

/// A pod that was to be gone so long ago sits on a node that does not answer: it does not count any more.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// A runner that was silent for so long makes its sessions' Ready unknown.
pub(in crate::core) const SHOW_UNREACHABLE_AFTER: Duration = Duration::from_secs(15);
/// A runner that is not warm after so long is broken rather than busy launching.
const LAUNCH_TIME: Duration = Duration::from_secs(120);
/// A runner that ends by itself so soon after its browsers were hot has failed as one has where they never were.
const LIVED: Duration = Duration::from_secs(30);
/// From a pod's creation to the start of its container, when nothing holds it up. A pod that takes longer waits for a volume, an
/// image or an init container, and makes no CPU busy.
const START_TIME: Duration = Duration::from_secs(5);
/// Lookups of unknown sessions that one runner can cause at once, and the time after which it can cause another one.
const LOOKUPS_AT_ONCE: u32 = 16;
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(in crate::core) struct Runner {
    pod: RunnerPod,
    link: Link,
    /// What it reported last, even if it does not answer now.
    state: Option<Report>,
    /// Every session that it may have is known: it has reported to this leader, or was created in its term.
    accounted: bool,
    /// It said no since it last told its state, or that does not tell of what it took: what is known of its room is not true.
    refused: bool,
    /// It was told to go.
    leaving: bool,
    /// Its browsers were all hot once.
    was_warm: bool,
    /// When they were for the first time, as far as is known here.
    warm_since: Option<Mono>,
    /// Since when they are not. Absent: they are, or never were.
    cold_since: Option<Mono>,
    /// Sessions that are bound here or may be.
    sessions: BTreeSet<Uid>,
    /// When it was made, on the monotonic clock.
    created: Mono,
    /// When its container was first seen to run. The creation, where that was before this process knew the pod.
    running_since: Option<Mono>,
    /// When the lookups of unknown sessions that it caused are paid for, at one every [`LOOKUP_INTERVAL`].
    lookups_paid: Mono,
    /// Its events are followed.
    followed: bool,
    /// The write of its annotation.
    annotation: RetryState,
    /// Its deletion, while it is wanted and not done.
    removal: RetryState,
    /// Its early end was counted as a failure of its pool.
    failure_recorded: bool,
    /// The calls by which its sessions are ended.
    ends: Ends,
}

/// What a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) struct ReportChange {
    /// It differs from the last one, or the runner was not known to answer.
    pub(in crate::core) is_news: bool,
    /// Its browsers are all hot for the first time.
    pub(in crate::core) first_warm: bool,
    /// They are all hot, and were not by the last report.
    pub(in crate::core) becomes_warm: bool,
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
            annotation: RetryState::Idle,
            removal: RetryState::Idle,
            failure_recorded: false,
            ends: Ends::default(),
        }
    }

    pub(in crate::core) fn pod(&self) -> &RunnerPod {
        &self.pod
    }

    pub(in crate::core) fn link(&self) -> &Link {
        &self.link
    }

    /// What it reported last, even if it does not answer now.
    pub(in crate::core) fn report(&self) -> Option<&Report> {
        self.state.as_ref()
    }

    /// When its pod was created, on the monotonic clock.
    pub(in crate::core) fn created(&self) -> Mono {
        self.created
    }

    /// Sessions that are bound here or may be.
    pub(in crate::core) fn sessions(&self) -> &BTreeSet<Uid> {
        &self.sessions
    }

    /// A session is bound here, or may be. False: that is known.
    pub(in crate::core) fn assign(&mut self, session: &Uid) -> bool {
        self.sessions.insert(session.clone())
    }

    /// A session is here no more. False: it was not here.
    pub(in crate::core) fn unassign(&mut self, session: &Uid) -> bool {
        self.sessions.remove(session)
    }

    /// Its pod was created in this term: it has no session of a former leader.
    pub(in crate::core) fn mark_accounted(&mut self) {
        self.accounted = true;
    }

    /// It refused a session, or forgot one that it had taken: it gets none before its next report.
    pub(in crate::core) fn mark_refused(&mut self) {
        self.refused = true;
    }

    /// Takes its report.
    pub(in crate::core) fn heard(&mut self, report: &Report, now: Mono) -> ReportChange {
        let was_warm = self.state.as_ref().is_some_and(|state| state.warm);
        // It reports every 10 s that it is there: of a thousand runners that is a hundred times a second.
        let is_news = self.state.as_ref() != Some(report) || self.link != Link::Up || self.refused || !self.accounted;
        (self.link, self.refused, self.accounted) = (Link::Up, false, true);
        let first_warm = report.warm && !self.was_warm;
        self.was_warm |= report.warm;
        if first_warm {
            self.warm_since = Some(now);
        }
        if report.warm {
            self.cold_since = None;
        } else if was_warm {
            self.cold_since = Some(now);
        }
        self.state = Some(report.clone());
        ReportChange { is_news, first_warm, becomes_warm: report.warm && !was_warm }
    }

    /// It does not answer.
    pub(in crate::core) fn silent(&mut self, now: Mono) {
        if !matches!(self.link, Link::Silent { .. }) {
            self.link = Link::Silent { since: now };
        }
    }

    /// Its events are followed from now on. Returns the address; none: they are followed already, or it has no address yet.
    pub(in crate::core) fn follow(&mut self) -> Option<IpAddr> {
        let address = self.pod.address.filter(|_| !self.followed)?;
        self.followed = true;
        Some(address)
    }

    /// Begins the write of its annotation, when that is due. Returns the annotation's new value.
    pub(in crate::core) fn begin_annotation(&mut self, published: Option<&str>, now: Mono) -> Option<String> {
        if !self.annotation.may_start(now) || self.is_terminating() {
            return None;
        }
        let keys = self.wanted_keys(published)?;
        self.annotation = self.annotation.started();
        Some(keys)
    }

    pub(in crate::core) fn annotation_settled(&mut self) {
        self.annotation = RetryState::Idle;
    }

    pub(in crate::core) fn annotation_failed(&mut self, now: Mono) {
        self.annotation = self.annotation.failed(&self.pod.uid, now);
    }

    /// Begins the deletion of its pod. False: it leaves already, or the deletion failed just now.
    pub(in crate::core) fn begin_removal(&mut self, now: Mono) -> bool {
        let begins = !self.leaving && self.removal.may_start(now);
        if begins {
            self.leaving = true;
            self.removal = self.removal.started();
        }
        begins
    }

    pub(in crate::core) fn removal_failed(&mut self, now: Mono) {
        self.leaving = false;
        self.removal = self.removal.failed(&self.pod.uid, now);
    }

    /// Whether its deletion was decided here.
    pub(in crate::core) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// When its deletion, if that failed, may be repeated.
    pub(in crate::core) fn removal_wakes(&self) -> Option<Mono> {
        self.removal.wakes()
    }

    /// When a write of its pod that failed may be repeated.
    pub(in crate::core) fn writes_wake(&self) -> impl Iterator<Item = Mono> {
        [self.annotation.wakes(), self.removal.wakes()].into_iter().flatten()
    }

    /// Whether its end is a failure of its pool that was not counted before: it ended by itself, and hardly lived.
    pub(in crate::core) fn record_failure(&mut self, now: Mono) -> bool {
        let hardly_lived = self.warm_since.is_none_or(|since| now.since(since) < LIVED);
        let failed = hardly_lived && self.pod.killed_at.is_none() && !self.failure_recorded;
        self.failure_recorded = true;
        failed
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

    /// Begins the call that ends a session, or has its end forgotten. Returns the address to call; none when it must not be called
    /// now.
    pub(in crate::core) fn begin_end(&mut self, session: &Uid, now: Mono) -> Option<IpAddr> {
        let address = self.pod.address.filter(|_| !self.pod.is_over())?;
        let entry = self.state.as_ref().and_then(|state| state.session(session));
        let ended = entry.is_some_and(|entry| entry.phase == SessionPhase::Ended);
        let most = RunnerState::max_sessions(self.pod.slots);
        self.ends.start(session, ended, most, now).then_some(address)
    }

    /// Such a call was answered, or given up.
    pub(in crate::core) fn end_answered(&mut self, session: &Uid, now: Mono) {
        self.ends.answered(session, now);
    }

    /// Forgets the calls for sessions that it does not list any more.
    pub(in crate::core) fn forget_ends(&mut self, now: Mono) {
        let state = self.state.as_ref();
        self.ends.forget_unlisted(|uid| state.is_some_and(|state| state.session(uid).is_some()), now);
    }

    /// When such a call may be repeated.
    pub(in crate::core) fn ends_wake(&self, now: Mono) -> Option<Mono> {
        self.ends.wakes(now)
    }

    /// The annotation with the public keys, when it has to be written. An issuer of which no key is published keeps those that the
    /// runner has: without any, the runner would refuse all of that issuer's calls.
    fn wanted_keys(&self, published: Option<&str>) -> Option<String> {
        let published = published.filter(|published| *published != self.pod.keys)?;
        let parse = |keys: &str| serde_json::from_str::<PublicKeys>(keys);
        let wanted = match (parse(published), parse(&self.pod.keys)) {
            (Ok(published), Ok(had)) => {
                serde_json::to_string(&published.with_fallback(had)).expect("a map of strings serializes")
            }
            _ => published.to_owned(),
        };
        (wanted != self.pod.keys).then_some(wanted)
    }

    /// Whether it is on its way out.
    pub(in crate::core) fn is_terminating(&self) -> bool {
        self.leaving || self.pod.killed_at.is_some() || self.pod.is_over()
    }

    /// Whether it takes a place in its pool.
    pub(in crate::core) fn occupies_ordinal(&self, now: Now) -> bool {
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

    /// Whether its last report has that session.
    pub(in crate::core) fn lists(&self, session: &Uid) -> bool {
        self.state.as_ref().is_some_and(|state| state.session(session).is_some())
    }

    /// Whether it has all the hot browsers that it is to have.
    pub(in crate::core) fn is_warm(&self) -> bool {
        self.is_up() && self.state.as_ref().is_some_and(|state| state.warm)
    }

    /// For how many sessions more it can be counted on, of a runner with so many slots, where it cannot be counted as an idle one.
    /// What drains, is spent or does not answer takes none.
    pub(in crate::core) fn kept_capacity(&self, slots: u32) -> Option<u32> {
        let lost = self.is_terminating() || matches!(self.link, Link::Silent { .. });
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
        self.is_up() && !self.is_terminating() && (self.is_warm() || self.used() > 0)
    }

    /// Whether it has its place: one that drains does for as long as its sessions live.
    pub(in crate::core) fn is_in_place(&self) -> bool {
        self.serves() || self.is_terminating() && self.used() > 0
    }

    /// Whether it goes, and is known to have no session: nobody has to wait for it.
    pub(in crate::core) fn is_terminating_idle(&self) -> bool {
        self.is_terminating() && self.is_idle() && self.state.is_some()
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
            _ if self.is_terminating() => false,
            Fate::Pending(None) => now.mono.since(self.created) < START_TIME,
            Fate::Running => !self.has_launched() && self.has_run_for(now) < LAUNCH_TIME,
            Fate::Pending(Some(_)) | Fate::Outcome { .. } => false,
        }
    }

    /// A runner is overdue when it has had neither a session of ours nor a hot browser for longer than a launch takes. Sessions that
    /// it invents make no difference, and neither does having been warm before.
    pub(in crate::core) fn is_overdue(&self, now: Now) -> bool {
        let launches = self.pod.fate == Fate::Running && !self.is_terminating() && self.sessions.is_empty();
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
        if !self.is_up() || self.refused || self.is_terminating() || self.is_unheard() {
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

/// All runners, and the pods that claim to be some.
#[derive(Debug, Default)]
pub(in crate::core) struct Runners {
    /// Pods whose controller is a pool that is known, or was when they were first seen.
    by_pod: BTreeMap<Uid, Runner>,
    /// Pods that claim to be runners of a pool that is not known. Nothing is decided by them.
    claimants: BTreeMap<Uid, RunnerPod>,
}

impl Runners {
    /// Keeps a pod until its pool is known.
    pub(in crate::core) fn claim(&mut self, pod: RunnerPod) {
        self.claimants.insert(pod.uid.clone(), pod);
    }

    /// Takes the pods that claimed to be this pool's.
    pub(in crate::core) fn take_claimants(&mut self, pool: &WorkerPool) -> Vec<RunnerPod> {
        let claimants = std::mem::take(&mut self.claimants);
        let (theirs, others) = claimants.into_iter().partition(|(_, pod)| pod.belongs_to(pool));
        self.claimants = others;
        BTreeMap::into_values(theirs).collect()
    }

    pub(in crate::core) fn retain_claimants(&mut self, keep: impl Fn(&Uid) -> bool) {
        self.claimants.retain(|uid, _| keep(uid));
    }

    pub(in crate::core) fn remove_claimant(&mut self, pod: &Uid) {
        self.claimants.remove(pod);
    }

    pub(in crate::core) fn insert(&mut self, runner: Runner) {
        self.by_pod.insert(runner.pod.uid.clone(), runner);
    }

    pub(in crate::core) fn remove(&mut self, pod: &Uid) -> Option<Runner> {
        self.by_pod.remove(pod)
    }

    /// A new leader has heard none of them.
    pub(in crate::core) fn begin_term(&mut self, now: Now) {
        for runner in self.by_pod.values_mut() {
            *runner = Runner::new(runner.pod.clone(), now);
        }
    }

    pub(in crate::core) fn contains(&self, pod: &Uid) -> bool {
        self.by_pod.contains_key(pod)
    }

    pub(in crate::core) fn get(&self, pod: &Uid) -> Option<&Runner> {
        self.by_pod.get(pod)
    }

    pub(in crate::core) fn get_mut(&mut self, pod: &Uid) -> Option<&mut Runner> {
        self.by_pod.get_mut(pod)
    }

    pub(in crate::core) fn uids(&self) -> impl Iterator<Item = &Uid> {
        self.by_pod.keys()
    }

    pub(in crate::core) fn iter(&self) -> impl Iterator<Item = &Runner> {
        self.by_pod.values()
    }

    /// The runners of a pool.
    pub(in crate::core) fn of<'a>(&'a self, pool: &'a WorkerPool) -> impl Iterator<Item = &'a Runner> {
        self.by_pod.values().filter(move |runner| runner.pod.belongs_to(pool))
    }

    /// The runners that list a session in their last report.
    pub(in crate::core) fn listing<'a>(&'a self, session: &'a Uid) -> impl Iterator<Item = &'a Runner> {
        self.by_pod.values().filter(|runner| runner.lists(session))
    }

    /// How many sessions each node has.
    pub(in crate::core) fn sessions_on_nodes(&self) -> HashMap<&String, usize> {
        let mut count = HashMap::new();
        for runner in self.by_pod.values() {
            if let Some(node) = &runner.pod.node {
                *count.entry(node).or_default() += runner.sessions.len();
            }
        }
        count
    }
}

impl Index<&Uid> for Runners {
    type Output = Runner;

    fn index(&self, pod: &Uid) -> &Runner {
        &self.by_pod[pod]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::Key;
    use camofleet_crds::v1alpha1::WorkerPoolSpec;
    use camofleet_runner_api::RunnerState;
    use k8s_openapi::jiff::Timestamp;

    fn at(millis: i64) -> Now {
        Now { mono: Mono(millis), wall: Timestamp::from_millisecond(millis).unwrap() }
    }

    fn key(name: &str) -> Key {
        Key { namespace: "ns".into(), name: name.into() }
    }

    fn pod(uid: &str, pool: &str, node: Option<&str>) -> RunnerPod {
        RunnerPod {
            uid: uid.into(),
            key: key(uid),
            pool: (key(pool), format!("uid-of-{pool}")),
            ordinal: 0,
            revision: "r".into(),
            slots: 2,
            keys: "{}".into(),
            node: node.map(str::to_owned),
            address: Some([10, 0, 0, 1].into()),
            version: 1,
            created: Timestamp::UNIX_EPOCH,
            killed_at: None,
            fate: Fate::Running,
        }
    }

    fn pool(name: &str) -> WorkerPool {
        let mut pool = WorkerPool::new(name, WorkerPoolSpec::default());
        pool.metadata.namespace = Some("ns".into());
        pool.metadata.uid = Some(format!("uid-of-{name}"));
        pool
    }

    fn report(generation: u64, warm: bool) -> Report {
        let hot = Hot { headless: if warm { 2 } else { 0 }, headful: 0 };
        let state =
            RunnerState { boot_id: "boot".into(), generation, slots: 2, free: 2, warm, hot, ..RunnerState::default() };
        Report::new(state, 2).unwrap()
    }

    #[test]
    fn a_report_is_news_when_something_changed() {
        let mut runner = Runner::new(pod("a", "p", None), at(0));
        assert!(runner.is_unheard() && !runner.is_up());
        let heard = |is_news, first_warm, becomes_warm| ReportChange { is_news, first_warm, becomes_warm };
        assert_eq!(runner.heard(&report(1, false), Mono(0)), heard(true, false, false));
        assert!(!runner.is_unheard() && runner.is_up());
        assert_eq!(runner.heard(&report(1, false), Mono(0)), heard(false, false, false));
        assert_eq!(runner.heard(&report(2, true), Mono(0)), heard(true, true, true));
        assert_eq!(runner.heard(&report(3, false), Mono(0)), heard(true, false, false));
        assert_eq!(runner.heard(&report(4, true), Mono(0)), heard(true, false, true));
        runner.silent(Mono(5));
        runner.silent(Mono(9));
        assert_eq!(*runner.link(), Link::Silent { since: Mono(5) });
        assert_eq!(runner.heard(&report(4, true), Mono(9)), heard(true, false, false), "it answers again");
        runner.mark_refused();
        assert_eq!(runner.room(2, |_| None), None);
        assert!(runner.heard(&report(4, true), Mono(9)).is_news, "its room is known again");
        assert_eq!(runner.room(2, |_| None).map(|room| room.free), Some(2));
    }

    #[test]
    fn a_pod_is_deleted_once_and_again_after_a_failure() {
        let mut runner = Runner::new(pod("a", "p", None), at(0));
        assert!(runner.begin_removal(Mono(0)) && !runner.begin_removal(Mono(0)) && runner.is_leaving());
        runner.removal_failed(Mono(0));
        assert!(!runner.is_leaving() && !runner.begin_removal(Mono(0)));
        let again = runner.removal_wakes().unwrap();
        assert!(runner.begin_removal(again));
    }

    #[test]
    fn an_early_end_is_a_failure_once() {
        let mut early = Runner::new(pod("a", "p", None), at(0));
        early.heard(&report(1, true), Mono(0));
        assert!(early.record_failure(Mono(29_999)) && !early.record_failure(Mono(29_999)));
        let mut late = Runner::new(pod("b", "p", None), at(0));
        late.heard(&report(1, true), Mono(0));
        assert!(!late.record_failure(Mono(30_000)));
        let killed = RunnerPod { killed_at: Some(Timestamp::UNIX_EPOCH), ..pod("c", "p", None) };
        assert!(!Runner::new(killed, at(0)).record_failure(Mono(0)), "somebody deleted it");
    }

    #[test]
    fn a_runner_is_followed_and_annotated_once() {
        let mut runner = Runner::new(pod("a", "p", None), at(0));
        assert!(runner.follow().is_some() && runner.follow().is_none());
        assert_eq!(runner.begin_annotation(None, Mono(0)), None, "no keys are published");
        assert_eq!(runner.begin_annotation(Some("{}"), Mono(0)), None, "it has them");
        assert!(runner.begin_annotation(Some("new"), Mono(0)).is_some());
        assert_eq!(runner.begin_annotation(Some("new"), Mono(0)), None, "the write is under way");
        runner.annotation_failed(Mono(0));
        let again = runner.writes_wake().next().unwrap();
        assert!(runner.begin_annotation(Some("new"), again).is_some());
    }

    #[test]
    fn a_pod_that_claims_a_pool_waits_for_it() {
        let mut runners = Runners::default();
        for (uid, pool) in [("a", "p"), ("b", "q"), ("c", "p"), ("d", "p")] {
            runners.claim(pod(uid, pool, None));
        }
        runners.remove_claimant(&"c".to_owned());
        runners.retain_claimants(|uid| uid != "d");
        let taken = |runners: &mut Runners, name| -> Vec<Uid> {
            runners.take_claimants(&pool(name)).into_iter().map(|pod| pod.uid).collect()
        };
        assert_eq!(taken(&mut runners, "p"), ["a"]);
        assert_eq!(taken(&mut runners, "p"), [""; 0]);
        assert_eq!(taken(&mut runners, "q"), ["b"]);
    }

    #[test]
    fn sessions_are_counted_by_node_and_runners_found_by_pool() {
        let mut runners = Runners::default();
        for (uid, name, node) in [("a", "p", "n1"), ("b", "q", "n1"), ("c", "p", "n2")] {
            runners.insert(Runner::new(pod(uid, name, Some(node)), at(0)));
        }
        let assign = |runners: &mut Runners, pod: &str, session: &str| {
            runners.get_mut(&pod.to_owned()).unwrap().assign(&session.to_owned())
        };
        assert!(assign(&mut runners, "a", "s") && !assign(&mut runners, "a", "s") && assign(&mut runners, "b", "t"));
        assert_eq!(runners.sessions_on_nodes(), HashMap::from([(&"n1".to_owned(), 2), (&"n2".to_owned(), 0)]));
        let of = |name| runners.of(&pool(name)).map(|runner| runner.pod().uid.clone()).collect::<Vec<_>>();
        assert_eq!((of("p"), of("q"), of("r")), (vec!["a".into(), "c".into()], vec!["b".into()], Vec::<Uid>::new()));
        runners.begin_term(at(1));
        assert!(runners[&"a".to_owned()].sessions().is_empty(), "a new leader has heard none of them");
    }
}
