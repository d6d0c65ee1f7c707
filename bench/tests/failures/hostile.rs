//! A tenant attacks the operator with its runners, pods and sessions. Other tenants are still served by the same
//! operator process, within its memory limit and with few calls to the API server. `camofleet-bench hostile` combines
//! all attacks.

use crate::fixture::{FLEET, POOL, TIMEOUT, claim, wait_until, with_fleet, with_nodes};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    attacker::{self as hostile, FakeRunner, GATED, LARGE_SESSIONS, TargetPool, hostile_pool, large_session},
    harness::{Harness, pool_of_reused_runners, session_spec},
    operator::Operator,
    proxy::Proxy,
    simulator::{Attack, Nodes, Runner},
};
use camofleet_crds::v1alpha1::{BrowserSession, WorkerPool};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Namespace of the attacker.
const HOSTILE: &str = "hostile";
/// Claims of the fleet per round. The pool has room for one round and for the sessions that a test keeps.
const CLAIMS: usize = 12;
/// Runners and slots of the fleet's pool.
const RUNNERS: usize = 4;
const SLOTS: usize = 4;
/// Bound on the operator's peak memory in KiB.
const MEMORY: u64 = 128 << 10;
/// Lease renewals (one every 2 s) to wait for, so that a repeated call would have been repeated by then.
const RENEWALS: usize = 5;
/// Few CPUs, so that only a few runners may launch at once.
const FEW_CPUS: Nodes = Nodes { count: 1, cpus: 4 };

/// The attacked fleet. Its operator reaches the API server through a proxy, which records the calls.
struct AttackedFleet<'a> {
    harness: &'a Harness,
    proxy: Arc<Proxy>,
    operator: Operator,
    /// Process ID of the operator.
    pid: u32,
    rounds: usize,
}

impl<'a> AttackedFleet<'a> {
    async fn begin(harness: &'a Harness) -> Result<Self> {
        harness.create_namespace(HOSTILE).await?;
        harness.simulator.set_hostile_namespace(HOSTILE);
        let (proxy, kubeconfig) = harness.start_proxy("proxy").await?;
        let mut operator = harness.start_operator_with("a", kubeconfig, Vec::new())?;
        operator.wait_until_leading().await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(RUNNERS, SLOTS)).await?;
        let pid = operator.daemon.pid()?;
        Ok(Self { harness, proxy, operator, pid, rounds: 0 })
    }

    /// Creates the pool whose runners carry out the attack.
    async fn attack(&self, attack: Attack) -> Result<()> {
        self.harness.api::<WorkerPool>(HOSTILE).create(&PostParams::default(), &hostile_pool(attack)).await?;
        Ok(())
    }

    /// The runners that carry out the attack.
    fn runners(&self, attack: Attack) -> Vec<Arc<Runner>> {
        let runners = self.harness.simulator.runners().into_iter();
        runners.filter(|it| it.pod.namespace == HOSTILE && it.pod.name.starts_with(attack.name())).collect()
    }

    /// Waits until each runner of the attack has received `calls` calls or sent `states` states.
    async fn wait_for_attack(&self, attack: Attack, calls: usize, states: usize) -> Result<()> {
        let has_attacked = |runner: &Arc<Runner>| runner.calls() >= calls || runner.hostile_states() >= states;
        wait_until(&format!("the operator is attacked by {}", attack.name()), async || {
            let runners = self.runners(attack);
            Ok(!runners.is_empty() && runners.iter().all(has_attacked))
        })
        .await
    }

    /// Asserts that claims in the fleet's namespace become Ready, and deletes them.
    async fn assert_serves(&mut self) -> Result<()> {
        let name = format!("round-{}", self.rounds);
        self.rounds += 1;
        claim(self.harness, &name, CLAIMS).await?;
        for index in 0..CLAIMS {
            self.harness.session_client().delete(FLEET, &format!("{name}-{index}")).await?;
        }
        Ok(())
    }

    /// Asserts that the operator has not restarted and stayed below its memory bound.
    fn assert_healthy(&mut self) -> Result<()> {
        let (pid, peak) = (self.operator.daemon.pid()?, self.operator.usage()?.peak_memory);
        ensure!(pid == self.pid, "the operator restarted: its process ID was {} and is {pid}", self.pid);
        ensure!(peak < MEMORY, "the operator used {} MiB", peak / 1024);
        Ok(())
    }

    /// Restarts the operator and waits until it leads.
    async fn restart(&mut self) -> Result<()> {
        self.operator.stop().await?;
        self.operator.daemon.start_again()?;
        self.operator.wait_until_leading().await?;
        self.pid = self.operator.daemon.pid()?;
        Ok(())
    }

    /// The operator's GET calls for sessions in the attacker's namespace. Excludes lists of all namespaces.
    fn lookups(&self) -> Vec<String> {
        let about = format!("/namespaces/{HOSTILE}/browsersessions");
        self.proxy.calls().into_iter().filter(|call| call.starts_with("GET") && call.contains(&about)).collect()
    }

    /// Waits for further lease renewals.
    async fn wait_for_renewals(&self, renewals: usize) -> Result<()> {
        let count =
            || self.proxy.calls().iter().filter(|call| call.starts_with("PUT") && call.contains("/leases/")).count();
        let until_then = count() + renewals;
        wait_until("the operator renews its lease", async || Ok(count() >= until_then)).await
    }
}

#[test]
fn a_new_leader_does_not_wait_for_runners_that_never_finish_a_response() {
    with_fleet("hostile-drip", async |harness| {
        let mut fleet = AttackedFleet::begin(harness).await?;
        for attack in [Attack::DrippingRejection, Attack::DrippingState] {
            fleet.attack(attack).await?;
            fleet.wait_for_attack(attack, 1, 1).await?;
        }
        fleet.assert_serves().await?;
        fleet.restart().await?;
        fleet.assert_serves().await?;
        fleet.assert_healthy()
    });
}

#[test]
fn endless_response_bodies_are_not_buffered() {
    with_fleet("hostile-bodies", async |harness| {
        let mut fleet = AttackedFleet::begin(harness).await?;
        fleet.attack(Attack::HugeRejection).await?;
        fleet.wait_for_attack(Attack::HugeRejection, 3, 1).await?;
        fleet.assert_serves().await?;

        fleet.attack(Attack::EndlessAnswer).await?;
        // The first call opens the event stream; the others are binds.
        let binds = |runner: &Arc<Runner>| runner.calls().saturating_sub(1);
        harness.session_client().create(HOSTILE, "bait", session_spec(Attack::EndlessAnswer.name())).await?;
        wait_until("the operator receives endless responses", async || {
            Ok(fleet.runners(Attack::EndlessAnswer).iter().map(binds).sum::<usize>() >= 2)
        })
        .await?;
        fleet.assert_serves().await?;
        fleet.assert_healthy()
    });
}

#[test]
fn a_flood_of_runner_states_does_not_delay_other_pools() {
    with_fleet("hostile-states", async |harness| {
        let mut fleet = AttackedFleet::begin(harness).await?;
        for attack in [Attack::HeavyStates, Attack::ManyStates] {
            fleet.attack(attack).await?;
            // The operator reopens a stream that it has closed, or reads many states from one that it keeps open.
            fleet.wait_for_attack(attack, 4, 400).await?;
            fleet.assert_serves().await?;
        }
        // A changed state must not cause a write by itself.
        let states: usize = fleet.runners(Attack::ManyStates).iter().map(|runner| runner.hostile_states()).sum();
        let is_write = |call: &&String| !call.starts_with("GET") && call.contains(&format!("/namespaces/{HOSTILE}/"));
        let writes = fleet.proxy.calls().iter().filter(is_write).count();
        ensure!(writes * 10 <= states, "{states} states caused {writes} writes");
        fleet.assert_healthy()
    });
}

#[test]
fn sessions_that_do_not_exist_are_looked_up_once_each() {
    with_fleet("hostile-orphans", async |harness| {
        let mut fleet = AttackedFleet::begin(harness).await?;
        let attacks = [Attack::OrphansInSlots, Attack::BadNames, Attack::Orphans];
        for attack in attacks {
            fleet.attack(attack).await?;
            fleet.wait_for_attack(attack, 1, 1).await?;
        }
        fleet.wait_for_renewals(RENEWALS).await?;
        fleet.assert_serves().await?;
        let mut lookups = BTreeMap::<String, usize>::new();
        for call in fleet.lookups() {
            *lookups.entry(call).or_default() += 1;
        }
        ensure!(!lookups.is_empty(), "no session was looked up, so the attack did not take place");
        // Only sessions of runners that list no more than their slots, with valid names, are looked up: once per
        // listing runner.
        for (call, times) in &lookups {
            let index = call.rsplit_once("/browsersessions/orphan-").and_then(|(_, index)| index.parse::<usize>().ok());
            ensure!(index.is_some_and(|index| index < hostile::SLOTS), "an invalid session name was looked up: {call}");
            ensure!(*times <= hostile::RUNNERS, "looked up {times} times: {call}");
        }

        // The lookups end with the runners.
        for attack in attacks {
            harness.api::<WorkerPool>(HOSTILE).delete(attack.name(), &DeleteParams::default()).await?;
        }
        wait_until("the hostile runners are gone", async || Ok(harness.count_pods(HOSTILE).await? == 0)).await?;
        fleet.wait_for_renewals(1).await?;
        let before = fleet.lookups().len();
        fleet.wait_for_renewals(RENEWALS).await?;
        let after = fleet.lookups().len();
        ensure!(before == after, "{} lookups after the runners were gone", after - before);
        fleet.assert_healthy()
    });
}

#[test]
fn redirects_are_not_followed() {
    with_fleet("hostile-redirect", async |harness| {
        let mut fleet = AttackedFleet::begin(harness).await?;
        fleet.attack(Attack::Redirect).await?;
        fleet.wait_for_attack(Attack::Redirect, 3, 1).await?;
        fleet.assert_serves().await?;
        let redirected_connections = harness.simulator.redirected_connections();
        ensure!(redirected_connections == 0, "the operator followed {redirected_connections} redirects");
        fleet.assert_healthy()
    });
}

#[test]
fn numbers_that_a_runner_reports_are_clamped_to_its_slots() {
    with_fleet("hostile-numbers", async |harness| {
        let mut fleet = AttackedFleet::begin(harness).await?;
        fleet.attack(Attack::HugeNumbers).await?;
        fleet.wait_for_attack(Attack::HugeNumbers, 2, 1).await?;
        let pools = harness.api::<WorkerPool>(HOSTILE);
        let spec = pools.get(Attack::HugeNumbers.name()).await?.spec;
        let slots = spec.fixed_replicas() * spec.slots_per_runner;
        // The pool's status is written at most once a second.
        fleet.wait_for_renewals(1).await?;
        fleet.assert_serves().await?;
        let published = pools.get(Attack::HugeNumbers.name()).await?.status.context("the pool has no status")?.slots;
        let is_within = |count: i32| (0..=slots).contains(&count);
        ensure!(
            [published.total, published.used, published.hot, published.starting].into_iter().all(is_within),
            "the status of a pool with {slots} slots has {published:?}"
        );
        fleet.assert_healthy()
    });
}

/// The owner of each pod is a `WorkerPool` of another API group: a pool that does not exist, or the UID of another
/// namespace's pool.
#[test]
fn pods_that_only_claim_to_be_runners_are_ignored() {
    with_nodes(FEW_CPUS, "hostile-pretenders", async |harness| {
        let mut fleet = AttackedFleet::begin(harness).await?;
        claim(harness, "lasting", SLOTS).await?;
        let own = || harness.simulator.runners().into_iter().filter(|runner| runner.pod.namespace == FLEET);
        let before: BTreeSet<String> = own().map(|runner| runner.pod.uid.clone()).collect();

        let target = harness.api::<WorkerPool>(FLEET).get(POOL).await?;
        let uid = target.metadata.uid.context("the pool has no UID")?;
        let revision = target.status.and_then(|status| status.revision).context("the pool has no revision")?;
        let target = TargetPool { uid, revision };
        let fake_runner = |name: String, attack, target, gated| FakeRunner { name, attack, target, gated };
        let gated = (0..GATED).map(|index| fake_runner(format!("gated-{index}"), Attack::NeverWarm, None, true));
        let without_pool =
            Attack::ALL.map(|attack| fake_runner(format!("none-{}", attack.name()), attack, None, false));
        let of_target = Attack::ALL
            .map(|attack| fake_runner(format!("victim-{}", attack.name()), attack, Some(target.clone()), false));
        let running = without_pool.len() + of_target.len();
        for fake_runner in gated.chain(without_pool).chain(of_target) {
            harness.api::<Pod>(HOSTILE).create(&PostParams::default(), &fake_runner.pod()).await?;
        }
        let others = || harness.simulator.runners().into_iter().filter(|runner| runner.pod.namespace == HOSTILE);
        wait_until("the pods run", async || Ok(others().count() == running)).await?;

        // A deleted runner of the pool is replaced, although the fake runners would use up the launch budget if they
        // counted.
        let idle = own().find(|runner| runner.sessions().is_empty()).context("every runner has a session")?;
        harness.api::<Pod>(FLEET).delete(&idle.pod.name, &DeleteParams::default()).await?;
        wait_until("the runner is replaced", async || {
            Ok(own().count() == RUNNERS && own().all(|runner| runner.pod.uid != idle.pod.uid))
        })
        .await?;
        fleet.assert_serves().await?;
        let called: usize = others().map(|runner| runner.calls()).sum();
        ensure!(called == 0, "the operator called fake runners {called} times");
        let lost: Vec<_> = before.iter().filter(|uid| own().all(|runner| runner.pod.uid != **uid)).collect();
        ensure!(lost == [&idle.pod.uid], "the pool lost the runners {lost:?}");
        let ended = harness.sessions.count(FLEET, |seen| seen.finished.is_some() && !seen.deleted_by_user);
        ensure!(ended == 0, "{ended} sessions ended");
        fleet.assert_healthy()
    });
}

#[test]
fn a_pool_that_never_becomes_warm_does_not_block_launches_of_other_pools() {
    with_nodes(FEW_CPUS, "hostile-launches", async |harness| {
        let mut fleet = AttackedFleet::begin(harness).await?;
        fleet.attack(Attack::NeverWarm).await?;
        wait_until("the attacker uses all launches", async || {
            Ok(fleet.runners(Attack::NeverWarm).len() >= FEW_CPUS.cpus * FEW_CPUS.count)
        })
        .await?;
        harness.create_hot_pool(FLEET, "late", pool_of_reused_runners(RUNNERS, 1)).await?;
        fleet.assert_serves().await?;
        fleet.assert_healthy()
    });
}

#[test]
fn unused_annotations_are_not_cached() {
    with_fleet("hostile-annotations", async |harness| {
        let mut fleet = AttackedFleet::begin(harness).await?;
        fleet.assert_serves().await?;
        let before = fleet.operator.usage()?.memory;
        for index in 0..LARGE_SESSIONS {
            harness.api::<BrowserSession>(HOSTILE).create(&PostParams::default(), &large_session(index)).await?;
        }
        let is_queued = |seen: &camofleet_bench::sessions::ObservedSession| seen.was_queued;
        harness.sessions.wait_for(LARGE_SESSIONS, HOSTILE, "queued", TIMEOUT, is_queued).await?;
        fleet.assert_serves().await?;
        let grown = fleet.operator.usage()?.memory.saturating_sub(before);
        // Each session has 256 KiB of annotations.
        let annotations = u64::try_from(LARGE_SESSIONS)? * 256;
        ensure!(
            grown < annotations / 2,
            "the operator's memory grew by {grown} KiB for {annotations} KiB of annotations"
        );
        fleet.restart().await?;
        fleet.assert_serves().await?;
        fleet.assert_healthy()
    });
}
