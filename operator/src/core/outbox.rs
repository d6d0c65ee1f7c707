//! Collects the results of a step: effects for the I/O layer, subjects to reconcile in this step, and timers that
//! reconcile a subject later.

use crate::core::{
    clock::{Monotonic, Now},
    ids::{Key, Uid},
    messages::Effect,
    timers::Timers,
};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeSet;

/// A unit of reconciliation. Subjects are reconciled in the order of the variants, so that waiting sessions get free
/// slots before they can time out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::core) enum Subject {
    /// The waiting sessions.
    Queue,
    Session(Uid),
    Runner(Uid),
    Pool(Key),
    /// A session that runners list and that has no known object.
    Orphan(Uid),
    /// Sessions that the runner with this pod UID must not keep.
    Unwanted(Uid),
}

/// Results of a step, and timers that persist between steps.
#[derive(Debug)]
pub(in crate::core) struct Outbox {
    now: Now,
    effects: Vec<Effect>,
    pending: BTreeSet<Subject>,
    timers: Timers<Subject>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            now: Now { monotonic: Monotonic::default(), wall: Timestamp::MIN },
            effects: Vec::new(),
            pending: BTreeSet::new(),
            timers: Timers::default(),
        }
    }
}

impl Outbox {
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

    /// Reconciles a subject in this step.
    pub(in crate::core) fn enqueue(&mut self, subject: Subject) {
        self.pending.insert(subject);
    }

    pub(in crate::core) fn enqueue_all(&mut self, subjects: impl IntoIterator<Item = Subject>) {
        self.pending.extend(subjects);
    }

    /// Sets the timer of a subject, which replaces the previous one. `None` clears it.
    pub(in crate::core) fn set_timer(&mut self, subject: Subject, at: Option<Monotonic>) {
        match at {
            Some(at) => self.timers.set(subject, at),
            None => self.timers.clear(&subject),
        }
    }

    pub(in crate::core) fn clear_timer(&mut self, subject: &Subject) {
        self.timers.clear(subject);
    }

    /// Enqueues the subjects whose timers are due.
    pub(in crate::core) fn enqueue_due(&mut self) {
        while let Some(subject) = self.timers.pop_due(self.now.monotonic) {
            self.pending.insert(subject);
        }
    }

    /// Removes and returns the next subject to reconcile.
    pub(in crate::core) fn next(&mut self) -> Option<Subject> {
        self.pending.pop_first()
    }

    /// Drops the enqueued subjects, because a follower reconciles nothing.
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

    fn drain(outbox: &mut Outbox) -> Vec<Subject> {
        std::iter::from_fn(|| outbox.next()).collect()
    }

    #[test]
    fn reconciles_each_subject_once_and_the_queue_first() {
        let mut outbox = Outbox::default();
        let session = |uid: &str| Subject::Session(uid.to_owned());
        outbox.enqueue_all([session("b"), session("a"), Subject::Queue, session("b")]);
        assert_eq!(drain(&mut outbox), [Subject::Queue, session("a"), session("b")]);
        outbox.enqueue(session("a"));
        outbox.drop_pending();
        assert_eq!(drain(&mut outbox), []);
    }

    #[test]
    fn a_timer_replaces_the_previous_one_of_its_subject() {
        let mut outbox = Outbox::default();
        let runner = || Subject::Runner("r".to_owned());
        outbox.begin(at(0));
        outbox.set_timer(runner(), Some(Monotonic(5)));
        outbox.set_timer(runner(), Some(Monotonic(20)));
        outbox.set_timer(Subject::Queue, Some(Monotonic(10)));
        assert_eq!(outbox.next_timer(), Some(Monotonic(10)));
        for (now, due) in [(9, vec![]), (10, vec![Subject::Queue]), (25, vec![runner()]), (30, vec![])] {
            outbox.begin(at(now));
            outbox.enqueue_due();
            assert_eq!(drain(&mut outbox), due, "at {now}");
        }
        outbox.set_timer(runner(), Some(Monotonic(40)));
        outbox.clear_timer(&runner());
        outbox.set_timer(Subject::Queue, Some(Monotonic(40)));
        outbox.drop_timers();
        assert_eq!(outbox.next_timer(), None);
    }

    #[test]
    fn returns_effects_in_order() {
        let mut outbox = Outbox::default();
        let stop = |pod: &str| Effect::StopStreaming { pod: pod.to_owned() };
        outbox.send(stop("b"));
        outbox.send_all([stop("a")]);
        let pods = |effects: Vec<Effect>| -> Vec<Uid> {
            let pod = |effect| if let Effect::StopStreaming { pod } = effect { pod } else { panic!("{effect:?}") };
            effects.into_iter().map(pod).collect()
        };
        assert_eq!(pods(outbox.take_effects()), ["b", "a"]);
        assert_eq!(pods(outbox.take_effects()), [""; 0]);
    }
}
