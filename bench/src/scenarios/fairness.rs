//! Three tenants share a pool that one of them floods: the share that each gets by its weight, and the longest waits of
//! the others.

use super::steps::{FLEET, POOL, start_leader};
use anyhow::{Result, ensure};
use camofleet_bench::{
    harness::{Harness, pool_of_reused_runners, session_spec},
    report::Report,
    stats::{as_f64, ratio},
};
use camofleet_crds::v1alpha1::{
    AllowedNamespaces, BrowserSessionSpec, Limits, NamespacesFrom, PoolRef, WorkerPoolSpec,
};
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use serde_json::json;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Load of each tenant and size of the pool.
#[derive(Clone, Debug, Args)]
pub struct Fairness {
    /// Sessions of the flooding tenant, which are created first.
    #[arg(long, default_value_t = 2000)]
    flood: usize,
    /// Sessions of each of the two other tenants.
    #[arg(long, default_value_t = 300)]
    others: usize,
    /// Slots of the pool.
    #[arg(long, default_value_t = 60)]
    slots: usize,
    /// Lifetime of each session.
    #[arg(long, default_value_t = 2000)]
    life_milliseconds: u64,
}

/// Tenants, which are namespaces, and their weights.
const TENANTS: [(&str, u32); 3] = [("flood", 1), ("light", 1), ("heavy", 3)];
const TIMEOUT: Duration = Duration::from_secs(600);
/// Concurrent create calls.
const CREATES: usize = 32;

struct CreatedSession {
    uid: String,
    at: Instant,
}

/// When the sessions of a tenant were created and bound.
struct Served {
    weight: f64,
    created: Instant,
    /// Sorted by time.
    binds: Vec<Instant>,
    longest_wait: Duration,
}

impl Fairness {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        let mut report = Report::new("fairness");
        harness.create_namespace(FLEET).await?;
        let mut operator = start_leader(harness, "operator-0").await?;
        harness.simulator.set_session_lifetime(Some(Duration::from_millis(self.life_milliseconds)));
        harness.create_hot_pool(FLEET, POOL, shared_pool(self.slots)).await?;

        let mut created = BTreeMap::new();
        for (tenant, weight) in TENANTS {
            harness.create_namespace(tenant).await?;
            let count = if tenant == "flood" { self.flood } else { self.others };
            eprintln!("creating {count} sessions of tenant {tenant} with weight {weight}");
            created.insert(tenant, (weight, create_sessions(harness, tenant, count).await?));
        }
        for (tenant, (_, sessions)) in &created {
            let over = |seen: &camofleet_bench::sessions::ObservedSession| seen.finished.is_some() || seen.deleted;
            harness.sessions.wait_for(sessions.len(), tenant, "finished", TIMEOUT, over).await?;
        }
        let served: BTreeMap<_, _> =
            created.iter().map(|(tenant, (weight, sessions))| (*tenant, served(harness, *weight, sessions))).collect();

        // The interval in which all three tenants have queued sessions: from the last creation to the first tenant's
        // last bind.
        let from = served.values().map(|tenant| tenant.created).max().unwrap_or_else(Instant::now);
        let to = served.values().filter_map(|tenant| tenant.binds.last()).min().copied().unwrap_or(from);
        let while_all_wait = |tenant: &Served| tenant.binds.iter().filter(|at| (from..=to).contains(*at)).count();
        let shares: BTreeMap<_, _> = served.iter().map(|(name, tenant)| (*name, while_all_wait(tenant))).collect();
        let by_weight = served.values().map(|tenant| as_f64(while_all_wait(tenant)) / tenant.weight);
        let jain = jain(&by_weight.collect::<Vec<_>>());
        // The longest wait in a fair system: the tenant's sessions at its share of the rate, and one turnover of the
        // slots.
        let rate = as_f64(shares.values().sum()) / to.duration_since(from).as_secs_f64();
        let weights: f64 = served.values().map(|tenant| tenant.weight).sum();
        let model =
            |tenant: &Served| (as_f64(tenant.binds.len()) * weights / tenant.weight + as_f64(self.slots)) / rate;
        let waits: BTreeMap<_, _> = served
            .iter()
            .filter(|(name, _)| **name != "flood")
            .map(|(name, tenant)| (*name, (tenant.longest_wait.as_secs_f64(), model(tenant))))
            .collect();

        report.set("sessions", self.flood + 2 * self.others);
        report.set("served_while_all_wait", json!(shares));
        report.set("jain_index", jain);
        report.set("served_per_second", rate);
        for (name, (wait, model)) in &waits {
            report.set(&format!("{name}_longest_wait_s"), *wait);
            report.set(&format!("{name}_longest_wait_of_model"), ratio(*wait, *model));
        }
        report.set("doubled", harness.simulator.binding_log().bound_twice().len());
        ensure!(jain >= 0.95, "Jain's fairness index of the weighted shares is {jain:.3}, below 0.95: {shares:?}");
        for (name, (wait, model)) in &waits {
            ensure!(wait <= model, "a session of tenant {name} waited {wait:.1} s, longer than its fair {model:.1} s");
        }
        operator.stop().await?;
        Ok(report)
    }
}

fn shared_pool(runners: usize) -> WorkerPoolSpec {
    let weights = TENANTS.map(|(tenant, weight)| (tenant.to_owned(), i32::try_from(weight).unwrap_or(i32::MAX)));
    WorkerPoolSpec {
        allowed_namespaces: AllowedNamespaces { from: NamespacesFrom::All, selector: None },
        limits: Limits { tenant_weights: weights.into(), ..Limits::default() },
        ..pool_of_reused_runners(runners, 1)
    }
}

async fn create_sessions(harness: &Harness, tenant: &str, count: usize) -> Result<Vec<CreatedSession>> {
    let pool = PoolRef { name: POOL.to_owned(), namespace: Some(FLEET.to_owned()) };
    let spec = BrowserSessionSpec { pool_ref: Some(pool), ..session_spec(POOL) };
    let client = harness.session_client();
    let create = |index: usize| {
        let (client, spec) = (client.clone(), spec.clone());
        async move {
            let at = Instant::now();
            let made = client.create(tenant, &format!("{tenant}-{index}"), spec).await?;
            anyhow::Ok(CreatedSession { uid: made.uid().unwrap_or_default(), at })
        }
    };
    stream::iter(0..count).map(create).buffer_unordered(CREATES).try_collect().await
}

fn served(harness: &Harness, weight: u32, sessions: &[CreatedSession]) -> Served {
    let binding_log = harness.simulator.binding_log();
    let bound =
        sessions.iter().filter_map(|created| Some((created.at, binding_log.of_session(&created.uid).first()?.bound)));
    let bound: Vec<_> = bound.collect();
    let mut binds: Vec<_> = bound.iter().map(|(_, bound)| *bound).collect();
    binds.sort_unstable();
    Served {
        weight: f64::from(weight),
        created: sessions.iter().map(|created| created.at).max().unwrap_or_else(Instant::now),
        binds,
        longest_wait: bound.iter().map(|(created, bound)| bound.duration_since(*created)).max().unwrap_or_default(),
    }
}

/// Jain's fairness index: 1 for equal shares, 1/n if one of n has everything (Jain, Chiu, Hawe 1984).
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), share| (sum + share, squares + share * share));
    sum * sum / (as_f64(shares.len()) * squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_is_1_for_equal_shares_and_1_over_n_for_one_tenant() {
        assert!((jain(&[2.0, 2.0, 2.0]) - 1.0).abs() < 1e-9);
        assert!((jain(&[2.0, 0.0, 0.0]) - 1.0 / 3.0).abs() < 1e-9);
    }
}
