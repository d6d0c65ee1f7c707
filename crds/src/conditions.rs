//! Condition types and reasons, and how a condition is set.
//!
//! Terms: a condition's *type* is a state of the object as observed (`Ready`), its *reason* one word for programs, its
//! *message* a sentence for people. `Stalled` is true only when nothing will happen without somebody's help, so that
//! kstatus (`kubectl wait`, Flux, Argo CD) reads it as failed.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// Both kinds. Of a session: its clients may connect. Of a pool: as many runners as wished are ready.
pub const READY: &str = "Ready";
/// Both kinds: somebody has to change something.
pub const STALLED: &str = "Stalled";
/// Of a session: it has a slot on a runner.
pub const SCHEDULED: &str = "Scheduled";
/// Of a session: it is over.
pub const FINISHED: &str = "Finished";
/// Of a pool: runners are being made, replaced or removed.
pub const RECONCILING: &str = "Reconciling";

/// Reasons of a session's conditions. `Ready` has always the one that answers why it is not usable, or that it is: of the wait, of
/// the start, or of the end.
pub mod session {
    /// `Scheduled` is true: a slot was found.
    pub const BOUND: &str = "Bound";
    /// `Scheduled` and `Ready` are false: every slot that would do is taken.
    pub const NO_CAPACITY: &str = "NoCapacity";
    /// `Scheduled` and `Ready` are false: no pool that the namespace may use can serve what is asked for, or the named pool
    /// is not there.
    pub const NO_MATCHING_POOL: &str = "NoMatchingPool";
    /// `Scheduled` and `Ready` are false: the named pool does not allow the session's namespace or tenant.
    pub const NOT_ALLOWED: &str = "NotAllowed";
    /// `Scheduled` and `Ready` are false: the pool has as many sessions as `limits.maxSessions` lets it.
    pub const POOL_LIMIT_REACHED: &str = "PoolLimitReached";
    /// `Scheduled` and `Ready` are false: the tenant has as many sessions as `limits.maxSessionsPerTenant` lets it.
    pub const TENANT_LIMIT_REACHED: &str = "TenantLimitReached";
    /// `Finished` and `Stalled` are false: it goes its way.
    pub const IN_PROGRESS: &str = "InProgress";
    /// `Ready` is false: the browser is being launched.
    pub const BROWSER_STARTING: &str = "BrowserStarting";
    /// `Ready` is true.
    pub const BROWSER_READY: &str = "BrowserReady";
    /// `Ready` is unknown: the runner does not answer; the session may be alive and well.
    pub const RUNNER_UNREACHABLE: &str = "RunnerUnreachable";
    /// `Finished` is true: no slot within `queueTimeoutSeconds`. `Stalled` is true, too.
    pub const QUEUE_TIMEOUT: &str = "QueueTimeout";
    /// `Finished` is true: it was refused, since as many wait already as `limits.maxQueued` lets. `Stalled` is true, too.
    pub const QUEUE_FULL: &str = "QueueFull";
    /// `Finished` is true: it was refused, since its `priority` is above `limits.maxPriority`. `Stalled` is true, too.
    pub const PRIORITY_TOO_HIGH: &str = "PriorityTooHigh";
    /// `Finished` is true: it was refused, since its `maxLifetimeSeconds` is above the pool's limit. `Stalled` is true, too.
    pub const LIFETIME_TOO_LONG: &str = "LifetimeTooLong";
    /// `Finished` is true: its pod is gone or its process was killed. `Stalled` is true, too.
    pub const RUNNER_LOST: &str = "RunnerLost";
    /// `Finished` is true: its pod used more memory than it may and was killed. `Stalled` is true, too.
    pub const OUT_OF_MEMORY: &str = "OutOfMemory";
    /// `Finished` is true: the browser could not be launched. `Stalled` is true, too.
    pub const LAUNCH_FAILED: &str = "LaunchFailed";
    /// `Finished` is true: browser, display or Playwright server ended by itself. `Stalled` is true, too.
    pub const BROWSER_CRASHED: &str = "BrowserCrashed";
    /// `Finished` is true: the runner had to go and the drain deadline passed.
    pub const RUNNER_DRAINED: &str = "RunnerDrained";
    /// `Finished` is true: no activity for `idleTimeoutSeconds`.
    pub const IDLE_TIMEOUT: &str = "IdleTimeout";
    /// `Finished` is true: `maxLifetimeSeconds` passed.
    pub const LIFETIME_EXCEEDED: &str = "LifetimeExceeded";
}

/// Reasons of a pool's conditions.
pub mod pool {
    /// `Ready` is true: all desired runners are warm or serve sessions.
    pub const ALL_RUNNERS_READY: &str = "AllRunnersReady";
    /// `Reconciling` is false: the pool has exactly the desired runners, all of the current shape.
    pub const RECONCILED: &str = "Reconciled";
    /// `Stalled` is false: nothing needs a person's attention.
    pub const NOT_STALLED: &str = "NotStalled";
    /// `Ready` is false, `Reconciling` is true: runners are being started.
    pub const RUNNERS_STARTING: &str = "RunnersStarting";
    /// `Ready` is false, `Reconciling` is true: as many runners of all pools launch as the nodes have CPUs, and this pool's next one has
    /// to wait for its turn.
    pub const WAITING_TO_LAUNCH: &str = "WaitingToLaunch";
    /// `Reconciling` is true: runners are being removed or replaced.
    pub const RUNNERS_LEAVING: &str = "RunnersLeaving";
    /// `Reconciling` is true: the shape has changed, and a first runner of the new one, the canary, is to load a page.
    pub const CANARY_STARTING: &str = "CanaryStarting";
    /// `Reconciling` is true: the pool is being deleted and waits for its sessions.
    pub const DRAINING: &str = "Draining";
    /// `Stalled` is true: the API server refuses the runner pods.
    pub const POD_REFUSED: &str = "PodRefused";
    /// `Stalled` is true: the runner image cannot be pulled or run.
    pub const IMAGE_ERROR: &str = "ImageError";
    /// `Stalled` is true: no node takes the runner pods.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// `Stalled` is true: runner pods end by themselves.
    pub const RUNNERS_FAILING: &str = "RunnersFailing";
    /// `Stalled` is true: runners run but no browser starts in them.
    pub const BROWSERS_FAILING: &str = "BrowsersFailing";
    /// `Stalled` is true: runners are missing, and for 10 minutes none has come up, though nothing says why.
    pub const NO_PROGRESS: &str = "NoProgress";
    /// `Stalled` is true: the first runner of a new shape could not start a browser and load a page. Those of the former go on
    /// serving, and are replaced by their like.
    pub const CANARY_FAILED: &str = "CanaryFailed";
    /// `Stalled` is true: the template is too large to be held in memory. No runner is made of it; those of the former shape go on
    /// serving, and are replaced by their like.
    pub const TEMPLATE_TOO_LARGE: &str = "TemplateTooLarge";
    /// `Stalled` is true: a PodDisruptionBudget of the pool's name is somebody else's, so that the runners may be evicted.
    pub const BUDGET_TAKEN: &str = "BudgetTaken";
    /// `Ready` is unknown and `Stalled` is true: the operator was uninstalled or its namespace was deleted.
    pub const NO_OPERATOR: &str = "NoOperator";
}

/// A condition's truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told now.
    Unknown,
}

impl Truth {
    /// As it stands in the object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Sets a condition, in place when it is there. Its transition time moves only when its truth changes.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    truth: Truth,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    let former = conditions.iter().position(|condition| condition.type_ == type_);
    let since = former.map(|at| &conditions[at]).filter(|former| former.status == truth.as_str());
    let condition = Condition {
        type_: type_.to_owned(),
        status: truth.as_str().to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(MAX_MESSAGE).collect(),
        observed_generation: generation,
        last_transition_time: since.map_or(Time(now), |former| former.last_transition_time.clone()),
    };
    match former {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// The condition of that type.
pub fn get<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of that type is true.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    get(conditions, type_).is_some_and(|condition| condition.status == Truth::True.as_str())
}

/// Longest message that is kept, in characters; the API's own limit for conditions is 32768.
const MAX_MESSAGE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_changes_only_with_the_status() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut conditions = Vec::new();
        set(&mut conditions, READY, Truth::False, session::NO_CAPACITY, "waits", None, at(1));
        set(&mut conditions, READY, Truth::False, session::BROWSER_STARTING, "starts", None, at(2));
        assert_eq!((conditions.len(), conditions[0].last_transition_time.0), (1, at(1)));
        assert_eq!(conditions[0].reason, session::BROWSER_STARTING);
        set(&mut conditions, READY, Truth::True, session::BROWSER_READY, "", None, at(3));
        assert_eq!(conditions[0].last_transition_time.0, at(3));
        assert!(is_true(&conditions, READY) && !is_true(&conditions, FINISHED));
    }
}
