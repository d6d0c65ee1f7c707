//! A session, from its first sight to its deletion.
//!
//! ```text
//!            choose                    runner has it
//!  Waiting ─────────► Binding ───────────────────────► Bound ──── ended, lost ───► Over ── published ──► Finished ── TTL ──► deleted
//!     ▲                  │ refused, lost                  │                          ▲
//!     └──────────────────┴──────── lost, not published ───┘     no slot in time ─────┘
//! ```
//!
//! What is published is a function of the stage (`status.rs`). What is published binds: a session whose status names a
//! runner is never moved to another.

use crate::core::{
    clock::{Interval, Mono, Now},
    ids::{Key, Uid},
    retry::Pending,
    runner::report::{Listed, Report},
    status_write::StatusWrite,
};
use camofleet_crds::{
    conditions::session as reasons,
    v1alpha1::{BrowserSession, BrowserSessionStatus, Display, EngineName, SessionState, WorkerPool},
};
use camofleet_runner_api::{BindAnswer, BindRequest, EndReason, SessionPhase, Tier};
use std::{sync::Arc, time::Duration};

/// `Queued` is published only of those who waited so long: a hot session never was.
const SHOW_QUEUED_AFTER: Duration = Duration::from_millis(250);

/// A session as the leader sees it.
#[derive(Debug)]
pub(in crate::core) struct Session {
    pub(in crate::core) object: Arc<BrowserSession>,
    pub(in crate::core) stage: Stage,
    /// When it was created, on the monotonic clock.
    pub(in crate::core) created: Mono,
    /// When this process first saw it, if it was untouched then: the start of what is measured.
    pub(in crate::core) seen: Option<Now>,
    pub(in crate::core) write: StatusWrite<BrowserSessionStatus>,
    /// A write that names its runner is under way, or may have been done though it failed.
    pub(in crate::core) telling: bool,
    /// It may wait: it was not too many when it came.
    pub(in crate::core) admitted: bool,
}

#[derive(Clone, Debug)]
pub(in crate::core) enum Stage {
    /// It has no slot.
    Waiting,
    /// A slot was chosen, and nobody knows yet whether the runner took it.
    Binding { runner: Uid, since: Mono, call: Pending },
    /// The runner has it, or is believed to.
    Bound(Bound),
    /// It is over, which is not published yet.
    Over(Over),
    /// It is over, and everybody may know.
    Finished { at: Mono, delete: Pending },
}

#[derive(Clone, Debug)]
pub(in crate::core) struct Bound {
    pub(in crate::core) runner: Uid,
    /// What the runner told. None: only the status says so (after a restart), and the runner has not spoken yet.
    pub(in crate::core) facts: Option<Facts>,
    /// The first of the runner's states in which its absence means that it is gone: boot id and generation. None: any.
    pub(in crate::core) listed_from: Option<(String, u64)>,
    /// Generation of the spec that the runner was sent.
    pub(in crate::core) sent_generation: i64,
    pub(in crate::core) call: Pending,
}

impl Bound {
    /// Whether a state that does not list it means that it is gone.
    pub(in crate::core) fn is_missed_by(&self, state: &Report) -> bool {
        self.listed_from
            .as_ref()
            .is_none_or(|(boot_id, generation)| *boot_id != state.boot_id || *generation <= state.generation)
    }
}

/// What a runner told of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) struct Facts {
    pub(in crate::core) phase: SessionPhase,
    pub(in crate::core) tier: Tier,
    pub(in crate::core) display: Display,
    pub(in crate::core) engine: Option<EngineName>,
    pub(in crate::core) browser_version: Option<String>,
    pub(in crate::core) playwright_version: String,
}

impl Facts {
    pub(in crate::core) fn answered(answer: &BindAnswer) -> Self {
        Self {
            phase: answer.session.phase,
            tier: answer.session.tier,
            display: answer.session.display,
            engine: Some(answer.engine),
            browser_version: answer.browser_version.clone(),
            playwright_version: answer.playwright_version.clone(),
        }
    }

    pub(in crate::core) fn listed(session: &Listed, state: &Report) -> Self {
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

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) struct Over {
    pub(in crate::core) reason: &'static str,
    pub(in crate::core) message: String,
}

impl Over {
    /// What a runner reported.
    pub(in crate::core) fn reported(end: Option<&camofleet_runner_api::End>) -> Self {
        let Some(end) = end else {
            return Self {
                reason: reasons::RUNNER_LOST,
                message: "the runner ended it and did not say why".to_owned(),
            };
        };
        let reason = match end.reason {
            EndReason::IdleTimeout => reasons::IDLE_TIMEOUT,
            EndReason::LifetimeExceeded => reasons::LIFETIME_EXCEEDED,
            EndReason::LaunchFailed => reasons::LAUNCH_FAILED,
            EndReason::BrowserCrashed => reasons::BROWSER_CRASHED,
            EndReason::RunnerDrained => reasons::RUNNER_DRAINED,
            // Only an operator deletes; one that no longer leads, or a person with its key.
            EndReason::Deleted => reasons::RUNNER_LOST,
        };
        Self { reason, message: end.message.clone() }
    }

    /// Whether something went wrong, rather than that its time was up.
    pub(in crate::core) fn is_failure(&self) -> bool {
        !matches!(self.reason, reasons::IDLE_TIMEOUT | reasons::LIFETIME_EXCEEDED | reasons::RUNNER_DRAINED)
    }
}

impl Session {
    pub(in crate::core) fn key(&self) -> Key {
        Key::of(self.object.as_ref())
    }

    pub(in crate::core) fn waits(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    /// When it has waited for so long that it is worth being published. Not from `creationTimestamp`, which has whole
    /// seconds, where the session was seen fresh.
    pub(in crate::core) fn shown_from(&self) -> Mono {
        self.seen.map_or(self.created, |seen| seen.mono).after(SHOW_QUEUED_AFTER)
    }

    /// The time since it was first seen here, if it was untouched then.
    pub(in crate::core) fn since_seen(&self, now: Now) -> Option<Interval> {
        self.seen.map(|from| Interval { from, to: now })
    }

    pub(in crate::core) fn generation(&self) -> i64 {
        self.object.metadata.generation.unwrap_or_default()
    }

    /// The runner that it has, or may have.
    pub(in crate::core) fn runner(&self) -> Option<&Uid> {
        match &self.stage {
            Stage::Binding { runner, .. } | Stage::Bound(Bound { runner, .. }) => Some(runner),
            Stage::Waiting | Stage::Over(_) | Stage::Finished { .. } => None,
        }
    }

    /// The runner that users were told, or may be being told just now.
    pub(in crate::core) fn is_published(&self) -> bool {
        let told = self.object.status.as_ref().is_some_and(|status| status.runner.is_some());
        told || self.telling
    }

    /// Its status names a runner, and not the one in this pod.
    pub(in crate::core) fn is_published_elsewhere(&self, pod: &Uid) -> bool {
        let published = self.object.status.as_ref().and_then(|status| status.runner.as_ref());
        published.is_some_and(|published| published.uid != *pod)
    }

    /// Whether its status ever said Ready.
    pub(in crate::core) fn was_ready(&self) -> bool {
        self.object.status.as_ref().is_some_and(|status| status.ready_time.is_some())
    }

    /// The stage that the object alone tells, as after a start.
    pub(in crate::core) fn published_stage(object: &BrowserSession, now: Now) -> Stage {
        let Some(status) = &object.status else { return Stage::Waiting };
        if status.state == SessionState::Finished {
            let at = status.finished_time.as_ref().map_or(now.mono, |time| now.mono_of(time.0));
            return Stage::Finished { at, delete: Pending::Idle };
        }
        match &status.runner {
            Some(runner) => Stage::Bound(Bound {
                runner: runner.uid.clone(),
                facts: None,
                listed_from: None,
                sent_generation: status.observed_generation.unwrap_or_default(),
                call: Pending::Idle,
            }),
            None => Stage::Waiting,
        }
    }

    /// What the runner of that pool is asked for.
    pub(in crate::core) fn request(&self, pool: &WorkerPool) -> BindRequest {
        let key = self.key();
        let seconds = |seconds: i32| u32::try_from(seconds).unwrap_or_default();
        BindRequest {
            namespace: key.namespace,
            name: key.name,
            display: self.object.display_in(pool),
            idle_timeout_seconds: seconds(self.object.idle_timeout_in(pool)),
            max_lifetime_seconds: seconds(self.object.max_lifetime_in(pool)),
            start_url: self.object.spec.start_url.clone(),
            start_url_wait: self.object.spec.start_url_wait,
        }
    }
}
