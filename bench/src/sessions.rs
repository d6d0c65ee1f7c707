//! The measuring client's view of the sessions: one watch of all of them, on a connection that nothing else uses.

use anyhow::{Result, bail};
use camofleet_crds::{
    conditions::FINISHED,
    v1alpha1::{BrowserSession, SessionState},
};
use camofleet_runtime::watch::Pauses;
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

/// How often it is looked at whether what is waited for many sessions has come.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What was ever published of the sessions.
#[derive(Debug)]
pub struct Sessions {
    observations: Arc<Mutex<Observations>>,
    watching: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Observations {
    seen: HashMap<Name, ObservedSession>,
    awaited: HashMap<Name, oneshot::Sender<Instant>>,
    /// UIDs of the runners that each session was ever published on, by its UID.
    published: HashMap<String, BTreeSet<String>>,
    /// Those that a list has shown which is being read.
    listed: HashSet<Name>,
}

/// Namespace and name.
type Name = (String, String);

/// What the watch has shown of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedSession {
    /// Its UID.
    pub uid: String,
    /// Its latest state.
    pub state: SessionState,
    /// When it was Ready for the first time.
    pub ready: Option<Instant>,
    /// When it was Finished for the first time.
    pub finished: Option<Instant>,
    /// Whether it was ever published as one that waits.
    pub was_queued: bool,
    /// Why it was Finished.
    pub reason: Option<String>,
    /// Whether the object is gone.
    pub deleted: bool,
    /// Whether its user has no more use for it.
    pub deleted_by_user: bool,
    /// UIDs of the runners that it was ever published on.
    pub runners: BTreeSet<String>,
}

/// A [`BrowserSession`] as far as it is measured.
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

impl Sessions {
    /// Begins to watch. The client is to be used by nobody else.
    ///
    /// # Errors
    /// When the watch ends before it has begun.
    pub async fn watch(client: Client) -> Result<Self> {
        let observations = Arc::<Mutex<Observations>>::default();
        let (started, starts) = oneshot::channel();
        let watching = tokio::spawn(watch_sessions(Api::all(client), Arc::clone(&observations), started));
        starts.await?;
        Ok(Self { observations, watching })
    }

    /// Tells when that session, which is not made yet, is Ready.
    pub fn await_ready(&self, namespace: &str, name: &str) -> oneshot::Receiver<Instant> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.observations).awaited.insert((namespace.to_owned(), name.to_owned()), sender);
        receiver
    }

    /// What was seen of a session.
    pub fn get(&self, namespace: &str, name: &str) -> Option<ObservedSession> {
        lock(&self.observations).seen.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// What was seen of all sessions of a namespace, but for their names.
    pub fn all(&self, namespace: &str) -> Vec<ObservedSession> {
        let observations = lock(&self.observations);
        observations.seen.iter().filter(|((in_, _), _)| in_ == namespace).map(|(_, seen)| seen.clone()).collect()
    }

    /// How many sessions of the namespace are so.
    pub fn count(&self, namespace: &str, matches: impl Fn(&ObservedSession) -> bool) -> usize {
        let observations = lock(&self.observations);
        observations.seen.iter().filter(|((in_, _), seen)| in_ == namespace && matches(seen)).count()
    }

    /// Waits until so many sessions of the namespace are so.
    ///
    /// # Errors
    /// When they are not in time.
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

    /// A session was made: it is to be heard of.
    pub fn created(&self, session: &BrowserSession) {
        let name = (session.namespace().unwrap_or_default(), session.name_any());
        entry(&mut lock(&self.observations).seen, name, session.metadata.uid.as_deref().unwrap_or_default());
    }

    /// Its user has no more use for that session: that it goes is no loss.
    pub fn mark_deleted_by_user(&self, namespace: &str, name: &str) {
        lock(&self.observations).seen.entry((namespace.to_owned(), name.to_owned())).or_default().deleted_by_user =
            true;
    }

    /// UIDs of the sessions that were ever published on two runners.
    pub fn published_twice(&self) -> Vec<String> {
        let observations = lock(&self.observations);
        observations.published.iter().filter(|(_, runners)| runners.len() > 1).map(|(uid, _)| uid.clone()).collect()
    }

    /// What was seen of all sessions of a namespace, by name.
    pub fn by_name(&self, namespace: &str) -> BTreeMap<String, ObservedSession> {
        let observations = lock(&self.observations);
        let here = observations.seen.iter().filter(|((in_, _), _)| in_ == namespace);
        here.map(|((_, name), seen)| (name.clone(), seen.clone())).collect()
    }

    /// Forgets what was seen of the sessions of a namespace.
    pub fn forget(&self, namespace: &str) {
        lock(&self.observations).seen.retain(|(in_, _), _| in_ != namespace);
    }
}

impl Drop for Sessions {
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
    let events = watcher(api, watcher::Config::default()).backoff(Pauses::default());
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
            // An interruption is made up for by the next list.
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
                    // Whoever waited may have given up.
                    let _ = sender.send(now);
                }
            }
            SessionState::Finished => {
                seen.finished.get_or_insert(now);
                let mut conditions = session.status.conditions.into_iter();
                seen.reason =
                    conditions.find(|condition| condition.r#type == FINISHED).map(|condition| condition.reason);
                // Nobody needs to wait for it any longer.
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

    /// What was there before and is not in a list went while nobody watched, or is younger than the list.
    fn record_unlisted(&mut self) {
        for (_, seen) in self.seen.iter_mut().filter(|(name, _)| !self.listed.contains(*name)) {
            seen.deleted = true;
        }
    }
}

/// What was seen of the session with that UID: another of its name was another one.
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
