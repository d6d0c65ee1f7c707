//! Writes that the API server refuses, or carries out and does not answer, and watches that end.

use crate::fleet::{FLEET, PATIENCE, POOL, all_ready, assert_whole_but, begin_claims, on_a_fleet, until};
use anyhow::{Context, ensure};
use camofleet_bench::{arrivals::Arrivals, harness::lasting_pool, proxy::Fault, sessions::Seen};
use camofleet_crds::conditions::session::BROWSER_CRASHED;

/// The share of writes that fail.
const SHARE: f64 = 0.3;
/// When the watches end: so many sessions are bound. Each time the operator waits longer before it watches again.
const CUTS: [usize; 3] = [10, 30, 50];

#[test]
fn writes_that_fail_in_every_way_and_watches_that_end_lose_nothing() {
    on_a_fleet("api-errors", async |harness| {
        let (proxy, kubeconfig) = harness.proxy("proxy").await?;
        let mut operator = harness.operator_in("a", kubeconfig, Vec::new())?;
        operator.wait_until_leading().await?;
        proxy.fail_writes(SHARE, 8);
        let cutting = async {
            for bound in CUTS {
                until("so many are bound", async || Ok(harness.simulator.record().count() >= bound)).await?;
                proxy.cut_watches();
            }
            anyhow::Ok(())
        };
        let living = async {
            harness.hot_pool(FLEET, POOL, lasting_pool(20, 4)).await?;
            all_ready(&begin_claims(harness, "claim", 60, Arrivals::Random { rate: 20.0 }).await?)?;
            let claims = harness.claims();
            for index in 0..20 {
                claims.end(FLEET, &format!("claim-{index}")).await?;
                let seen = harness.sessions.seen(FLEET, &format!("claim-{}", index + 20)).context("it was made")?;
                let runner = seen.runners.first().and_then(|runner| harness.simulator.runner(runner));
                runner.context("it was bound")?.crash(&seen.uid)?;
            }
            all_ready(&begin_claims(harness, "more", 20, Arrivals::Random { rate: 20.0 }).await?)
        };
        tokio::try_join!(living, cutting)?;
        proxy.fail_writes(0.0, 0);
        let faults = proxy.faults();
        ensure!(Fault::ALL.iter().all(|fault| faults.contains_key(fault)), "not every fault happened: {faults:?}");
        let is_crashed = |seen: &Seen| seen.reason.as_deref() == Some(BROWSER_CRASHED);
        harness.sessions.wait_for(20, FLEET, "crashed", PATIENCE, is_crashed).await?;
        assert_whole_but(harness, FLEET, |_, reason| reason == BROWSER_CRASHED).await?;
        let crashed = harness.sessions.count(FLEET, is_crashed);
        ensure!(crashed == 20, "{crashed} sessions crashed, of 20");
        Ok(())
    });
}
