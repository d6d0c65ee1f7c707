//! The disruption budget of a pool's runners: when it is written, and why there is none.

use crate::core::{clock::Mono, messages::WriteFailure, retry::RetryState};
use camofleet_crds::v1alpha1::Disruption;
use std::time::Duration;

/// Interval after which the disruption budget is written again, in case it was deleted or changed.
const REWRITE_INTERVAL: Duration = Duration::from_secs(600);
/// Refusals in a row after which a budget of that name is taken to belong to another owner. They take about 6 s: by then the garbage
/// collector has deleted the budget of a former pool of the same name.
const REFUSALS_UNTIL_STALLED: u32 = 5;

#[derive(Debug, Default)]
pub(in crate::core) struct Budget {
    /// When it was last as it should be.
    written: Option<Mono>,
    call: RetryState,
    /// What was asked for by the last write.
    disruption: Option<Disruption>,
    /// The reason why there is none.
    refusal: Option<String>,
}

impl Budget {
    /// A new leader writes it again.
    pub(in crate::core) fn begin_term(&mut self) {
        *self = Self { disruption: self.disruption, ..Self::default() };
    }

    /// The pool asks for this: another budget is written at once.
    pub(in crate::core) fn set_disruption(&mut self, disruption: Disruption) {
        if self.disruption != Some(disruption) {
            self.written = None;
        }
    }

    /// Begins the write, when it is due.
    pub(in crate::core) fn begin(&mut self, disruption: Disruption, now: Mono) -> bool {
        let begins = self.written.is_none_or(|at| at.after(REWRITE_INTERVAL) <= now) && self.call.may_start(now);
        if begins {
            self.call = self.call.started();
            self.disruption = Some(disruption);
        }
        begins
    }

    /// The write was answered; the pool asks for `disruption` now.
    pub(in crate::core) fn answered(
        &mut self,
        answer: Result<(), WriteFailure>,
        disruption: Disruption,
        pool: &str,
        now: Mono,
    ) {
        match answer {
            Ok(()) => {
                // What was asked for meanwhile is written next.
                self.written = (self.disruption == Some(disruption)).then_some(now);
                (self.call, self.refusal) = (RetryState::Idle, None);
            }
            Err(failure) => {
                self.call = self.call.failed(pool, now);
                if let WriteFailure::Refused(message) = failure
                    && self.call.failures() >= REFUSALS_UNTIL_STALLED
                {
                    self.refusal = Some(message);
                }
            }
        }
    }

    /// The reason why the runners have no budget.
    pub(in crate::core) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// When it may be due again.
    pub(in crate::core) fn timers(&self) -> impl Iterator<Item = Mono> {
        [self.call.retry_at(), self.written.map(|at| at.after(REWRITE_INTERVAL))].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Disruption = Disruption::WhenIdle;

    #[test]
    fn rewrites_the_budget_after_ten_minutes_and_after_a_change() {
        let mut budget = Budget::default();
        assert!(budget.begin(ASKED, Mono(0)) && !budget.begin(ASKED, Mono(0)));
        budget.answered(Ok(()), ASKED, "p", Mono(0));
        budget.set_disruption(ASKED);
        assert!(!budget.begin(ASKED, Mono(599_999)));
        assert_eq!(budget.timers().collect::<Vec<_>>(), [Mono(600_000)]);
        assert!(budget.begin(ASKED, Mono(600_000)));
        budget.answered(Ok(()), Disruption::Always, "p", Mono(600_000));
        assert!(budget.begin(Disruption::Always, Mono(600_000)), "another was asked for meanwhile");
        budget.answered(Ok(()), Disruption::Always, "p", Mono(600_000));
        budget.set_disruption(ASKED);
        assert!(budget.begin(ASKED, Mono(600_001)));
    }

    #[test]
    fn reports_a_refusal_only_after_several_in_a_row() {
        let (mut budget, mut now) = (Budget::default(), Mono(0));
        for refusals in 1..=REFUSALS_UNTIL_STALLED {
            assert!(budget.begin(ASKED, now));
            budget.answered(Err(WriteFailure::Refused("it is another's".into())), ASKED, "p", now);
            assert_eq!(budget.refusal().is_some(), refusals == REFUSALS_UNTIL_STALLED, "after {refusals}");
            now = budget.timers().next().unwrap();
        }
        assert!(budget.begin(ASKED, now));
        budget.answered(Ok(()), ASKED, "p", now);
        assert_eq!(budget.refusal(), None);
    }
}
