//! The measuring client's view of the sessions: one watch of all of them, on a connection that nothing else uses.

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
    /// UIDs of the runners that each session was ever published on, by its UID.
    published: HashMap<String, BTreeSet<String>>,
    /// Those that a list has shown which is being read.
    listed: HashSet<Name>,
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
    /// Why it was Finished.
    pub reason: Option<String>,
    /// Whether the object is gone.
    pub gone: bool,
    /// Whether its user has no more use for it.
    pub given_up: bool,
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
    conditions: Vec<SeenCondition>,
}

#[derive(Clone, Debug, Deserialize)]
struct SeenCondition {
    r#type: String,
    reason: String,
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

    /// A session was made: it is to be heard of.
    pub fn made(&self, session: &BrowserSession) {
        let name = (session.namespace().unwrap_or_default(), session.name_any());
        entry(&mut lock(&self.book).seen, name, session.metadata.uid.as_deref().unwrap_or_default());
    }

    /// Its user has no more use for that session: that it goes is no loss.
    pub fn give_up(&self, namespace: &str, name: &str) {
        lock(&self.book).seen.entry((namespace.to_owned(), name.to_owned())).or_default().given_up = true;
    }

    /// UIDs of the sessions that were ever published on two runners.
    pub fn doubled(&self) -> Vec<String> {
        let book = lock(&self.book);
        book.published.iter().filter(|(_, runners)| runners.len() > 1).map(|(uid, _)| uid.clone()).collect()
    }

    /// What was seen of all sessions of a namespace, by name.
    pub fn by_name(&self, namespace: &str) -> BTreeMap<String, Seen> {
        let book = lock(&self.book);
        let here = book.seen.iter().filter(|((in_, _), _)| in_ == namespace);
        here.map(|((_, name), seen)| (name.clone(), seen.clone())).collect()
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
    let events = watcher(api, watcher::Config::default()).backoff(WatchBackoff::default());
    pin_mut!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => lock(&book).listed.clear(),
            Ok(Event::InitApply(session)) => {
                let mut book = lock(&book);
                book.listed.insert(name_of(&session));
                book.note(session);
            }
            Ok(Event::InitDone) => {
                lock(&book).note_unlisted();
                if let Some(begun) = begun.take() {
                    let _ = begun.send(());
                }
            }
            Ok(Event::Apply(session)) => lock(&book).note(session),
            Ok(Event::Delete(session)) => lock(&book).note_gone(name_of(&session)),
            // An interruption is made up for by the next list.
            Err(_) => {}
        }
    }
}

impl Book {
    fn note(&mut self, session: SeenSession) {
        let now = Instant::now();
        let name = name_of(&session);
        let uid = session.metadata.uid.unwrap_or_default();
        if let Some(runner) = session.status.runner {
            self.published.entry(uid.clone()).or_default().insert(runner.uid.clone());
            entry(&mut self.seen, name.clone(), &uid).runners.insert(runner.uid);
        }
        let seen = entry(&mut self.seen, name.clone(), &uid);
        (seen.state, seen.gone) = (session.status.state, false);
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
                let mut conditions = session.status.conditions.into_iter();
                seen.reason =
                    conditions.find(|condition| condition.r#type == FINISHED).map(|condition| condition.reason);
                // Nobody needs to wait for it any longer.
                self.awaited.remove(&name);
            }
        }
    }

    fn note_gone(&mut self, name: Name) {
        self.awaited.remove(&name);
        if let Some(seen) = self.seen.get_mut(&name) {
            seen.gone = true;
        }
    }

    /// What was there before and is not in a list went while nobody watched, or is younger than the list.
    fn note_unlisted(&mut self) {
        for (_, seen) in self.seen.iter_mut().filter(|(name, _)| !self.listed.contains(*name)) {
            seen.gone = true;
        }
    }
}

/// What was seen of the session with that UID: another of its name was another one.
fn entry<'a>(seen: &'a mut HashMap<Name, Seen>, name: Name, uid: &str) -> &'a mut Seen {
    let seen = seen.entry(name).or_default();
    if seen.uid != uid {
        let given_up = seen.given_up && seen.uid.is_empty();
        *seen = Seen { uid: uid.to_owned(), given_up, ..Seen::default() };
    }
    seen
}

fn name_of(session: &SeenSession) -> Name {
    (session.namespace().unwrap_or_default(), session.name_any())
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
