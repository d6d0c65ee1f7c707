//! The sessions of all namespaces as the watch tells them, with what their runners last said of them, and a way to
//! follow one of them. Does no IO: whoever watches the API server feeds it, and whoever asks runners.

use crate::cache::{
    activity::Activity,
    session::{Finish, Key, Session, Standing},
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
    known: Mutex<HashMap<Key, Known>>,
    /// Sends after each session that is new in the cache.
    arrivals: watch::Sender<()>,
    read: watch::Sender<bool>,
}

struct Known {
    session: watch::Sender<Session>,
    activity: Option<Activity>,
    /// When the runner was asked for it last.
    asked: Option<Instant>,
}

impl Known {
    fn new(session: Session) -> Self {
        Self { session: watch::Sender::new(session), activity: None, asked: None }
    }
}

impl Sessions {
    /// Takes the complete list of sessions: one that is not in it is gone. Returns what changed.
    pub fn replace_all(&self, sessions: Vec<(Key, Session)>) -> Vec<Key> {
        let mut known = self.known();
        let listed: HashSet<Key> = sessions.iter().map(|(key, _)| key.clone()).collect();
        let mut changed: Vec<Key> = known.extract_if(|key, _| !listed.contains(key)).map(|(key, _)| key).collect();
        for (key, session) in sessions {
            if self.put_into(&mut known, key.clone(), session) {
                changed.push(key);
            }
        }
        self.read.send_replace(true);
        changed
    }

    /// A session is there. Whether that is news.
    pub fn put(&self, key: Key, session: Session) -> bool {
        self.put_into(&mut self.known(), key, session)
    }

    fn put_into(&self, known: &mut HashMap<Key, Known>, key: Key, session: Session) -> bool {
        match known.entry(key) {
            Entry::Occupied(known) if known.get().session.borrow().uid() == session.uid() => {
                return known.get().session.send_if_modified(|former| {
                    let changed = *former != session;
                    *former = session;
                    changed
                });
            }
            // Another UID: the channel of the former session closes, and its followers see that it is gone.
            Entry::Occupied(mut known) => drop(known.insert(Known::new(session))),
            Entry::Vacant(place) => _ = place.insert(Known::new(session)),
        }
        self.arrivals.send_replace(());
        true
    }

    /// A session was deleted.
    pub fn remove(&self, key: &Key) {
        self.known().remove(key);
    }

    /// Whether a whole list was read once.
    pub fn is_read(&self) -> bool {
        *self.read.borrow()
    }

    /// Follows the session that has this name now.
    pub fn follow(&self, key: &Key) -> Option<Followed> {
        self.known().get(key).map(|known| Followed(known.session.subscribe()))
    }

    /// The session that has this name now, and what its runner last said.
    pub fn get(&self, key: &Key) -> Option<(Session, Option<Activity>)> {
        self.known().get(key).map(|known| (known.session.borrow().clone(), known.activity.clone()))
    }

    /// Every session's object, in no order.
    pub fn objects(&self) -> Vec<Arc<BrowserSession>> {
        self.known().values().map(|known| Arc::clone(&known.session.borrow().object)).collect()
    }

    /// The names of a namespace's sessions, in no order.
    pub fn keys_in(&self, namespace: &str) -> Vec<Key> {
        self.known().keys().filter(|key| key.namespace() == namespace).cloned().collect()
    }

    /// The namespaces that have sessions.
    pub fn namespaces(&self) -> BTreeSet<String> {
        self.known().keys().map(|key| key.namespace().to_owned()).collect()
    }

    /// The session, if its runner can be asked for its activity, and was not for so long. By this it counts as asked,
    /// whether the runner answers or not.
    pub fn due(&self, key: &Key, age: Duration, now: Instant) -> Option<(Session, RunnerRef)> {
        let mut known = self.known();
        let known = known.get_mut(key)?;
        let session = known.session.borrow().clone();
        let Standing::Ready(runner) = session.standing.clone() else { return None };
        if known.asked.is_some_and(|asked| now.duration_since(asked) < age) {
            return None;
        }
        known.asked = Some(now);
        Some((session, runner))
    }

    /// A runner said this of the session with this UID. Whether that is news.
    pub fn record_activity(&self, key: &Key, uid: &str, activity: Activity) -> bool {
        let mut known = self.known();
        let Some(known) = known.get_mut(key).filter(|known| known.session.borrow().uid() == uid) else {
            return false;
        };
        let is_news = known.activity.as_ref().is_none_or(|former| !former.says_the_same(&activity));
        known.activity = Some(activity);
        is_news
    }

    /// Follows the session of this name with this UID as soon as the cache has it, which may be never.
    pub async fn follow_later(&self, key: &Key, uid: &str) -> Followed {
        let mut arrivals = self.arrivals.subscribe();
        loop {
            if let Some(followed) = self.follow(key).filter(|followed| followed.uid() == uid) {
                return followed;
            }
            arrivals.changed().await.expect("the sender lives in self");
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        // Every change is complete before anything can panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session, by UID: a later one of the same name does not show up here.
pub struct Followed(watch::Receiver<Session>);

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

impl Followed {
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
        match &self.0.borrow().standing {
            Standing::Waiting(state) => *state,
            Standing::Ready(_) => SessionState::Ready,
            Standing::Finished(_) => SessionState::Finished,
        }
    }

    /// Waits until it can be connected to.
    pub async fn ready(&mut self) -> Result<RunnerRef, SessionEnd> {
        self.until(|standing| match standing {
            Standing::Waiting(_) => None,
            Standing::Ready(runner) => Some(Ok(runner.clone())),
            Standing::Finished(finish) => Some(Err(SessionEnd::Finished(finish.clone()))),
        })
        .await
        .unwrap_or(Err(SessionEnd::Deleted))
    }

    /// Waits until it ends.
    pub async fn ended(&mut self) -> SessionEnd {
        let finish = self.until(|standing| match standing {
            Standing::Waiting(_) | Standing::Ready(_) => None,
            Standing::Finished(finish) => Some(finish.clone()),
        });
        finish.await.map_or(SessionEnd::Deleted, SessionEnd::Finished)
    }

    /// Waits for a standing that gives an answer. None: it was deleted before.
    async fn until<T>(&mut self, mut answer: impl FnMut(&Standing) -> Option<T>) -> Option<T> {
        let mut found = None;
        let waited = self.0.wait_for(|session| {
            found = answer(&session.standing);
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

    fn session(uid: &str, standing: Standing) -> Session {
        let mut object = BrowserSession::new("a", BrowserSessionSpec::default());
        object.metadata.uid = Some(uid.into());
        Session { standing, object: Arc::new(object) }
    }

    fn waiting() -> Standing {
        Standing::Waiting(SessionState::Queued)
    }

    fn runner() -> RunnerRef {
        RunnerRef { name: "pod".into(), uid: "pod-uid".into(), address: "10.0.0.1:8070".into() }
    }

    fn finish() -> Finish {
        Finish { reason: "IdleTimeout".into(), message: String::new() }
    }

    #[tokio::test]
    async fn a_follower_hears_when_it_is_ready_and_when_it_is_over() {
        let sessions = Sessions::default();
        sessions.put(key("a"), session("1", waiting()));
        let mut followed = sessions.follow(&key("a")).unwrap();
        assert_eq!((followed.uid().as_str(), followed.state()), ("1", SessionState::Queued));
        sessions.put(key("a"), session("1", Standing::Ready(runner())));
        assert_eq!(followed.ready().await, Ok(runner()));
        sessions.put(key("a"), session("1", Standing::Finished(finish())));
        assert_eq!(followed.ended().await, SessionEnd::Finished(finish()));
        assert_eq!(followed.ready().await, Err(SessionEnd::Finished(finish())));
    }

    #[tokio::test]
    async fn a_later_session_of_the_same_name_is_another_one() {
        let sessions = Sessions::default();
        sessions.put(key("a"), session("1", waiting()));
        let mut followed = sessions.follow(&key("a")).unwrap();
        sessions.put(key("a"), session("2", Standing::Ready(runner())));
        assert_eq!(followed.ready().await, Err(SessionEnd::Deleted));
        assert_eq!(sessions.follow(&key("a")).unwrap().uid(), "2");
    }

    #[tokio::test]
    async fn what_was_deleted_and_what_a_list_lacks_is_gone() {
        let sessions = Sessions::default();
        for name in ["deleted", "missed", "kept"] {
            sessions.put(key(name), session(name, Standing::Ready(runner())));
        }
        let mut deleted = sessions.follow(&key("deleted")).unwrap();
        let mut missed = sessions.follow(&key("missed")).unwrap();
        sessions.remove(&key("deleted"));
        assert_eq!(deleted.ended().await, SessionEnd::Deleted);
        assert!(sessions.follow(&key("missed")).is_some(), "nothing is gone before the list is complete");
        assert!(!sessions.is_read());
        let listed = (key("kept"), session("kept", Standing::Ready(runner())));
        assert_eq!(sessions.replace_all(vec![listed]), [key("missed")]);
        assert!(sessions.is_read());
        assert_eq!(missed.ended().await, SessionEnd::Deleted);
        assert!(sessions.follow(&key("kept")).is_some());
    }

    #[tokio::test]
    async fn a_finish_is_heard_even_when_the_deletion_follows_at_once() {
        let sessions = Sessions::default();
        sessions.put(key("a"), session("1", Standing::Ready(runner())));
        let mut followed = sessions.follow(&key("a")).unwrap();
        sessions.put(key("a"), session("1", Standing::Finished(finish())));
        sessions.remove(&key("a"));
        assert_eq!(followed.ended().await, SessionEnd::Finished(finish()));
    }

    #[tokio::test]
    async fn one_can_wait_for_a_session_that_the_watch_has_not_told_of() {
        let sessions = Arc::new(Sessions::default());
        let waiting_for = tokio::spawn({
            let sessions = Arc::clone(&sessions);
            async move { (sessions.follow_later(&key("late"), "1").await.uid(), sessions) }
        });
        tokio::task::yield_now().await;
        sessions.put(key("other"), session("0", waiting()));
        tokio::task::yield_now().await;
        sessions.put(key("late"), session("1", waiting()));
        let (uid, sessions) = waiting_for.await.unwrap();
        assert_eq!(uid, "1");

        let again = Arc::clone(&sessions);
        let after_it = tokio::spawn(async move { sessions.follow_later(&key("late"), "2").await.uid() });
        tokio::task::yield_now().await;
        assert!(!after_it.is_finished());
        again.put(key("late"), session("2", waiting()));
        assert_eq!(after_it.await.unwrap(), "2");
    }

    #[test]
    fn what_a_runner_says_is_news_when_it_differs_and_goes_with_the_session() {
        let sessions = Sessions::default();
        sessions.put(key("a"), session("1", Standing::Ready(runner())));
        let activity = |milliseconds, clients| Activity {
            last: Timestamp::from_millisecond(milliseconds).unwrap(),
            start_page: StartPage::None,
            clients,
        };
        let record = |uid, activity| sessions.record_activity(&key("a"), uid, activity);
        assert!(record("1", activity(10_000, 0)));
        assert!(!record("1", activity(10_400, 0)), "the same, but for the rounding");
        assert!(record("1", activity(12_000, 0)));
        assert!(record("1", activity(12_000, 1)));
        assert!(!record("2", activity(20_000, 1)), "it is another session");
        assert_eq!(sessions.get(&key("a")).unwrap().1.unwrap().last, activity(12_000, 1).last);
        assert!(sessions.put(key("a"), session("2", Standing::Ready(runner()))));
        assert_eq!(sessions.get(&key("a")).unwrap().1, None);
    }

    #[test]
    fn a_runner_is_asked_by_one_at_a_time_and_not_again_for_a_while() {
        let (sessions, now, age) = (Sessions::default(), Instant::now(), Duration::from_secs(5));
        sessions.put(key("a"), session("1", waiting()));
        assert_eq!(sessions.due(&key("a"), age, now), None, "it has no runner");
        let ready = session("1", Standing::Ready(runner()));
        sessions.put(key("a"), ready.clone());
        assert_eq!(sessions.due(&key("a"), age, now), Some((ready, runner())));
        assert_eq!(sessions.due(&key("a"), age, now + age / 2), None, "nobody knows yet whether it answers");
        assert!(sessions.due(&key("a"), age, now + age).is_some());
        assert!(sessions.due(&key("a"), Duration::ZERO, now + age).is_some());
    }

    #[test]
    fn what_says_the_same_is_no_news() {
        let sessions = Sessions::default();
        assert!(sessions.put(key("a"), session("1", waiting())));
        assert!(!sessions.put(key("a"), session("1", waiting())));
        assert_eq!(sessions.replace_all(vec![(key("a"), session("1", waiting()))]), []);
        assert_eq!(sessions.follow(&key("a")).unwrap().uid(), "1");
    }
}
