//! Order in which a pool serves queued sessions: by priority, then by fair shares of the tenants, then by creation
//! order. The operator schedules by this order. The gateway computes queue positions from it, but only over the sessions
//! that name the pool: sessions without `poolRef` are served from the same queue and can come first.

use crate::v1alpha1::{BrowserSession, WorkerPool};
use k8s_openapi::jiff::Timestamp;
use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet},
};

/// Sort key of a session: its creation time and UID, the earliest first. It depends on the object alone, so a restarted
/// operator finds the same order.
///
/// `creationTimestamp` has whole seconds. Within one second the UID decides, so the order is stable, but it is not the
/// order in which the API server created the sessions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CreationKey {
    created: Timestamp,
    uid: String,
}

impl CreationKey {
    /// Returns the key of a session.
    pub fn of(session: &BrowserSession) -> Self {
        Self {
            created: session.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0),
            uid: session.metadata.uid.clone().unwrap_or_default(),
        }
    }

    /// UID of the session.
    pub fn uid(&self) -> &str {
        &self.uid
    }
}

/// Rank of a session in the queue of a pool. The smallest rank is served first.
///
/// A higher priority ranks first. Within a priority, the tenant ranks first that would have the fewest sessions per
/// weight with one more session, so tenants approach their shares regardless of how many sessions they queue. Within a
/// tenant, the creation order decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueRank<'a> {
    priority: Reverse<i32>,
    share: Share,
    creation: &'a CreationKey,
}

impl<'a> QueueRank<'a> {
    /// Rank of a session in `pool`, where its tenant has `running` sessions.
    pub fn new(pool: &WorkerPool, priority: i32, tenant: &str, running: u32, creation: &'a CreationKey) -> Self {
        let share = Share { sessions: running.saturating_add(1), weight: pool.spec.limits.weight_of(tenant) };
        Self { priority: Reverse(priority), share, creation }
    }
}

/// Sessions per weight, compared as fractions.
#[derive(Clone, Copy, Debug)]
struct Share {
    sessions: u32,
    /// At least 1.
    weight: u32,
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        let cross = |a: Self, b: Self| u64::from(a.sessions) * u64::from(b.weight);
        cross(*self, *other).cmp(&cross(*other, *self))
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Share {}

/// The waiting sessions in the order in which `pool` serves them if no session is created or ends meanwhile. `running`
/// has the number of sessions that each tenant runs there.
pub fn order<'a>(
    pool: &WorkerPool,
    running: &BTreeMap<String, u32>,
    waiting: impl IntoIterator<Item = &'a BrowserSession>,
) -> Vec<&'a BrowserSession> {
    let sessions: BTreeMap<CreationKey, &BrowserSession> =
        waiting.into_iter().map(|session| (CreationKey::of(session), session)).collect();
    let mut queues = BTreeMap::<(Reverse<i32>, &str), BTreeSet<&CreationKey>>::new();
    for (creation, session) in &sessions {
        queues.entry((Reverse(session.spec.priority), session.tenant())).or_default().insert(creation);
    }
    let mut running: BTreeMap<&str, u32> = running.iter().map(|(tenant, count)| (tenant.as_str(), *count)).collect();
    let mut order = Vec::with_capacity(sessions.len());
    while let Some(((highest, _), _)) = queues.first_key_value() {
        // Lower priorities wait until this one is exhausted.
        let heads = queues.range((*highest, "")..).take_while(|((priority, _), _)| priority == highest).filter_map(
            |((priority, tenant), queue)| {
                let creation = *queue.first()?;
                let count = running.get(tenant).copied().unwrap_or_default();
                Some((QueueRank::new(pool, priority.0, tenant, count, creation), (*priority, *tenant)))
            },
        );
        let Some((rank, queue)) = heads.min() else { break };
        order.push(sessions[rank.creation]);
        *running.entry(queue.1).or_default() += 1;
        if let Some(rest) = queues.get_mut(&queue) {
            rest.pop_first();
            if rest.is_empty() {
                queues.remove(&queue);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1alpha1::{BrowserSessionSpec, WorkerPoolSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn session(namespace: &str, second: i64, uid: &str, priority: i32) -> BrowserSession {
        let mut session = BrowserSession::new("s", BrowserSessionSpec { priority, ..BrowserSessionSpec::default() });
        session.metadata.namespace = Some(namespace.to_owned());
        session.metadata.creation_timestamp = Some(Time(Timestamp::from_second(second).unwrap()));
        session.metadata.uid = Some(uid.to_owned());
        session
    }

    fn pool(weights: &[(&str, i32)]) -> WorkerPool {
        let mut pool = WorkerPool::new("p", WorkerPoolSpec::default());
        pool.spec.limits.tenant_weights =
            weights.iter().map(|(tenant, weight)| ((*tenant).to_owned(), *weight)).collect();
        pool
    }

    fn served(pool: &WorkerPool, running: &[(&str, u32)], waiting: &[BrowserSession]) -> Vec<String> {
        let running = running.iter().map(|(tenant, count)| ((*tenant).to_owned(), *count)).collect();
        order(pool, &running, waiting).into_iter().map(|session| session.metadata.uid.clone().unwrap()).collect()
    }

    #[test]
    fn serves_earlier_sessions_first_and_breaks_ties_by_uid() {
        let waiting = [session("a", 2, "y", 0), session("a", 1, "z", 0), session("a", 2, "x", 0)];
        assert_eq!(served(&pool(&[]), &[], &waiting), ["z", "x", "y"]);
    }

    #[test]
    fn serves_a_higher_priority_first_whatever_its_tenant_runs() {
        let waiting = [session("a", 1, "low", 0), session("b", 2, "high", 5)];
        assert_eq!(served(&pool(&[]), &[("b", 100)], &waiting), ["high", "low"]);
    }

    #[test]
    fn a_flooding_tenant_does_not_delay_other_tenants() {
        let mut waiting: Vec<_> = (0..6).map(|i| session("flood", 1, &format!("f{i}"), 0)).collect();
        waiting.extend([session("small", 2, "s0", 0), session("small", 2, "s1", 0)]);
        assert_eq!(served(&pool(&[]), &[], &waiting), ["f0", "s0", "f1", "s1", "f2", "f3", "f4", "f5"]);
        assert_eq!(served(&pool(&[]), &[("flood", 2)], &waiting)[..3], ["s0", "s1", "f0"]);
    }

    #[test]
    fn serves_a_tenant_of_weight_3_three_times_as_often() {
        let mut waiting: Vec<_> = (0..8).map(|i| session("light", 1, &format!("l{i}"), 0)).collect();
        waiting.extend((0..8).map(|i| session("heavy", 1, &format!("h{i}"), 0)));
        let first = &served(&pool(&[("heavy", 3)]), &[], &waiting)[..8];
        assert_eq!(first.iter().filter(|uid| uid.starts_with('h')).count(), 6, "{first:?}");
    }
}
