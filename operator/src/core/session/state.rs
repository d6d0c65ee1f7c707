//! State of a session from the first watch event to its deletion.
//!
//! ```text
//!                                             session_listed or
//!           schedule           set_bound        lose_sessions           session_patched            TTL
//!  Waiting ──────────► Binding ───────────► Bound ────────────► Finishing ────────────────► Finished ─────► deleted
//!   ▲  │                  │                   │                     ▲
//!   ├──┼─ bind_answered ──┘                   │                     │
//!   └──┼─ lose_sessions (not published) ──────┘                     │
//!      └─ reconcile_waiting (rejected, or queue timeout) ───────────┘
//! ```
//!
//! Each transition is labelled with the function that makes it. `lose_sessions` and `session_listed` also move a
//! session from Binding.
//!
//! `status.rs` computes the published status from the stage. A session whose status names a runner is never moved to
//! another runner.

use crate::core::{
    clock::{Interval, Monotonic, Now},
    ids::{Key, Uid},
    messages::WriteFailure,
    retry::RetryState,
    runner::report::{ListedSession, Report, ReportVersion},
    scheduler::queue::{Demand, Queue},
    session::queued_writes::QueuedWrites,
    status_write::StatusWrite,
};
use camofleet_crds::{
    conditions::session as reasons,
    v1alpha1::{BrowserSession, BrowserSessionStatus, Display, Engine, SessionState, StartTier, WorkerPool},
};
use camofleet_runner_api::{BindRequest, BindResponse, EndReason, SessionPhase};
use std::{collections::HashMap, ops::Index, sync::Arc, time::Duration};

/// How long a session waits before `Queued` is published. A session that gets a hot browser is bound sooner.
const PUBLISH_QUEUED_AFTER: Duration = Duration::from_millis(250);

/// The leader's view of a session.
#[derive(Debug)]
pub(in crate::core) struct Session {
    object: Arc<BrowserSession>,
    stage: Stage,
    created: Monotonic,
    /// When this process first saw the session, if it had no status then. Latency is measured from here.
    seen: Option<Now>,
    write: StatusWrite<BrowserSessionStatus>,
    /// A status that names the runner is being written, or may have been stored although the write failed.
    publishing: bool,
    /// The session passed admission, so it may wait even if `limits.maxQueued` is exceeded.
    admitted: bool,
}

#[derive(Clone, Debug)]
pub(in crate::core) enum Stage {
    /// The session has no slot.
    Waiting,
    /// A slot is assigned. The runner has not confirmed that it took the session.
    Binding { runner: Uid, since: Monotonic, call: RetryState },
    /// The runner has the session, or the status says so.
    Bound(Bound),
    /// The session has ended, and `Finished` is not published yet.
    Finishing(SessionEnd),
    /// `Finished` is published.
    Finished { at: Monotonic, delete: RetryState },
}

#[derive(Clone, Debug)]
pub(in crate::core) struct Bound {
    pub(in crate::core) runner: Uid,
    /// `None` after a restart of the operator, until the runner reports the session that the status names.
    pub(in crate::core) report: Option<SessionReport>,
    /// The first report that must list the session. An older report of the same process may have been made before the
    /// session was bound. `None`: every report must list the session.
    pub(in crate::core) listed_since: Option<ReportVersion>,
    /// Generation of the spec that was sent to the runner. 0 for an adopted session until its timeouts are sent again.
    pub(in crate::core) sent_generation: i64,
    pub(in crate::core) call: RetryState,
}

impl Bound {
    /// Returns whether the report must list the session. If it does not, the runner has lost the session.
    pub(in crate::core) fn must_be_listed_in(&self, report: &Report) -> bool {
        self.listed_since
            .as_ref()
            .is_none_or(|first| first.boot_id != report.boot_id || first.generation <= report.generation)
    }
}

/// What a runner reported about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) struct SessionReport {
    pub(in crate::core) phase: SessionPhase,
    pub(in crate::core) tier: StartTier,
    pub(in crate::core) display: Display,
    pub(in crate::core) engine: Option<Engine>,
    pub(in crate::core) browser_version: Option<String>,
    pub(in crate::core) playwright_version: String,
}

impl SessionReport {
    pub(in crate::core) fn answered(answer: &BindResponse) -> Self {
        Self {
            phase: answer.session.phase,
            tier: answer.session.tier,
            display: answer.session.display,
            engine: Some(answer.engine),
            browser_version: answer.browser_version.clone(),
            playwright_version: answer.playwright_version.clone(),
        }
    }

    pub(in crate::core) fn listed(session: &ListedSession, state: &Report) -> Self {
        Self {
            phase: session.phase,
            tier: session.tier,
            display: session.display,
            engine: state.engine,
            browser_version: state.browser_version.clone(),
            playwright_version: state.playwright_version.clone(),
        }
    }
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) struct SessionEnd {
    pub(in crate::core) reason: &'static str,
    pub(in crate::core) message: String,
}

impl SessionEnd {
    pub(in crate::core) fn reported(end: Option<&camofleet_runner_api::End>) -> Self {
        let Some(end) = end else {
            return Self {
                reason: reasons::RUNNER_LOST,
                message: "the runner ended the session without a reason".to_owned(),
            };
        };
        let reason = match end.reason {
            EndReason::IdleTimeout => reasons::IDLE_TIMEOUT,
            EndReason::LifetimeExceeded => reasons::LIFETIME_EXCEEDED,
            EndReason::LaunchFailed => reasons::LAUNCH_FAILED,
            EndReason::BrowserCrashed => reasons::BROWSER_CRASHED,
            EndReason::RunnerDrained => reasons::RUNNER_DRAINED,
            // This leader did not delete the session. A former leader or another holder of the operator's key did.
            EndReason::Deleted => reasons::RUNNER_LOST,
        };
        Self { reason, message: end.message.clone() }
    }

    /// Returns whether the session failed. Timeouts and drained runners are no failures.
    pub(in crate::core) fn is_failure(&self) -> bool {
        !matches!(self.reason, reasons::IDLE_TIMEOUT | reasons::LIFETIME_EXCEEDED | reasons::RUNNER_DRAINED)
    }
}

impl Session {
    /// Creates a session without a slot. The caller applies [`Session::published_stage`].
    fn new(object: Arc<BrowserSession>, now: Now) -> Self {
        let created =
            object.metadata.creation_timestamp.as_ref().map_or(now.monotonic, |time| now.monotonic_of(time.0));
        Self {
            seen: object.status.is_none().then_some(now),
            admitted: object.status.is_some(),
            object,
            stage: Stage::Waiting,
            created,
            write: StatusWrite::default(),
            publishing: false,
        }
    }

    pub(in crate::core) fn object(&self) -> &Arc<BrowserSession> {
        &self.object
    }

    pub(in crate::core) fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Creation time of the object, on the monotonic clock.
    pub(in crate::core) fn created(&self) -> Monotonic {
        self.created
    }

    pub(in crate::core) fn write(&self) -> &StatusWrite<BrowserSessionStatus> {
        &self.write
    }

    /// Returns whether the session may wait although the pool's queue is full now.
    pub(in crate::core) fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// Records that the session passed admission.
    pub(in crate::core) fn admit(&mut self) {
        self.admitted = true;
    }

    pub(in crate::core) fn begin_write(&mut self, status: BrowserSessionStatus) {
        self.publishing = status.runner.is_some();
        self.write.begin(status);
    }

    /// Records that the write was accepted. Returns the fields whose stored value differs from the one that was sent.
    pub(in crate::core) fn write_accepted(
        &mut self,
        uid: &Uid,
        stored: Option<&BrowserSessionStatus>,
        now: Monotonic,
    ) -> Vec<String> {
        self.publishing = false;
        self.write.accepted(stored, uid, now)
    }

    pub(in crate::core) fn write_failed(&mut self, uid: &Uid, failure: &WriteFailure, now: Monotonic) {
        self.write.failed(failure, uid, now);
    }

    /// Forgets the last write, because the stored object was read.
    pub(in crate::core) fn write_settled(&mut self) {
        (self.write, self.publishing) = (StatusWrite::default(), false);
    }

    /// Marks the call that the stage needs as in flight: to the runner, or the deletion of the object.
    pub(in crate::core) fn call_started(&mut self) {
        if let Some(call) = self.call_mut() {
            *call = call.started();
        }
    }

    /// Schedules that call again after a pause.
    pub(in crate::core) fn call_failed(&mut self, uid: &Uid, now: Monotonic) {
        if let Some(call) = self.call_mut() {
            *call = call.failed(uid, now);
        }
    }

    pub(in crate::core) fn call_settled(&mut self) {
        if let Some(call) = self.call_mut() {
            *call = RetryState::Idle;
        }
    }

    fn call_mut(&mut self) -> Option<&mut RetryState> {
        match &mut self.stage {
            Stage::Binding { call, .. } | Stage::Bound(Bound { call, .. }) => Some(call),
            Stage::Finished { delete, .. } => Some(delete),
            Stage::Waiting | Stage::Finishing(_) => None,
        }
    }

    pub(in crate::core) fn key(&self) -> Key {
        Key::of(self.object.as_ref())
    }

    pub(in crate::core) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    /// When `Queued` is published. It is counted from the first sight of a new session, because `creationTimestamp` has
    /// whole seconds.
    pub(in crate::core) fn publish_queued_at(&self) -> Monotonic {
        self.seen.map_or(self.created, |seen| seen.monotonic).after(PUBLISH_QUEUED_AFTER)
    }

    /// The time since this process first saw the session. `None` if the session had a status then.
    pub(in crate::core) fn since_seen(&self, now: Now) -> Option<Interval> {
        self.seen.map(|from| Interval { from, to: now })
    }

    pub(in crate::core) fn generation(&self) -> i64 {
        self.object.metadata.generation.unwrap_or_default()
    }

    /// The pod of the runner that has the session, or may have it.
    pub(in crate::core) fn runner(&self) -> Option<&Uid> {
        match &self.stage {
            Stage::Binding { runner, .. } | Stage::Bound(Bound { runner, .. }) => Some(runner),
            Stage::Waiting | Stage::Finishing(_) | Stage::Finished { .. } => None,
        }
    }

    /// Returns whether the status names a runner, or a write that names one may have succeeded.
    pub(in crate::core) fn is_published(&self) -> bool {
        let published = self.object.status.as_ref().is_some_and(|status| status.runner.is_some());
        published || self.publishing
    }

    /// Returns whether the status names a runner other than the one in `pod`.
    pub(in crate::core) fn is_published_elsewhere(&self, pod: &Uid) -> bool {
        let published = self.object.status.as_ref().and_then(|status| status.runner.as_ref());
        published.is_some_and(|published| published.uid != *pod)
    }

    /// Returns whether the session has been Ready at some time.
    pub(in crate::core) fn was_ready(&self) -> bool {
        self.object.status.as_ref().is_some_and(|status| status.ready_time.is_some())
    }

    /// The stage that follows from the object alone, as after a restart of the operator.
    pub(in crate::core) fn published_stage(object: &BrowserSession, now: Now) -> Stage {
        let Some(status) = &object.status else { return Stage::Waiting };
        if status.state == SessionState::Finished {
            let at = status.finished_time.as_ref().map_or(now.monotonic, |time| now.monotonic_of(time.0));
            return Stage::Finished { at, delete: RetryState::Idle };
        }
        match &status.runner {
            Some(runner) => Stage::Bound(Bound {
                runner: runner.uid.clone(),
                report: None,
                listed_since: None,
                sent_generation: status.observed_generation.unwrap_or_default(),
                call: RetryState::Idle,
            }),
            None => Stage::Waiting,
        }
    }

    /// The bind request for a runner of `pool`, which supplies the defaults.
    pub(in crate::core) fn request(&self, pool: &WorkerPool) -> BindRequest {
        let key = self.key();
        let seconds = |seconds: i32| u32::try_from(seconds).unwrap_or_default();
        BindRequest {
            namespace: key.namespace,
            name: key.name,
            display: self.object.display_for(pool),
            idle_timeout_seconds: seconds(self.object.idle_timeout_for(pool)),
            max_lifetime_seconds: seconds(self.object.max_lifetime_for(pool)),
            start_url: self.object.spec.start_url.clone(),
            start_url_wait: self.object.spec.start_url_wait,
            reconnect_grace_seconds: seconds(self.object.spec.reconnect_grace_seconds),
        }
    }
}

/// All sessions, and the queue. A session is in the queue exactly while it is in stage [`Stage::Waiting`].
#[derive(Debug, Default)]
pub(in crate::core) struct Sessions {
    by_uid: HashMap<Uid, Session>,
    queue: Queue,
    queued_writes: QueuedWrites,
}

/// The effects of a stage change on runners, pools and the queue.
#[derive(Debug)]
pub(in crate::core) struct StageChange {
    pub(in crate::core) object: Arc<BrowserSession>,
    /// The runner's pod before the change.
    pub(in crate::core) runner_before: Option<Uid>,
    /// The runner's pod after the change.
    pub(in crate::core) runner_after: Option<Uid>,
    pub(in crate::core) was_waiting: bool,
    pub(in crate::core) is_waiting: bool,
}

impl Sessions {
    /// Adds a session without a slot. It replaces a session with the same UID.
    pub(in crate::core) fn add(&mut self, uid: &Uid, object: Arc<BrowserSession>, now: Now) {
        self.remove(uid);
        self.queue.insert(&object);
        self.by_uid.insert(uid.clone(), Session::new(object, now));
    }

    pub(in crate::core) fn remove(&mut self, uid: &Uid) -> Option<Session> {
        let session = self.by_uid.remove(uid)?;
        if session.is_waiting() {
            self.queue.remove(&session.object);
            self.queued_writes.withdraw(uid);
        }
        Some(session)
    }

    /// Stores a newer version of the object. Returns whether the session waits and its demand has changed.
    pub(in crate::core) fn replace_object(&mut self, uid: &Uid, object: Arc<BrowserSession>) -> bool {
        let Some(session) = self.by_uid.get_mut(uid) else { return false };
        session.write.object_changed();
        let former = std::mem::replace(&mut session.object, object);
        let changes = session.is_waiting() && Demand::of(&former) != Demand::of(&session.object);
        if changes {
            self.queue.remove(&former);
            self.queue.insert(&session.object);
        }
        changes
    }

    pub(in crate::core) fn set_stage(&mut self, uid: &Uid, stage: Stage) -> Option<StageChange> {
        let session = self.by_uid.get_mut(uid)?;
        let (runner_before, was_waiting) = (session.runner().cloned(), session.is_waiting());
        session.stage = stage;
        let (runner_after, is_waiting) = (session.runner().cloned(), session.is_waiting());
        let object = session.object.clone();
        if is_waiting {
            self.queue.insert(&object);
        } else if was_waiting {
            self.queue.remove(&object);
            self.queued_writes.withdraw(uid);
        }
        Some(StageChange { object, runner_before, runner_after, was_waiting, is_waiting })
    }

    /// Begins the write of `Queued` for a session. Returns `false` when too many are in flight.
    /// [`Sessions::finish_write`] then returns the session later.
    pub(in crate::core) fn begin_queued_write(&mut self, uid: &Uid) -> bool {
        self.queued_writes.begin(uid)
    }

    /// Records that a status write has finished. Returns a session whose `Queued` may be written now.
    pub(in crate::core) fn finish_write(&mut self, uid: &Uid) -> Option<Uid> {
        self.queued_writes.finish(uid)
    }

    /// Removes all sessions, and returns their objects.
    pub(in crate::core) fn take_objects(&mut self) -> Vec<Arc<BrowserSession>> {
        let Self { by_uid, .. } = std::mem::take(self);
        by_uid.into_values().map(|session| session.object).collect()
    }

    pub(in crate::core) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(in crate::core) fn contains(&self, uid: &Uid) -> bool {
        self.by_uid.contains_key(uid)
    }

    pub(in crate::core) fn get(&self, uid: &str) -> Option<&Session> {
        self.by_uid.get(uid)
    }

    pub(in crate::core) fn get_mut(&mut self, uid: &Uid) -> Option<&mut Session> {
        self.by_uid.get_mut(uid)
    }

    pub(in crate::core) fn uids(&self) -> impl Iterator<Item = &Uid> {
        self.by_uid.keys()
    }

    pub(in crate::core) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.by_uid.values()
    }
}

impl<Q: AsRef<str> + ?Sized> Index<&Q> for Sessions {
    type Output = Session;

    fn index(&self, uid: &Q) -> &Session {
        &self.by_uid[uid.as_ref()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::v1alpha1::{BrowserSessionSpec, RunnerRef};
    use k8s_openapi::jiff::Timestamp;

    const NOW: Now = Now { monotonic: Monotonic(0), wall: Timestamp::UNIX_EPOCH };

    fn object(priority: i32) -> Arc<BrowserSession> {
        let mut object = BrowserSession::new("s", BrowserSessionSpec { priority, ..BrowserSessionSpec::default() });
        object.metadata.uid = Some("u".into());
        Arc::new(object)
    }

    fn waiting(sessions: &Sessions) -> Vec<(i32, usize)> {
        sessions.queue().lanes().map(|(demand, lane)| (demand.priority.0, lane.len())).collect()
    }

    fn binding() -> Stage {
        Stage::Binding { runner: "r".into(), since: Monotonic(0), call: RetryState::Idle }
    }

    #[test]
    fn queues_a_session_exactly_while_it_waits() {
        let (mut sessions, uid) = (Sessions::default(), "u".to_owned());
        sessions.add(&uid, object(1), NOW);
        sessions.add(&uid, object(2), NOW);
        assert_eq!(waiting(&sessions), [(2, 1)]);
        assert!(sessions.replace_object(&uid, object(3)) && !sessions.replace_object(&uid, object(3)));
        assert_eq!(waiting(&sessions), [(3, 1)]);
        let change = sessions.set_stage(&uid, binding()).unwrap();
        assert_eq!(
            (change.runner_before, change.runner_after, change.was_waiting, change.is_waiting),
            (None, Some("r".into()), true, false)
        );
        assert_eq!(waiting(&sessions), []);
        assert!(!sessions.replace_object(&uid, object(4)), "the session is not waiting");
        let change = sessions.set_stage(&uid, Stage::Waiting).unwrap();
        assert_eq!(
            (change.runner_before, change.runner_after, change.was_waiting, change.is_waiting),
            (Some("r".into()), None, false, true)
        );
        assert_eq!(waiting(&sessions), [(4, 1)]);
        assert!(sessions.remove(&uid).is_some() && sessions.remove(&uid).is_none());
        assert_eq!(waiting(&sessions), []);
        assert!(sessions.set_stage(&uid, binding()).is_none());
    }

    #[test]
    fn withdraws_the_queued_write_of_a_session_that_stops_waiting() {
        let mut sessions = Sessions::default();
        let uid = |number: usize| format!("s-{number}");
        for number in 0..20 {
            let mut object = (*object(0)).clone();
            object.metadata.uid = Some(uid(number));
            sessions.add(&uid(number), Arc::new(object), NOW);
        }
        let in_flight = (0..20).take_while(|number| sessions.begin_queued_write(&uid(*number))).count();
        assert!(in_flight < 18, "the number of writes in flight is not limited");
        for number in in_flight + 1..20 {
            sessions.begin_queued_write(&uid(number));
        }
        // The next session gets a slot. All others but the last are deleted.
        sessions.set_stage(&uid(in_flight), binding());
        for number in in_flight + 1..19 {
            sessions.remove(&uid(number));
        }
        assert_eq!([sessions.finish_write(&uid(0)), sessions.finish_write(&uid(1))], [Some(uid(19)), None]);
    }

    #[test]
    fn allows_one_call_at_a_time_and_pauses_after_a_failure() {
        let (mut sessions, uid) = (Sessions::default(), "u".to_owned());
        sessions.add(&uid, object(0), NOW);
        sessions.set_stage(&uid, binding());
        let call = |sessions: &Sessions| match sessions[&uid].stage() {
            Stage::Binding { call, .. } => *call,
            other => panic!("{other:?}"),
        };
        let session = |sessions: &mut Sessions, verb: &dyn Fn(&mut Session)| verb(sessions.get_mut(&uid).unwrap());
        session(&mut sessions, &Session::call_started);
        assert!(!call(&sessions).may_start(Monotonic(i64::MAX)));
        session(&mut sessions, &|session| session.call_failed(&"u".to_owned(), Monotonic(0)));
        assert!(!call(&sessions).may_start(Monotonic(0)) && call(&sessions).may_start(Monotonic(30_000)));
        session(&mut sessions, &Session::call_settled);
        assert!(call(&sessions).may_start(Monotonic(0)));
    }

    #[test]
    fn a_write_that_may_have_succeeded_counts_as_published() {
        let (mut sessions, uid) = (Sessions::default(), "u".to_owned());
        sessions.add(&uid, object(0), NOW);
        let runner = RunnerRef { name: "r".into(), uid: "r".into(), address: String::new() };
        let status = BrowserSessionStatus { runner: Some(runner), ..BrowserSessionStatus::default() };
        let session = sessions.get_mut(&uid).unwrap();
        assert!(!session.is_published());
        session.begin_write(status.clone());
        session.write_failed(&uid, &WriteFailure::Transient(String::new()), Monotonic(0));
        assert!(session.is_published(), "a failed write may have been stored");
        session.write_settled();
        assert!(!session.is_published());
        session.begin_write(status.clone());
        assert_eq!(session.write_accepted(&uid, Some(&status), Monotonic(0)), Vec::<String>::new());
        assert!(!session.is_published(), "after the answer only the stored object counts");
    }
}
