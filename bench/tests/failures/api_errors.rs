//! Failed writes, lost responses and closed watches between the operator and the API server.

use crate::fixture::{
    FLEET, POOL, TIMEOUT, assert_invariants_except, ensure_all_ready, start_claims, wait_until, with_fleet,
};
use anyhow::{Context, ensure};
use camofleet_bench::{arrivals::Arrivals, harness::pool_of_reused_runners, proxy::Fault, sessions::ObservedSession};
use camofleet_crds::conditions::session::BROWSER_CRASHED;

/// Share of writes that fail.
const SHARE: f64 = 0.3;
/// Numbers of bindings at which the watches are closed. Each time, the operator waits longer before it watches again.
const CUTS: [usize; 3] = [10, 30, 50];

#[test]
fn no_session_is_lost_when_writes_fail_and_watches_are_closed() {
    with_fleet("api-errors", async |harness| {
        let (proxy, kubeconfig) = harness.start_proxy("proxy").await?;
        let mut operator = harness.start_operator_with("a", kubeconfig, Vec::new())?;
        operator.wait_until_leading().await?;
        proxy.fail_writes(SHARE, 8);
        let cutting = async {
            for bound in CUTS {
                wait_until("enough sessions are bound", async || Ok(harness.simulator.binding_log().count() >= bound))
                    .await?;
                proxy.close_watches();
            }
            anyhow::Ok(())
        };
        let living = async {
            harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(20, 4)).await?;
            ensure_all_ready(&start_claims(harness, "claim", 60, Arrivals::Poisson { rate: 20.0 }).await?)?;
            let client = harness.session_client();
            for index in 0..20 {
                client.delete(FLEET, &format!("claim-{index}")).await?;
                let seen = harness
                    .sessions
                    .get(FLEET, &format!("claim-{}", index + 20))
                    .context("the session was not observed")?;
                let runner = seen.runners.first().and_then(|runner| harness.simulator.runner(runner));
                runner.context("the session was not bound")?.crash(&seen.uid)?;
            }
            ensure_all_ready(&start_claims(harness, "more", 20, Arrivals::Poisson { rate: 20.0 }).await?)
        };
        tokio::try_join!(living, cutting)?;
        proxy.fail_writes(0.0, 0);
        let faults = proxy.faults();
        ensure!(
            Fault::ALL.iter().all(|fault| faults.contains_key(fault)),
            "not every kind of fault occurred: {faults:?}"
        );
        let is_crashed = |seen: &ObservedSession| seen.reason.as_deref() == Some(BROWSER_CRASHED);
        harness.sessions.wait_for(20, FLEET, "crashed", TIMEOUT, is_crashed).await?;
        assert_invariants_except(harness, FLEET, |_, reason| reason == BROWSER_CRASHED).await?;
        let crashed = harness.sessions.count(FLEET, is_crashed);
        ensure!(crashed == 20, "{crashed} of 20 sessions crashed");
        Ok(())
    });
}
