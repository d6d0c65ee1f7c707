//! Paces the `DELETE` calls that end sessions on a runner. The pool's owner chooses the runner image. A runner that
//! answers each call and keeps listing the session must not make the operator repeat the call at network speed.

use crate::core::{clock::Monotonic, ids::Uid};
use camofleet_runtime::backoff::ExponentialBackoff;
use std::{collections::HashMap, time::Duration};

/// Concurrent calls to one runner. A well-behaved runner answers in milliseconds, so this limits only other runners.
const MAX_IN_FLIGHT: usize = 4;
/// Pause before the call is repeated for a session that is still listed.
const BACKOFF: ExponentialBackoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// The calls to one runner, by session. A call is remembered while the runner lists the session, and at least until its
/// pause has passed, so that a runner cannot shorten the pause by omitting the session from one report.
#[derive(Debug, Default)]
pub(super) struct DeleteCalls {
    by_session: HashMap<Uid, DeleteCall>,
}

/// The latest call for one session.
#[derive(Clone, Copy, Debug)]
struct DeleteCall {
    /// The runner listed the session as ended at the last call, so the call only acknowledges the end.
    ended: bool,
    /// Number of calls so far.
    calls: u32,
    /// When the call may be repeated. `None` while a call is in flight.
    paused_until: Option<Monotonic>,
}

impl DeleteCalls {
    /// Starts a call, and returns whether one is allowed now. `ended` is whether the runner lists the session as ended.
    /// A session that has ended since the last call skips its pause, because a well-behaved runner needs two calls: one
    /// ends the session, one acknowledges the end. At most `max` sessions are remembered; others wait.
    pub(super) fn start(&mut self, session: &Uid, ended: bool, max: usize, now: Monotonic) -> bool {
        let in_flight = self.by_session.values().filter(|call| call.paused_until.is_none()).count();
        let former = self.by_session.get(session).copied();
        let may_start = match former {
            None => self.by_session.len() < max,
            Some(DeleteCall { paused_until: None, .. }) => false,
            Some(DeleteCall { paused_until: Some(until), ended: before, .. }) => until <= now || (ended && !before),
        };
        if !may_start || in_flight >= MAX_IN_FLIGHT {
            return false;
        }
        let (before, calls) = former.map_or((false, 0), |call| (call.ended, call.calls));
        let call = DeleteCall { ended: ended || before, calls: calls.saturating_add(1), paused_until: None };
        self.by_session.insert(session.clone(), call);
        true
    }

    /// Records that a call was answered or abandoned.
    pub(super) fn answered(&mut self, session: &Uid, now: Monotonic) {
        if let Some(call) = self.by_session.get_mut(session) {
            call.paused_until = Some(now.after(BACKOFF.after(call.calls)));
        }
    }

    /// Forgets the sessions whose pause has passed and that the runner no longer lists.
    pub(super) fn forget_unlisted(&mut self, lists: impl Fn(&Uid) -> bool, now: Monotonic) {
        self.by_session.retain(|session, call| call.paused_until.is_none_or(|until| until > now) || lists(session));
    }

    /// The earliest end of a pause.
    pub(super) fn next_retry(&self, now: Monotonic) -> Option<Monotonic> {
        self.by_session.values().filter_map(|call| call.paused_until).filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 18;

    fn at(millis: i64) -> Monotonic {
        Monotonic(millis)
    }

    fn session(number: usize) -> Uid {
        format!("s-{number}")
    }

    /// Returns the numbers of the sessions that are called. The runner lists all of them as ended.
    fn start_all(calls: &mut DeleteCalls, listed: impl IntoIterator<Item = usize>, now: Monotonic) -> Vec<usize> {
        listed.into_iter().filter(|number| calls.start(&session(*number), true, MAX, now)).collect()
    }

    #[test]
    fn limits_calls_in_flight() {
        let mut calls = DeleteCalls::default();
        assert_eq!(start_all(&mut calls, 0..10, at(0)), [0, 1, 2, 3]);
        assert_eq!(start_all(&mut calls, 0..10, at(60_000)), [0; 0], "slow calls still count");
        calls.answered(&session(1), at(10));
        calls.answered(&session(3), at(10));
        assert_eq!(start_all(&mut calls, 0..10, at(10)), [4, 5]);
    }

    #[test]
    fn backs_off_while_a_session_stays_listed() {
        let mut calls = DeleteCalls::default();
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..8 {
            assert_eq!(start_all(&mut calls, [0], at(now)), [0]);
            calls.answered(&session(0), at(now));
            let next = calls.next_retry(at(now)).unwrap();
            assert_eq!(start_all(&mut calls, [0], at(next.0 - 1)), [0; 0]);
            calls.forget_unlisted(|_| true, next);
            pauses.push((next.0 - now) / 1000);
            now = next.0;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn an_ended_session_is_acknowledged_without_a_pause() {
        let mut calls = DeleteCalls::default();
        let call = |calls: &mut DeleteCalls, ended, now| calls.start(&session(0), ended, MAX, at(now));
        assert!(call(&mut calls, false, 0));
        assert!(!call(&mut calls, true, 1), "the first call is in flight");
        calls.answered(&session(0), at(2));
        assert!(!call(&mut calls, false, 3));
        assert!(call(&mut calls, true, 4));
        calls.answered(&session(0), at(5));
        // A runner that lists the session as running and ended by turns causes no further calls.
        for now in 6..2005 {
            assert!(!call(&mut calls, now % 2 == 0, now), "{now}");
        }
    }

    #[test]
    fn changing_lists_do_not_raise_the_call_rate() {
        let mut calls = DeleteCalls::default();
        let mut started = 0;
        for report in 0..1000_usize {
            let now = at(i64::try_from(report).unwrap());
            let first = report * MAX;
            let listed: Vec<_> = (first..first + MAX).collect();
            let uids: Vec<_> = listed.iter().map(|number| session(*number)).collect();
            calls.forget_unlisted(|uid| uids.contains(uid), now);
            for number in start_all(&mut calls, listed, now) {
                calls.answered(&session(number), now);
                started += 1;
            }
        }
        assert_eq!(started, MAX, "calls in one second");
    }

    #[test]
    fn forgets_an_unlisted_session_after_its_pause() {
        let mut calls = DeleteCalls::default();
        start_all(&mut calls, [0, 1, 2], at(0));
        calls.answered(&session(0), at(0));
        calls.answered(&session(1), at(0));
        calls.forget_unlisted(|_| false, at(999));
        assert_eq!(calls.by_session.len(), 3);
        calls.forget_unlisted(|uid| *uid == session(1), at(1000));
        assert_eq!(calls.by_session.len(), 2, "one session is listed, and one call is in flight");
        calls.answered(&session(2), at(1000));
        calls.forget_unlisted(|_| false, at(2000));
        assert!(calls.by_session.is_empty());
    }
}
