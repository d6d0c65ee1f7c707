//! Computes the demand for an autoscaled pool's runners.

use crate::core::{
    coordinator::Coordinator,
    ids::Key,
    pool::{scale::RunnerDemand, state::Pool},
    runner::state::Runner,
    scheduler::queue::Demand,
    step_context::ReconcileKey,
};
use std::collections::BTreeMap;

impl Coordinator {
    /// The demand for the pool's runners.
    pub(in crate::core) fn runner_demand(&self, key: &Key, pool: &Pool) -> RunnerDemand {
        let mut by_tenant = BTreeMap::<&str, u32>::new();
        for (demand, lane) in self.sessions.queue().lanes() {
            if self.accepts(key, pool, demand) {
                let waiting = u32::try_from(lane.len()).unwrap_or(u32::MAX);
                *by_tenant.entry(&demand.tenant).or_default() += self.sessions_to_serve(key, demand, waiting);
            }
        }
        // Sessions that wait for their tenant's limit need no runner.
        let of_tenants = by_tenant.iter().map(|(tenant, waiting)| (*waiting).min(pool.remaining_for_tenant(tenant)));
        let waiting = of_tenants.fold(0_u32, u32::saturating_add);
        let mut runner_demand = RunnerDemand {
            busy_runners: 0,
            free_slots: 0,
            waiting_sessions: waiting,
            sessions_allowed: pool.remaining_sessions(),
        };
        let slots = u32::try_from(pool.object().spec.slots_per_runner).unwrap_or(1);
        // Canaries are additional, and idle runners that terminate are being replaced.
        let counts = |runner: &&Runner| {
            runner.occupies_ordinal(self.context.now())
                && !pool.shapes.is_canary(&runner.pod().revision)
                && !runner.is_terminating_idle()
        };
        for runner in self.runners.of(pool.object()).filter(counts) {
            if !runner.is_replaceable_idle(slots) {
                runner_demand.busy_runners += 1;
                runner_demand.free_slots += runner.free_slots(slots);
            }
        }
        runner_demand
    }

    /// Number of `waiting` sessions with this demand for which the pool has to provide runners. A pool provides for all
    /// sessions that name it. Sessions that name no pool are distributed over the pools that accept them, in order of
    /// names: a pool provides for those that exceed the capacity of the pools before it, so that two pools do not
    /// create runners for the same session.
    fn sessions_to_serve(&self, key: &Key, demand: &Demand, waiting: u32) -> u32 {
        if demand.pool.is_some() {
            return waiting;
        }
        let before = self.pools_for(demand).take_while(|(other, _)| *other != key);
        // A pool whose runners fail before they become warm provides no capacity.
        let capacity = before.filter(|(_, pool)| !pool.shapes.is_failing()).map(|(_, pool)| {
            let max = pool
                .object()
                .spec
                .autoscaling
                .map_or(0, |autoscaling| autoscaling.max_replicas * pool.object().spec.slots_per_runner);
            let remaining = u32::try_from(max).unwrap_or_default().saturating_sub(pool.sessions());
            remaining.min(pool.remaining_for_tenant(&demand.tenant)).min(pool.remaining_sessions())
        });
        waiting.saturating_sub(capacity.fold(0, u32::saturating_add))
    }

    /// Enqueues the pools that a session with this demand may use, because it started or stopped waiting.
    pub(in crate::core) fn enqueue_pools_for(&mut self, demand: &Demand) {
        let targeted = self.pools.keys().filter(|key| self.targets(demand, key));
        self.context.enqueue_all(targeted.cloned().map(ReconcileKey::Pool).collect::<Vec<_>>());
    }

    /// Enqueues the queue and all pools, because access to pools may have changed.
    pub(in crate::core) fn admission_changed(&mut self) {
        self.context.enqueue(ReconcileKey::Queue);
        self.context.enqueue_all(self.pools.keys().cloned().map(ReconcileKey::Pool));
    }
}
