//! Claims of hot browsers, compared with the API server alone; and page loads, compared with a running Playwright
//! server.

use super::measured_pool::{MeasuredPool, PAGE, TIMEOUT, Target, ratio_of_medians, stats_without_total, timed};
use anyhow::Result;
use camofleet_bench::{
    arrivals::ClaimStats,
    report::Report,
    stats::{Samples, as_f64, ratio},
};
use camofleet_crds::v1alpha1::StartTier;
use camofleet_e2e::{clients::FIREFOX, metrics};
use clap::Args;

/// Number of samples.
#[derive(Debug, Args)]
pub struct Hot {
    /// Number of claims.
    #[arg(long, default_value_t = 50)]
    claims: usize,
    /// Number of page loads.
    #[arg(long, default_value_t = 20)]
    pages: usize,
}

impl Hot {
    pub async fn run(self, measured: &MeasuredPool) -> Result<Report> {
        let mut report = Report::new("hot");
        // The first session opens the client's connections.
        self.claims(measured, "first", 1).await?;

        // Half of the floor before the fleet and half after, so that a machine that changes speed favours neither.
        eprintln!("measuring the floor");
        let first_half = self.claims.div_ceil(2);
        let mut floor = self.floor(measured, "before", first_half).await?;
        eprintln!("measuring the fleet");
        let before = writes(measured).await?;
        let fleet = self.claims(measured, "hot", self.claims).await?;
        let written = writes(measured).await? - before;
        eprintln!("measuring the floor again");
        floor.merge(&self.floor(measured, "after", self.claims - first_half).await?);
        report.claims(&fleet);
        report.compare_with_floor(&fleet, &floor);
        report.set("writes_per_session", ratio(written, as_f64(self.claims)));

        eprintln!("measuring page loads");
        let [pages, contexts, plain] = self.pages(measured).await?;
        for (key, samples) in [("page", &pages), ("new_context_page", &contexts), ("plain_page", &plain)] {
            for percent in [50, 90, 99] {
                report.set(&format!("{key}_p{percent}_ms"), samples.percentile(percent));
            }
        }
        report.set("page_ratio", ratio_of_medians(&pages, &plain));
        report.set("new_context_page_ratio", ratio_of_medians(&contexts, &plain));
        Ok(report)
    }

    async fn claims(&self, measured: &MeasuredPool, what: &str, count: usize) -> Result<ClaimStats> {
        let mut claims = Vec::new();
        for index in 0..count {
            claims.push(measured.claim(format!("{what}-{index}"), StartTier::Hot).await?);
        }
        Ok(stats_without_total(&claims))
    }

    async fn floor(&self, measured: &MeasuredPool, what: &str, count: usize) -> Result<ClaimStats> {
        let mut claims = Vec::new();
        let namespace = &measured.space.name;
        for index in 0..count {
            let name = format!("{what}-{index}");
            // The pool does not exist and the status names no runner, so the operator ignores the session for longer
            // than this takes.
            claims.push(measured.client.clone().floor(namespace.clone(), name.clone(), TIMEOUT).await?);
            measured.client.delete(namespace, &name).await?;
        }
        Ok(stats_without_total(&claims))
    }

    /// Page loads in the initial page, in a new context, and in a new context of a plain server, alternating.
    async fn pages(&self, measured: &MeasuredPool) -> Result<[Samples; 3]> {
        let mut client = measured.plain_client().await?;
        let server = format!("{{ channel: 'moz-firefox', executablePath: {FIREFOX:?}, headless: true }}");
        client.run(&format!("globalThis.plain = await playwright.firefox.launchServer({server}); return 0")).await?;
        let plain_page = format!(
            "const start = performance.now(); const browser = await playwright.firefox.connect(plain.wsEndpoint());
             const page = await (await browser.newContext()).newPage(); await page.goto({PAGE:?});
             const took = performance.now() - start; await browser.close(); return took"
        );
        let [mut pages, mut contexts, mut plain] = [Samples::default(), Samples::default(), Samples::default()];
        for _ in 0..self.pages {
            pages.add(measured.loaded_page(Target::InitialPage).await?);
            contexts.add(measured.loaded_page(Target::NewContext).await?);
            plain.add(timed(&mut client, &plain_page).await?);
        }
        client.run("await plain.close()").await?;
        Ok([pages, contexts, plain])
    }
}

/// Number of session statuses that the operator has written. The warm pool causes no further ones.
async fn writes(measured: &MeasuredPool) -> Result<f64> {
    let metrics = metrics::of(&measured.space.fleet.operator().await?).await?;
    Ok(metrics.sum("camofleet_operator_writes_total", &[("kind", "browsersession_status")]))
}
