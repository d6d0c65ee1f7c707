//! What is asked of the fleet when all failures are over: that no session was lost, none published on two runners, and
//! nothing left behind.

use crate::{harness::Harness, sessions::Seen};
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

const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What is not as it should be, each in a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Sessions that are gone though nobody deleted them, are published where they are not, wait though there is room, or
    /// ended for what did not happen; and runners that a pool lacks.
    pub lost: Vec<String>,
    /// UIDs that were published on two runners.
    pub doubled: Vec<String>,
    /// What runners have without an object that says so, and runners that no pool wishes for.
    pub leaked: Vec<String>,
}

impl Account {
    /// Whether all is as it should be.
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.leaked.is_empty()
    }
}

impl fmt::Display for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, findings) in [("lost", &self.lost), ("doubled", &self.doubled), ("leaked", &self.leaked)] {
            writeln!(formatter, "{} {what}", findings.len())?;
            for finding in findings.iter().take(20) {
                writeln!(formatter, "    {finding}")?;
            }
        }
        Ok(())
    }
}

impl Harness {
    /// The account of what is in that namespace, at rest: looked at until all is as it should be, or for so long.
    /// `ended_rightly` says of a finished session, by its reason, whether that is what happened to it.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn account(
        &self,
        namespace: &str,
        patience: Duration,
        ended_rightly: impl Fn(&BrowserSession, &str) -> bool,
    ) -> Result<Account> {
        let began = Instant::now();
        loop {
            let account = self.account_now(namespace, &ended_rightly).await?;
            if account.is_whole() || !account.doubled.is_empty() || began.elapsed() > patience {
                return Ok(account);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn account_now(
        &self,
        namespace: &str,
        ended_rightly: impl Fn(&BrowserSession, &str) -> bool,
    ) -> Result<Account> {
        let seen = self.sessions.by_name(namespace);
        let objects = self.api::<BrowserSession>(namespace).list(&ListParams::default()).await?.items;
        let mut account = Account { doubled: self.sessions.doubled(), ..Account::default() };
        account.look_for_lost(&seen, &objects);
        for session in &objects {
            account.lost.extend(self.complaint_about(session, &ended_rightly));
        }
        self.look_for_leaked(namespace, &objects, &mut account);
        self.look_at_pods(namespace, &mut account).await?;
        Ok(account)
    }

    fn complaint_about(
        &self,
        session: &BrowserSession,
        ended_rightly: impl Fn(&BrowserSession, &str) -> bool,
    ) -> Option<String> {
        let (name, status) = (session.name_any(), session.status.clone().unwrap_or_default());
        if status.state == SessionState::Finished {
            let finished = conditions::get(&status.conditions, FINISHED);
            let (reason, message) =
                finished.map_or(("", ""), |finished| (finished.reason.as_str(), finished.message.as_str()));
            return (!ended_rightly(session, reason)).then(|| format!("{name} ended as {reason}: {message}"));
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
        (!has).then(|| format!("{name} is published on {}, which has it not", published.name))
    }

    /// What runners have must be published there.
    fn look_for_leaked(&self, namespace: &str, objects: &[BrowserSession], account: &mut Account) {
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
                    account.leaked.push(format!(
                        "{} is {:?} on {} and not published there",
                        held.name, held.phase, runner.pod.name
                    ));
                }
            }
        }
    }

    /// Each pool has as many runners as its owner wishes.
    async fn look_at_pods(&self, namespace: &str, account: &mut Account) -> Result<()> {
        let pools = self.api::<WorkerPool>(namespace).list(&ListParams::default()).await?.items;
        let mut wished: BTreeMap<String, i32> = pools
            .iter()
            .filter(|pool| pool.spec.autoscaling.is_none())
            .filter_map(|pool| Some((pool.uid()?, pool.spec.fixed_replicas())))
            .collect();
        for pod in self.api::<Pod>(namespace).list_metadata(&ListParams::default()).await?.items {
            let owner = pod.owner_references().first().map(|owner| owner.uid.clone()).unwrap_or_default();
            if let Some(left) = wished.get_mut(&owner) {
                *left -= 1;
            } else if !pools.iter().any(|pool| pool.uid().as_ref() == Some(&owner)) {
                account.leaked.push(format!("pod {} is of no pool", pod.name_any()));
            }
        }
        for left in wished.into_values() {
            if left > 0 {
                account.lost.push(format!("a pool lacks {left} runners"));
            } else if left < 0 {
                account.leaked.push(format!("a pool has {} runners too many", -left));
            }
        }
        Ok(())
    }
}

impl Account {
    /// What is gone must have ended, or have been deleted by its user.
    fn look_for_lost(&mut self, seen: &BTreeMap<String, Seen>, objects: &[BrowserSession]) {
        let there: BTreeSet<_> = objects.iter().filter_map(|session| session.metadata.uid.as_deref()).collect();
        for (name, seen) in seen {
            if !there.contains(seen.uid.as_str()) && seen.finished.is_none() && !seen.given_up {
                self.lost.push(format!("{name} is gone, and nobody deleted it"));
            }
        }
    }
}
