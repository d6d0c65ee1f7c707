//! Leaders that die, are cut off, are stopped and woken, and that come in twos.

use crate::fixture::{
    FLEET, POOL, assert_invariants, claim, ensure_all_ready, start_claims, start_leader, wait_until, with_fleet,
};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::Arrivals,
    harness::{Harness, long_lived_pool},
    operator::{NAMESPACE, Operator, wait_for_leader},
};
use k8s_openapi::api::coordination::v1::Lease;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::time::{Duration, Instant};

const RATE: f64 = 45.0;
/// How long a leader is cut off.
const PARTITION: Duration = Duration::from_secs(120);

#[test]
fn no_session_is_lost_when_the_leader_is_killed() {
    with_fleet("killed", async |harness| {
        let mut operators = vec![harness.start_operator("a")?, harness.start_operator("b")?];
        wait_for_leader(&mut operators).await?;
        harness.create_hot_pool(FLEET, POOL, long_lived_pool(30, 4)).await?;
        let mut random = SmallRng::seed_from_u64(1);
        for kill in 0..3 {
            let claims = start_claims(harness, &format!("claim-{kill}"), 40, Arrivals::Poisson { rate: RATE });
            let bound = harness.simulator.binding_log().count() + random.random_range(0..40);
            let killing = async {
                wait_until("so many are bound", async || Ok(harness.simulator.binding_log().count() >= bound)).await?;
                let leader = wait_for_leader(&mut operators).await?;
                operators[leader].daemon.kill().await?;
                let next = wait_for_leader(&mut operators).await?;
                ensure!(next != leader, "who was killed leads");
                operators[leader].daemon.start_again()
            };
            let (claims, killed) = tokio::join!(claims, killing);
            killed?;
            ensure_all_ready(&claims?)?;
        }
        // Runners were always in reach: not even an unpublished copy may have been made.
        ensure!(harness.simulator.binding_log().bound_twice().is_empty(), "two runners had the same session");
        assert_invariants(harness).await
    });
}

#[test]
fn no_session_is_lost_when_the_leader_is_partitioned_for_two_minutes() {
    with_fleet("cut-off", async |harness| {
        let (proxy, kubeconfig) = harness.start_proxy("proxy").await?;
        let mut first = harness.start_operator_with("a", kubeconfig, Vec::new())?;
        first.wait_until_leading().await?;
        let second = harness.start_operator("b")?;
        harness.create_hot_pool(FLEET, POOL, long_lived_pool(30, 4)).await?;
        let partition = |_: &mut Operator, begins: bool| {
            if begins {
                proxy.partition();
            } else {
                proxy.heal();
            }
            Ok(())
        };
        assert_failover(harness, first, second, partition, PARTITION).await
    });
}

#[test]
fn no_session_is_lost_when_the_leader_is_paused_and_resumed() {
    with_fleet("stopped", async |harness| {
        let first = start_leader(harness, "a").await?;
        let second = harness.start_operator("b")?;
        harness.create_hot_pool(FLEET, POOL, long_lived_pool(30, 4)).await?;
        let stop = |first: &mut Operator, begins: bool| {
            if begins { first.daemon.pause() } else { first.daemon.resume() }
        };
        assert_failover(harness, first, second, stop, Duration::ZERO).await
    });
}

/// Who holds the lease.
async fn holder(harness: &Harness) -> Result<String> {
    let lease = harness.api::<Lease>(NAMESPACE).get("camofleet-operator").await?;
    lease.spec.and_then(|spec| spec.holder_identity).context("nobody holds the lease")
}

/// In the midst of claims the first operator is disturbed for so long, and until the second leads. That one serves and
/// ends sessions; then the first one is as before, and in the end leads again. `disturb` is told whether that begins or
/// ends.
async fn assert_failover(
    harness: &Harness,
    mut first: Operator,
    mut second: Operator,
    disturb: impl Fn(&mut Operator, bool) -> Result<()>,
    time: Duration,
) -> Result<()> {
    let early = start_claims(harness, "early", 40, Arrivals::Poisson { rate: RATE });
    let disturbing = async {
        wait_until("some are bound", async || Ok(harness.simulator.binding_log().count() >= 15)).await?;
        disturb(&mut first, true)?;
        let ends = Instant::now() + time;
        second.wait_until_leading().await?;
        anyhow::Ok(ends)
    };
    let (early, disturbed) = tokio::join!(early, disturbing);
    let ends = disturbed?;
    ensure_all_ready(&early?)?;
    claim(harness, "meanwhile", 20).await?;
    for index in 0..10 {
        harness.claims().delete(FLEET, &format!("early-{index}")).await?;
    }
    tokio::time::sleep_until(ends.into()).await;
    let late = start_claims(harness, "late", 40, Arrivals::Poisson { rate: RATE });
    disturb(&mut first, false)?;
    ensure_all_ready(&late.await?)?;
    wait_until("the first one knows that it does not lead", async || Ok(!first.is_leader().await)).await?;
    // A term that lapses on a slow machine is taken anew by whoever holds the lease.
    ensure!(holder(harness).await? == "b", "who leads was disturbed by who led before");
    second.stop().await?;
    first.wait_until_leading().await?;
    claim(harness, "last", 10).await?;
    ensure!(harness.simulator.binding_log().bound_twice().is_empty(), "two runners had the same session");
    assert_invariants(harness).await
}

#[test]
fn exactly_one_of_three_operators_that_start_together_leads() {
    with_fleet("at-once", async |harness| {
        // There is something to do for whoever comes first.
        harness.create_pool(FLEET, POOL, long_lived_pool(20, 4)).await?;
        let waiting = start_claims(harness, "waiting", 60, Arrivals::Burst);
        let mut operators = Vec::new();
        for identity in ["a", "b", "c"] {
            operators.push(harness.start_operator(identity)?);
        }
        ensure_all_ready(&waiting.await?)?;
        let holder = holder(harness).await?;
        for (operator, identity) in operators.iter().zip(["a", "b", "c"]) {
            wait_until("who holds the lease leads, and nobody else", async || {
                Ok(operator.is_leader().await == (identity == holder))
            })
            .await?;
        }
        ensure!(harness.simulator.binding_log().bound_twice().is_empty(), "two runners had the same session");
        assert_invariants(harness).await
    });
}
