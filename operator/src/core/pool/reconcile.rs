//! Reconciles pools: keeps the desired number of runner pods in the current shape, removes surplus and outdated ones
//! without ending sessions early, and publishes the status.

use crate::core::{
    clock::{Monotonic, Now},
    cluster::LabelChange,
    coordinator::Coordinator,
    ids::{Key, Uid, version},
    messages::{Change, Effect, Namespace, Observation, WriteFailure},
    pool::{
        diagnosis::PROGRESS_DEADLINE,
        rollout::{Rollout, outdated},
        scale::RunnerDemand,
        state::{CountChange, FINALIZER, Pool},
        status,
        writes::AcceptedWrite,
    },
    runner::state::Runner,
    status_write::observe_pruned,
    step_context::{ReconcileKey, StepContext},
};
use camofleet_crds::v1alpha1::WorkerPool;
use std::{cmp::Reverse, sync::Arc, time::Duration};

/// Time after the drain deadline at which the finalizer of a deleted pool is removed, even if runners are left.
const FINALIZER_GRACE: Duration = Duration::from_secs(60);

impl Coordinator {
    pub(in crate::core) fn pool_applied(&mut self, object: Arc<WorkerPool>) {
        let key = Key::of(object.as_ref());
        let known = self.pools.get_mut(&key).filter(|known| known.is_same_pool(&object));
        match known {
            // An answer that arrives after the watch event contains an older version.
            Some(pool) if version(object.as_ref()) < version(pool.object().as_ref()) => return,
            Some(pool) => {
                let spec_changed = pool.replace_object(object, &self.installation);
                // The operator writes the status up to once a second. No waiting session depends on it.
                if !spec_changed {
                    self.context.enqueue(ReconcileKey::Pool(key));
                    return;
                }
                self.adopt_running_shape(&key);
            }
            None => {
                let mut pool = Pool::new(object, &self.installation);
                let assigned: Vec<_> = self.runners.of(pool.object()).flat_map(Runner::sessions).cloned().collect();
                for uid in assigned {
                    pool.adjust_running(self.sessions[&uid].object().tenant(), CountChange::Added);
                }
                self.pools.insert(key.clone(), pool);
                self.adopt_claimants(&key);
            }
        }
        self.pool_changed(&key);
    }

    /// Skips the canary if a warm runner already has the update shape, as after a change that is reverted during its
    /// rollout.
    fn adopt_running_shape(&mut self, key: &Key) {
        let pool = &self.pools[key];
        let update_revision = pool.shapes.update().revision.clone();
        let has_warm_runner = self
            .runners
            .of(pool.object())
            .any(|runner| runner.pod().revision == update_revision && runner.is_warm() && !runner.is_terminating());
        if let Some(pool) = self.pools.get_mut(key).filter(|_| has_warm_runner) {
            pool.shapes.runner_became_warm(&update_revision);
        }
    }

    pub(in crate::core) fn pool_gone(&mut self, key: &Key) {
        if self.pools.remove(key).is_some() {
            self.context.clear_timer(&ReconcileKey::Pool(key.clone()));
            self.pool_changed(key);
            self.context.send(Effect::DeletePoolMetrics { pool: key.clone() });
        }
    }

    /// Re-evaluates the waiting sessions that may use the pool.
    fn pool_changed(&mut self, key: &Key) {
        self.admission_changed();
        self.context.enqueue(ReconcileKey::Pool(key.clone()));
        let installation = &self.installation.namespace;
        let waiting = self.sessions.queue().waiting(|demand| demand.targets(key, installation));
        self.context.enqueue_all(waiting.into_iter().map(ReconcileKey::Session));
    }

    pub(in crate::core) fn namespace_changed(&mut self, change: Change<Namespace>) {
        let label_change = self.cluster.namespace_changed(change);
        if label_change == LabelChange::None {
            return;
        }
        self.admission_changed();
        let waiting = self.sessions.queue().waiting(|demand| label_change.includes(&demand.namespace));
        self.context.enqueue_all(waiting.into_iter().map(ReconcileKey::Session));
    }

    /// Reconciles a pool, except for new pods, which are created for all pools together
    /// ([`Coordinator::launch_runners`]).
    pub(in crate::core) fn reconcile_pool(&mut self, key: &Key) {
        let now = self.context.monotonic();
        let Some(pool) = self.pools.get_mut(key) else { return };
        pool.ordinals.expire_creations(now);
        if pool.is_deleted() {
            self.drain_deleted_pool(key);
        } else {
            self.ensure_finalizer_and_budget(key);
            // Before all runners have reported, the idle ones are not known.
            if self.may_schedule() {
                self.update_scale(key);
                self.remove_runners(key);
            }
            self.find_missing_pods(key);
        }
        self.publish_pool(key);
        let timer = self.next_pool_timer(key);
        self.context.set_timer(ReconcileKey::Pool(key.clone()), timer);
    }

    /// Updates the desired number of runners, and whether the pool is short of them.
    fn update_scale(&mut self, key: &Key) {
        let now = self.context.monotonic();
        let pool = &self.pools[key];
        let demand =
            pool.object().spec.autoscaling.map_or_else(RunnerDemand::default, |_| self.runner_demand(key, pool));
        let serving = self.runners.of(pool.object()).filter(|runner| runner.counts_as_available()).count();
        let Some(pool) = self.pools.get_mut(key) else { return };
        pool.update_scale(demand, serving, now);
    }

    fn ensure_finalizer_and_budget(&mut self, key: &Key) {
        let now = self.context.monotonic();
        let Some(pool) = self.pools.get_mut(key) else { return };
        let finalizers = pool.object().metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            let finalizers = finalizers.into_iter().chain([FINALIZER.to_owned()]).collect();
            set_finalizers(&mut self.context, pool, finalizers);
        }
        if pool.disruption_budget.begin(pool.object().spec.disruption, now) {
            self.context.send(Effect::ApplyDisruptionBudget { pool: pool.object().clone() });
        }
    }

    pub(in crate::core) fn disruption_budget_applied(
        &mut self,
        protected: &WorkerPool,
        answer: Result<(), WriteFailure>,
    ) {
        let now = self.context.monotonic();
        let key = &Key::of(protected);
        let Some(pool) = self.pools.get_mut(key).filter(|pool| pool.is_same_pool(protected)) else { return };
        pool.disruption_budget.answered(answer, pool.object().spec.disruption, &key.name, now);
        self.context.enqueue(ReconcileKey::Pool(key.clone()));
    }

    /// Deletes the runners of a deleted pool. Removes the finalizer when they are gone or the deadline has passed.
    fn drain_deleted_pool(&mut self, key: &Key) {
        let now = self.context.now();
        let pool = &self.pools[key];
        let runners: Vec<_> = self
            .runners
            .of(pool.object())
            .map(|runner| (runner.pod().uid.clone(), runner.occupies_ordinal(now)))
            .collect();
        for (uid, _) in &runners {
            self.delete_pod(uid, "pool is being deleted");
        }
        let Some(pool) = self.pools.get_mut(key) else { return };
        pool.ordinals.clear_missing();
        let empty = !runners.iter().any(|(_, occupies)| *occupies) && pool.ordinals.creating() == 0;
        let overdue = deadline_of(pool.object(), now).is_some_and(|deadline| deadline <= now.monotonic);
        let finalizers = pool.object().metadata.finalizers.clone().unwrap_or_default();
        if (empty || overdue) && finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            let finalizers = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
            set_finalizers(&mut self.context, pool, finalizers);
        }
    }

    /// Deletes runners that are spent, on a cordoned node, surplus or outdated. Runners that have not reported to this
    /// leader stay, because they may have sessions.
    fn remove_runners(&mut self, key: &Key) {
        let now = self.context.now();
        let pool = &self.pools[key];
        let mut remaining: Vec<&Runner> = self
            .runners
            .of(pool.object())
            .filter(|runner| runner.occupies_ordinal(now) && !runner.is_terminating())
            .collect();
        let mut removed: Vec<(Uid, &'static str)> = Vec::new();
        remaining.retain(|runner| {
            let spent = runner.is_up() && runner.is_idle() && runner.is_spent();
            let reason = if runner.may_have_unknown_sessions() {
                return true;
            } else if spent {
                "runner has served its sessions"
            } else if self.is_cordoned(runner) {
                "node is cordoned"
            } else {
                return true;
            };
            removed.push((runner.pod().uid.clone(), reason));
            false
        });
        let rollout = Rollout::of(pool, self.runners.of(pool.object()).filter(|runner| runner.occupies_ordinal(now)));
        // The canary is additional to the desired number.
        remaining.retain(|runner| !rollout.has_canary || !pool.shapes.is_canary(&runner.pod().revision));
        // Remove the least useful surplus runners first and those with sessions last. Prefer nodes with few sessions,
        // so that nodes become empty.
        let on_nodes = self.runners.sessions_on_nodes();
        let sessions_on_node =
            |runner: &Runner| runner.pod().node.as_ref().and_then(|node| on_nodes.get(node)).copied();
        remaining.sort_by_key(|runner| {
            let current = runner.pod().revision == pool.shapes.current_or_update().revision;
            (runner.used(), runner.is_warm(), current, sessions_on_node(runner), Reverse(runner.pod().ordinal))
        });
        let target = rollout.target - usize::from(rollout.has_canary);
        let terminating: Vec<&Runner> = self
            .runners
            .of(pool.object())
            .filter(|runner| runner.occupies_ordinal(now) && runner.is_terminating())
            .collect();
        let draining = terminating.iter().filter(|runner| !runner.is_terminating_idle()).count();
        let surplus: Vec<Uid> = if pool.object().spec.autoscaling.is_some() || rollout.makes_room_for_canary {
            // Draining runners count towards the desired number, so that no runner with a session is removed in their
            // place.
            let excess = (remaining.len() + draining).saturating_sub(target);
            remaining
                .iter()
                .filter(|runner| runner.is_idle())
                .take(excess)
                .map(|runner| runner.pod().uid.clone())
                .collect()
        } else {
            let excess = remaining.len().saturating_sub(target);
            let known = remaining.iter().filter(|runner| !runner.may_have_unknown_sessions());
            known.take(excess).map(|runner| runner.pod().uid.clone()).collect()
        };
        remaining.retain(|runner| !surplus.contains(&runner.pod().uid));
        removed.extend(surplus.into_iter().map(|uid| (uid, "pool has surplus runners")));
        removed.extend(
            outdated(pool, &remaining, &terminating).into_iter().map(|uid| (uid, "runner has an outdated revision")),
        );
        for (uid, reason) in removed {
            self.delete_pod(&uid, reason);
        }
    }

    /// Finds the ordinals that lack a pod. A pod holds its ordinal until it has terminated or is stuck.
    fn find_missing_pods(&mut self, key: &Key) {
        let now = self.context.now();
        let pool = &self.pools[key];
        let counted = || self.runners.of(pool.object()).filter(|runner| runner.occupies_ordinal(now));
        let target = Rollout::of(pool, counted()).target;
        let lacks_canary = self.lacks_canary(pool);
        // The successor of an idle terminating runner does not wait for its end, but takes another ordinal.
        let replaced = counted().filter(|runner| runner.is_terminating_idle()).count();
        let occupied: Vec<u32> = counted().map(|runner| runner.pod().ordinal).collect();
        let Some(pool) = self.pools.get_mut(key) else { return };
        let taken = occupied.len() + pool.ordinals.creating();
        // The canary does not wait for draining runners.
        let wanted = (target + replaced).saturating_sub(taken).max(usize::from(lacks_canary));
        let wanted = if pool.shapes.has_no_valid_shape() { 0 } else { wanted };
        pool.ordinals.set_missing(wanted, &occupied, now.monotonic);
    }

    fn publish_pool(&mut self, key: &Key) {
        let now = self.context.now();
        let Some(pool) = self.pools.get(key) else { return };
        if pool.writes.status_is_blocked(now.monotonic) {
            return;
        }
        let runners: Vec<&Runner> =
            self.runners.of(pool.object()).filter(|runner| runner.occupies_ordinal(now)).collect();
        let desired = status::of_pool(pool, &runners, self.queued_for(key), &self.installation, now);
        if !pool.writes.status().is_due(pool.object().status.as_ref(), &desired, now.monotonic) {
            return;
        }
        let object = pool.object().clone();
        if let Some(pool) = self.pools.get_mut(key) {
            pool.writes.begin_status(desired.clone(), now.monotonic);
        }
        self.context.send(Effect::PatchPool { pool: object, status: Box::new(desired) });
    }

    pub(in crate::core) fn pool_patched(
        &mut self,
        written: &WorkerPool,
        answer: Result<Option<Arc<WorkerPool>>, WriteFailure>,
    ) {
        let now = self.context.monotonic();
        let key = &Key::of(written);
        let Some(pool) = self.pools.get_mut(key).filter(|pool| pool.is_same_pool(written)) else { return };
        let object = match answer {
            Ok(object) => {
                let object = object.filter(|object| pool.is_same_pool(object));
                let stored = object.as_ref().unwrap_or(pool.object()).clone();
                let finalizers = stored.metadata.finalizers.as_deref().unwrap_or_default();
                match pool.writes.accepted(stored.status.as_ref(), finalizers, &key.name, now) {
                    AcceptedWrite::Status { pruned } => {
                        self.context.send_all(observe_pruned("WorkerPool", key.clone(), pruned));
                    }
                    AcceptedWrite::Finalizers { reverted: true } => {
                        let field = "metadata.finalizers".to_owned();
                        let reverted = Observation::Reverted { kind: "WorkerPool", object: key.clone(), field };
                        self.context.send(Effect::Observe(reverted));
                    }
                    AcceptedWrite::Finalizers { reverted: false } | AcceptedWrite::FormerTerm => {}
                }
                object
            }
            Err(failure) => {
                pool.writes.failed(&failure, &key.name, now);
                None
            }
        };
        if let Some(object) = object {
            self.pool_applied(object);
        }
        self.context.enqueue(ReconcileKey::Pool(key.clone()));
    }

    pub(in crate::core) fn next_pool_timer(&self, key: &Key) -> Option<Monotonic> {
        let pool = self.pools.get(key)?;
        let now = self.context.now();
        let mut timers: Vec<Option<Monotonic>> = Vec::new();
        timers.extend(pool.writes.timers().chain(pool.disruption_budget.timers()).map(Some));
        timers.extend(pool.shapes.pauses().chain(pool.ordinals.timers()).map(Some));
        timers.push(deadline_of(pool.object(), now));
        timers.push(pool.scale_down_at());
        timers.push(pool.short_of_runners_since().map(|since| since.after(PROGRESS_DEADLINE)));
        timers.extend(
            self.runners
                .of(pool.object())
                .filter(|runner| pool.shapes.is_canary(&runner.pod().revision))
                .map(|canary| Some(canary.created().after(PROGRESS_DEADLINE))),
        );
        // Check every second whether other launches have ended or a terminating pod is stuck.
        if pool.ordinals.lacks_pods()
            || self.runners.of(pool.object()).any(|runner| runner.pod().deletion_deadline.is_some())
        {
            timers.push(Some(now.monotonic.after(Duration::from_secs(1))));
        }
        // Everything due now is done. An earlier time would only cause an idle step.
        timers.into_iter().flatten().filter(|at| *at > now.monotonic).min()
    }
}

fn set_finalizers(context: &mut StepContext, pool: &mut Pool, finalizers: Vec<String>) {
    if pool.writes.begin_finalizers(&finalizers, context.monotonic()) {
        context.send(Effect::SetFinalizers { pool: pool.object().clone(), finalizers });
    }
}

/// When the finalizer of a deleted pool is removed in any case.
fn deadline_of(pool: &WorkerPool, now: Now) -> Option<Monotonic> {
    let deleted = now.monotonic_of(pool.metadata.deletion_timestamp.as_ref()?.0);
    let drain = Duration::from_secs(u64::try_from(pool.spec.rollout.drain_timeout_seconds).unwrap_or_default());
    Some(deleted.after(drain).after(FINALIZER_GRACE))
}
