//! Measures the overhead of the gateway: drives the same page of one session alternately through the gateway and
//! directly at its runner.
//!
//! - `gateway_round_trip`, `direct_round_trip`: a `page.evaluate('1')`, in milliseconds.
//! - `gateway_5_mib`, `direct_5_mib`: a response of 5 MiB, in MiB per second.

use crate::report::report;
use anyhow::{Context, Result};
use camofleet_auth::token::{Issuer, Scope};
use camofleet_e2e::{TestNamespace, clients::NodeClient, tokens::Key};
use serde::Deserialize;
use serde_json::json;

const ROUND_TRIPS: usize = 2000;
const LARGE_RESPONSES: usize = 50;
const MIB: u32 = 5;

#[derive(Deserialize)]
struct Durations {
    gateway: Vec<f64>,
    direct: Vec<f64>,
}

pub async fn measure(ns: TestNamespace) -> Result<()> {
    ns.pool("pool", json!({})).await?;
    let session = ns.ready_session(json!({})).await?;
    let runner = session.runner().await?;
    let mut client = NodeClient::connect(&ns, &session).await?;
    let token = Key::load(&ns.fleet, Issuer::Gateway).await?.signer().hop_token(
        &runner.uid,
        &session.uid,
        Scope::Connect,
        None,
    );
    let url = format!("ws://{}/v1/sessions/{}/playwright", runner.address, session.uid);
    let both = format!(
        "const direct = await playwright.firefox.connect('{url}', {{ headers: {{ Authorization: 'Bearer {token}' }} }});
         globalThis.pages = {{ gateway: await browser.newPage(), direct: await direct.newPage() }}"
    );
    client.run(&both).await?;
    let round_trips = alternate(&mut client, "'1'", ROUND_TRIPS).await?;
    let large = alternate(&mut client, &format!("\"'x'.repeat({MIB} << 20)\""), LARGE_RESPONSES).await?;
    let rate = |took: Vec<f64>| took.into_iter().map(|ms| 1000.0 * f64::from(MIB) / ms).collect();
    report("ms", vec![("gateway_round_trip", round_trips.gateway), ("direct_round_trip", round_trips.direct)]);
    report("MiB/s", vec![("gateway_5_mib", rate(large.gateway)), ("direct_5_mib", rate(large.direct))]);
    Ok(())
}

/// Evaluates an expression `count` times on each way, after `count / 10` rounds of warm-up. Alternates which way goes
/// first, so that neither has an advantage. Durations are in milliseconds.
async fn alternate(client: &mut NodeClient, expression: &str, count: usize) -> Result<Durations> {
    let code = format!(
        "const took = {{ gateway: [], direct: [] }};
         for (let n = -{count} / 10; n < {count}; n++) for (const way of n % 2 ? ['gateway', 'direct'] : ['direct', 'gateway']) {{
           const start = performance.now(); await pages[way].evaluate({expression}); if (n >= 0) took[way].push(performance.now() - start);
         }}
         return took"
    );
    serde_json::from_value(client.run(&code).await?).context("the durations are not numbers")
}
