//! The statuses that are published, as functions of what is known. Each starts from the status that stands there, so that
//! two that differ in nothing but the time at which they were computed are equal, and nothing is written.

use crate::core::{
    clock::Now,
    ids::Key,
    session::state::{Bound, Outcome, Session, Stage},
};
use camofleet_crds::{
    conditions::{self, FINISHED, READY, SCHEDULED, STALLED, Truth, session as reasons},
    v1alpha1::{BrowserSessionStatus, Display, LiveViewRef, RunnerRef, SessionState, StartTier, WorkerPool},
};
use camofleet_runner_api::{PORT, SessionPhase, Tier};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use std::{net::IpAddr, time::Duration};

/// Where a bound session runs.
pub(super) struct Place<'a> {
    pub(super) pool: &'a Key,
    pub(super) runner: &'a Key,
    pub(super) address: Option<IpAddr>,
    /// Whether the runner has answered lately.
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

/// The status that the session should have. None: what stands there is as good as anything.
pub(super) fn of_session(
    session: &Session,
    place: Option<&Place>,
    wait: Option<&WaitReason>,
    public_url: &str,
    now: Now,
) -> Option<BrowserSessionStatus> {
    let former = session.write().known(session.object().status.as_ref()).cloned().unwrap_or_default();
    match session.stage() {
        Stage::Waiting => wait.map(|wait| queued(former, session, wait, now)),
        Stage::Binding { .. } => None,
        Stage::Finished { .. } => seen_again(former, session),
        Stage::Bound(bound) => {
            let place = place?;
            let Some(report) = bound.report.as_ref() else { return unheard(former, bound, place, now) };
            // Adopted: it is published once the runner has the time-outs of this generation. And what ends is published
            // when it has ended, not as Ready first.
            let was_ready = former.state == SessionState::Ready;
            if bound.sent_generation == 0 || (report.phase > SessionPhase::Ready && !was_ready) {
                return None;
            }
            let mut status = former;
            let resent = status.observed_generation != Some(bound.sent_generation);
            status.observed_generation = Some(bound.sent_generation);
            status.pool = Some(place.pool.name.clone());
            let elsewhere = session.object().metadata.namespace.as_ref() != Some(&place.pool.namespace);
            status.pool_namespace = elsewhere.then(|| place.pool.namespace.clone());
            status.runner = Some(RunnerRef {
                name: place.runner.name.clone(),
                uid: bound.runner.clone(),
                address: place.address.map(|ip| std::net::SocketAddr::from((ip, PORT)).to_string()).unwrap_or_default(),
            });
            status.engine = report.engine;
            status.browser_version.clone_from(&report.browser_version);
            status.playwright_version = Some(report.playwright_version.clone());
            status.start_tier = Some(match report.tier {
                Tier::Hot => StartTier::Hot,
                Tier::Cold => StartTier::Cold,
            });
            let scheduled = status.scheduled_time.get_or_insert(MicroTime(now.wall)).0;
            // The runner keeps the life that it was sent, whatever the pool's defaults are by now.
            if let Some(pool) = place.spec.filter(|_| status.deadline_time.is_none() || resent) {
                let life =
                    Duration::from_secs(u64::try_from(session.object().max_lifetime_in(pool)).unwrap_or_default());
                status.deadline_time = scheduled.checked_add(life).ok().map(MicroTime);
            }
            let mut note = Conditions::new(&mut status, Some(bound.sent_generation), now);
            note.set(SCHEDULED, Truth::True, reasons::BOUND, &format!("runs on {}", place.runner.name));
            note.set(FINISHED, Truth::False, reasons::IN_PROGRESS, "");
            note.set(STALLED, Truth::False, reasons::IN_PROGRESS, "");
            match report.phase {
                SessionPhase::Starting => {
                    note.set(READY, Truth::False, reasons::BROWSER_STARTING, "the browser is being launched");
                    status.state = SessionState::Starting;
                }
                // It ends: what it ends of is published when it has ended.
                SessionPhase::Ready | SessionPhase::Ending | SessionPhase::Ended => {
                    if place.reachable {
                        let words = format!("clients may connect; runs on {}", place.runner.name);
                        note.set(READY, Truth::True, reasons::BROWSER_READY, &words);
                    } else {
                        let words = unreachable(place);
                        note.set(READY, Truth::Unknown, reasons::RUNNER_UNREACHABLE, &words);
                    }
                    status.state = SessionState::Ready;
                    status.ready_time.get_or_insert(MicroTime(now.wall));
                    let key = Key::of(session.object().as_ref());
                    status.ws_endpoint = Some(ws_endpoint(public_url, "ws", &key));
                    status.vnc = (report.display == Display::LiveView).then(|| LiveViewRef {
                        url: format!("{public_url}/view/{}/{}", key.namespace, key.name),
                        ws_endpoint: ws_endpoint(public_url, "vnc", &key),
                    });
                }
            }
            Some(status)
        }
        Stage::Outcome(over) => Some(finished(former, session, over, now)),
    }
}

/// A spec that is changed when all is over changes nothing; that it was seen is told, or `kubectl wait` would wait for that.
fn seen_again(mut status: BrowserSessionStatus, session: &Session) -> Option<BrowserSessionStatus> {
    let generation = session.object().metadata.generation;
    (status.observed_generation != generation).then(|| {
        status.observed_generation = generation;
        for condition in &mut status.conditions {
            condition.observed_generation = generation;
        }
        status
    })
}

/// Published by another leader, and its runner has not spoken to this one: all that can be told is that it does not.
fn unheard(mut status: BrowserSessionStatus, bound: &Bound, place: &Place, now: Now) -> Option<BrowserSessionStatus> {
    if place.reachable || status.state != SessionState::Ready {
        return None;
    }
    let words = unreachable(place);
    let mut note = Conditions::new(&mut status, Some(bound.sent_generation), now);
    note.set(READY, Truth::Unknown, reasons::RUNNER_UNREACHABLE, &words);
    Some(status)
}

fn unreachable(place: &Place) -> String {
    format!("runner {} does not answer; the browser may be alive and well", place.runner.name)
}

fn queued(mut status: BrowserSessionStatus, session: &Session, wait: &WaitReason, now: Now) -> BrowserSessionStatus {
    status.observed_generation = session.object().metadata.generation;
    status.state = SessionState::Queued;
    let mut note = Conditions::new(&mut status, session.object().metadata.generation, now);
    note.set(SCHEDULED, Truth::False, wait.reason, &wait.message);
    note.set(READY, Truth::False, wait.reason, &wait.message);
    note.set(FINISHED, Truth::False, reasons::IN_PROGRESS, "");
    note.set(STALLED, Truth::False, reasons::IN_PROGRESS, "");
    status
}

fn finished(mut status: BrowserSessionStatus, session: &Session, over: &Outcome, now: Now) -> BrowserSessionStatus {
    status.observed_generation = session.object().metadata.generation;
    status.state = SessionState::Finished;
    status.ws_endpoint = None;
    status.vnc = None;
    status.finished_time.get_or_insert(MicroTime(now.wall));
    let mut note = Conditions::new(&mut status, session.object().metadata.generation, now);
    note.set(READY, Truth::False, over.reason, &over.message);
    note.set(FINISHED, Truth::True, over.reason, &over.message);
    note.set(STALLED, over.is_failure().into(), over.reason, if over.is_failure() { &over.message } else { "" });
    if conditions::get(&status.conditions, SCHEDULED).is_none() {
        Conditions::new(&mut status, session.object().metadata.generation, now).set(
            SCHEDULED,
            Truth::False,
            over.reason,
            &over.message,
        );
    }
    status
}

/// Where WebSockets of that door go: the gateway's address with the `ws` scheme. It holds no token.
fn ws_endpoint(public_url: &str, door: &str, key: &Key) -> String {
    let base = public_url.strip_prefix("http").map_or_else(|| public_url.to_owned(), |rest| format!("ws{rest}"));
    format!("{base}/{door}/{}/{}", key.namespace, key.name)
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

    fn set(&mut self, type_: &str, truth: Truth, reason: &str, message: &str) {
        conditions::set(self.conditions, type_, truth, reason, message, self.generation, self.now.wall);
    }
}
