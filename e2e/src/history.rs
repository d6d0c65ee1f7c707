//! All that was ever published of the sessions of a namespace.

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

/// Writes down every version of every session, from the moment it is made.
pub struct History {
    versions: Arc<Mutex<BTreeMap<String, Vec<BrowserSession>>>>,
    watching: JoinHandle<()>,
}

impl History {
    /// Begins with what is there now.
    ///
    /// # Errors
    /// When the sessions cannot be watched.
    pub async fn watch(api: Api<BrowserSession>) -> Result<Self> {
        let versions = Arc::new(Mutex::new(BTreeMap::<String, Vec<BrowserSession>>::new()));
        let writer = Arc::clone(&versions);
        let (begun, begins) = oneshot::channel();
        let mut begun = Some(begun);
        let watching = tokio::spawn(async move {
            let stream = watcher(api, watcher::Config::default()).default_backoff();
            pin_mut!(stream);
            while let Some(event) = stream.next().await {
                match event {
                    Ok(Event::InitApply(session) | Event::Apply(session)) => record(&writer, session),
                    Ok(Event::InitDone) => drop(begun.take().map(|begun| begun.send(()))),
                    // A deletion is no version, and an interruption is made up for by the next list.
                    Ok(Event::Init | Event::Delete(_)) | Err(_) => {}
                }
            }
        });
        let history = Self { versions, watching };
        begins.await?;
        Ok(history)
    }

    /// The versions of one session, the first first.
    pub fn versions(&self, uid: &str) -> Vec<BrowserSession> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned().unwrap_or_default()
    }

    /// Whether each of these sessions became Ready once, on one runner, and was never taken back from there.
    ///
    /// # Errors
    /// When one did not, with its history.
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
            let mut turns = states.clone();
            turns.dedup();
            let times = turns.iter().filter(|state| **state == SessionState::Ready).count();
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
