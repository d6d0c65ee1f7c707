//! Claims of a pool without prewarmed browsers, compared with a plain launch by Playwright on the same machine.

use super::measured_pool::{MeasuredPool, PAGE, Target, ratio_of_medians, stats_without_total, timed};
use anyhow::Result;
use camofleet_bench::{arrivals::ClaimStats, report::Report, stats::Samples};
use camofleet_crds::v1alpha1::StartTier;
use camofleet_e2e::clients::FIREFOX;
use clap::Args;

/// Number of samples.
#[derive(Debug, Args)]
pub struct Cold {
    /// Number of claims, of page loads and of plain launches.
    #[arg(long, default_value_t = 10)]
    claims: usize,
}

impl Cold {
    pub async fn run(self, measured: &MeasuredPool) -> Result<Report> {
        let mut report = Report::new("cold");
        let mut client = measured.plain_client().await?;
        let launch = format!(
            "globalThis.start = performance.now();
             globalThis.browser = await playwright.firefox.launch(
                 {{ channel: 'moz-firefox', executablePath: {FIREFOX:?}, headless: true }});
             return performance.now() - start"
        );
        let page = format!(
            "const page = await (await browser.newContext()).newPage(); await page.goto({PAGE:?});
             const took = performance.now() - start; await browser.close(); return took"
        );
        let (mut claims, mut pages) = (Vec::new(), Samples::default());
        let (mut launches, mut plain_pages) = (Samples::default(), Samples::default());
        // Interleaved, so that changes of the machine's speed affect all of them.
        for index in 0..self.claims {
            eprintln!("claim {} of {}", index + 1, self.claims);
            claims.push(measured.claim(format!("cold-{index}"), StartTier::Cold).await?);
            pages.add(measured.loaded_page(Target::InitialPage).await?);
            launches.add(timed(&mut client, &launch).await?);
            plain_pages.add(timed(&mut client, &page).await?);
        }
        let plain = ClaimStats { claims: launches.count(), latencies: launches, ..ClaimStats::default() };
        let fleet = stats_without_total(&claims);
        report.claims(&fleet);
        report.row("plain launch", &plain);
        for percent in [50, 99] {
            report.set(&format!("plain_launch_p{percent}_ms"), plain.latencies.percentile(percent));
        }
        report.set("launch_ratio", ratio_of_medians(&fleet.latencies, &plain.latencies));
        report.set("page_p50_ms", pages.percentile(50));
        report.set("plain_page_p50_ms", plain_pages.percentile(50));
        report.set("page_ratio", ratio_of_medians(&pages, &plain_pages));
        Ok(report)
    }
}
