//! Sessions of a measured pool on the fleet of `dev/up`, and the clients that use them.

use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::{Claim, ClaimStats},
    harness::SessionClient,
    sessions::ObservedSessions,
    stats::{Samples, ratio},
};
use camofleet_crds::v1alpha1::{BrowserSession, StartTier};
use camofleet_e2e::{Fleet, TestNamespace, clients::NodeClient};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A claim that takes longer counts as not Ready.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// Name of the measured pool.
pub(super) const POOL: &str = "measured";
/// A page that needs no network.
pub(super) const PAGE: &str = "data:text/html,<title>measured</title>";

/// Where a client of a session loads [`PAGE`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    InitialPage,
    NewContext,
}

/// A namespace with the measured pool, and the client that creates sessions in it.
pub struct MeasuredPool {
    pub(super) space: TestNamespace,
    pub(super) client: SessionClient,
}

impl MeasuredPool {
    pub(super) async fn start(space: TestNamespace) -> Result<Self> {
        // Separate clients with their own connections, like an operator and a user, so that calls do not delay each
        // other.
        let [watching, asking, patching] = [Fleet::find().await?, Fleet::find().await?, Fleet::find().await?];
        let sessions = Arc::new(ObservedSessions::watch(watching.client).await?);
        Ok(Self { space, client: SessionClient::new(sessions, asking.client, patching.client) })
    }

    /// Creates a session, waits until it is Ready, checks its start tier, deletes it, and waits until the pool is warm
    /// again, so that each claim is measured on an idle machine.
    pub(super) async fn claim(&self, name: String, tier: StartTier) -> Result<Claim> {
        let namespace = &self.space.name;
        let claim = self.client.clone().claim(namespace.clone(), name.clone(), POOL.to_owned(), TIMEOUT).await?;
        let status = self.space.api::<BrowserSession>().get(&name).await?.status.unwrap_or_default();
        ensure!(
            claim.ready.is_none() || status.start_tier == Some(tier),
            "session {name} started with tier {:?} instead of {tier:?}, so its latency cannot be compared",
            status.start_tier
        );
        self.client.delete(namespace, &name).await?;
        self.space.warm_pool(POOL).await?;
        Ok(claim)
    }

    /// Time from the creation of a session to a loaded page. Excludes the start of Node: the client process runs before
    /// it connects.
    pub(super) async fn loaded_page(&self, target: Target) -> Result<Duration> {
        let start = Instant::now();
        let session = self.space.ready_session(json!({ "poolRef": { "name": POOL } })).await?;
        let ready = start.elapsed();
        let mut client = NodeClient::start(&self.space, &session).await?;
        client.run("return 0").await?;
        let connect = match target {
            Target::InitialPage => "await connect()",
            Target::NewContext => {
                "globalThis.browser = await playwright.firefox.connect(endpoint, options);
                 globalThis.page = await (await browser.newContext()).newPage()"
            }
        };
        let start = Instant::now();
        client.run(&format!("{connect}; await page.goto({PAGE:?})")).await?;
        let took = ready + start.elapsed();
        client.run("await browser.close()").await?;
        session.delete().await?;
        self.space.warm_pool(POOL).await?;
        Ok(took)
    }

    /// A Playwright client that drives browsers of this machine without the fleet.
    pub(super) async fn plain_client(&self) -> Result<NodeClient> {
        // `NodeClient` requires a session, even if it never connects.
        let session = self.space.ready_session(json!({ "poolRef": { "name": POOL } })).await?;
        let mut client = NodeClient::start(&self.space, &session).await?;
        client.run("return 0").await?;
        session.delete().await?;
        self.space.warm_pool(POOL).await?;
        Ok(client)
    }

    pub(super) async fn versions(&self) -> Result<Value> {
        let operator = self.space.fleet.operator().await?;
        let image = operator.spec.and_then(|spec| spec.containers.into_iter().next()?.image);
        let session = self.space.ready_session(json!({ "poolRef": { "name": POOL } })).await?;
        let status = session.object().await?.status.context("the session has no status")?;
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

/// Statistics without a total time, because other work runs between these claims.
pub(super) fn stats_without_total(claims: &[Claim]) -> ClaimStats {
    let mut stats = ClaimStats::default();
    stats.add(claims);
    ClaimStats { totals: Samples::default(), ..stats }
}

/// Ratio of the medians.
pub(super) fn ratio_of_medians(of: &Samples, to: &Samples) -> Option<f64> {
    ratio(of.percentile(50)?, to.percentile(50)?)
}

/// Runs code that returns milliseconds.
pub(super) async fn timed(client: &mut NodeClient, code: &str) -> Result<Duration> {
    let took = client.run(code).await?.as_f64().context("the code did not return a number")?;
    Ok(Duration::from_secs_f64(took / 1000.0))
}
