//! Ends what runners have of sessions and should not.

use crate::core::{
    coordinator::Core,
    ids::Uid,
    messages::Effect,
    outbox::Subject,
    runner::report::{ListedSession, Report},
    session::state::{Bound, Stage},
};
use camofleet_runner_api::SessionPhase;

impl Core {
    /// Tells every runner that lists the session to end it, or to forget its end.
    pub(in crate::core) fn end_wherever_listed(&mut self, uid: &Uid) {
        for pod in self.pods_listing(uid) {
            self.send_end(&pod, uid);
        }
    }

    pub(in crate::core) fn send_end(&mut self, pod: &Uid, session: &Uid) {
        if self.term.is_none() {
            return;
        }
        let Some(runner) = self.runners.get_mut(pod) else { return };
        if let Some(address) = runner.begin_end(session, self.outbox.mono()) {
            self.outbox.send(Effect::End { session: session.clone(), pod: pod.clone(), address });
        }
    }

    pub(in crate::core) fn end_answered(&mut self, session: &Uid, pod: &Uid) {
        if let Some(runner) = self.runners.get_mut(pod) {
            runner.end_answered(session, self.outbox.mono());
        }
        self.outbox.enqueue(Subject::Unwanted(pod.clone()));
    }

    /// Ends what a runner lists in its last report and should not have, as far as calls may be made now. The rest has its turn
    /// when one is answered or a pause is over.
    pub(in crate::core) fn end_unwanted(&mut self, pod: &Uid) {
        let now = self.outbox.mono();
        let Some(runner) = self.runners.get_mut(pod) else { return };
        runner.forget_ends(now);
        let runner = &self.runners[pod];
        let listed = runner.report().into_iter().flat_map(Report::sessions);
        let unwanted = listed.filter(|entry| self.is_unwanted(pod, entry)).map(|entry| entry.uid.clone());
        for uid in unwanted.collect::<Vec<_>>() {
            self.send_end(pod, &uid);
        }
        let retry_at = self.runners[pod].next_end_retry(now);
        self.outbox.requeue_at(Subject::Unwanted(pod.clone()), retry_at);
    }

    /// A runner must not keep a session that was deleted, has finished, or is published on another runner.
    fn is_unwanted(&self, pod: &Uid, entry: &ListedSession) -> bool {
        match self.sessions.get(&entry.uid) {
            None => self.tombstones.contains(&entry.uid) && entry.phase != SessionPhase::Ending,
            Some(session) => match session.stage() {
                Stage::Binding { runner, .. } | Stage::Bound(Bound { runner, .. }) => {
                    runner != pod && session.is_published_elsewhere(pod)
                }
                Stage::Finished { .. } => entry.phase != SessionPhase::Ending,
                // The runner may forget a session that is over once its end is published.
                Stage::Ended(_) | Stage::Waiting => false,
            },
        }
    }

    /// A runner has a copy of a session that is bound elsewhere: its leader died between the runner's answer and the
    /// status. It is ended once the status names another runner, and not before: the dead leader's own write may still be
    /// on its way, and until this one's has landed it may win.
    pub(in crate::core) fn end_copy(&mut self, pod: &Uid, uid: &Uid) {
        if self.sessions[uid].is_published_elsewhere(pod) {
            self.send_end(pod, uid);
        }
    }

    /// Ends what other runners than the published one have of a session.
    pub(in crate::core) fn end_copies(&mut self, uid: &Uid) {
        for pod in self.pods_listing(uid) {
            self.end_copy(&pod, uid);
        }
    }

    fn pods_listing(&self, uid: &Uid) -> Vec<Uid> {
        self.runners.listing(uid).map(|runner| runner.pod().uid.clone()).collect()
    }
}
