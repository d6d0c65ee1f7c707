//! Paces the writes of a pool's PodDisruptionBudget, and keeps the reason why it could not be written.

use crate::core::{clock::Monotonic, messages::WriteFailure, retry::RetryState};
use camofleet_crds::v1alpha1::Disruption;
use std::time::Duration;

/// Interval at which the budget is written again, in case it was deleted or changed.
const REWRITE_INTERVAL: Duration = Duration::from_secs(600);
/// Consecutive rejections after which a budget of that name is assumed to belong to another owner. They take about 6 s.
/// By then the garbage collector has deleted the budget of a deleted pool with the same name.
const REJECTIONS_UNTIL_STALLED: u32 = 5;

#[derive(Debug, Default)]
pub(in crate::core) struct DisruptionBudget {
    /// When the desired budget was written last.
    written: Option<Monotonic>,
    call: RetryState,
    /// The policy of the last write.
    disruption: Option<Disruption>,
    rejection: Option<String>,
}

impl DisruptionBudget {
    pub(in crate::core) fn begin_term(&mut self) {
        *self = Self { disruption: self.disruption, ..Self::default() };
    }

    /// Sets the desired policy. A changed one is written at once.
    pub(in crate::core) fn set_disruption(&mut self, disruption: Disruption) {
        if self.disruption != Some(disruption) {
            self.written = None;
        }
    }

    /// Starts the write, and returns whether it is due.
    pub(in crate::core) fn begin(&mut self, disruption: Disruption, now: Monotonic) -> bool {
        let begins = self.written.is_none_or(|at| at.after(REWRITE_INTERVAL) <= now) && self.call.may_start(now);
        if begins {
            self.call = self.call.started();
            self.disruption = Some(disruption);
        }
        begins
    }

    /// Records the answer to the write. `disruption` is the policy that the pool desires now.
    pub(in crate::core) fn answered(
        &mut self,
        answer: Result<(), WriteFailure>,
        disruption: Disruption,
        pool: &str,
        now: Monotonic,
    ) {
        match answer {
            Ok(()) => {
                // If the policy has changed in the meantime, the next write is due at once.
                self.written = (self.disruption == Some(disruption)).then_some(now);
                (self.call, self.rejection) = (RetryState::Idle, None);
            }
            Err(failure) => {
                self.call = self.call.failed(pool, now);
                if let WriteFailure::Rejected(message) = failure
                    && self.call.failures() >= REJECTIONS_UNTIL_STALLED
                {
                    self.rejection = Some(message);
                }
            }
        }
    }

    /// Why the budget could not be written.
    pub(in crate::core) fn rejection(&self) -> Option<&str> {
        self.rejection.as_deref()
    }

    /// When the write may become due.
    pub(in crate::core) fn timers(&self) -> impl Iterator<Item = Monotonic> {
        [self.call.retry_at(), self.written.map(|at| at.after(REWRITE_INTERVAL))].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESIRED: Disruption = Disruption::WhenIdle;

    #[test]
    fn rewrites_the_budget_after_ten_minutes_and_after_a_change() {
        let mut budget = DisruptionBudget::default();
        assert!(budget.begin(DESIRED, Monotonic(0)) && !budget.begin(DESIRED, Monotonic(0)));
        budget.answered(Ok(()), DESIRED, "p", Monotonic(0));
        budget.set_disruption(DESIRED);
        assert!(!budget.begin(DESIRED, Monotonic(599_999)));
        assert_eq!(budget.timers().collect::<Vec<_>>(), [Monotonic(600_000)]);
        assert!(budget.begin(DESIRED, Monotonic(600_000)));
        budget.answered(Ok(()), Disruption::Always, "p", Monotonic(600_000));
        assert!(budget.begin(Disruption::Always, Monotonic(600_000)), "the policy changed during the write");
        budget.answered(Ok(()), Disruption::Always, "p", Monotonic(600_000));
        budget.set_disruption(DESIRED);
        assert!(budget.begin(DESIRED, Monotonic(600_001)));
    }

    #[test]
    fn reports_a_rejection_only_after_several_in_a_row() {
        let (mut budget, mut now) = (DisruptionBudget::default(), Monotonic(0));
        for rejections in 1..=REJECTIONS_UNTIL_STALLED {
            assert!(budget.begin(DESIRED, now));
            budget.answered(Err(WriteFailure::Rejected("it has another owner".into())), DESIRED, "p", now);
            assert_eq!(budget.rejection().is_some(), rejections == REJECTIONS_UNTIL_STALLED, "after {rejections}");
            now = budget.timers().next().unwrap();
        }
        assert!(budget.begin(DESIRED, now));
        budget.answered(Ok(()), DESIRED, "p", now);
        assert_eq!(budget.rejection(), None);
    }
}
