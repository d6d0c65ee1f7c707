//! Scenarios on the fleet that `dev/up` made, with real browsers and a real Playwright client. Nothing else uses the fleet
//! meanwhile.

mod cold;
mod hot;

use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::{Claim, ClaimStats},
    harness::Claims,
    machine,
    report::Report,
    sessions::Sessions,
    stats::{Samples, ratio},
};
use camofleet_crds::v1alpha1::{BrowserSession, StartTier};
use camofleet_e2e::{Fleet, Space, clients::NodeClient, test_alone};
use clap::Subcommand;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A claim that is not Ready by then counts as one that is not.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The pool of what is measured.
const POOL: &str = "measured";
/// A page that no network is needed for.
const PAGE: &str = "data:text/html,<title>measured</title>";

/// What is measured on a cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterScenario {
    /// On the fleet of dev/up: claims on hot browsers, one after another, and pages loaded in them.
    Hot(hot::Hot),
    /// On the fleet of dev/up: claims that a browser is launched for, and pages loaded in it.
    Cold(cold::Cold),
}

impl ClusterScenario {
    /// Measures it, and prints what came of it.
    ///
    /// # Panics
    /// When it fails, after it was said how the fleet stands.
    pub fn run(self) {
        match self {
            Self::Hot(hot) => {
                let pool = json!({ "sessionsPerRunner": 0 });
                test_alone("bench-hot", |space| measure_and_print(space, pool, async |bench| hot.run(bench).await));
            }
            Self::Cold(cold) => {
                let never_hot = json!({ "sessionsPerRunner": 0, "prewarm": { "headless": 0, "headful": 0 } });
                test_alone("bench-cold", |space| {
                    measure_and_print(space, never_hot, async |bench| cold.run(bench).await)
                });
            }
        }
    }
}

/// Measures a pool of that spec.
async fn measure_and_print(
    space: Space,
    pool: Value,
    measure: impl AsyncFnOnce(&Bench) -> Result<Report>,
) -> Result<()> {
    let machine = machine::describe();
    space.pool(POOL, pool).await?;
    let bench = Bench::start(space).await?;
    let versions = bench.versions().await?;
    measure(&bench).await?.print(machine, versions);
    Ok(())
}

/// A namespace of the fleet with a pool, and who makes claims in it.
pub struct Bench {
    space: Space,
    claims: Claims,
}

impl Bench {
    async fn start(space: Space) -> Result<Self> {
        // Clients of their own, as an operator and a user have: nobody waits behind another's calls.
        let [watching, asking, patching] = [Fleet::find().await?, Fleet::find().await?, Fleet::find().await?];
        let sessions = Arc::new(Sessions::watch(watching.client).await?);
        Ok(Self { space, claims: Claims::new(sessions, asking.client, patching.client) })
    }

    /// Makes a session, waits until it is Ready by that tier, ends it, and waits until the pool is as it was: claims are
    /// measured on a machine at rest.
    async fn claim(&self, name: String, tier: StartTier) -> Result<Claim> {
        let namespace = &self.space.namespace;
        let claim = self.claims.clone().claim(namespace.clone(), name.clone(), POOL.to_owned(), TIMEOUT).await?;
        let status = self.space.api::<BrowserSession>().get(&name).await?.status.unwrap_or_default();
        ensure!(
            claim.ready.is_none() || status.start_tier == Some(tier),
            "session {name} started by tier {:?}, not {tier:?}: the figures would mix two things",
            status.start_tier
        );
        self.claims.delete(namespace, &name).await?;
        self.space.warm_pool(POOL).await?;
        Ok(claim)
    }

    /// From the create of a session until a page is loaded in the page that it has open. Starting Node is no part of
    /// it: the client that connects is one that has been there before.
    async fn loaded_page(&self) -> Result<Duration> {
        let start = Instant::now();
        let session = self.space.ready_session(json!({ "poolRef": { "name": POOL } })).await?;
        let ready = start.elapsed();
        let mut client = NodeClient::start(&self.space, &session).await?;
        client.run("return 0").await?;
        let start = Instant::now();
        client.run(&format!("await connect(); await page.goto({PAGE:?})")).await?;
        let took = ready + start.elapsed();
        client.run("await browser.close()").await?;
        session.delete().await?;
        self.space.warm_pool(POOL).await?;
        Ok(took)
    }

    /// A Playwright client that is to drive browsers of this machine, without a fleet.
    async fn plain_client(&self) -> Result<NodeClient> {
        // A client is made for a session, whether it connects or not.
        let session = self.space.ready_session(json!({ "poolRef": { "name": POOL } })).await?;
        let mut client = NodeClient::start(&self.space, &session).await?;
        client.run("return 0").await?;
        session.delete().await?;
        self.space.warm_pool(POOL).await?;
        Ok(client)
    }

    async fn versions(&self) -> Result<Value> {
        let operator = self.space.fleet.operator().await?;
        let image = operator.spec.and_then(|spec| spec.containers.into_iter().next()?.image);
        let session = self.space.ready_session(json!({ "poolRef": { "name": POOL } })).await?;
        let status = session.object().await?.status.context("a session that is Ready has a status")?;
        session.delete().await?;
        self.space.warm_pool(POOL).await?;
        Ok(json!({
            "kubernetes": self.space.fleet.client.apiserver_version().await?.git_version,
            "operator": image,
            "engine": status.engine,
            "browser": status.browser_version,
            "playwright": status.playwright_version,
        }))
    }
}

/// The figures of claims between which other things were waited for, so that all of them together mean nothing.
fn stats_without_total(claims: &[Claim]) -> ClaimStats {
    let mut stats = ClaimStats::default();
    stats.add(claims);
    ClaimStats { totals: Samples::default(), ..stats }
}

/// How many times longer the one takes, in the median.
fn ratio_of_medians(of: &Samples, to: &Samples) -> Option<f64> {
    ratio(of.percentile(50)?, to.percentile(50)?)
}

/// How long the code took, which returns milliseconds.
async fn timed(client: &mut NodeClient, code: &str) -> Result<Duration> {
    let took = client.run(code).await?.as_f64().context("a time is a number")?;
    Ok(Duration::from_secs_f64(took / 1000.0))
}
