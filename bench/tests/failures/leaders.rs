//! Leader election: leaders that are killed, partitioned, or paused, and operators that start at the same time.

use crate::fixture::{
    FLEET, POOL, assert_invariants, claim, ensure_all_ready, start_claims, start_leader, wait_until, with_fleet,
};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::Arrivals,
    harness::{Harness, pool_of_reused_runners},
    operator::{NAMESPACE, Operator, wait_for_leader},
};
use k8s_openapi::api::coordination::v1::Lease;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::time::{Duration, Instant};

const RATE: f64 = 45.0;
/// Duration of the partition.
const PARTITION: Duration = Duration::from_secs(120);

#[test]
fn no_session_is_lost_when_the_leader_is_killed() {
    with_fleet("killed", async |harness| {
        let mut operators = vec![harness.start_operator("a")?, harness.start_operator("b")?];
        wait_for_leader(&mut operators).await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(30, 4)).await?;
        let mut random = SmallRng::seed_from_u64(1);
        for kill in 0..3 {
            let claims = start_claims(harness, &format!("claim-{kill}"), 40, Arrivals::Poisson { rate: RATE });
            let bound = harness.simulator.binding_log().count() + random.random_range(0..40);
            let killing = async {
                wait_until("enough sessions are bound", async || Ok(harness.simulator.binding_log().count() >= bound))
                    .await?;
                let leader = wait_for_leader(&mut operators).await?;
                operators[leader].daemon.kill().await?;
                let next = wait_for_leader(&mut operators).await?;
                ensure!(next != leader, "the killed operator still leads");
                operators[leader].daemon.start_again()
            };
            let (claims, killed) = tokio::join!(claims, killing);
            killed?;
            ensure_all_ready(&claims?)?;
        }
        // All runners were reachable throughout, so there must not even be an unpublished copy of a session.
        ensure!(harness.simulator.binding_log().bound_twice().is_empty(), "two runners held the same session");
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
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(30, 4)).await?;
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
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(30, 4)).await?;
        let stop = |first: &mut Operator, begins: bool| {
            if begins { first.daemon.pause() } else { first.daemon.resume() }
        };
        assert_failover(harness, first, second, stop, Duration::ZERO).await
    });
}

/// The holder of the lease.
async fn holder(harness: &Harness) -> Result<String> {
    let lease = harness.api::<Lease>(NAMESPACE).get("camofleet-operator").await?;
    lease.spec.and_then(|spec| spec.holder_identity).context("the lease has no holder")
}

/// Disturbs the first operator while claims arrive, at least for `time`, until the second one leads. The second one
/// serves and ends sessions. Then the disturbance ends, the second operator stops, and the first one leads again.
/// `disturb` is called with `true` at the start of the disturbance and with `false` at its end.
async fn assert_failover(
    harness: &Harness,
    mut first: Operator,
    mut second: Operator,
    disturb: impl Fn(&mut Operator, bool) -> Result<()>,
    time: Duration,
) -> Result<()> {
    let early = start_claims(harness, "early", 40, Arrivals::Poisson { rate: RATE });
    let disturbing = async {
        wait_until("some sessions are bound", async || Ok(harness.simulator.binding_log().count() >= 15)).await?;
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
        harness.session_client().delete(FLEET, &format!("early-{index}")).await?;
    }
    tokio::time::sleep_until(ends.into()).await;
    let late = start_claims(harness, "late", 40, Arrivals::Poisson { rate: RATE });
    disturb(&mut first, false)?;
    ensure_all_ready(&late.await?)?;
    wait_until("the first operator knows that it does not lead", async || Ok(!first.is_leader().await)).await?;
    // On a slow machine, the holder of the lease may start a new term, but the lease must not change its holder.
    ensure!(holder(harness).await? == "b", "the former leader took the lease from the current one");
    second.stop().await?;
    first.wait_until_leading().await?;
    claim(harness, "last", 10).await?;
    ensure!(harness.simulator.binding_log().bound_twice().is_empty(), "two runners held the same session");
    assert_invariants(harness).await
}

#[test]
fn exactly_one_of_three_operators_that_start_together_leads() {
    with_fleet("at-once", async |harness| {
        // The pool and the claims are work for the first leader.
        harness.create_pool(FLEET, POOL, pool_of_reused_runners(20, 4)).await?;
        let waiting = start_claims(harness, "waiting", 60, Arrivals::Burst);
        let mut operators = Vec::new();
        for identity in ["a", "b", "c"] {
            operators.push(harness.start_operator(identity)?);
        }
        ensure_all_ready(&waiting.await?)?;
        let holder = holder(harness).await?;
        for (operator, identity) in operators.iter().zip(["a", "b", "c"]) {
            wait_until("only the holder of the lease leads", async || {
                Ok(operator.is_leader().await == (identity == holder))
            })
            .await?;
        }
        ensure!(harness.simulator.binding_log().bound_twice().is_empty(), "two runners held the same session");
        assert_invariants(harness).await
    });
}
