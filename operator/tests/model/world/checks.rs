//! Invariants during a history, and after the world has settled.

use super::{Connectivity, Delivery, SHORT_TTL, World, runners::Runner};
use crate::support::installation;
use camofleet_crds::v1alpha1::{BrowserSession, SessionState};
use camofleet_operator::core::runner::pod_build;
use camofleet_runner_api::SessionPhase;
use k8s_openapi::jiff::SignedDuration;
use std::sync::Arc;

impl World {
    /// Other runners that have the session and of which the leader of this epoch could have known. It could if it bound
    /// the session there itself, or if it had observed the pod before its term, the runner was never unreachable, and
    /// the session was bound before the term began. A session that a late call of a former leader binds is found in the
    /// runner's report and ended.
    pub(super) fn other_holders(&self, session: &str, pod: &str, epoch: u64) -> Vec<String> {
        let Some(binder) = self.operators.iter().find(|operator| operator.epoch == epoch) else { return Vec::new() };
        let could_know = |runner: &Runner| {
            let (by, during) = runner.bound_in.get(session).copied().unwrap_or_default();
            by == epoch || during < epoch && binder.pods_before_term.contains(&runner.pod.uid)
        };
        let others = self
            .runners
            .iter()
            .filter(|other| other.pod.uid != pod && !other.was_unreachable && other.has_live_session(session));
        others.filter(|other| could_know(other)).map(|other| other.pod.uid.clone()).collect()
    }

    /// Lets the first leader create its runners, and delivers all watch events to both operators.
    pub fn warm_up(&mut self) {
        for _ in 0..6 {
            self.settle_step(0, 1000);
        }
        self.deliver_all_watch_events(1, usize::MAX / 2);
    }

    /// Runs one operator without failures until the world has settled.
    pub fn settle(&mut self) {
        for runner in &mut self.runners {
            runner.connectivity = Connectivity::Up;
        }
        for node in 0..self.nodes.len() {
            self.cordon(node, false);
        }
        let leader = self.leader.unwrap_or(0);
        self.operators[1 - leader].calls.clear();
        self.operators[1 - leader].inbox.clear();
        self.operators[1 - leader].paused = true;
        self.operators[leader].paused = false;
        for _ in 0..90 {
            self.settle_step(leader, 1000);
        }
        // After many failures, the core waits for a long backoff.
        for _ in 0..60 {
            if self.desired().is_none_or(|desired| self.runners.len() >= desired) {
                break;
            }
            self.settle_step(leader, 10_000);
        }
    }

    fn settle_step(&mut self, leader: usize, millis: i64) {
        self.collect_garbage();
        self.deliver_all_watch_events(leader, usize::MAX / 2);
        for at in 0..self.runners.len() {
            self.start(at);
            self.warm(at);
            self.deliver_report(at, leader);
        }
        // Until no call is pending.
        for _ in 0..20 {
            self.step(leader);
            if self.operators[leader].calls.is_empty() {
                break;
            }
            while !self.operators[leader].calls.is_empty() {
                self.complete_call(leader, 0, Delivery::Complete);
            }
            self.deliver_all_watch_events(leader, usize::MAX / 2);
        }
        let drained: Vec<_> = (0..self.runners.len())
            .filter(|at| self.runners[*at].draining && self.runners[*at].sessions.is_empty())
            .collect();
        for at in drained.into_iter().rev() {
            self.kill_pod(at);
        }
        self.monotonic += millis;
    }

    /// Desired number of runners, if the pool exists and is not being deleted. An autoscaled pool needs the runners
    /// that have sessions or are full, and enough free ones for its buffer.
    fn desired(&self) -> Option<usize> {
        let pool = self.pool.as_ref().filter(|pool| pool.metadata.deletion_timestamp.is_none())?;
        let desired = match &pool.spec.autoscaling {
            None => pool.spec.fixed_replicas(),
            Some(scale) => {
                let taken = |runner: &&Runner| runner.live_sessions() > 0 || runner.free_slots() == 0;
                let kept = self.runners.iter().filter(taken);
                let (kept, free) = kept.fold((0, 0), |(kept, free), runner| (kept + 1, free + runner.free_slots()));
                let buffer = u32::try_from(scale.buffer_slots).unwrap().min(self.remaining_sessions());
                let idle = buffer.saturating_sub(free).div_ceil(u32::try_from(self.slots).unwrap());
                (kept + i32::try_from(idle).unwrap()).clamp(scale.min_replicas, scale.max_replicas)
            }
        };
        Some(usize::try_from(desired).unwrap())
    }

    /// Number of further sessions that the pool's limit permits.
    fn remaining_sessions(&self) -> u32 {
        let most = self.pool.as_ref().and_then(|pool| pool.spec.limits.max_sessions);
        let runs = |session: &&Arc<BrowserSession>| {
            session.status.as_ref().map(|status| status.state) == Some(SessionState::Ready)
        };
        let running = u32::try_from(self.sessions.values().filter(runs).count()).unwrap();
        most.map_or(u32::MAX, |most| u32::try_from(most).unwrap().saturating_sub(running))
    }

    /// In a settled world, a new session becomes Ready if and only if the pool has room, so the core counts slots
    /// correctly.
    pub fn check_final_session(&mut self) {
        const FINAL: &str = "final";
        let Some(pool) = self.pool.as_ref().filter(|pool| pool.metadata.deletion_timestamp.is_none()) else { return };
        let may_grow = pool
            .spec
            .autoscaling
            .is_some_and(|scale| self.runners.len() < usize::try_from(scale.max_replicas).unwrap());
        let has_room = self.runners.iter().any(|runner| runner.free_slots() > 0) || may_grow;
        let due = has_room && self.remaining_sessions() > 0;
        let leader = self.leader.unwrap_or(0);
        if may_grow {
            // The longest backoff after a failure.
            for _ in 0..31 {
                self.settle_step(leader, 10_000);
            }
        }
        self.create(FINAL, false);
        let is_ready = |world: &Self| {
            world.sessions[FINAL].status.as_ref().is_some_and(|status| status.state == SessionState::Ready)
        };
        for _ in 0..20 {
            self.settle_step(leader, 900);
        }
        if is_ready(self) != due {
            let state = self.sessions[FINAL].status.clone();
            self.violations.push(format!("a new session has the status {state:?}; it should be ready: {due}"));
        }
    }

    /// Checks the invariants of a settled world.
    pub fn check_settled(&mut self) {
        let mut violations: Vec<String> =
            self.sessions.values().filter_map(|session| self.session_violation(session)).collect();
        violations.extend(self.leftover_sessions());
        violations.extend(self.runner_violations());
        self.violations.extend(violations);
    }

    fn session_violation(&self, session: &BrowserSession) -> Option<String> {
        let uid = session.metadata.uid.as_deref().unwrap();
        let status = session.status.clone().unwrap_or_default();
        match status.state {
            SessionState::Finished => {
                let finished = status.finished_time.unwrap().0;
                let patience = SignedDuration::from_secs(i64::from(SHORT_TTL) + 10);
                let short = session.spec.ttl_seconds_after_finished == SHORT_TTL;
                (short && finished + patience < self.now().wall).then(|| format!("{uid} has outlived its TTL"))
            }
            SessionState::Ready => {
                let published = status.runner.map(|runner| runner.uid).unwrap_or_default();
                let ready =
                    |there: &camofleet_runner_api::Session| there.uid == uid && there.phase == SessionPhase::Ready;
                if !self.runners.iter().any(|runner| runner.pod.uid == published && runner.sessions.iter().any(ready)) {
                    return Some(format!("{uid} is Ready on {published}, which does not have it"));
                }
                (status.observed_generation != session.metadata.generation)
                    .then(|| format!("{uid} was changed, but its status is of an older generation"))
            }
            state => Some(format!("{uid} is {state:?} in the settled world")),
        }
    }

    /// Sessions on runners that their status does not name. Draining runners of a deleted pool are exempt: a leader
    /// that never observed the pool streams no reports from them, and their sessions end at the drain deadline.
    fn leftover_sessions(&self) -> Vec<String> {
        let owner = self.pool.as_ref().and_then(|pool| pool.metadata.uid.as_ref());
        let runners = self.runners.iter().filter(|runner| Some(&runner.pod.pool.1) == owner || !runner.draining);
        let listed = runners.flat_map(|runner| runner.sessions.iter().map(move |there| (runner, there)));
        let is_left = |(runner, there): &(&Runner, &camofleet_runner_api::Session)| {
            let object = self.sessions.values().find(|session| session.metadata.uid.as_ref() == Some(&there.uid));
            let status = object.and_then(|session| session.status.clone()).unwrap_or_default();
            let is_published_here = status.runner.as_ref().is_some_and(|published| published.uid == runner.pod.uid);
            there.phase == SessionPhase::Ended || status.state == SessionState::Finished || !is_published_here
        };
        let left = listed.filter(is_left);
        left.map(|(runner, there)| format!("{} was left on {} ({:?})", there.uid, runner.pod.uid, there.phase))
            .collect()
    }

    fn runner_violations(&self) -> Vec<String> {
        // A draining runner keeps its place until its pod is gone, and a surplus runner with a session drains.
        let staying: Vec<_> = self.runners.iter().filter(|runner| !runner.draining).collect();
        let Some(desired) = self.desired() else {
            let alone = self.pool.is_some() && self.runners.iter().all(|runner| runner.sessions.is_empty());
            let stays = (!staying.is_empty()).then(|| format!("{} runners stay without a pool", staying.len()));
            return stays
                .into_iter()
                .chain(alone.then(|| "a deleted pool without sessions still has its finalizer".to_owned()))
                .collect();
        };
        let pool = self.pool.as_ref().expect("the pool exists");
        let current = pod_build::revision(pool, &installation());
        let mut violations = Vec::new();
        if staying.len() > desired || self.runners.len() < desired {
            let count = self.runners.len();
            violations
                .push(format!("{count} runners, of which {} do not drain, for {desired} replicas", staying.len()));
        }
        let old = staying.iter().filter(|runner| runner.pod.revision != current);
        violations.extend(old.map(|runner| format!("{} does not drain and has an old shape", runner.pod.uid)));
        violations
    }
}
