//! Computes the published status of a session from its stage. Each status starts from the stored one, so that an
//! unchanged stage gives an equal status, and nothing is written.

use crate::core::{
    clock::Now,
    ids::Key,
    session::state::{Bound, Session, SessionEnd, Stage},
};
use camofleet_crds::{
    conditions::{self, ConditionStatus, FINISHED, READY, SCHEDULED, STALLED, session as reasons},
    v1alpha1::{BrowserSessionStatus, Display, LiveViewUrls, RunnerRef, SessionState, WorkerPool},
};
use camofleet_runner_api::{PORT, SessionPhase};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use std::{net::IpAddr, time::Duration};

/// The runner and pool of a bound session.
pub(super) struct Placement<'a> {
    pub(super) pool: &'a Key,
    pub(super) runner: &'a Key,
    pub(super) address: Option<IpAddr>,
    /// Whether the runner responds, or has been unreachable for less than 15 s.
    pub(super) reachable: bool,
    pub(super) spec: Option<&'a WorkerPool>,
}

/// Why a session waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) struct WaitReason {
    pub(in crate::core) reason: &'static str,
    pub(in crate::core) message: String,
}

impl WaitReason {
    pub(in crate::core) fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }
}

/// Returns the desired status. `None` means that the stored status needs no change.
pub(super) fn of_session(
    session: &Session,
    placement: Option<&Placement>,
    wait: Option<&WaitReason>,
    public_url: &str,
    now: Now,
) -> Option<BrowserSessionStatus> {
    let former = session.write().base(session.object().status.as_ref()).cloned().unwrap_or_default();
    match session.stage() {
        Stage::Waiting => wait.map(|wait| queued(former, session, wait, now)),
        Stage::Binding { .. } => None,
        Stage::Finished { .. } => observe_generation(former, session),
        Stage::Bound(bound) => {
            let placement = placement?;
            let Some(report) = bound.report.as_ref() else { return unreachable_status(former, bound, placement, now) };
            // An adopted session is published once the runner has the timeouts of this generation. A session that is
            // already ending is not published as Ready first.
            let was_ready = former.state == SessionState::Ready;
            if bound.sent_generation == 0 || (report.phase > SessionPhase::Ready && !was_ready) {
                return None;
            }
            let mut status = former;
            let resent = status.observed_generation != Some(bound.sent_generation);
            status.observed_generation = Some(bound.sent_generation);
            status.pool = Some(placement.pool.name.clone());
            let in_other_namespace = session.object().metadata.namespace.as_ref() != Some(&placement.pool.namespace);
            status.pool_namespace = in_other_namespace.then(|| placement.pool.namespace.clone());
            status.runner = Some(RunnerRef {
                name: placement.runner.name.clone(),
                uid: bound.runner.clone(),
                address: placement
                    .address
                    .map(|ip| std::net::SocketAddr::from((ip, PORT)).to_string())
                    .unwrap_or_default(),
            });
            status.engine = report.engine;
            status.browser_version.clone_from(&report.browser_version);
            status.playwright_version = Some(report.playwright_version.clone());
            status.start_tier = Some(report.tier);
            let scheduled = status.scheduled_time.get_or_insert(MicroTime(now.wall)).0;
            // The runner enforces the lifetime that it was sent, even if the pool's defaults have changed since.
            if let Some(pool) = placement.spec.filter(|_| status.deadline_time.is_none() || resent) {
                let life =
                    Duration::from_secs(u64::try_from(session.object().max_lifetime_for(pool)).unwrap_or_default());
                status.deadline_time = scheduled.checked_add(life).ok().map(MicroTime);
            }
            let mut conditions = Conditions::new(&mut status, Some(bound.sent_generation), now);
            conditions.set(
                SCHEDULED,
                ConditionStatus::True,
                reasons::BOUND,
                &format!("the session runs on {}", placement.runner.name),
            );
            conditions.set(FINISHED, ConditionStatus::False, reasons::IN_PROGRESS, "");
            conditions.set(STALLED, ConditionStatus::False, reasons::IN_PROGRESS, "");
            match report.phase {
                SessionPhase::Starting => {
                    conditions.set(
                        READY,
                        ConditionStatus::False,
                        reasons::BROWSER_STARTING,
                        "the browser is being launched",
                    );
                    status.state = SessionState::Starting;
                }
                // The reason for the end is published when the session has ended.
                SessionPhase::Ready | SessionPhase::Ending | SessionPhase::Ended => {
                    if placement.reachable {
                        let message = format!("clients can connect; the session runs on {}", placement.runner.name);
                        conditions.set(READY, ConditionStatus::True, reasons::BROWSER_READY, &message);
                    } else {
                        let message = unreachable_message(placement);
                        conditions.set(READY, ConditionStatus::Unknown, reasons::RUNNER_UNREACHABLE, &message);
                    }
                    status.state = SessionState::Ready;
                    status.ready_time.get_or_insert(MicroTime(now.wall));
                    let key = Key::of(session.object().as_ref());
                    status.ws_endpoint = Some(ws_endpoint(public_url, "ws", &key));
                    status.vnc = (report.display == Display::LiveView).then(|| LiveViewUrls {
                        url: format!("{public_url}/view/{}/{}", key.namespace, key.name),
                        ws_endpoint: ws_endpoint(public_url, "vnc", &key),
                    });
                }
            }
            Some(status)
        }
        Stage::Finishing(end) => Some(finished(former, session, end, now)),
    }
}

/// Publishes the observed generation when a finished session's spec changes, because `kubectl wait` ignores conditions
/// of an older generation.
fn observe_generation(mut status: BrowserSessionStatus, session: &Session) -> Option<BrowserSessionStatus> {
    let generation = session.object().metadata.generation;
    (status.observed_generation != generation).then(|| {
        status.observed_generation = generation;
        for condition in &mut status.conditions {
            condition.observed_generation = generation;
        }
        status
    })
}

/// The status of a session that a former leader published and whose runner has not reported to this leader.
fn unreachable_status(
    mut status: BrowserSessionStatus,
    bound: &Bound,
    placement: &Placement,
    now: Now,
) -> Option<BrowserSessionStatus> {
    if placement.reachable || status.state != SessionState::Ready {
        return None;
    }
    let message = unreachable_message(placement);
    let mut conditions = Conditions::new(&mut status, Some(bound.sent_generation), now);
    conditions.set(READY, ConditionStatus::Unknown, reasons::RUNNER_UNREACHABLE, &message);
    Some(status)
}

fn unreachable_message(placement: &Placement) -> String {
    format!("runner {} is unreachable; the browser may still be running", placement.runner.name)
}

fn queued(mut status: BrowserSessionStatus, session: &Session, wait: &WaitReason, now: Now) -> BrowserSessionStatus {
    status.observed_generation = session.object().metadata.generation;
    status.state = SessionState::Queued;
    let mut conditions = Conditions::new(&mut status, session.object().metadata.generation, now);
    conditions.set(SCHEDULED, ConditionStatus::False, wait.reason, &wait.message);
    conditions.set(READY, ConditionStatus::False, wait.reason, &wait.message);
    conditions.set(FINISHED, ConditionStatus::False, reasons::IN_PROGRESS, "");
    conditions.set(STALLED, ConditionStatus::False, reasons::IN_PROGRESS, "");
    status
}

fn finished(mut status: BrowserSessionStatus, session: &Session, end: &SessionEnd, now: Now) -> BrowserSessionStatus {
    status.observed_generation = session.object().metadata.generation;
    status.state = SessionState::Finished;
    status.ws_endpoint = None;
    status.vnc = None;
    status.finished_time.get_or_insert(MicroTime(now.wall));
    let mut conditions = Conditions::new(&mut status, session.object().metadata.generation, now);
    conditions.set(READY, ConditionStatus::False, end.reason, &end.message);
    conditions.set(FINISHED, ConditionStatus::True, end.reason, &end.message);
    conditions.set(STALLED, end.is_failure().into(), end.reason, if end.is_failure() { &end.message } else { "" });
    if conditions::get(&status.conditions, SCHEDULED).is_none() {
        Conditions::new(&mut status, session.object().metadata.generation, now).set(
            SCHEDULED,
            ConditionStatus::False,
            end.reason,
            &end.message,
        );
    }
    status
}

/// The WebSocket URL of a gateway endpoint. It holds no token.
fn ws_endpoint(public_url: &str, endpoint: &str, key: &Key) -> String {
    let base = public_url.strip_prefix("http").map_or_else(|| public_url.to_owned(), |rest| format!("ws{rest}"));
    format!("{base}/{endpoint}/{}/{}", key.namespace, key.name)
}

struct Conditions<'a> {
    conditions: &'a mut Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>,
    generation: Option<i64>,
    now: Now,
}

impl<'a> Conditions<'a> {
    fn new(status: &'a mut BrowserSessionStatus, generation: Option<i64>, now: Now) -> Self {
        Self { conditions: &mut status.conditions, generation, now }
    }

    fn set(&mut self, type_: &str, truth: ConditionStatus, reason: &str, message: &str) {
        conditions::set(self.conditions, type_, truth, reason, message, self.generation, self.now.wall);
    }
}
