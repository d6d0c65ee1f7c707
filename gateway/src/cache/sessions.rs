//! The cache of the sessions of all namespaces, with the activity that their runners reported. Callers can watch a
//! single session. Does no I/O; `kubernetes` and the REST API's polls feed the cache.

use crate::cache::{
    activity::Activity,
    session::{FinishedReason, Key, Readiness, Session},
};
use camofleet_crds::v1alpha1::{BrowserSession, RunnerRef, SessionState};
use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The cache of sessions. Each session has its own channel, so a change wakes only the watchers of that session.
#[derive(Default)]
pub struct Sessions {
    entries: Mutex<HashMap<Key, CachedSession>>,
    /// Sends after each new session.
    additions: watch::Sender<()>,
    synced: watch::Sender<bool>,
}

struct CachedSession {
    session: watch::Sender<Session>,
    activity: Option<Activity>,
    /// When the runner was last polled for the activity.
    polled_at: Option<Instant>,
}

impl CachedSession {
    fn new(session: Session) -> Self {
        Self { session: watch::Sender::new(session), activity: None, polled_at: None }
    }
}

impl Sessions {
    /// Replaces the cache with a complete list of sessions. Returns the keys of sessions that changed or are gone.
    pub fn replace_all(&self, sessions: Vec<(Key, Session)>) -> Vec<Key> {
        let mut entries = self.entries();
        let listed: HashSet<Key> = sessions.iter().map(|(key, _)| key.clone()).collect();
        let mut changed: Vec<Key> = entries.extract_if(|key, _| !listed.contains(key)).map(|(key, _)| key).collect();
        for (key, session) in sessions {
            if self.put_into(&mut entries, key.clone(), session) {
                changed.push(key);
            }
        }
        self.synced.send_replace(true);
        changed
    }

    /// Inserts or replaces a session. Returns whether it changed.
    pub fn put(&self, key: Key, session: Session) -> bool {
        self.put_into(&mut self.entries(), key, session)
    }

    fn put_into(&self, entries: &mut HashMap<Key, CachedSession>, key: Key, session: Session) -> bool {
        match entries.entry(key) {
            Entry::Occupied(entry) if entry.get().session.borrow().uid() == session.uid() => {
                return entry.get().session.send_if_modified(|former| {
                    let changed = *former != session;
                    *former = session;
                    changed
                });
            }
            // Another UID: the former session's channel closes, so its watchers see the deletion.
            Entry::Occupied(mut entry) => drop(entry.insert(CachedSession::new(session))),
            Entry::Vacant(entry) => _ = entry.insert(CachedSession::new(session)),
        }
        self.additions.send_replace(());
        true
    }

    /// Removes a deleted session.
    pub fn remove(&self, key: &Key) {
        self.entries().remove(key);
    }

    /// Whether a complete list was received.
    pub fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Watches the session that currently has this name.
    pub fn watch(&self, key: &Key) -> Option<SessionWatch> {
        self.entries().get(key).map(|cached| SessionWatch(cached.session.subscribe()))
    }

    /// The session that currently has this name, and the activity that its runner last reported.
    pub fn get(&self, key: &Key) -> Option<(Session, Option<Activity>)> {
        self.entries().get(key).map(|cached| (cached.session.borrow().clone(), cached.activity.clone()))
    }

    /// The objects of all sessions, in no particular order.
    pub fn objects(&self) -> Vec<Arc<BrowserSession>> {
        self.entries().values().map(|cached| Arc::clone(&cached.session.borrow().object)).collect()
    }

    /// The names of a namespace's sessions, in no particular order.
    pub fn keys_in(&self, namespace: &str) -> Vec<Key> {
        self.entries().keys().filter(|key| key.namespace() == namespace).cloned().collect()
    }

    /// The namespaces that have sessions.
    pub fn namespaces(&self) -> BTreeSet<String> {
        self.entries().keys().map(|key| key.namespace().to_owned()).collect()
    }

    /// Returns the session and its runner when a poll of its activity is due: the session is Ready, and the last poll
    /// began at least `max_age` ago. Records `now` as the time of the poll, whether the runner answers or not.
    pub fn take_due_poll(&self, key: &Key, max_age: Duration, now: Instant) -> Option<(Session, RunnerRef)> {
        let mut entries = self.entries();
        let cached = entries.get_mut(key)?;
        let session = cached.session.borrow().clone();
        let Readiness::Ready(runner) = session.readiness.clone() else { return None };
        if cached.polled_at.is_some_and(|polled_at| now.duration_since(polled_at) < max_age) {
            return None;
        }
        cached.polled_at = Some(now);
        Some((session, runner))
    }

    /// Records the activity that a runner reported for the session with this UID. Returns whether it changed.
    pub fn record_activity(&self, key: &Key, uid: &str, activity: Activity) -> bool {
        let mut entries = self.entries();
        let Some(cached) = entries.get_mut(key).filter(|cached| cached.session.borrow().uid() == uid) else {
            return false;
        };
        let changed = cached.activity.as_ref().is_none_or(|former| !former.is_equivalent(&activity));
        cached.activity = Some(activity);
        changed
    }

    /// Watches the session with this name and UID once the cache has it. Pends forever if that never happens.
    pub async fn wait_for_session(&self, key: &Key, uid: &str) -> SessionWatch {
        let mut additions = self.additions.subscribe();
        loop {
            if let Some(session) = self.watch(key).filter(|session| session.uid() == uid) {
                return session;
            }
            additions.changed().await.expect("the sender lives in self");
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, CachedSession>> {
        // Poisoning is harmless: no code panics between two parts of an update.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch on one session, identified by UID. A later session with the same name does not appear here.
pub struct SessionWatch(watch::Receiver<Session>);

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The session finished.
    Finished(FinishedReason),
    /// The object was deleted.
    Deleted,
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished(finish) => write!(out, "the session has ended: {finish}"),
            Self::Deleted => out.write_str("the session was deleted"),
        }
    }
}

impl SessionWatch {
    /// UID of the session.
    pub fn uid(&self) -> String {
        self.0.borrow().uid().to_owned()
    }

    /// The latest known state.
    pub fn session(&self) -> Session {
        self.0.borrow().clone()
    }

    /// Whether the session has a live view. False until it is Ready.
    pub fn has_live_view(&self) -> bool {
        self.0.borrow().has_live_view()
    }

    /// The latest known state, for messages.
    pub fn state(&self) -> SessionState {
        match &self.0.borrow().readiness {
            Readiness::NotReady(state) => *state,
            Readiness::Ready(_) => SessionState::Ready,
            Readiness::Finished(_) => SessionState::Finished,
        }
    }

    /// Waits until clients can connect.
    ///
    /// # Errors
    /// When the session ends first.
    pub async fn ready(&mut self) -> Result<RunnerRef, SessionEnd> {
        self.until(|readiness| match readiness {
            Readiness::NotReady(_) => None,
            Readiness::Ready(runner) => Some(Ok(runner.clone())),
            Readiness::Finished(finish) => Some(Err(SessionEnd::Finished(finish.clone()))),
        })
        .await
        .unwrap_or(Err(SessionEnd::Deleted))
    }

    /// Waits until the session ends.
    pub async fn ended(&mut self) -> SessionEnd {
        let finish = self.until(|readiness| match readiness {
            Readiness::NotReady(_) | Readiness::Ready(_) => None,
            Readiness::Finished(finish) => Some(finish.clone()),
        });
        finish.await.map_or(SessionEnd::Deleted, SessionEnd::Finished)
    }

    /// Waits until `matches` returns a value for the readiness. None when the object is deleted first.
    async fn until<T>(&mut self, mut matches: impl FnMut(&Readiness) -> Option<T>) -> Option<T> {
        let mut found = None;
        let waited = self.0.wait_for(|session| {
            found = matches(&session.readiness);
            found.is_some()
        });
        waited.await.ok()?;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::v1alpha1::{BrowserSession, BrowserSessionSpec};
    use camofleet_runner_api::StartPage;
    use k8s_openapi::jiff::Timestamp;
    use std::sync::Arc;

    fn key(name: &str) -> Key {
        Key::new("ns", name).unwrap()
    }

    fn session(uid: &str, readiness: Readiness) -> Session {
        let mut object = BrowserSession::new("a", BrowserSessionSpec::default());
        object.metadata.uid = Some(uid.into());
        Session { readiness, object: Arc::new(object) }
    }

    fn not_ready() -> Readiness {
        Readiness::NotReady(SessionState::Queued)
    }

    fn runner() -> RunnerRef {
        RunnerRef { name: "pod".into(), uid: "pod-uid".into(), address: "10.0.0.1:8070".into() }
    }

    fn finish() -> FinishedReason {
        FinishedReason { reason: "IdleTimeout".into(), message: String::new() }
    }

    #[tokio::test]
    async fn a_watch_sees_a_session_become_ready_and_finish() {
        let sessions = Sessions::default();
        sessions.put(key("a"), session("1", not_ready()));
        let mut session_watch = sessions.watch(&key("a")).unwrap();
        assert_eq!((session_watch.uid().as_str(), session_watch.state()), ("1", SessionState::Queued));
        sessions.put(key("a"), session("1", Readiness::Ready(runner())));
        assert_eq!(session_watch.ready().await, Ok(runner()));
        sessions.put(key("a"), session("1", Readiness::Finished(finish())));
        assert_eq!(session_watch.ended().await, SessionEnd::Finished(finish()));
        assert_eq!(session_watch.ready().await, Err(SessionEnd::Finished(finish())));
    }

    #[tokio::test]
    async fn a_watch_ends_when_another_session_takes_the_name() {
        let sessions = Sessions::default();
        sessions.put(key("a"), session("1", not_ready()));
        let mut session_watch = sessions.watch(&key("a")).unwrap();
        sessions.put(key("a"), session("2", Readiness::Ready(runner())));
        assert_eq!(session_watch.ready().await, Err(SessionEnd::Deleted));
        assert_eq!(sessions.watch(&key("a")).unwrap().uid(), "2");
    }

    #[tokio::test]
    async fn removes_deleted_sessions_and_those_missing_from_a_list() {
        let sessions = Sessions::default();
        for name in ["deleted", "missed", "kept"] {
            sessions.put(key(name), session(name, Readiness::Ready(runner())));
        }
        let mut deleted = sessions.watch(&key("deleted")).unwrap();
        let mut missed = sessions.watch(&key("missed")).unwrap();
        sessions.remove(&key("deleted"));
        assert_eq!(deleted.ended().await, SessionEnd::Deleted);
        assert!(sessions.watch(&key("missed")).is_some(), "a session is removed only when the list is complete");
        assert!(!sessions.has_synced());
        let listed = (key("kept"), session("kept", Readiness::Ready(runner())));
        assert_eq!(sessions.replace_all(vec![listed]), [key("missed")]);
        assert!(sessions.has_synced());
        assert_eq!(missed.ended().await, SessionEnd::Deleted);
        assert!(sessions.watch(&key("kept")).is_some());
    }

    #[tokio::test]
    async fn a_watch_sees_a_finish_that_a_deletion_follows_at_once() {
        let sessions = Sessions::default();
        sessions.put(key("a"), session("1", Readiness::Ready(runner())));
        let mut session_watch = sessions.watch(&key("a")).unwrap();
        sessions.put(key("a"), session("1", Readiness::Finished(finish())));
        sessions.remove(&key("a"));
        assert_eq!(session_watch.ended().await, SessionEnd::Finished(finish()));
    }

    #[tokio::test]
    async fn waits_for_a_session_that_is_not_cached_yet() {
        let sessions = Arc::new(Sessions::default());
        let waiting_for = tokio::spawn({
            let sessions = Arc::clone(&sessions);
            async move { (sessions.wait_for_session(&key("late"), "1").await.uid(), sessions) }
        });
        tokio::task::yield_now().await;
        sessions.put(key("other"), session("0", not_ready()));
        tokio::task::yield_now().await;
        sessions.put(key("late"), session("1", not_ready()));
        let (uid, sessions) = waiting_for.await.unwrap();
        assert_eq!(uid, "1");

        let again = Arc::clone(&sessions);
        let after_it = tokio::spawn(async move { sessions.wait_for_session(&key("late"), "2").await.uid() });
        tokio::task::yield_now().await;
        assert!(!after_it.is_finished());
        again.put(key("late"), session("2", not_ready()));
        assert_eq!(after_it.await.unwrap(), "2");
    }

    #[test]
    fn reports_activity_changes_and_drops_activity_with_its_session() {
        let sessions = Sessions::default();
        sessions.put(key("a"), session("1", Readiness::Ready(runner())));
        let activity = |milliseconds, clients| Activity {
            last_active: Timestamp::from_millisecond(milliseconds).unwrap(),
            start_page: StartPage::None,
            clients,
        };
        let record = |uid, activity| sessions.record_activity(&key("a"), uid, activity);
        assert!(record("1", activity(10_000, 0)));
        assert!(!record("1", activity(10_400, 0)), "differs only by rounding");
        assert!(record("1", activity(12_000, 0)));
        assert!(record("1", activity(12_000, 1)));
        assert!(!record("2", activity(20_000, 1)), "the UID is of another session");
        assert_eq!(sessions.get(&key("a")).unwrap().1.unwrap().last_active, activity(12_000, 1).last_active);
        assert!(sessions.put(key("a"), session("2", Readiness::Ready(runner()))));
        assert_eq!(sessions.get(&key("a")).unwrap().1, None);
    }

    #[test]
    fn starts_one_poll_of_a_session_per_interval() {
        let (sessions, now, age) = (Sessions::default(), Instant::now(), Duration::from_secs(5));
        sessions.put(key("a"), session("1", not_ready()));
        assert_eq!(sessions.take_due_poll(&key("a"), age, now), None, "the session has no runner");
        let ready = session("1", Readiness::Ready(runner()));
        sessions.put(key("a"), ready.clone());
        assert_eq!(sessions.take_due_poll(&key("a"), age, now), Some((ready, runner())));
        assert_eq!(sessions.take_due_poll(&key("a"), age, now + age / 2), None, "a poll may be in progress");
        assert!(sessions.take_due_poll(&key("a"), age, now + age).is_some());
        assert!(sessions.take_due_poll(&key("a"), Duration::ZERO, now + age).is_some());
    }

    #[test]
    fn an_unchanged_session_is_not_a_change() {
        let sessions = Sessions::default();
        assert!(sessions.put(key("a"), session("1", not_ready())));
        assert!(!sessions.put(key("a"), session("1", not_ready())));
        assert_eq!(sessions.replace_all(vec![(key("a"), session("1", not_ready()))]), []);
        assert_eq!(sessions.watch(&key("a")).unwrap().uid(), "1");
    }
}
