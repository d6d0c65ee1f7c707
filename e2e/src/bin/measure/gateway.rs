//! What the gateway costs a client: one session by way of it and directly at its runner, in turns, over the same page.
//!
//! - `gateway_round_trip`, `direct_round_trip`: a `page.evaluate('1')`, in milliseconds.
//! - `gateway_5_mib`, `direct_5_mib`: an answer of 5 MiB, in MiB per second.

use crate::report::report;
use anyhow::{Context, Result};
use camofleet_auth::token::{Issuer, Scope};
use camofleet_e2e::{TestNamespace, clients::NodeClient, tokens::Key};
use serde::Deserialize;
use serde_json::json;

const ROUND_TRIPS: usize = 2000;
const ANSWERS: usize = 50;
const MIB: u32 = 5;

#[derive(Deserialize)]
struct Took {
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
         globalThis.pages = {{ gateway: page, direct: direct.contexts()[0].pages()[0] }}"
    );
    client.run(&both).await?;
    let round_trips = in_turns(&mut client, "'1'", ROUND_TRIPS).await?;
    let answers = in_turns(&mut client, &format!("\"'x'.repeat({MIB} << 20)\""), ANSWERS).await?;
    let rate = |took: Vec<f64>| took.into_iter().map(|ms| 1000.0 * f64::from(MIB) / ms).collect();
    report("ms", vec![("gateway_round_trip", round_trips.gateway), ("direct_round_trip", round_trips.direct)]);
    report("MiB/s", vec![("gateway_5_mib", rate(answers.gateway)), ("direct_5_mib", rate(answers.direct))]);
    Ok(())
}

/// Evaluates an expression so many times each way, first one way and first the other by turns, after a tenth to warm up.
async fn in_turns(client: &mut NodeClient, expression: &str, count: usize) -> Result<Took> {
    let code = format!(
        "const took = {{ gateway: [], direct: [] }};
         for (let n = -{count} / 10; n < {count}; n++) for (const way of n % 2 ? ['gateway', 'direct'] : ['direct', 'gateway']) {{
           const start = performance.now(); await pages[way].evaluate({expression}); if (n >= 0) took[way].push(performance.now() - start);
         }}
         return took"
    );
    serde_json::from_value(client.run(&code).await?).context("times are numbers")
}
