//! The sessions of all namespaces as the watch tells them, with what their runners last said of them, and a way to
//! follow one of them. Does no IO: whoever watches the API server feeds it, and whoever asks runners.

use crate::cache::{
    activity::Activity,
    session::{Finish, Key, Readiness, Session},
};
use camofleet_crds::v1alpha1::{BrowserSession, RunnerRef, SessionState};
use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The cache. Each session has a channel of its own, so an event wakes those who follow that session and nobody else.
#[derive(Default)]
pub struct Sessions {
    entries: Mutex<HashMap<Key, CachedSession>>,
    /// Sends after each session that is new in the cache.
    additions: watch::Sender<()>,
    synced: watch::Sender<bool>,
}

struct CachedSession {
    session: watch::Sender<Session>,
    activity: Option<Activity>,
    /// When the runner was asked for it last.
    polled_at: Option<Instant>,
}

impl CachedSession {
    fn new(session: Session) -> Self {
        Self { session: watch::Sender::new(session), activity: None, polled_at: None }
    }
}

impl Sessions {
    /// Takes the complete list of sessions: one that is not in it is gone. Returns what changed.
    pub fn replace_all(&self, sessions: Vec<(Key, Session)>) -> Vec<Key> {
        let mut known = self.entries();
        let listed: HashSet<Key> = sessions.iter().map(|(key, _)| key.clone()).collect();
        let mut changed: Vec<Key> = known.extract_if(|key, _| !listed.contains(key)).map(|(key, _)| key).collect();
        for (key, session) in sessions {
            if self.put_into(&mut known, key.clone(), session) {
                changed.push(key);
            }
        }
        self.synced.send_replace(true);
        changed
    }

    /// A session is there. Whether that is news.
    pub fn put(&self, key: Key, session: Session) -> bool {
        self.put_into(&mut self.entries(), key, session)
    }

    fn put_into(&self, known: &mut HashMap<Key, CachedSession>, key: Key, session: Session) -> bool {
        match known.entry(key) {
            Entry::Occupied(known) if known.get().session.borrow().uid() == session.uid() => {
                return known.get().session.send_if_modified(|former| {
                    let changed = *former != session;
                    *former = session;
                    changed
                });
            }
            // Another UID: the channel of the former session closes, and its followers see that it is gone.
            Entry::Occupied(mut known) => drop(known.insert(CachedSession::new(session))),
            Entry::Vacant(place) => _ = place.insert(CachedSession::new(session)),
        }
        self.additions.send_replace(());
        true
    }

    /// A session was deleted.
    pub fn remove(&self, key: &Key) {
        self.entries().remove(key);
    }

    /// Whether a whole list was read once.
    pub fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Follows the session that has this name now.
    pub fn watch(&self, key: &Key) -> Option<SessionWatch> {
        self.entries().get(key).map(|known| SessionWatch(known.session.subscribe()))
    }

    /// The session that has this name now, and what its runner last said.
    pub fn get(&self, key: &Key) -> Option<(Session, Option<Activity>)> {
        self.entries().get(key).map(|known| (known.session.borrow().clone(), known.activity.clone()))
    }

    /// Every session's object, in no order.
    pub fn objects(&self) -> Vec<Arc<BrowserSession>> {
        self.entries().values().map(|known| Arc::clone(&known.session.borrow().object)).collect()
    }

    /// The names of a namespace's sessions, in no order.
    pub fn keys_in(&self, namespace: &str) -> Vec<Key> {
        self.entries().keys().filter(|key| key.namespace() == namespace).cloned().collect()
    }

    /// The namespaces that have sessions.
    pub fn namespaces(&self) -> BTreeSet<String> {
        self.entries().keys().map(|key| key.namespace().to_owned()).collect()
    }

    /// The session, if its runner can be asked for its activity, and was not for so long. By this it counts as asked,
    /// whether the runner answers or not.
    pub fn start_poll(&self, key: &Key, max_age: Duration, now: Instant) -> Option<(Session, RunnerRef)> {
        let mut known = self.entries();
        let known = known.get_mut(key)?;
        let session = known.session.borrow().clone();
        let Readiness::Ready(runner) = session.readiness.clone() else { return None };
        if known.polled_at.is_some_and(|polled_at| now.duration_since(polled_at) < max_age) {
            return None;
        }
        known.polled_at = Some(now);
        Some((session, runner))
    }

    /// A runner said this of the session with this UID. Whether that is news.
    pub fn record_activity(&self, key: &Key, uid: &str, activity: Activity) -> bool {
        let mut known = self.entries();
        let Some(known) = known.get_mut(key).filter(|known| known.session.borrow().uid() == uid) else {
            return false;
        };
        let is_news = known.activity.as_ref().is_none_or(|former| !former.is_equivalent(&activity));
        known.activity = Some(activity);
        is_news
    }

    /// Follows the session of this name with this UID as soon as the cache has it, which may be never.
    pub async fn wait_for_session(&self, key: &Key, uid: &str) -> SessionWatch {
        let mut additions = self.additions.subscribe();
        loop {
            if let Some(followed) = self.watch(key).filter(|followed| followed.uid() == uid) {
                return followed;
            }
            additions.changed().await.expect("the sender lives in self");
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, CachedSession>> {
        // Every change is complete before anything can panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session, by UID: a later one of the same name does not show up here.
pub struct SessionWatch(watch::Receiver<Session>);

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// It finished.
    Finished(Finish),
    /// The object was deleted.
    Deleted,
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished(finish) => write!(out, "the session is over: {finish}"),
            Self::Deleted => out.write_str("the session was deleted"),
        }
    }
}

impl SessionWatch {
    /// UID of the session.
    pub fn uid(&self) -> String {
        self.0.borrow().uid().to_owned()
    }

    /// All that was last heard of it.
    pub fn session(&self) -> Session {
        self.0.borrow().clone()
    }

    /// Whether it has a display that can be looked at.
    pub fn has_live_view(&self) -> bool {
        self.0.borrow().has_live_view()
    }

    /// Where it stood when it was last heard of, for words.
    pub fn state(&self) -> SessionState {
        match &self.0.borrow().readiness {
            Readiness::Waiting(state) => *state,
            Readiness::Ready(_) => SessionState::Ready,
            Readiness::Finished(_) => SessionState::Finished,
        }
    }

    /// Waits until it can be connected to.
    pub async fn ready(&mut self) -> Result<RunnerRef, SessionEnd> {
        self.until(|readiness| match readiness {
            Readiness::Waiting(_) => None,
            Readiness::Ready(runner) => Some(Ok(runner.clone())),
            Readiness::Finished(finish) => Some(Err(SessionEnd::Finished(finish.clone()))),
        })
        .await
        .unwrap_or(Err(SessionEnd::Deleted))
    }

    /// Waits until it ends.
    pub async fn ended(&mut self) -> SessionEnd {
        let finish = self.until(|readiness| match readiness {
            Readiness::Waiting(_) | Readiness::Ready(_) => None,
            Readiness::Finished(finish) => Some(finish.clone()),
        });
        finish.await.map_or(SessionEnd::Deleted, SessionEnd::Finished)
    }

    /// Waits for a readiness that gives an answer. None: it was deleted before.
    async fn until<T>(&mut self, mut answer: impl FnMut(&Readiness) -> Option<T>) -> Option<T> {
        let mut found = None;
        let waited = self.0.wait_for(|session| {
            found = answer(&session.readiness);
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

    fn waiting() -> Readiness {
        Readiness::Waiting(SessionState::Queued)
    }

    fn runner() -> RunnerRef {
        RunnerRef { name: "pod".into(), uid: "pod-uid".into(), address: "10.0.0.1:8070".into() }
    }

    fn finish() -> Finish {
        Finish { reason: "IdleTimeout".into(), message: String::new() }
    }

    #[tokio::test]
    async fn a_watch_sees_a_session_become_ready_and_finish() {
        let sessions = Sessions::default();
        sessions.put(key("a"), session("1", waiting()));
        let mut followed = sessions.watch(&key("a")).unwrap();
        assert_eq!((followed.uid().as_str(), followed.state()), ("1", SessionState::Queued));
        sessions.put(key("a"), session("1", Readiness::Ready(runner())));
        assert_eq!(followed.ready().await, Ok(runner()));
        sessions.put(key("a"), session("1", Readiness::Finished(finish())));
        assert_eq!(followed.ended().await, SessionEnd::Finished(finish()));
        assert_eq!(followed.ready().await, Err(SessionEnd::Finished(finish())));
    }

    #[tokio::test]
    async fn a_watch_ends_when_another_session_takes_the_name() {
        let sessions = Sessions::default();
        sessions.put(key("a"), session("1", waiting()));
        let mut followed = sessions.watch(&key("a")).unwrap();
        sessions.put(key("a"), session("2", Readiness::Ready(runner())));
        assert_eq!(followed.ready().await, Err(SessionEnd::Deleted));
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
        assert!(sessions.watch(&key("missed")).is_some(), "nothing is gone before the list is complete");
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
        let mut followed = sessions.watch(&key("a")).unwrap();
        sessions.put(key("a"), session("1", Readiness::Finished(finish())));
        sessions.remove(&key("a"));
        assert_eq!(followed.ended().await, SessionEnd::Finished(finish()));
    }

    #[tokio::test]
    async fn waits_for_a_session_that_is_not_cached_yet() {
        let sessions = Arc::new(Sessions::default());
        let waiting_for = tokio::spawn({
            let sessions = Arc::clone(&sessions);
            async move { (sessions.wait_for_session(&key("late"), "1").await.uid(), sessions) }
        });
        tokio::task::yield_now().await;
        sessions.put(key("other"), session("0", waiting()));
        tokio::task::yield_now().await;
        sessions.put(key("late"), session("1", waiting()));
        let (uid, sessions) = waiting_for.await.unwrap();
        assert_eq!(uid, "1");

        let again = Arc::clone(&sessions);
        let after_it = tokio::spawn(async move { sessions.wait_for_session(&key("late"), "2").await.uid() });
        tokio::task::yield_now().await;
        assert!(!after_it.is_finished());
        again.put(key("late"), session("2", waiting()));
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
        assert!(!record("1", activity(10_400, 0)), "the same, but for the rounding");
        assert!(record("1", activity(12_000, 0)));
        assert!(record("1", activity(12_000, 1)));
        assert!(!record("2", activity(20_000, 1)), "it is another session");
        assert_eq!(sessions.get(&key("a")).unwrap().1.unwrap().last_active, activity(12_000, 1).last_active);
        assert!(sessions.put(key("a"), session("2", Readiness::Ready(runner()))));
        assert_eq!(sessions.get(&key("a")).unwrap().1, None);
    }

    #[test]
    fn starts_one_poll_of_a_session_per_interval() {
        let (sessions, now, age) = (Sessions::default(), Instant::now(), Duration::from_secs(5));
        sessions.put(key("a"), session("1", waiting()));
        assert_eq!(sessions.start_poll(&key("a"), age, now), None, "it has no runner");
        let ready = session("1", Readiness::Ready(runner()));
        sessions.put(key("a"), ready.clone());
        assert_eq!(sessions.start_poll(&key("a"), age, now), Some((ready, runner())));
        assert_eq!(sessions.start_poll(&key("a"), age, now + age / 2), None, "nobody knows yet whether it answers");
        assert!(sessions.start_poll(&key("a"), age, now + age).is_some());
        assert!(sessions.start_poll(&key("a"), Duration::ZERO, now + age).is_some());
    }

    #[test]
    fn an_unchanged_session_is_not_a_change() {
        let sessions = Sessions::default();
        assert!(sessions.put(key("a"), session("1", waiting())));
        assert!(!sessions.put(key("a"), session("1", waiting())));
        assert_eq!(sessions.replace_all(vec![(key("a"), session("1", waiting()))]), []);
        assert_eq!(sessions.watch(&key("a")).unwrap().uid(), "1");
    }
}
