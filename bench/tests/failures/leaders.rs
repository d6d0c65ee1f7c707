//! Leaders that die, are cut off, are stopped and woken, and that come in twos.

use crate::fleet::{FLEET, POOL, all_ready, assert_whole, begin_claims, claim, leader, on_a_fleet, until};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::Arrivals,
    harness::{Harness, lasting_pool},
    operator::{NAMESPACE, Operator, leading},
};
use k8s_openapi::api::coordination::v1::Lease;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::time::{Duration, Instant};

const RATE: f64 = 45.0;
/// How long a leader is cut off.
const CUT_OFF: Duration = Duration::from_secs(120);

#[test]
fn a_leader_that_is_killed_at_any_point_loses_nothing() {
    on_a_fleet("killed", async |harness| {
        let mut operators = vec![harness.operator("a")?, harness.operator("b")?];
        leading(&mut operators).await?;
        harness.hot_pool(FLEET, POOL, lasting_pool(30, 4)).await?;
        let mut random = SmallRng::seed_from_u64(1);
        for kill in 0..3 {
            let claims = begin_claims(harness, &format!("claim-{kill}"), 40, Arrivals::Random { rate: RATE });
            let bound = harness.simulator.record().count() + random.random_range(0..40);
            let killing = async {
                until("so many are bound", async || Ok(harness.simulator.record().count() >= bound)).await?;
                let leader = leading(&mut operators).await?;
                operators[leader].daemon.kill().await?;
                let next = leading(&mut operators).await?;
                ensure!(next != leader, "who was killed leads");
                operators[leader].daemon.start_again()
            };
            let (claims, killed) = tokio::join!(claims, killing);
            killed?;
            all_ready(&claims?)?;
        }
        // Runners were always in reach: not even an unpublished copy may have been made.
        ensure!(harness.simulator.record().doubled().is_empty(), "two runners had the same session");
        assert_whole(harness).await
    });
}

#[test]
fn a_leader_that_is_cut_off_for_two_minutes_comes_back_and_harms_nothing() {
    on_a_fleet("cut-off", async |harness| {
        let (proxy, kubeconfig) = harness.proxy("proxy").await?;
        let mut first = harness.operator_in("a", kubeconfig, Vec::new())?;
        first.wait_until_leading().await?;
        let second = harness.operator("b")?;
        harness.hot_pool(FLEET, POOL, lasting_pool(30, 4)).await?;
        let cut = |_: &mut Operator, begins: bool| {
            if begins {
                proxy.part();
            } else {
                proxy.join();
            }
            Ok(())
        };
        another_leads_meanwhile(harness, first, second, cut, CUT_OFF).await
    });
}

#[test]
fn a_leader_that_is_stopped_and_woken_harms_nothing() {
    on_a_fleet("stopped", async |harness| {
        let first = leader(harness, "a").await?;
        let second = harness.operator("b")?;
        harness.hot_pool(FLEET, POOL, lasting_pool(30, 4)).await?;
        let stop = |first: &mut Operator, begins: bool| {
            if begins { first.daemon.pause() } else { first.daemon.resume() }
        };
        another_leads_meanwhile(harness, first, second, stop, Duration::ZERO).await
    });
}

/// Who holds the lease.
async fn holder(harness: &Harness) -> Result<String> {
    let lease = harness.api::<Lease>(NAMESPACE).get("camofleet-operator").await?;
    lease.spec.and_then(|spec| spec.holder_identity).context("nobody holds the lease")
}

/// In the midst of claims the first operator is disturbed for so long, and until the second leads. That one serves and ends
/// sessions; then the first one is as before, and in the end leads again. `disturb` is told whether that begins or ends.
async fn another_leads_meanwhile(
    harness: &Harness,
    mut first: Operator,
    mut second: Operator,
    disturb: impl Fn(&mut Operator, bool) -> Result<()>,
    time: Duration,
) -> Result<()> {
    let early = begin_claims(harness, "early", 40, Arrivals::Random { rate: RATE });
    let disturbing = async {
        until("some are bound", async || Ok(harness.simulator.record().count() >= 15)).await?;
        disturb(&mut first, true)?;
        let ends = Instant::now() + time;
        second.wait_until_leading().await?;
        anyhow::Ok(ends)
    };
    let (early, disturbed) = tokio::join!(early, disturbing);
    let ends = disturbed?;
    all_ready(&early?)?;
    claim(harness, "meanwhile", 20).await?;
    for index in 0..10 {
        harness.claims().end(FLEET, &format!("early-{index}")).await?;
    }
    tokio::time::sleep_until(ends.into()).await;
    let late = begin_claims(harness, "late", 40, Arrivals::Random { rate: RATE });
    disturb(&mut first, false)?;
    all_ready(&late.await?)?;
    until("the first one knows that it does not lead", async || Ok(!first.leads().await)).await?;
    // A term that lapses on a slow machine is taken anew by whoever holds the lease.
    ensure!(holder(harness).await? == "b", "who leads was disturbed by who led before");
    second.stop().await?;
    first.wait_until_leading().await?;
    claim(harness, "last", 10).await?;
    ensure!(harness.simulator.record().doubled().is_empty(), "two runners had the same session");
    assert_whole(harness).await
}

#[test]
fn of_operators_that_start_at_once_one_leads() {
    on_a_fleet("at-once", async |harness| {
        // There is something to do for whoever comes first.
        harness.pool(FLEET, POOL, lasting_pool(20, 4)).await?;
        let waiting = begin_claims(harness, "waiting", 60, Arrivals::AllAtOnce);
        let mut operators = Vec::new();
        for identity in ["a", "b", "c"] {
            operators.push(harness.operator(identity)?);
        }
        all_ready(&waiting.await?)?;
        let holder = holder(harness).await?;
        for (operator, identity) in operators.iter().zip(["a", "b", "c"]) {
            until("who holds the lease leads, and nobody else", async || {
                Ok(operator.leads().await == (identity == holder))
            })
            .await?;
        }
        ensure!(harness.simulator.record().doubled().is_empty(), "two runners had the same session");
        assert_whole(harness).await
    });
}
