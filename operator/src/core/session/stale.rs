//! Ends stale sessions on runners: the session was deleted, has finished, or is published on another runner, so that
//! this one is a duplicate.

use crate::core::{
    coordinator::Coordinator,
    ids::Uid,
    messages::Effect,
    runner::report::{ListedSession, Report},
    session::state::{Bound, Stage},
    step_context::ReconcileKey,
};
use camofleet_runner_api::SessionPhase;

impl Coordinator {
    /// Sends `DELETE` to every runner that lists the session. It ends a running session, and acknowledges one that has
    /// ended.
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
        if let Some(address) = runner.begin_delete_call(session, self.context.monotonic()) {
            let key = runner.pod().key.clone();
            self.context.send(Effect::EndSession { session: session.clone(), pod: pod.clone(), key, address });
        }
    }

    pub(in crate::core) fn end_answered(&mut self, session: &Uid, pod: &Uid) {
        if let Some(runner) = self.runners.get_mut(pod) {
            runner.end_answered(session, self.context.monotonic());
        }
        self.context.enqueue(ReconcileKey::StaleSessions(pod.clone()));
    }

    /// Ends the stale sessions in a runner's last report, as far as the limit of calls permits. The remaining ones are
    /// ended when a call is answered or a pause has passed.
    pub(in crate::core) fn end_stale_sessions(&mut self, pod: &Uid) {
        let now = self.context.monotonic();
        let Some(runner) = self.runners.get_mut(pod) else { return };
        runner.forget_delete_calls(now);
        let runner = &self.runners[pod];
        let listed = runner.report().into_iter().flat_map(Report::sessions);
        let stale = listed.filter(|entry| self.is_stale(pod, entry)).map(|entry| entry.uid.clone());
        for uid in stale.collect::<Vec<_>>() {
            self.send_end(pod, &uid);
        }
        let retry_at = self.runners[pod].next_delete_retry(now);
        self.context.set_timer(ReconcileKey::StaleSessions(pod.clone()), retry_at);
    }

    /// Returns whether a listed session was deleted, has finished, or is published on another runner.
    fn is_stale(&self, pod: &Uid, entry: &ListedSession) -> bool {
        match self.sessions.get(&entry.uid) {
            None => self.tombstones.contains(&entry.uid) && entry.phase != SessionPhase::Ending,
            Some(session) => match session.stage() {
                Stage::Binding { runner, .. } | Stage::Bound(Bound { runner, .. }) => {
                    runner != pod && session.is_published_elsewhere(pod)
                }
                Stage::Finished { .. } => entry.phase != SessionPhase::Ending,
                // The runner keeps the end of the session until `Finished` is published.
                Stage::Finishing(_) | Stage::Waiting => false,
            },
        }
    }

    /// Ends a runner's duplicate of a session that is bound to another runner. A duplicate exists when a leader died
    /// between the runner's answer and the status write. It is ended only once the status names another runner, because
    /// until then the write of the dead leader may still arrive and win.
    pub(in crate::core) fn end_duplicate(&mut self, pod: &Uid, uid: &Uid) {
        if self.sessions[uid].is_published_elsewhere(pod) {
            self.send_end(pod, uid);
        }
    }

    /// Ends all duplicates of a session on runners other than the published one.
    pub(in crate::core) fn end_duplicates(&mut self, uid: &Uid) {
        for pod in self.pods_listing(uid) {
            self.end_duplicate(&pod, uid);
        }
    }

    fn pods_listing(&self, uid: &Uid) -> Vec<Uid> {
        self.runners.listing(uid).map(|runner| runner.pod().uid.clone()).collect()
    }
}
