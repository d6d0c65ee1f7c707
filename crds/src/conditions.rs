//! Condition types and reasons, and functions to set and read conditions.
//!
//! The *reason* of a condition is one word for programs, and the *message* a sentence for people. `Stalled` is true
//! only if the object makes no progress until a person intervenes, because kstatus (`kubectl wait`, Flux, Argo CD) then
//! reports it as failed.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// Both kinds. A session is ready if its clients can connect, a pool if the desired number of runners is ready.
pub const READY: &str = "Ready";
/// Both kinds: the object makes no progress until a person intervenes.
pub const STALLED: &str = "Stalled";
/// Sessions: the session has a slot on a runner.
pub const SCHEDULED: &str = "Scheduled";
/// Sessions: the session has ended, or was rejected.
pub const FINISHED: &str = "Finished";
/// Pools: runners are being created, replaced or removed.
pub const RECONCILING: &str = "Reconciling";

/// Reasons of a session's conditions. The reason of `Ready` always tells why clients can or cannot connect: it is the
/// reason of the wait, of the start, or of the end.
pub mod session {
    /// `Scheduled` is true: the session has a slot.
    pub const BOUND: &str = "Bound";
    /// `Scheduled` and `Ready` are false: all suitable slots are taken.
    pub const NO_CAPACITY: &str = "NoCapacity";
    /// `Scheduled` and `Ready` are false: no pool that the namespace can use matches the spec, or the named pool does
    /// not exist.
    pub const NO_MATCHING_POOL: &str = "NoMatchingPool";
    /// `Scheduled` and `Ready` are false: the named pool does not allow the session's namespace or tenant.
    pub const NOT_ALLOWED: &str = "NotAllowed";
    /// `Scheduled` and `Ready` are false: the pool has reached `limits.maxSessions`.
    pub const POOL_LIMIT_REACHED: &str = "PoolLimitReached";
    /// `Scheduled` and `Ready` are false: the tenant has reached `limits.maxSessionsPerTenant`.
    pub const TENANT_LIMIT_REACHED: &str = "TenantLimitReached";
    /// `Finished` and `Stalled` are false: the session waits, starts or runs.
    pub const IN_PROGRESS: &str = "InProgress";
    /// `Ready` is false: the browser is being launched.
    pub const BROWSER_STARTING: &str = "BrowserStarting";
    /// `Ready` is true: clients can connect.
    pub const BROWSER_READY: &str = "BrowserReady";
    /// `Ready` is unknown: the runner does not respond, but the session may still run.
    pub const RUNNER_UNREACHABLE: &str = "RunnerUnreachable";
    /// `Finished` and `Stalled` are true: no slot became free within `queueTimeoutSeconds`.
    pub const QUEUE_TIMEOUT: &str = "QueueTimeout";
    /// `Finished` and `Stalled` are true: the session was rejected because `limits.maxQueued` sessions were waiting.
    pub const QUEUE_FULL: &str = "QueueFull";
    /// `Finished` and `Stalled` are true: the session was rejected because its `priority` exceeds `limits.maxPriority`
    /// of the pool that it names.
    pub const PRIORITY_TOO_HIGH: &str = "PriorityTooHigh";
    /// `Finished` and `Stalled` are true: the session was rejected because its `maxLifetimeSeconds` exceeds the limit
    /// of the pool that it names.
    pub const LIFETIME_TOO_LONG: &str = "LifetimeTooLong";
    /// `Finished` and `Stalled` are true: the runner pod is gone, its process was killed, or it no longer lists the
    /// session.
    pub const RUNNER_LOST: &str = "RunnerLost";
    /// `Finished` and `Stalled` are true: the runner pod exceeded its memory limit and was killed.
    pub const OUT_OF_MEMORY: &str = "OutOfMemory";
    /// `Finished` and `Stalled` are true: the browser could not be launched.
    pub const LAUNCH_FAILED: &str = "LaunchFailed";
    /// `Finished` and `Stalled` are true: the browser, the display or the Playwright server exited unexpectedly.
    pub const BROWSER_CRASHED: &str = "BrowserCrashed";
    /// `Finished` is true: the runner was drained and the drain deadline passed.
    pub const RUNNER_DRAINED: &str = "RunnerDrained";
    /// `Finished` is true: no client was active for `idleTimeoutSeconds`.
    pub const IDLE_TIMEOUT: &str = "IdleTimeout";
    /// `Finished` is true: `maxLifetimeSeconds` passed.
    pub const LIFETIME_EXCEEDED: &str = "LifetimeExceeded";
}

/// Reasons of a pool's conditions. While fewer runners than desired are ready, `Ready` is false with the reason of
/// `Stalled` or else of `Reconciling`.
pub mod pool {
    /// `Ready` is true: all desired runners are warm or serve sessions.
    pub const ALL_RUNNERS_READY: &str = "AllRunnersReady";
    /// `Reconciling` is false: the pool has exactly the desired runners, all of the update revision.
    pub const RECONCILED: &str = "Reconciled";
    /// `Stalled` is false: no person needs to intervene.
    pub const NOT_STALLED: &str = "NotStalled";
    /// `Reconciling` is true: runners are starting.
    pub const RUNNERS_STARTING: &str = "RunnersStarting";
    /// `Reconciling` is true: the runners that are launching in all pools use up the CPUs of the nodes, so the next
    /// runner of this pool waits.
    pub const WAITING_TO_LAUNCH: &str = "WaitingToLaunch";
    /// `Reconciling` is true: runners are being removed or replaced.
    pub const RUNNERS_LEAVING: &str = "RunnersLeaving";
    /// `Reconciling` is true: the revision has changed, and the canary, the first runner of the update revision, has
    /// yet to load a page.
    pub const CANARY_STARTING: &str = "CanaryStarting";
    /// `Reconciling` is true: the pool is being deleted and waits for its sessions.
    pub const DRAINING: &str = "Draining";
    /// `Stalled` is true: the API server rejects the runner pods.
    pub const POD_REFUSED: &str = "PodRefused";
    /// `Stalled` is true: the runner image cannot be pulled or run.
    pub const IMAGE_ERROR: &str = "ImageError";
    /// `Stalled` is true: the runner pods fit on no node.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// `Stalled` is true: runner pods exit unexpectedly.
    pub const RUNNERS_FAILING: &str = "RunnersFailing";
    /// `Stalled` is true: runners run, but no browser starts in them.
    pub const BROWSERS_FAILING: &str = "BrowsersFailing";
    /// `Stalled` is true: runners are missing, and none has become warm for 10 minutes, without a known cause.
    pub const NO_PROGRESS: &str = "NoProgress";
    /// `Stalled` is true: the canary could not start a browser and load a page. Runners of the current revision
    /// continue to serve, and are replaced by runners of the same revision.
    pub const CANARY_FAILED: &str = "CanaryFailed";
    /// `Stalled` is true: the template exceeds its size limit, so no runner is created from it. Runners of the current
    /// revision continue to serve, and are replaced by runners of the same revision.
    pub const TEMPLATE_TOO_LARGE: &str = "TemplateTooLarge";
    /// `Stalled` is true: a PodDisruptionBudget with the pool's name has another owner, so the runners can be evicted.
    pub const BUDGET_TAKEN: &str = "BudgetTaken";
    /// `Ready` is unknown and `Stalled` is true: the operator was uninstalled, or its namespace was deleted.
    pub const NO_OPERATOR: &str = "NoOperator";
}

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// The operator cannot tell at present.
    Unknown,
}

impl ConditionStatus {
    /// The value of a condition's `status` field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Sets a condition, in place if the list has one of its type. `lastTransitionTime` changes only with the status.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: ConditionStatus,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    let former = conditions.iter().position(|condition| condition.type_ == type_);
    let since = former.map(|at| &conditions[at]).filter(|former| former.status == status.as_str());
    let condition = Condition {
        type_: type_.to_owned(),
        status: status.as_str().to_owned(),
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

/// The condition of this type, if it is set.
pub fn get<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of this type is set and true.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    get(conditions, type_).is_some_and(|condition| condition.status == ConditionStatus::True.as_str())
}

/// Maximum length of a message, in characters. Longer messages are truncated. The API's own limit is 32768.
const MAX_MESSAGE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_changes_only_with_the_status() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut conditions = Vec::new();
        set(&mut conditions, READY, ConditionStatus::False, session::NO_CAPACITY, "waits", None, at(1));
        set(&mut conditions, READY, ConditionStatus::False, session::BROWSER_STARTING, "starts", None, at(2));
        assert_eq!((conditions.len(), conditions[0].last_transition_time.0), (1, at(1)));
        assert_eq!(conditions[0].reason, session::BROWSER_STARTING);
        set(&mut conditions, READY, ConditionStatus::True, session::BROWSER_READY, "", None, at(3));
        assert_eq!(conditions[0].last_transition_time.0, at(3));
        assert!(is_true(&conditions, READY) && !is_true(&conditions, FINISHED));
    }
}
