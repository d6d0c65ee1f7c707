//! State of one step of the coordinator: its time, the keys to reconcile, and the effects for the I/O layer. The timers
//! persist between steps.

use crate::core::{
    clock::{Monotonic, Now},
    ids::{Key, Uid},
    messages::Effect,
    timers::Timers,
};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeSet;

/// The object to reconcile. Keys are reconciled in the order of the variants, so that waiting sessions get free slots
/// before they can time out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::core) enum ReconcileKey {
    /// The waiting sessions.
    Queue,
    Session(Uid),
    Runner(Uid),
    Pool(Key),
    /// A session that runners list and that has no known object.
    Orphan(Uid),
    /// The stale sessions of the runner with this pod UID.
    StaleSessions(Uid),
}

#[derive(Debug)]
pub(in crate::core) struct StepContext {
    now: Now,
    effects: Vec<Effect>,
    pending: BTreeSet<ReconcileKey>,
    timers: Timers<ReconcileKey>,
}

impl Default for StepContext {
    fn default() -> Self {
        Self {
            now: Now { monotonic: Monotonic::default(), wall: Timestamp::MIN },
            effects: Vec::new(),
            pending: BTreeSet::new(),
            timers: Timers::default(),
        }
    }
}

impl StepContext {
    /// Starts a step at the given time.
    pub(in crate::core) fn begin(&mut self, now: Now) {
        self.now = now;
    }

    /// The time of the step.
    pub(in crate::core) fn now(&self) -> Now {
        self.now
    }

    /// The time of the step on the monotonic clock.
    pub(in crate::core) fn monotonic(&self) -> Monotonic {
        self.now.monotonic
    }

    pub(in crate::core) fn send(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(in crate::core) fn send_all(&mut self, effects: impl IntoIterator<Item = Effect>) {
        self.effects.extend(effects);
    }

    /// Reconciles the key in this step.
    pub(in crate::core) fn enqueue(&mut self, key: ReconcileKey) {
        self.pending.insert(key);
    }

    pub(in crate::core) fn enqueue_all(&mut self, keys: impl IntoIterator<Item = ReconcileKey>) {
        self.pending.extend(keys);
    }

    /// Sets the timer of a key, which replaces the previous one. `None` clears it.
    pub(in crate::core) fn set_timer(&mut self, key: ReconcileKey, at: Option<Monotonic>) {
        match at {
            Some(at) => self.timers.set(key, at),
            None => self.timers.clear(&key),
        }
    }

    pub(in crate::core) fn clear_timer(&mut self, key: &ReconcileKey) {
        self.timers.clear(key);
    }

    /// Enqueues the keys whose timers are due.
    pub(in crate::core) fn enqueue_due(&mut self) {
        while let Some(key) = self.timers.pop_due(self.now.monotonic) {
            self.pending.insert(key);
        }
    }

    /// Removes and returns the next key to reconcile.
    pub(in crate::core) fn next(&mut self) -> Option<ReconcileKey> {
        self.pending.pop_first()
    }

    /// Drops the enqueued keys, because a follower reconciles nothing.
    pub(in crate::core) fn drop_pending(&mut self) {
        self.pending.clear();
    }

    pub(in crate::core) fn drop_timers(&mut self) {
        self.timers = Timers::default();
    }

    /// Ends the step and returns its effects.
    pub(in crate::core) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When the next timer is due.
    pub(in crate::core) fn next_timer(&self) -> Option<Monotonic> {
        self.timers.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Now {
        Now { monotonic: Monotonic(millis), wall: Timestamp::UNIX_EPOCH }
    }

    fn drain(context: &mut StepContext) -> Vec<ReconcileKey> {
        std::iter::from_fn(|| context.next()).collect()
    }

    #[test]
    fn reconciles_each_subject_once_and_the_queue_first() {
        let mut context = StepContext::default();
        let session = |uid: &str| ReconcileKey::Session(uid.to_owned());
        context.enqueue_all([session("b"), session("a"), ReconcileKey::Queue, session("b")]);
        assert_eq!(drain(&mut context), [ReconcileKey::Queue, session("a"), session("b")]);
        context.enqueue(session("a"));
        context.drop_pending();
        assert_eq!(drain(&mut context), []);
    }

    #[test]
    fn a_timer_replaces_the_previous_one_of_its_subject() {
        let mut context = StepContext::default();
        let runner = || ReconcileKey::Runner("r".to_owned());
        context.begin(at(0));
        context.set_timer(runner(), Some(Monotonic(5)));
        context.set_timer(runner(), Some(Monotonic(20)));
        context.set_timer(ReconcileKey::Queue, Some(Monotonic(10)));
        assert_eq!(context.next_timer(), Some(Monotonic(10)));
        for (now, due) in [(9, vec![]), (10, vec![ReconcileKey::Queue]), (25, vec![runner()]), (30, vec![])] {
            context.begin(at(now));
            context.enqueue_due();
            assert_eq!(drain(&mut context), due, "at {now}");
        }
        context.set_timer(runner(), Some(Monotonic(40)));
        context.clear_timer(&runner());
        context.set_timer(ReconcileKey::Queue, Some(Monotonic(40)));
        context.drop_timers();
        assert_eq!(context.next_timer(), None);
    }

    #[test]
    fn returns_effects_in_order() {
        let mut context = StepContext::default();
        let stop = |pod: &str| Effect::StopStreaming { pod: pod.to_owned() };
        context.send(stop("b"));
        context.send_all([stop("a")]);
        let pods = |effects: Vec<Effect>| -> Vec<Uid> {
            let pod = |effect| if let Effect::StopStreaming { pod } = effect { pod } else { panic!("{effect:?}") };
            effects.into_iter().map(pod).collect()
        };
        assert_eq!(pods(context.take_effects()), ["b", "a"]);
        assert_eq!(pods(context.take_effects()), [""; 0]);
    }
}
