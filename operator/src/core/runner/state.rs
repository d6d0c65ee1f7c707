//! The leader's view of a runner: its pod, its last report, the sessions assigned to it and its free slots.

use crate::core::{
    clock::{Monotonic, Now},
    ids::Uid,
    retry::RetryState,
    runner::{
        delete_calls::DeleteCalls,
        pod_read::{PodPhase, RunnerPod},
        report::Report,
    },
};
use camofleet_auth::token::PublicKeys;
use camofleet_crds::v1alpha1::{Display, WorkerPool};
use camofleet_runner_api::{BrowserCounts, RunnerState, SessionPhase};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    ops::Index,
    time::Duration,
};

/// Time after a pod's `deletionTimestamp` at which it counts as stuck, because its node does not respond. A stuck pod
/// does not hold its ordinal.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Time for which a runner is unreachable before `Ready` of its sessions becomes `Unknown`.
pub(in crate::core) const PUBLISH_UNREACHABLE_AFTER: Duration = Duration::from_secs(15);
/// Time after which a runner that is not warm is overdue and no longer counts as launching.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(120);
/// A runner that exits by itself less than this time after it became warm counts as a failed launch.
const MIN_UPTIME: Duration = Duration::from_secs(30);
/// Usual time from the creation of a pod to the start of its container. A pod that takes longer waits for a volume, an
/// image or an init container, and uses no CPU.
const START_TIME: Duration = Duration::from_secs(5);
/// Lookups of unknown sessions that one runner can cause in a burst.
const LOOKUP_BURST: u32 = 16;
/// Time after which a runner can cause another lookup.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(in crate::core) struct Runner {
    pod: RunnerPod,
    connectivity: Connectivity,
    /// The last report. It is kept while the runner is unreachable.
    report: Option<Report>,
    /// All sessions of the runner are known: it has reported to this leader, or its pod was created in this term.
    sessions_known: bool,
    /// The runner rejected or lost a session after its last report, so the number of its free slots is unknown.
    slots_unknown: bool,
    /// This leader has sent the `DELETE` of the pod, and it has not failed.
    delete_sent: bool,
    /// The runner was warm at some time.
    was_warm: bool,
    /// When this process first saw the runner warm.
    warm_since: Option<Monotonic>,
    /// When the runner stopped being warm. `None` while it is warm, or when it never was.
    not_warm_since: Option<Monotonic>,
    /// Sessions that are bound to the runner, or may be.
    sessions: BTreeSet<Uid>,
    /// Creation time of the pod, on the monotonic clock.
    created: Monotonic,
    /// When the container was first seen running. The creation time if it ran before this process saw the pod.
    running_since: Option<Monotonic>,
    /// When the token bucket for lookups of unknown sessions is full again. It holds [`LOOKUP_BURST`] tokens, and gets
    /// one every [`LOOKUP_INTERVAL`].
    lookup_bucket_full_at: Monotonic,
    /// The runner's reports are streamed.
    streaming: bool,
    /// The write of the annotation with the public keys.
    annotation: RetryState,
    /// The call that deletes the pod.
    deletion: RetryState,
    /// The end of the pod was checked for a failed launch.
    failure_recorded: bool,
    /// The calls that end its sessions or acknowledge their end.
    delete_calls: DeleteCalls,
}

/// What a report changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) struct ReportChange {
    /// The report differs from the last one, or the runner's free slots were unknown before.
    pub(in crate::core) changed: bool,
    /// The runner is warm for the first time.
    pub(in crate::core) first_warm: bool,
    /// The runner is warm, and was not in the last report.
    pub(in crate::core) becomes_warm: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) enum Connectivity {
    /// The runner has not reported to this leader.
    Unknown,
    Up,
    /// The runner does not respond.
    Unreachable {
        since: Monotonic,
    },
}

impl Runner {
    pub(in crate::core) fn new(pod: RunnerPod, now: Now) -> Self {
        let created = now.monotonic_of(pod.created);
        Self {
            running_since: (pod.phase == PodPhase::Running).then_some(created),
            lookup_bucket_full_at: now.monotonic,
            pod,
            connectivity: Connectivity::Unknown,
            report: None,
            sessions_known: false,
            slots_unknown: false,
            delete_sent: false,
            was_warm: false,
            warm_since: None,
            not_warm_since: None,
            sessions: BTreeSet::new(),
            created,
            streaming: false,
            annotation: RetryState::Idle,
            deletion: RetryState::Idle,
            failure_recorded: false,
            delete_calls: DeleteCalls::default(),
        }
    }

    pub(in crate::core) fn pod(&self) -> &RunnerPod {
        &self.pod
    }

    pub(in crate::core) fn connectivity(&self) -> &Connectivity {
        &self.connectivity
    }

    /// The last report. It is kept while the runner is unreachable.
    pub(in crate::core) fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// Creation time of the pod, on the monotonic clock.
    pub(in crate::core) fn created(&self) -> Monotonic {
        self.created
    }

    /// Sessions that are bound to the runner, or may be.
    pub(in crate::core) fn sessions(&self) -> &BTreeSet<Uid> {
        &self.sessions
    }

    /// Assigns a session to the runner. Returns `false` if it was assigned already.
    pub(in crate::core) fn assign(&mut self, session: &Uid) -> bool {
        self.sessions.insert(session.clone())
    }

    /// Removes a session from the runner. Returns `false` if it was not assigned.
    pub(in crate::core) fn unassign(&mut self, session: &Uid) -> bool {
        self.sessions.remove(session)
    }

    /// Records that the pod was created in this term, so that the runner has no session of a former leader.
    pub(in crate::core) fn mark_sessions_known(&mut self) {
        self.sessions_known = true;
    }

    /// Records that the runner rejected or lost a session. It gets no session before its next report.
    pub(in crate::core) fn mark_slots_unknown(&mut self) {
        self.slots_unknown = true;
    }

    pub(in crate::core) fn record_report(&mut self, report: &Report, now: Monotonic) -> ReportChange {
        let was_warm = self.report.as_ref().is_some_and(|report| report.warm);
        // Unchanged reports cause no reconciliation. Each runner sends one every 10 s, so 1000 runners send 100 a
        // second.
        let changed = self.report.as_ref() != Some(report)
            || self.connectivity != Connectivity::Up
            || self.slots_unknown
            || !self.sessions_known;
        (self.connectivity, self.slots_unknown, self.sessions_known) = (Connectivity::Up, false, true);
        let first_warm = report.warm && !self.was_warm;
        self.was_warm |= report.warm;
        if first_warm {
            self.warm_since = Some(now);
        }
        if report.warm {
            self.not_warm_since = None;
        } else if was_warm {
            self.not_warm_since = Some(now);
        }
        self.report = Some(report.clone());
        ReportChange { changed, first_warm, becomes_warm: report.warm && !was_warm }
    }

    pub(in crate::core) fn mark_unreachable(&mut self, now: Monotonic) {
        if !matches!(self.connectivity, Connectivity::Unreachable { .. }) {
            self.connectivity = Connectivity::Unreachable { since: now };
        }
    }

    /// Starts the stream of reports. Returns the runner's address, or `None` if the stream has started or there is no
    /// address yet.
    pub(in crate::core) fn begin_streaming(&mut self) -> Option<IpAddr> {
        let address = self.pod.address.filter(|_| !self.streaming)?;
        self.streaming = true;
        Some(address)
    }

    /// Starts the write of the annotation if it is due. Returns the annotation's new value.
    pub(in crate::core) fn begin_annotation(&mut self, published: Option<&str>, now: Monotonic) -> Option<String> {
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

    pub(in crate::core) fn annotation_failed(&mut self, now: Monotonic) {
        self.annotation = self.annotation.failed(&self.pod.uid, now);
    }

    /// Starts the deletion of the pod. Returns `false` if it was started already, or pauses after a failure.
    pub(in crate::core) fn begin_deletion(&mut self, now: Monotonic) -> bool {
        let begins = !self.delete_sent && self.deletion.may_start(now);
        if begins {
            self.delete_sent = true;
            self.deletion = self.deletion.started();
        }
        begins
    }

    pub(in crate::core) fn deletion_failed(&mut self, now: Monotonic) {
        self.delete_sent = false;
        self.deletion = self.deletion.failed(&self.pod.uid, now);
    }

    /// Returns whether this leader has sent the `DELETE` of the pod, which has not failed.
    pub(in crate::core) fn delete_sent(&self) -> bool {
        self.delete_sent
    }

    pub(in crate::core) fn deletion_retry_at(&self) -> Option<Monotonic> {
        self.deletion.retry_at()
    }

    /// When failed writes of the pod may be repeated.
    pub(in crate::core) fn write_retries(&self) -> impl Iterator<Item = Monotonic> {
        [self.annotation.retry_at(), self.deletion.retry_at()].into_iter().flatten()
    }

    /// Returns whether the end of the pod is a failed launch that was not counted before: it exited by itself before it
    /// was warm for [`MIN_UPTIME`].
    pub(in crate::core) fn record_failure(&mut self, now: Monotonic) -> bool {
        let exited_early = self.warm_since.is_none_or(|since| now.since(since) < MIN_UPTIME);
        let failed = exited_early && self.pod.deletion_deadline.is_none() && !self.failure_recorded;
        self.failure_recorded = true;
        failed
    }

    /// Stores a newer version of the pod.
    pub(in crate::core) fn replace_pod(&mut self, pod: RunnerPod, now: Now) {
        self.pod = pod;
        if self.pod.phase == PodPhase::Running {
            self.running_since.get_or_insert(now.monotonic);
        }
    }

    /// Returns whether the runner may have sessions that this leader does not know. Such a runner counts as busy and
    /// offers no slot.
    pub(in crate::core) fn may_have_unknown_sessions(&self) -> bool {
        !self.sessions_known && self.pod.address.is_some() && !self.pod.is_terminated()
    }

    /// Takes a token for the lookup of an unknown session, if one is left. Each lookup is a read of the API
    /// server, so a runner that invents sessions gets only a few.
    pub(in crate::core) fn take_lookup(&mut self, now: Monotonic) -> bool {
        let full_at = self.lookup_bucket_full_at.max(now).after(LOOKUP_INTERVAL);
        let granted = full_at <= now.after(LOOKUP_INTERVAL * LOOKUP_BURST);
        if granted {
            self.lookup_bucket_full_at = full_at;
        }
        granted
    }

    /// Starts the call that ends a session or acknowledges its end. Returns the address to call, or `None` if no call
    /// is allowed now.
    pub(in crate::core) fn begin_delete_call(&mut self, session: &Uid, now: Monotonic) -> Option<IpAddr> {
        let address = self.pod.address.filter(|_| !self.pod.is_terminated())?;
        let entry = self.report.as_ref().and_then(|report| report.session(session));
        let ended = entry.is_some_and(|entry| entry.phase == SessionPhase::Ended);
        let max = RunnerState::max_sessions(self.pod.slots);
        self.delete_calls.start(session, ended, max, now).then_some(address)
    }

    /// Records that such a call was answered or abandoned.
    pub(in crate::core) fn end_answered(&mut self, session: &Uid, now: Monotonic) {
        self.delete_calls.answered(session, now);
    }

    /// Forgets the calls for sessions that the runner no longer lists.
    pub(in crate::core) fn forget_delete_calls(&mut self, now: Monotonic) {
        let report = self.report.as_ref();
        self.delete_calls.forget_unlisted(|uid| report.is_some_and(|report| report.session(uid).is_some()), now);
    }

    pub(in crate::core) fn next_delete_retry(&self, now: Monotonic) -> Option<Monotonic> {
        self.delete_calls.next_retry(now)
    }

    /// The new value of the annotation with the public keys, if it has to be written. An issuer without a published key
    /// keeps the keys that the runner has, because without any key the runner would reject all calls of that issuer.
    fn wanted_keys(&self, published: Option<&str>) -> Option<String> {
        let published = published.filter(|published| *published != self.pod.keys)?;
        let parse = |keys: &str| serde_json::from_str::<PublicKeys>(keys);
        let wanted = match (parse(published), parse(&self.pod.keys)) {
            (Ok(published), Ok(current)) => {
                serde_json::to_string(&published.with_fallback(current)).expect("a map of strings serializes")
            }
            _ => published.to_owned(),
        };
        (wanted != self.pod.keys).then_some(wanted)
    }

    /// Returns whether the pod is being deleted or has terminated.
    pub(in crate::core) fn is_terminating(&self) -> bool {
        self.delete_sent || self.pod.deletion_deadline.is_some() || self.pod.is_terminated()
    }

    /// Returns whether the pod holds its ordinal in the pool.
    pub(in crate::core) fn occupies_ordinal(&self, now: Now) -> bool {
        !self.pod.is_terminated() && !self.is_stuck(now)
    }

    /// Returns whether the pod still exists [`STUCK_AFTER`] its `deletionTimestamp`.
    pub(in crate::core) fn is_stuck(&self, now: Now) -> bool {
        self.stuck_from(now).is_some_and(|at| at <= now.monotonic)
    }

    /// When the pod becomes stuck, if it is being deleted.
    pub(in crate::core) fn stuck_from(&self, now: Now) -> Option<Monotonic> {
        let deletion_deadline = self.pod.deletion_deadline?;
        let left = Duration::try_from(deletion_deadline.duration_since(now.wall)).unwrap_or_default();
        Some(now.monotonic_of(deletion_deadline).after(left).after(STUCK_AFTER))
    }

    /// Returns whether the runner responds.
    pub(in crate::core) fn is_up(&self) -> bool {
        self.connectivity == Connectivity::Up
    }

    /// Returns whether the last report lists the session.
    pub(in crate::core) fn lists(&self, session: &Uid) -> bool {
        self.report.as_ref().is_some_and(|report| report.session(session).is_some())
    }

    /// Returns whether the runner responds and is warm.
    pub(in crate::core) fn is_warm(&self) -> bool {
        self.is_up() && self.report.as_ref().is_some_and(|report| report.warm)
    }

    /// Returns whether the runner is idle and has the capacity of a new runner with `slots` slots, so that autoscaling
    /// can remove it. A new runner that has not reported yet counts.
    pub(in crate::core) fn is_replaceable_idle(&self, slots: u32) -> bool {
        let has_full_capacity = self.report.is_none() || self.free_slots(slots) == slots;
        !self.is_lost() && self.is_idle() && has_full_capacity
    }

    /// Free slots for the demand of a pool with `slots` slots per runner. Each assigned session that the runner does
    /// not list yet takes a slot. A runner that terminates, drains, is spent or is unreachable has none.
    pub(in crate::core) fn free_slots(&self, slots: u32) -> u32 {
        let open = self.report.as_ref().filter(|report| !self.is_lost() && !report.draining && !report.spent);
        open.map_or(0, |report| report.free.min(slots).saturating_sub(saturating_u32(self.unlisted().count())))
    }

    /// Returns whether the runner terminates or is unreachable.
    fn is_lost(&self) -> bool {
        self.is_terminating() || matches!(self.connectivity, Connectivity::Unreachable { .. })
    }

    /// Returns whether the runner is ready for sessions or has one.
    pub(in crate::core) fn serves(&self) -> bool {
        self.is_up() && !self.is_terminating() && (self.is_warm() || self.used() > 0)
    }

    /// Returns whether the runner counts towards `maxUnavailable`. A draining runner does until its sessions have
    /// ended.
    pub(in crate::core) fn counts_as_available(&self) -> bool {
        self.serves() || self.is_terminating() && self.used() > 0
    }

    /// Returns whether the runner is terminating and is known to have no session.
    pub(in crate::core) fn is_terminating_idle(&self) -> bool {
        self.is_terminating() && self.is_idle() && self.report.is_some()
    }

    /// Returns whether the runner never became warm, can no longer launch browsers, or is pending without a report.
    pub(in crate::core) fn is_broken(&self) -> bool {
        match &self.report {
            Some(report) => !report.warm && (!self.was_warm || report.launch_error.is_some()),
            None => matches!(self.pod.phase, PodPhase::Pending(_)),
        }
    }

    /// Returns whether the runner has served `sessionsPerRunner` sessions.
    pub(in crate::core) fn is_spent(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.spent)
    }

    /// Returns whether the runner launches browsers, or is about to, and so uses CPUs.
    pub(in crate::core) fn is_launching(&self, now: Now) -> bool {
        match self.pod.phase {
            _ if self.is_terminating() => false,
            PodPhase::Pending(None) => now.monotonic.since(self.created) < START_TIME,
            PodPhase::Running => !self.has_launched() && self.has_run_for(now) < LAUNCH_TIMEOUT,
            PodPhase::Pending(Some(_)) | PodPhase::Terminated { .. } => false,
        }
    }

    /// Returns whether a running runner without assigned sessions has not been warm for [`LAUNCH_TIMEOUT`], although it
    /// is not spent. Sessions that only the runner lists do not count, because it can invent them.
    pub(in crate::core) fn is_overdue(&self, now: Now) -> bool {
        let launches = self.pod.phase == PodPhase::Running && !self.is_terminating() && self.sessions.is_empty();
        let not_warm_for = self.not_warm_since.map_or(Duration::MAX, |since| now.monotonic.since(since));
        launches && !self.has_launched() && self.has_run_for(now).min(not_warm_for) >= LAUNCH_TIMEOUT
    }

    fn has_launched(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.spent || report.warm)
    }

    fn has_run_for(&self, now: Now) -> Duration {
        self.running_since.map_or(Duration::ZERO, |since| now.monotonic.since(since))
    }

    /// Returns whether the runner has no session, neither assigned nor reported.
    pub(in crate::core) fn is_idle(&self) -> bool {
        let lists_none = self.report.as_ref().is_none_or(|report| report.sessions().is_empty());
        self.sessions.is_empty() && lists_none && !self.may_have_unknown_sessions()
    }

    /// Number of sessions that use a slot, or may use one.
    pub(in crate::core) fn used(&self) -> usize {
        let listed = self.report.iter().flat_map(Report::sessions);
        listed.filter(|session| session.phase != SessionPhase::Ended).count() + self.unlisted().count()
    }

    /// The slots that can be assigned: those that the runner reports as free, bounded by the slots of its pod and by
    /// the capacity of its list, without those of assigned sessions that it has not reported yet. `None` if it can take
    /// no session.
    pub(in crate::core) fn assignable_slots(
        &self,
        slots: u32,
        display_of: impl Fn(&Uid) -> Option<Display>,
    ) -> Option<FreeSlots> {
        if !self.is_up() || self.slots_unknown || self.is_terminating() || self.may_have_unknown_sessions() {
            return None;
        }
        let report = self.report.as_ref().filter(|report| !report.draining)?;
        let mut free = FreeSlots { count: report.free.min(slots).min(report.list_capacity()), hot: report.hot };
        for session in self.unlisted() {
            free.take(display_of(session).unwrap_or_default());
        }
        (free.count > 0).then_some(free)
    }

    fn unlisted(&self) -> impl Iterator<Item = &Uid> {
        self.sessions.iter().filter(|uid| self.report.as_ref().is_none_or(|report| report.session(uid).is_none()))
    }
}

fn saturating_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The free slots of a runner, and its hot browsers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) struct FreeSlots {
    pub(in crate::core) count: u32,
    pub(in crate::core) hot: BrowserCounts,
}

impl FreeSlots {
    /// Takes a slot for a session with that display. The session takes a hot browser of its kind. Without one, it
    /// displaces a hot browser of the other kind if these fill all free slots.
    pub(in crate::core) fn take(&mut self, display: Display) {
        self.count = self.count.saturating_sub(1);
        let (own, other) = match display {
            Display::Headless => (&mut self.hot.headless, &mut self.hot.headful),
            Display::Headful | Display::LiveView => (&mut self.hot.headful, &mut self.hot.headless),
        };
        if *own > 0 {
            *own -= 1;
        } else if *other > self.count {
            *other = self.count;
        }
    }
}

/// All runners, and pods that claim to be runners of unknown pools.
#[derive(Debug, Default)]
pub(in crate::core) struct Runners {
    /// Pods whose pool was known when they were first seen.
    by_pod: BTreeMap<Uid, Runner>,
    /// Pods that claim to be runners of a pool that is not known. They affect no decision.
    claimants: BTreeMap<Uid, RunnerPod>,
}

impl Runners {
    /// Keeps a pod until its pool becomes known.
    pub(in crate::core) fn keep_claimant(&mut self, pod: RunnerPod) {
        self.claimants.insert(pod.uid.clone(), pod);
    }

    /// Removes and returns the pods that claim this pool.
    pub(in crate::core) fn take_claimants(&mut self, pool: &WorkerPool) -> Vec<RunnerPod> {
        let claimants = std::mem::take(&mut self.claimants);
        let (claimants, others) = claimants.into_iter().partition(|(_, pod)| pod.belongs_to(pool));
        self.claimants = others;
        BTreeMap::into_values(claimants).collect()
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

    /// Forgets all reports and assignments, because no runner has reported to the new leader.
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

    pub(in crate::core) fn of<'a>(&'a self, pool: &'a WorkerPool) -> impl Iterator<Item = &'a Runner> {
        self.by_pod.values().filter(move |runner| runner.pod.belongs_to(pool))
    }

    /// The runners whose last report lists the session.
    pub(in crate::core) fn listing<'a>(&'a self, session: &'a Uid) -> impl Iterator<Item = &'a Runner> {
        self.by_pod.values().filter(|runner| runner.lists(session))
    }

    /// Number of assigned sessions by node.
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
        Now { monotonic: Monotonic(millis), wall: Timestamp::from_millisecond(millis).unwrap() }
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
            deletion_deadline: None,
            phase: PodPhase::Running,
        }
    }

    fn pool(name: &str) -> WorkerPool {
        let mut pool = WorkerPool::new(name, WorkerPoolSpec::default());
        pool.metadata.namespace = Some("ns".into());
        pool.metadata.uid = Some(format!("uid-of-{name}"));
        pool
    }

    fn report(generation: u64, warm: bool) -> Report {
        let hot = BrowserCounts { headless: if warm { 2 } else { 0 }, headful: 0 };
        let state =
            RunnerState { boot_id: "boot".into(), generation, slots: 2, free: 2, warm, hot, ..RunnerState::default() };
        Report::new(state, 2).unwrap()
    }

    #[test]
    fn detects_what_a_report_changes() {
        let mut runner = Runner::new(pod("a", "p", None), at(0));
        assert!(runner.may_have_unknown_sessions() && !runner.is_up());
        let change = |changed, first_warm, becomes_warm| ReportChange { changed, first_warm, becomes_warm };
        assert_eq!(runner.record_report(&report(1, false), Monotonic(0)), change(true, false, false));
        assert!(!runner.may_have_unknown_sessions() && runner.is_up());
        assert_eq!(runner.record_report(&report(1, false), Monotonic(0)), change(false, false, false));
        assert_eq!(runner.record_report(&report(2, true), Monotonic(0)), change(true, true, true));
        assert_eq!(runner.record_report(&report(3, false), Monotonic(0)), change(true, false, false));
        assert_eq!(runner.record_report(&report(4, true), Monotonic(0)), change(true, false, true));
        runner.mark_unreachable(Monotonic(5));
        runner.mark_unreachable(Monotonic(9));
        assert_eq!(*runner.connectivity(), Connectivity::Unreachable { since: Monotonic(5) });
        assert_eq!(
            runner.record_report(&report(4, true), Monotonic(9)),
            change(true, false, false),
            "the runner responds again"
        );
        runner.mark_slots_unknown();
        assert_eq!(runner.assignable_slots(2, |_| None), None);
        assert!(runner.record_report(&report(4, true), Monotonic(9)).changed, "its free slots are known again");
        assert_eq!(runner.assignable_slots(2, |_| None).map(|slots| slots.count), Some(2));
    }

    #[test]
    fn deletes_a_pod_once_and_retries_after_a_failure() {
        let mut runner = Runner::new(pod("a", "p", None), at(0));
        assert!(runner.begin_deletion(Monotonic(0)) && !runner.begin_deletion(Monotonic(0)) && runner.delete_sent());
        runner.deletion_failed(Monotonic(0));
        assert!(!runner.delete_sent() && !runner.begin_deletion(Monotonic(0)));
        let retry_at = runner.deletion_retry_at().unwrap();
        assert!(runner.begin_deletion(retry_at));
    }

    #[test]
    fn records_an_early_exit_as_a_failure_once() {
        let mut early = Runner::new(pod("a", "p", None), at(0));
        early.record_report(&report(1, true), Monotonic(0));
        assert!(early.record_failure(Monotonic(29_999)) && !early.record_failure(Monotonic(29_999)));
        let mut late = Runner::new(pod("b", "p", None), at(0));
        late.record_report(&report(1, true), Monotonic(0));
        assert!(!late.record_failure(Monotonic(30_000)));
        let killed = RunnerPod { deletion_deadline: Some(Timestamp::UNIX_EPOCH), ..pod("c", "p", None) };
        assert!(!Runner::new(killed, at(0)).record_failure(Monotonic(0)), "the pod was deleted");
    }

    #[test]
    fn streams_and_annotates_a_runner_once() {
        let mut runner = Runner::new(pod("a", "p", None), at(0));
        assert!(runner.begin_streaming().is_some() && runner.begin_streaming().is_none());
        assert_eq!(runner.begin_annotation(None, Monotonic(0)), None, "no keys are published");
        assert_eq!(runner.begin_annotation(Some("{}"), Monotonic(0)), None, "the annotation has these keys");
        assert!(runner.begin_annotation(Some("new"), Monotonic(0)).is_some());
        assert_eq!(runner.begin_annotation(Some("new"), Monotonic(0)), None, "the write is in flight");
        runner.annotation_failed(Monotonic(0));
        let retry_at = runner.write_retries().next().unwrap();
        assert!(runner.begin_annotation(Some("new"), retry_at).is_some());
    }

    #[test]
    fn keeps_claimants_until_their_pool_is_known() {
        let mut runners = Runners::default();
        for (uid, pool) in [("a", "p"), ("b", "q"), ("c", "p"), ("d", "p")] {
            runners.keep_claimant(pod(uid, pool, None));
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
    fn counts_sessions_by_node_and_finds_runners_by_pool() {
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
        assert!(runners[&"a".to_owned()].sessions().is_empty(), "a new term keeps no assignment");
    }
}
