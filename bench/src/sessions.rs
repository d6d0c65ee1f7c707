//! The measuring client's view of the sessions: one watch of all of them, on a connection that nothing else uses.

use anyhow::{Result, bail};
use camofleet_crds::v1alpha1::{BrowserSession, SessionState};
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
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, task::JoinHandle};

/// How often it is looked at whether what is waited for many sessions has come.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What was ever published of the sessions.
#[derive(Debug)]
pub struct Sessions {
    book: Arc<Mutex<Book>>,
    watching: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Book {
    seen: HashMap<Name, Seen>,
    awaited: HashMap<Name, oneshot::Sender<Instant>>,
}

/// Namespace and name.
type Name = (String, String);

/// What the watch has shown of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
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
    /// Whether the object is gone.
    pub gone: bool,
    /// UIDs of the runners that it was ever published on.
    pub runners: BTreeSet<String>,
}

/// A [`BrowserSession`] as far as it is measured.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = BrowserSession)]
struct SeenSession {
    metadata: ObjectMeta,
    #[serde(default)]
    status: SeenStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SeenStatus {
    state: SessionState,
    runner: Option<SeenRunner>,
}

#[derive(Clone, Debug, Deserialize)]
struct SeenRunner {
    uid: String,
}

impl Sessions {
    /// Begins to watch. The client is to be used by nobody else.
    ///
    /// # Errors
    /// When the watch ends before it has begun.
    pub async fn watch(client: Client) -> Result<Self> {
        let book = Arc::<Mutex<Book>>::default();
        let (begun, begins) = oneshot::channel();
        let watching = tokio::spawn(follow(Api::all(client), Arc::clone(&book), begun));
        begins.await?;
        Ok(Self { book, watching })
    }

    /// Tells when that session, which is not made yet, is Ready.
    pub fn await_ready(&self, namespace: &str, name: &str) -> oneshot::Receiver<Instant> {
        let (tell, told) = oneshot::channel();
        lock(&self.book).awaited.insert((namespace.to_owned(), name.to_owned()), tell);
        told
    }

    /// What was seen of a session.
    pub fn seen(&self, namespace: &str, name: &str) -> Option<Seen> {
        lock(&self.book).seen.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// What was seen of all sessions of a namespace, but for their names.
    pub fn all(&self, namespace: &str) -> Vec<Seen> {
        let book = lock(&self.book);
        book.seen.iter().filter(|((in_, _), _)| in_ == namespace).map(|(_, seen)| seen.clone()).collect()
    }

    /// How many sessions of the namespace are so.
    pub fn count(&self, namespace: &str, is_so: impl Fn(&Seen) -> bool) -> usize {
        let book = lock(&self.book);
        book.seen.iter().filter(|((in_, _), seen)| in_ == namespace && is_so(seen)).count()
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
        patience: Duration,
        is_so: impl Fn(&Seen) -> bool,
    ) -> Result<()> {
        let began = Instant::now();
        loop {
            let have = self.count(namespace, &is_so);
            if have >= count {
                return Ok(());
            }
            if began.elapsed() > patience {
                let seconds = patience.as_secs();
                bail!("{have} of {count} sessions of namespace {namespace} are {what} after {seconds} s");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Forgets what was seen of the sessions of a namespace.
    pub fn forget(&self, namespace: &str) {
        lock(&self.book).seen.retain(|(in_, _), _| in_ != namespace);
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

async fn follow(api: Api<SeenSession>, book: Arc<Mutex<Book>>, begun: oneshot::Sender<()>) {
    let mut begun = Some(begun);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    pin_mut!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(session) | Event::Apply(session)) => lock(&book).note(session),
            Ok(Event::Delete(session)) => lock(&book).note_gone(&session),
            Ok(Event::InitDone) => drop(begun.take().map(|begun| begun.send(()))),
            // An interruption is made up for by the next list.
            Ok(Event::Init) | Err(_) => {}
        }
    }
}

impl Book {
    fn note(&mut self, session: SeenSession) {
        let now = Instant::now();
        let name = name_of(&session);
        let seen = self.seen.entry(name.clone()).or_default();
        seen.uid = session.metadata.uid.unwrap_or_default();
        seen.state = session.status.state;
        seen.runners.extend(session.status.runner.map(|runner| runner.uid));
        match session.status.state {
            SessionState::Pending | SessionState::Starting => {}
            SessionState::Queued => seen.was_queued = true,
            SessionState::Ready => {
                seen.ready.get_or_insert(now);
                if let Some(tell) = self.awaited.remove(&name) {
                    // Whoever waited may have given up.
                    let _ = tell.send(now);
                }
            }
            SessionState::Finished => {
                seen.finished.get_or_insert(now);
                // Nobody needs to wait for it any longer.
                self.awaited.remove(&name);
            }
        }
    }

    fn note_gone(&mut self, session: &SeenSession) {
        let name = name_of(session);
        self.awaited.remove(&name);
        if let Some(seen) = self.seen.get_mut(&name) {
            seen.gone = true;
        }
    }
}

fn name_of(session: &SeenSession) -> Name {
    (session.namespace().unwrap_or_default(), session.name_any())
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
