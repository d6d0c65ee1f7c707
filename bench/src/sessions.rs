//! Watches all sessions on a dedicated connection and records when each was first Ready, queued, finished or deleted.

use anyhow::{Result, bail};
use camofleet_crds::{
    conditions::FINISHED,
    v1alpha1::{BrowserSession, SessionState},
};
use camofleet_runtime::watch::WatchBackoff;
use futures::{StreamExt, pin_mut};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, task::JoinHandle};

/// Interval at which [`ObservedSessions::wait_for`] counts sessions.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Everything that the watch has shown of sessions.
#[derive(Debug)]
pub struct ObservedSessions {
    observations: Arc<Mutex<Observations>>,
    watching: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Observations {
    seen: HashMap<Name, ObservedSession>,
    awaited: HashMap<Name, oneshot::Sender<Instant>>,
    /// UIDs of all runners in the statuses of a session, by the UID of the session.
    published: HashMap<String, BTreeSet<String>>,
    /// Sessions in the list that the watch is reading.
    listed: HashSet<Name>,
}

/// Namespace and name.
type Name = (String, String);

/// What the watch has shown of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedSession {
    /// UID of the session.
    pub uid: String,
    /// Latest state.
    pub state: SessionState,
    /// Time of the first status with state Ready.
    pub ready: Option<Instant>,
    /// Time of the first status with state Finished.
    pub finished: Option<Instant>,
    /// Whether any status had the state Queued.
    pub was_queued: bool,
    /// Reason of the condition `Finished`.
    pub reason: Option<String>,
    /// Whether the object was deleted.
    pub deleted: bool,
    /// Whether the test deleted the session, or will do so.
    pub deleted_by_user: bool,
    /// UIDs of all runners in its statuses.
    pub runners: BTreeSet<String>,
}

/// The fields of a [`BrowserSession`] that are measured. Decoding only those keeps the client fast.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = BrowserSession)]
struct WatchedSession {
    metadata: ObjectMeta,
    #[serde(default)]
    status: WatchedStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct WatchedStatus {
    state: SessionState,
    runner: Option<WatchedRunner>,
    conditions: Vec<WatchedCondition>,
}

#[derive(Clone, Debug, Deserialize)]
struct WatchedCondition {
    r#type: String,
    reason: String,
}

#[derive(Clone, Debug, Deserialize)]
struct WatchedRunner {
    uid: String,
}

impl ObservedSessions {
    /// Starts the watch. Other calls with this client would delay its events.
    ///
    /// # Errors
    /// Returns an error if the watch ends before the first list is complete.
    pub async fn watch(client: Client) -> Result<Self> {
        let observations = Arc::<Mutex<Observations>>::default();
        let (started, start_signal) = oneshot::channel();
        let watching = tokio::spawn(watch_sessions(Api::all(client), Arc::clone(&observations), started));
        start_signal.await?;
        Ok(Self { observations, watching })
    }

    /// Returns a receiver for the time at which the session becomes Ready. Call this before creating the session.
    pub fn await_ready(&self, namespace: &str, name: &str) -> oneshot::Receiver<Instant> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.observations).awaited.insert((namespace.to_owned(), name.to_owned()), sender);
        receiver
    }

    /// The observations of one session.
    pub fn get(&self, namespace: &str, name: &str) -> Option<ObservedSession> {
        lock(&self.observations).seen.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The observations of all sessions of a namespace, without names.
    pub fn all(&self, namespace: &str) -> Vec<ObservedSession> {
        let observations = lock(&self.observations);
        observations
            .seen
            .iter()
            .filter(|((session_namespace, _), _)| session_namespace == namespace)
            .map(|(_, seen)| seen.clone())
            .collect()
    }

    /// Counts the sessions of a namespace that match.
    pub fn count(&self, namespace: &str, matches: impl Fn(&ObservedSession) -> bool) -> usize {
        let observations = lock(&self.observations);
        observations
            .seen
            .iter()
            .filter(|((session_namespace, _), seen)| session_namespace == namespace && matches(seen))
            .count()
    }

    /// Waits until `count` sessions of a namespace match; `what` describes them in the error.
    ///
    /// # Errors
    /// Returns an error after `timeout`.
    pub async fn wait_for(
        &self,
        count: usize,
        namespace: &str,
        what: &str,
        timeout: Duration,
        matches: impl Fn(&ObservedSession) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let have = self.count(namespace, &matches);
            if have >= count {
                return Ok(());
            }
            if start.elapsed() > timeout {
                let seconds = timeout.as_secs();
                bail!("{have} of {count} sessions of namespace {namespace} are {what} after {seconds} s");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Adds a session that was created, in case it is deleted before the watch shows it.
    pub fn created(&self, session: &BrowserSession) {
        let name = (session.namespace().unwrap_or_default(), session.name_any());
        entry(&mut lock(&self.observations).seen, name, session.metadata.uid.as_deref().unwrap_or_default());
    }

    /// Marks a session as deleted by its user, so that its deletion does not count as a loss.
    pub fn mark_deleted_by_user(&self, namespace: &str, name: &str) {
        lock(&self.observations).seen.entry((namespace.to_owned(), name.to_owned())).or_default().deleted_by_user =
            true;
    }

    /// UIDs of sessions whose statuses named more than one runner.
    pub fn published_twice(&self) -> Vec<String> {
        let observations = lock(&self.observations);
        observations.published.iter().filter(|(_, runners)| runners.len() > 1).map(|(uid, _)| uid.clone()).collect()
    }

    /// The observations of all sessions of a namespace, by name.
    pub fn by_name(&self, namespace: &str) -> BTreeMap<String, ObservedSession> {
        let observations = lock(&self.observations);
        let here = observations.seen.iter().filter(|((session_namespace, _), _)| session_namespace == namespace);
        here.map(|((_, name), seen)| (name.clone(), seen.clone())).collect()
    }

    /// Drops the observations of a namespace.
    pub fn forget(&self, namespace: &str) {
        lock(&self.observations).seen.retain(|(session_namespace, _), _| session_namespace != namespace);
    }
}

impl Drop for ObservedSessions {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

async fn watch_sessions(
    api: Api<WatchedSession>,
    observations: Arc<Mutex<Observations>>,
    started: oneshot::Sender<()>,
) {
    let mut started = Some(started);
    let events = watcher(api, watcher::Config::default()).backoff(WatchBackoff::default());
    pin_mut!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => lock(&observations).listed.clear(),
            Ok(Event::InitApply(session)) => {
                let mut observations = lock(&observations);
                observations.listed.insert(name_of(&session));
                observations.record(session);
            }
            Ok(Event::InitDone) => {
                lock(&observations).record_unlisted();
                if let Some(started) = started.take() {
                    let _ = started.send(());
                }
            }
            Ok(Event::Apply(session)) => lock(&observations).record(session),
            Ok(Event::Delete(session)) => lock(&observations).record_deleted(name_of(&session)),
            // The list after the interruption makes up for missed events.
            Err(_) => {}
        }
    }
}

impl Observations {
    fn record(&mut self, session: WatchedSession) {
        let now = Instant::now();
        let name = name_of(&session);
        let uid = session.metadata.uid.unwrap_or_default();
        if let Some(runner) = session.status.runner {
            self.published.entry(uid.clone()).or_default().insert(runner.uid.clone());
            entry(&mut self.seen, name.clone(), &uid).runners.insert(runner.uid);
        }
        let seen = entry(&mut self.seen, name.clone(), &uid);
        (seen.state, seen.deleted) = (session.status.state, false);
        match session.status.state {
            SessionState::Pending | SessionState::Starting => {}
            SessionState::Queued => seen.was_queued = true,
            SessionState::Ready => {
                seen.ready.get_or_insert(now);
                if let Some(sender) = self.awaited.remove(&name) {
                    // The receiver may have timed out.
                    let _ = sender.send(now);
                }
            }
            SessionState::Finished => {
                seen.finished.get_or_insert(now);
                let mut conditions = session.status.conditions.into_iter();
                seen.reason =
                    conditions.find(|condition| condition.r#type == FINISHED).map(|condition| condition.reason);
                // A finished session never becomes Ready: dropping the sender ends the wait.
                self.awaited.remove(&name);
            }
        }
    }

    fn record_deleted(&mut self, name: Name) {
        self.awaited.remove(&name);
        if let Some(seen) = self.seen.get_mut(&name) {
            seen.deleted = true;
        }
    }

    /// Marks sessions as deleted that are missing from a complete list. Some may only be younger than the list; their
    /// next event corrects that.
    fn record_unlisted(&mut self) {
        for (_, seen) in self.seen.iter_mut().filter(|(name, _)| !self.listed.contains(*name)) {
            seen.deleted = true;
        }
    }
}

/// The observations of the session with this UID. A different UID under the same name replaces the former observations.
fn entry<'a>(seen: &'a mut HashMap<Name, ObservedSession>, name: Name, uid: &str) -> &'a mut ObservedSession {
    let seen = seen.entry(name).or_default();
    if seen.uid != uid {
        let deleted_by_user = seen.deleted_by_user && seen.uid.is_empty();
        *seen = ObservedSession { uid: uid.to_owned(), deleted_by_user, ..ObservedSession::default() };
    }
    seen
}

fn name_of(session: &WatchedSession) -> Name {
    (session.namespace().unwrap_or_default(), session.name_any())
}

fn lock(observations: &Mutex<Observations>) -> MutexGuard<'_, Observations> {
    observations.lock().unwrap_or_else(PoisonError::into_inner)
}
