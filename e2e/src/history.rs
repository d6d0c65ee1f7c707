//! Records every version of the sessions in a namespace that the API server published.

use anyhow::{Result, ensure};
use camofleet_crds::v1alpha1::{BrowserSession, SessionState};
use futures::{StreamExt, pin_mut};
use kube::{
    Api, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{sync::oneshot, task::JoinHandle};

/// The versions of every session, recorded from a watch.
pub struct History {
    versions: Arc<Mutex<BTreeMap<String, Vec<BrowserSession>>>>,
    watching: JoinHandle<()>,
}

impl History {
    /// Starts to record, beginning with the sessions that exist now.
    ///
    /// # Errors
    /// If the first list of the watch does not complete.
    pub async fn watch(api: Api<BrowserSession>) -> Result<Self> {
        let versions = Arc::new(Mutex::new(BTreeMap::<String, Vec<BrowserSession>>::new()));
        let writer = Arc::clone(&versions);
        let (listed, first_list) = oneshot::channel();
        let mut listed = Some(listed);
        let watching = tokio::spawn(async move {
            let stream = watcher(api, watcher::Config::default()).default_backoff();
            pin_mut!(stream);
            while let Some(event) = stream.next().await {
                match event {
                    Ok(Event::InitApply(session) | Event::Apply(session)) => record(&writer, session),
                    Ok(Event::InitDone) => drop(listed.take().map(|listed| listed.send(()))),
                    // A deletion is not a version. After an interruption, the watch lists the sessions again.
                    Ok(Event::Init | Event::Delete(_)) | Err(_) => {}
                }
            }
        });
        let history = Self { versions, watching };
        first_list.await?;
        Ok(history)
    }

    /// The versions of one session, oldest first.
    pub fn versions(&self, uid: &str) -> Vec<BrowserSession> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned().unwrap_or_default()
    }

    /// Ensures that each of these sessions became Ready exactly once, and was published on only one runner.
    ///
    /// # Errors
    /// If a session violates this, with its states or runners.
    pub fn ensure_each_was_ready_once(&self, uids: &[String]) -> Result<()> {
        for uid in uids {
            let versions = self.versions(uid);
            let states: Vec<_> = versions.iter().map(BrowserSession::state).collect();
            let mut runners: Vec<_> = versions
                .iter()
                .filter_map(|version| Some(version.status.as_ref()?.runner.as_ref()?.uid.clone()))
                .collect();
            runners.dedup();
            ensure!(runners.len() == 1, "session {uid} was published on {} runners: {runners:?}", runners.len());
            let mut changes = states.clone();
            changes.dedup();
            let times = changes.iter().filter(|state| **state == SessionState::Ready).count();
            ensure!(times == 1, "session {uid} became Ready {times} times: {states:?}");
        }
        Ok(())
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn record(versions: &Mutex<BTreeMap<String, Vec<BrowserSession>>>, session: BrowserSession) {
    let mut versions = versions.lock().unwrap_or_else(PoisonError::into_inner);
    let known = versions.entry(session.uid().unwrap_or_default()).or_default();
    if known.last().is_none_or(|last| last.resource_version() != session.resource_version()) {
        known.push(session);
    }
}
