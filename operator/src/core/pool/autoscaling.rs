//! What an autoscaled pool's runners are needed for.

use crate::core::{
    coordinator::Core,
    ids::Key,
    outbox::Subject,
    pool::{scale::Need, state::Pool},
    runner::state::Runner,
    scheduler::queue::Demand,
};
use std::collections::BTreeMap;

impl Core {
    /// What the runners of that pool are needed for.
    pub(in crate::core) fn need_of(&self, key: &Key, pool: &Pool) -> Need {
        let mut by_tenant = BTreeMap::<&str, u32>::new();
        for (demand, lane) in self.sessions.queue().lanes() {
            if self.accepts(key, pool, demand) {
                let waiting = u32::try_from(lane.len()).unwrap_or(u32::MAX);
                *by_tenant.entry(&demand.tenant).or_default() += self.share_of(key, demand, waiting);
            }
        }
        // Runners for those who wait for others' sessions to end would stand idle.
        let of_tenants = by_tenant.iter().map(|(tenant, waiting)| (*waiting).min(pool.remaining_for_tenant(tenant)));
        let waiting = of_tenants.fold(0_u32, u32::saturating_add);
        let mut need = Need { kept: 0, free: 0, waiting, allowed: pool.remaining_sessions() };
        let slots = u32::try_from(pool.object().spec.slots_per_runner).unwrap_or(1);
        // A canary comes on top, and what goes without a session is no reason for more.
        let counts = |runner: &&Runner| {
            runner.occupies_ordinal(self.outbox.now())
                && !pool.shapes.is_canary(&runner.pod().revision)
                && !runner.is_terminating_idle()
        };
        for runner in self.runners.of(pool.object()).filter(counts) {
            if let Some(free) = runner.kept_capacity(slots) {
                need.kept += 1;
                need.free += free;
            }
        }
        need
    }

    /// For how many of so many sessions like that a pool has to have room: for all that name it, and of those that name none for
    /// those that the pools before it, by name, can make no more runners for. So two do not make them for the same session.
    fn share_of(&self, key: &Key, demand: &Demand, waiting: u32) -> u32 {
        if demand.pool.is_some() {
            return waiting;
        }
        let before = self.pools_for(demand).take_while(|(other, _)| *other != key);
        // One whose runners do not come up is no help.
        let room = before.filter(|(_, pool)| !pool.shapes.is_failing()).map(|(_, pool)| {
            let most = pool
                .object()
                .spec
                .autoscaling
                .map_or(0, |wish| wish.max_replicas * pool.object().spec.slots_per_runner);
            let left = u32::try_from(most).unwrap_or_default().saturating_sub(pool.sessions());
            left.min(pool.remaining_for_tenant(&demand.tenant)).min(pool.remaining_sessions())
        });
        waiting.saturating_sub(room.fold(0, u32::saturating_add))
    }

    /// A session begins or ceases to wait: the pools that it may mean are looked at.
    pub(in crate::core) fn demand_changed(&mut self, demand: &Demand) {
        let meant = self.pools.keys().filter(|key| self.targets(demand, key));
        self.outbox.enqueue_all(meant.cloned().map(Subject::Pool).collect::<Vec<_>>());
    }

    /// Who may use which pool may have changed, and with it what each is needed for.
    pub(in crate::core) fn admission_changed(&mut self) {
        self.outbox.enqueue(Subject::Queue);
        self.outbox.enqueue_all(self.pools.keys().cloned().map(Subject::Pool));
    }
}
