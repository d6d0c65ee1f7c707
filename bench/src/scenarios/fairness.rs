//! Three tenants on one pool, of which one floods it: what each is served, by its weight, and how long the others wait.

use super::{FLEET, POOL, leader};
use anyhow::{Result, ensure};
use camofleet_bench::{
    figures::{number, ratio},
    harness::{Harness, lasting_pool, of_pool},
    report::Report,
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

/// Who asks for how much.
#[derive(Clone, Debug, Args)]
pub struct Fairness {
    /// Sessions of the tenant that floods, which comes first.
    #[arg(long, default_value_t = 2000)]
    flood: usize,
    /// Sessions of each of the two that come after it.
    #[arg(long, default_value_t = 300)]
    others: usize,
    /// Slots.
    #[arg(long, default_value_t = 60)]
    slots: usize,
    /// How long each session lives.
    #[arg(long, default_value_t = 2000)]
    life_milliseconds: u64,
}

/// Each tenant is a namespace, with its weight.
const TENANTS: [(&str, u32); 3] = [("flood", 1), ("light", 1), ("heavy", 3)];
const PATIENCE: Duration = Duration::from_secs(600);
/// Creates at once.
const CREATES: usize = 32;

/// A session that was asked for.
struct Asked {
    uid: String,
    at: Instant,
}

/// When a tenant's sessions were asked for and served.
struct Served {
    weight: f64,
    asked: Instant,
    /// In the order in which it happened.
    binds: Vec<Instant>,
    longest_wait: Duration,
}

impl Fairness {
    pub async fn run(self, harness: &Harness) -> Result<Report> {
        let mut report = Report::new("fairness");
        harness.namespace(FLEET).await?;
        let mut operator = leader(harness, "operator-0").await?;
        harness.simulator.let_sessions_live(Some(Duration::from_millis(self.life_milliseconds)));
        harness.hot_pool(FLEET, POOL, shared_pool(self.slots)).await?;

        let mut asked = BTreeMap::new();
        for (tenant, weight) in TENANTS {
            harness.namespace(tenant).await?;
            let count = if tenant == "flood" { self.flood } else { self.others };
            eprintln!("{count} sessions of tenant {tenant}, of weight {weight}");
            asked.insert(tenant, (weight, ask(harness, tenant, count).await?));
        }
        for (tenant, (_, sessions)) in &asked {
            let over = |seen: &camofleet_bench::sessions::Seen| seen.finished.is_some() || seen.gone;
            harness.sessions.wait_for(sessions.len(), tenant, "finished", PATIENCE, over).await?;
        }
        let served: BTreeMap<_, _> =
            asked.iter().map(|(tenant, (weight, sessions))| (*tenant, served(harness, *weight, sessions))).collect();

        // While all three wait: from the last one's coming until the first of them has nothing left.
        let from = served.values().map(|tenant| tenant.asked).max().unwrap_or_else(Instant::now);
        let to = served.values().filter_map(|tenant| tenant.binds.last()).min().copied().unwrap_or(from);
        let while_all_wait = |tenant: &Served| tenant.binds.iter().filter(|at| (from..=to).contains(*at)).count();
        let shares: BTreeMap<_, _> = served.iter().map(|(name, tenant)| (*name, while_all_wait(tenant))).collect();
        let by_weight = served.values().map(|tenant| number(while_all_wait(tenant)) / tenant.weight);
        let jain = jain(&by_weight.collect::<Vec<_>>());
        // What a tenant is due: its part of what is served. It waits for its own turns, and for one turnover of the slots.
        let rate = number(shares.values().sum()) / to.duration_since(from).as_secs_f64();
        let weights: f64 = served.values().map(|tenant| tenant.weight).sum();
        let model =
            |tenant: &Served| (number(tenant.binds.len()) * weights / tenant.weight + number(self.slots)) / rate;
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
        report.set("doubled", harness.simulator.record().doubled().len());
        ensure!(jain >= 0.95, "Jain's index of what was served, by weight, is {jain:.3}: {shares:?}");
        for (name, (wait, model)) in &waits {
            ensure!(wait <= model, "a session of tenant {name} waited {wait:.1} s, and {model:.1} s are due");
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
        ..lasting_pool(runners, 1)
    }
}

async fn ask(harness: &Harness, tenant: &str, count: usize) -> Result<Vec<Asked>> {
    let pool = PoolRef { name: POOL.to_owned(), namespace: Some(FLEET.to_owned()) };
    let spec = BrowserSessionSpec { pool_ref: Some(pool), ..of_pool(POOL) };
    let claims = harness.claims();
    let create = |index: usize| {
        let (claims, spec) = (claims.clone(), spec.clone());
        async move {
            let at = Instant::now();
            let made = claims.create(tenant, &format!("{tenant}-{index}"), spec).await?;
            anyhow::Ok(Asked { uid: made.uid().unwrap_or_default(), at })
        }
    };
    stream::iter(0..count).map(create).buffer_unordered(CREATES).try_collect().await
}

fn served(harness: &Harness, weight: u32, sessions: &[Asked]) -> Served {
    let record = harness.simulator.record();
    let bound = sessions.iter().filter_map(|asked| Some((asked.at, record.bindings(&asked.uid).first()?.bound)));
    let bound: Vec<_> = bound.collect();
    let mut binds: Vec<_> = bound.iter().map(|(_, bound)| *bound).collect();
    binds.sort_unstable();
    Served {
        weight: f64::from(weight),
        asked: sessions.iter().map(|asked| asked.at).max().unwrap_or_else(Instant::now),
        binds,
        longest_wait: bound.iter().map(|(asked, bound)| bound.duration_since(*asked)).max().unwrap_or_default(),
    }
}

/// Jain's index of fairness: 1 when all are equal, 1/n when one has all (Jain, Chiu, Hawe 1984).
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), share| (sum + share, squares + share * share));
    sum * sum / (number(shares.len()) * squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_are_fair_and_one_that_has_all_is_not() {
        assert!((jain(&[2.0, 2.0, 2.0]) - 1.0).abs() < 1e-9);
        assert!((jain(&[2.0, 0.0, 0.0]) - 1.0 / 3.0).abs() < 1e-9);
    }
}
