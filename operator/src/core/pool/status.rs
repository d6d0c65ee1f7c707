//! The status of a pool, as a function of what is known.

use crate::core::{
    clock::Now,
    ids::Key,
    pool::{
        diagnosis,
        launches::Waits,
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

/// The status that a pool should have.
pub(super) fn of_pool(
    pool: &Pool,
    runners: &[&Runner],
    queued: usize,
    installation: &Installation,
    now: Now,
) -> WorkerPoolStatus {
    let object = &pool.object;
    let mut status = pool.write.known(object.status.as_ref()).cloned().unwrap_or_default();
    let desired = if pool.is_deleted() { 0 } else { pool.scale.desired };
    let takes = |runner: &&&Runner| runner.is_up() && !runner.goes() && !pool.tests(&runner.pod.revision);
    let serving: Vec<_> = runners.iter().filter(takes).collect();
    let states = || serving.iter().filter_map(|runner| runner.state.as_ref());
    status.observed_generation = object.metadata.generation;
    status.replicas = count(runners.len());
    status.desired_replicas = desired;
    status.ready_replicas = count(runners.iter().filter(|runner| runner.serves()).count());
    status.updated_replicas =
        count(runners.iter().filter(|runner| runner.pod.revision == pool.wished.revision).count());
    status.slots = Slots {
        total: states().map(|state| small(state.slots)).sum(),
        used: count(serving.iter().map(|runner| runner.used()).sum()),
        hot: states().map(|state| small((state.hot.headless + state.hot.headful).min(state.free))).sum(),
        starting: states()
            .filter(|state| !state.warm)
            .map(|state| small(state.free.saturating_sub(state.hot.headless + state.hot.headful)))
            .sum(),
    };
    status.queued = count(queued);
    status.revision = Some(pool.wished.revision.clone());
    // What is there already costs more to write out than to compare.
    if let Some(shape) = &pool.serving
        && status.serving.as_ref().is_none_or(|published| published.revision != shape.revision)
    {
        status.serving = Some(shape.to_publish(installation));
    }
    let labels = pod_build::pool_labels(object);
    status.selector = Some(labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","));

    let ready = status.ready_replicas >= desired && !pool.is_deleted();
    let settled = status.replicas == desired && status.updated_replicas == desired && ready;
    let trouble = diagnosis::trouble_of(pool, runners, now);
    let canary = diagnosis::trouble_of_canary(pool, runners, now);
    let (doing, words) = if pool.is_deleted() {
        (
            pools::DRAINING,
            format!(
                "{} runners stop once their sessions have ended. If no operator runs, remove the pool's finalizer: {}",
                status.replicas,
                finalizer_removal(&Key::of(object.as_ref()))
            ),
        )
    } else if let Some(refusal) = pool.refusal() {
        refusal
    } else if let Some(waits) = pool.waits {
        let ready = status.ready_replicas;
        match waits {
            Waits::Turn => (
                pools::WAITING_TO_LAUNCH,
                format!(
                    "{ready} of {desired} runners are ready; the next one waits until the cluster has CPUs to launch it: runners of \
                     all pools launch in turns"
                ),
            ),
            Waits::OwnRunners { overdue } => (
                pools::RUNNERS_STARTING,
                format!(
                    "{ready} of {desired} runners are ready; the next one waits because {overdue} runners of this pool run without \
                     a hot browser. Read their logs"
                ),
            ),
        }
    } else if pool.is_testing() && desired > 0 {
        (
            pools::CANARY_STARTING,
            "a first runner of the new shape is to load a page before the others follow".to_owned(),
        )
    } else if status.replicas > desired || status.replicas == desired && status.updated_replicas < desired {
        (
            pools::RUNNERS_LEAVING,
            format!(
                "{} runners, {} wished for, {} of the current shape",
                status.replicas, desired, status.updated_replicas
            ),
        )
    } else {
        (pools::RUNNERS_STARTING, format!("{} of {desired} runners are ready", status.ready_replicas))
    };
    let mut set = |type_, truth: bool, reason: &str, message: &str| {
        conditions::set(
            &mut status.conditions,
            type_,
            truth.into(),
            reason,
            message,
            object.metadata.generation,
            now.wall,
        );
    };
    let as_wished = format!("all {desired} runners are ready");
    if ready {
        // The column that people look at shows this reason.
        match &canary {
            Some((reason, _)) => set(READY, true, reason, &format!("{as_wished}, of the former shape: see Stalled")),
            None => set(READY, true, pools::AS_WISHED, &as_wished),
        }
    } else {
        let (reason, words) =
            trouble.as_ref().map_or((doing, words.as_str()), |(reason, words)| (*reason, words.as_str()));
        set(READY, false, reason, words);
    }
    if settled {
        set(RECONCILING, false, pools::AS_WISHED, "");
    } else {
        set(RECONCILING, true, doing, &words);
    }
    match (&trouble, &canary, &pool.unprotected) {
        (Some((reason, words)), _, _) if !ready => set(STALLED, true, reason, words),
        // Its runners serve, and yet somebody has to see to it.
        (_, Some((reason, words)), _) => set(STALLED, true, reason, words),
        (_, _, Some(words)) => set(STALLED, true, pools::BUDGET_TAKEN, words),
        (_, _, None) => set(STALLED, false, pools::AS_WISHED, ""),
    }
    status
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
