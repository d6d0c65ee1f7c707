//! Computes the published status of a pool.

use crate::core::{
    clock::Now,
    ids::Key,
    pool::{
        diagnosis,
        launch_budget::LaunchWait,
        shapes::ReasonMessage,
        state::{Pool, finalizer_removal},
    },
    runner::{
        pod_build::{self, Installation},
        state::Runner,
    },
};
use camofleet_crds::{
    conditions::{self, READY, RECONCILING, STALLED, pool as pools},
    v1alpha1::{Slots, WorkerPoolStatus},
};

/// Returns the desired status of a pool.
pub(super) fn of_pool(
    pool: &Pool,
    runners: &[&Runner],
    queued: usize,
    installation: &Installation,
    now: Now,
) -> WorkerPoolStatus {
    let object = pool.object();
    let mut status = pool.writes.status().base(object.status.as_ref()).cloned().unwrap_or_default();
    let replicas = Replicas::of(pool, runners);
    status.observed_generation = object.metadata.generation;
    status.replicas = replicas.all;
    status.desired_replicas = replicas.desired;
    status.ready_replicas = replicas.ready;
    status.updated_replicas = replicas.updated;
    status.slots = slots_of(pool, runners);
    status.queued = saturating_i32(queued);
    status.revision = Some(pool.shapes.update().revision.clone());
    // Comparing revisions is cheaper than serializing the shape.
    if let Some(shape) = pool.shapes.current()
        && status.current_revision.as_ref().is_none_or(|published| published.revision != shape.revision)
    {
        status.current_revision = Some(shape.to_publish(installation));
    }
    let labels = pod_build::pool_labels(object);
    status.selector = Some(labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","));
    for (type_, truth, (reason, message)) in conditions_of(pool, runners, replicas, now) {
        let generation = object.metadata.generation;
        conditions::set(&mut status.conditions, type_, truth.into(), reason, &message, generation, now.wall);
    }
    status
}

/// Numbers of a pool's runners.
#[derive(Clone, Copy)]
struct Replicas {
    desired: i32,
    all: i32,
    /// Runners that are ready for sessions or have one.
    ready: i32,
    /// Runners of the update shape.
    updated: i32,
}

impl Replicas {
    fn of(pool: &Pool, runners: &[&Runner]) -> Self {
        let is_updated = |runner: &&&Runner| runner.pod().revision == pool.shapes.update().revision;
        Self {
            desired: if pool.is_deleted() { 0 } else { saturating_i32(pool.desired()) },
            all: saturating_i32(runners.len()),
            ready: saturating_i32(runners.iter().filter(|runner| runner.serves()).count()),
            updated: saturating_i32(runners.iter().filter(is_updated).count()),
        }
    }

    fn are_ready(self, pool: &Pool) -> bool {
        self.ready >= self.desired && !pool.is_deleted()
    }

    fn are_settled(self, pool: &Pool) -> bool {
        self.all == self.desired && self.updated == self.desired && self.are_ready(pool)
    }
}

/// The slots of the runners that accept sessions.
fn slots_of(pool: &Pool, runners: &[&Runner]) -> Slots {
    let accepts_sessions = |runner: &&&Runner| {
        runner.is_up() && !runner.is_terminating() && !pool.shapes.is_canary(&runner.pod().revision)
    };
    let serving: Vec<_> = runners.iter().filter(accepts_sessions).collect();
    let reports = || serving.iter().filter_map(|runner| runner.report());
    Slots {
        total: reports().map(|report| saturating_i32(report.slots)).sum(),
        used: saturating_i32(serving.iter().map(|runner| runner.used()).sum::<usize>()),
        hot: reports().map(|report| saturating_i32((report.hot.headless + report.hot.headful).min(report.free))).sum(),
        starting: reports()
            .filter(|report| !report.warm)
            .map(|report| saturating_i32(report.free.saturating_sub(report.hot.headless + report.hot.headful)))
            .sum(),
    }
}

/// The conditions: type, truth, reason and message.
fn conditions_of(
    pool: &Pool,
    runners: &[&Runner],
    replicas: Replicas,
    now: Now,
) -> [(&'static str, bool, ReasonMessage); 3] {
    let failure = diagnosis::stalled_reason(pool, runners, now);
    let canary = diagnosis::canary_stalled_reason(pool, runners, now);
    let reconciling_reason = || {
        let first = RECONCILING_REASONS.iter().find_map(|reason| reason(pool, replicas));
        first.unwrap_or_else(|| runners_starting(replicas))
    };
    let all_ready = format!("{0} of {0} runners are ready", replicas.desired);
    let is_ready = replicas.are_ready(pool);
    // `kubectl get` shows the reason of `Ready` in a column, so a failed canary appears there too.
    let ready = match (&canary, &failure) {
        (Some((reason, _)), _) if is_ready => (*reason, format!("{all_ready}, of the current revision; see Stalled")),
        (None, _) if is_ready => (pools::ALL_RUNNERS_READY, all_ready),
        (_, Some(failure)) => failure.clone(),
        (_, None) => reconciling_reason(),
    };
    let is_settled = replicas.are_settled(pool);
    let reconciling = if is_settled { (pools::RECONCILED, String::new()) } else { reconciling_reason() };
    // A failed canary and a missing budget need attention although the runners serve.
    let budget_taken = pool.disruption_budget.rejection().map(|message| (pools::BUDGET_TAKEN, message.to_owned()));
    let stalled = failure.filter(|_| !is_ready).or(canary).or(budget_taken);
    [
        (READY, is_ready, ready),
        (RECONCILING, !is_settled, reconciling),
        (STALLED, stalled.is_some(), stalled.unwrap_or((pools::NOT_STALLED, String::new()))),
    ]
}

type ReconcilingReason = fn(&Pool, Replicas) -> Option<ReasonMessage>;

/// Why a pool is not settled. The first that applies is published.
const RECONCILING_REASONS: [ReconcilingReason; 5] =
    [draining, template_too_large, waiting_to_launch, canary_starting, runners_leaving];

/// The pool is being deleted.
fn draining(pool: &Pool, replicas: Replicas) -> Option<ReasonMessage> {
    let message = || {
        let removal = finalizer_removal(&Key::of(pool.object().as_ref()));
        let all = replicas.all;
        format!(
            "{all} runners stop once their sessions have ended. If no operator runs, remove the pool's finalizer: \
             {removal}"
        )
    };
    pool.is_deleted().then(|| (pools::DRAINING, message()))
}

/// The template of the spec is too large.
fn template_too_large(pool: &Pool, _: Replicas) -> Option<ReasonMessage> {
    pool.shapes.rejection()
}

/// The next launch waits for CPUs, or for overdue runners of the pool.
fn waiting_to_launch(pool: &Pool, Replicas { ready, desired, .. }: Replicas) -> Option<ReasonMessage> {
    Some(match pool.launch_wait()? {
        LaunchWait::CpusInUse => (
            pools::WAITING_TO_LAUNCH,
            format!(
                "{ready} of {desired} runners are ready; the next one waits for free CPUs, because runners of all \
                 pools launch in turn"
            ),
        ),
        LaunchWait::OwnRunners { overdue } => (
            pools::RUNNERS_STARTING,
            format!(
                "{ready} of {desired} runners are ready; the next one waits because {overdue} runners of this pool \
                 have not been warm for 2 minutes. Read their logs"
            ),
        ),
    })
}

/// A canary tests the update shape.
fn canary_starting(pool: &Pool, replicas: Replicas) -> Option<ReasonMessage> {
    let message = "the canary of the update revision has to load a page before the other runners are replaced";
    (pool.shapes.is_rolling_out() && replicas.desired > 0).then(|| (pools::CANARY_STARTING, message.to_owned()))
}

/// The pool has surplus runners, or runners of an outdated shape.
fn runners_leaving(_: &Pool, Replicas { desired, all, updated, .. }: Replicas) -> Option<ReasonMessage> {
    let message = || format!("{all} runners exist, {desired} are desired, {updated} have the update revision");
    (all > desired || all == desired && updated < desired).then(|| (pools::RUNNERS_LEAVING, message()))
}

/// Runners are missing or not ready.
fn runners_starting(Replicas { ready, desired, .. }: Replicas) -> ReasonMessage {
    (pools::RUNNERS_STARTING, format!("{ready} of {desired} runners are ready"))
}

fn saturating_i32(number: impl TryInto<i32>) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}
