//! Checks the invariants that must hold once all failures are over: no session is lost, none was ever published on two
//! runners, and runners and pods match the objects.

use crate::{harness::Harness, sessions::ObservedSession};
use anyhow::Result;
use camofleet_crds::{
    conditions::{self, FINISHED, READY},
    v1alpha1::{BrowserSession, SessionState, WorkerPool},
};
use camofleet_runner_api::SessionPhase;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Violations of the invariants, one sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    /// Sessions that disappeared, are not on the runner that their status names, still wait, or ended for an unexpected
    /// reason; and pools with too few runners.
    pub lost: Vec<String>,
    /// UIDs of sessions whose statuses named more than one runner at any time.
    pub published_twice: Vec<String>,
    /// Sessions on runners without a matching status, and runners that no pool needs.
    pub leaked: Vec<String>,
}

impl Violations {
    /// Whether all invariants hold.
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.published_twice.is_empty() && self.leaked.is_empty()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, findings) in
            [("lost", &self.lost), ("published twice", &self.published_twice), ("leaked", &self.leaked)]
        {
            writeln!(formatter, "{} {what}", findings.len())?;
            for finding in findings.iter().take(20) {
                writeln!(formatter, "    {finding}")?;
            }
        }
        Ok(())
    }
}

impl Harness {
    /// Checks a namespace until no invariant is violated, at most for `timeout`. `is_expected_end` decides whether a
    /// session may have finished with a reason.
    ///
    /// # Errors
    /// Returns an error if the API server cannot be reached.
    pub async fn check_invariants(
        &self,
        namespace: &str,
        timeout: Duration,
        is_expected_end: impl Fn(&BrowserSession, &str) -> bool,
    ) -> Result<Violations> {
        let began = Instant::now();
        loop {
            let violations = self.check_invariants_once(namespace, &is_expected_end).await?;
            if violations.is_empty() || !violations.published_twice.is_empty() || began.elapsed() > timeout {
                return Ok(violations);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn check_invariants_once(
        &self,
        namespace: &str,
        is_expected_end: impl Fn(&BrowserSession, &str) -> bool,
    ) -> Result<Violations> {
        let seen = self.sessions.by_name(namespace);
        let objects = self.api::<BrowserSession>(namespace).list(&ListParams::default()).await?.items;
        let mut violations = Violations { published_twice: self.sessions.published_twice(), ..Violations::default() };
        violations.check_deleted_sessions(&seen, &objects);
        for session in &objects {
            violations.lost.extend(self.check_session(session, &is_expected_end));
        }
        self.check_runners(namespace, &objects, &mut violations);
        self.check_pods(namespace, &mut violations).await?;
        Ok(violations)
    }

    fn check_session(
        &self,
        session: &BrowserSession,
        is_expected_end: impl Fn(&BrowserSession, &str) -> bool,
    ) -> Option<String> {
        let (name, status) = (session.name_any(), session.status.clone().unwrap_or_default());
        if status.state == SessionState::Finished {
            let finished = conditions::get(&status.conditions, FINISHED);
            let (reason, message) =
                finished.map_or(("", ""), |finished| (finished.reason.as_str(), finished.message.as_str()));
            return (!is_expected_end(session, reason)).then(|| format!("{name} ended as {reason}: {message}"));
        }
        if status.state != SessionState::Ready || !conditions::is_true(&status.conditions, READY) {
            let why = conditions::get(&status.conditions, READY).map(|ready| ready.message.clone());
            return Some(format!("{name} is {}: {}", status.state.as_str(), why.unwrap_or_default()));
        }
        let uid = session.uid().unwrap_or_default();
        let published = status.runner?;
        let runner = self.simulator.runner(&published.uid);
        let has = runner.is_some_and(|runner| {
            runner.sessions().iter().any(|held| held.uid == uid && held.phase == SessionPhase::Ready)
        });
        (!has).then(|| format!("{name} is published on {}, which does not have it", published.name))
    }

    /// Every session on a runner must be published on that runner.
    fn check_runners(&self, namespace: &str, objects: &[BrowserSession], violations: &mut Violations) {
        let published: BTreeSet<(String, String)> = objects
            .iter()
            .filter_map(|session| {
                let status = session.status.as_ref().filter(|status| status.state != SessionState::Finished)?;
                Some((session.uid()?, status.runner.as_ref()?.uid.clone()))
            })
            .collect();
        for runner in self.simulator.runners() {
            for held in runner.sessions().into_iter().filter(|held| held.namespace == namespace) {
                if !published.contains(&(held.uid.clone(), runner.pod.uid.clone())) {
                    violations.leaked.push(format!(
                        "{} is {:?} on {} but not published there",
                        held.name, held.phase, runner.pod.name
                    ));
                }
            }
        }
    }

    /// Each pool must have as many runners as its spec says.
    async fn check_pods(&self, namespace: &str, violations: &mut Violations) -> Result<()> {
        let pools = self.api::<WorkerPool>(namespace).list(&ListParams::default()).await?.items;
        let mut missing: BTreeMap<String, i32> = pools
            .iter()
            .filter(|pool| pool.spec.autoscaling.is_none())
            .filter_map(|pool| Some((pool.uid()?, pool.spec.fixed_replicas())))
            .collect();
        for pod in self.api::<Pod>(namespace).list_metadata(&ListParams::default()).await?.items {
            let owner = pod.owner_references().first().map(|owner| owner.uid.clone()).unwrap_or_default();
            if let Some(missing_count) = missing.get_mut(&owner) {
                *missing_count -= 1;
            } else if !pools.iter().any(|pool| pool.uid().as_ref() == Some(&owner)) {
                violations.leaked.push(format!("pod {} belongs to no pool", pod.name_any()));
            }
        }
        for missing_count in missing.into_values() {
            if missing_count > 0 {
                violations.lost.push(format!("a pool lacks {missing_count} runners"));
            } else if missing_count < 0 {
                violations.leaked.push(format!("a pool has {} excess runners", -missing_count));
            }
        }
        Ok(())
    }
}

impl Violations {
    /// A deleted session must have finished, or have been deleted by its user.
    fn check_deleted_sessions(&mut self, seen: &BTreeMap<String, ObservedSession>, objects: &[BrowserSession]) {
        let there: BTreeSet<_> = objects.iter().filter_map(|session| session.metadata.uid.as_deref()).collect();
        for (name, seen) in seen {
            if !there.contains(seen.uid.as_str()) && seen.finished.is_none() && !seen.deleted_by_user {
                self.lost.push(format!("{name} was deleted, but not by its user"));
            }
        }
    }
}
