//! A tenant that attacks the operator by its runners, its pods and its sessions: the others are served all the same, by
//! the same process, within its memory and with few calls to the API server. `camofleet-bench hostile` measures the
//! same at once.

use crate::fixture::{FLEET, POOL, TIMEOUT, claim, wait_until, with_fleet, with_nodes};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    attacker::{self as hostile, FakeRunner, GATED, LARGE_SESSIONS, TargetPool, hostile_pool, large_session},
    harness::{Harness, long_lived_pool, session_spec},
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

/// The attacker's namespace.
const HOSTILE: &str = "hostile";
/// Claims of the fleet in each round. The pool has room for one round and the sessions that a test leaves there.
const CLAIMS: usize = 12;
/// Runners and slots of the fleet's pool.
const RUNNERS: usize = 4;
const SLOTS: usize = 4;
/// The operator must stay below this, in KiB.
const MEMORY: u64 = 128 << 10;
/// Renewals of the lease, one every 2 s, within which whatever is repeated would have been repeated.
const RENEWALS: usize = 5;
/// Nodes on which a few launches are all that there may be at once.
const FEW_CPUS: Nodes = Nodes { count: 1, cpus: 4 };

/// The fleet that is attacked: its operator reaches the API server by a proxy, which records its calls.
struct AttackedFleet<'a> {
    harness: &'a Harness,
    proxy: Arc<Proxy>,
    operator: Operator,
    /// The operator's process.
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
        harness.create_hot_pool(FLEET, POOL, long_lived_pool(RUNNERS, SLOTS)).await?;
        let pid = operator.daemon.pid()?;
        Ok(Self { harness, proxy, operator, pid, rounds: 0 })
    }

    /// Creates the pool whose runners attack in that way.
    async fn attack(&self, attack: Attack) -> Result<()> {
        self.harness.api::<WorkerPool>(HOSTILE).create(&PostParams::default(), &hostile_pool(attack)).await?;
        Ok(())
    }

    /// The hostile runners of that kind.
    fn runners(&self, attack: Attack) -> Vec<Arc<Runner>> {
        let runners = self.harness.simulator.runners().into_iter();
        runners.filter(|it| it.pod.namespace == HOSTILE && it.pod.name.starts_with(attack.name())).collect()
    }

    /// Waits until each runner of that kind has attacked: it was called so often, or has sent so many states.
    async fn until_attacked(&self, attack: Attack, calls: usize, states: usize) -> Result<()> {
        let has_attacked = |runner: &Arc<Runner>| runner.calls() >= calls || runner.hostile_states() >= states;
        wait_until(&format!("the operator is attacked by {}", attack.name()), async || {
            let runners = self.runners(attack);
            Ok(!runners.is_empty() && runners.iter().all(has_attacked))
        })
        .await
    }

    /// Claims in the fleet's namespace become Ready, and end.
    async fn assert_serves(&mut self) -> Result<()> {
        let name = format!("round-{}", self.rounds);
        self.rounds += 1;
        claim(self.harness, &name, CLAIMS).await?;
        for index in 0..CLAIMS {
            self.harness.claims().delete(FLEET, &format!("{name}-{index}")).await?;
        }
        Ok(())
    }

    /// The operator is the process that it was, and never had more memory than it may.
    fn assert_healthy(&mut self) -> Result<()> {
        let (pid, peak) = (self.operator.daemon.pid()?, self.operator.usage()?.peak_memory);
        ensure!(pid == self.pid, "the operator was process {}, and is {pid}", self.pid);
        ensure!(peak < MEMORY, "the operator had {} MiB", peak / 1024);
        Ok(())
    }

    /// Another process leads.
    async fn restart(&mut self) -> Result<()> {
        self.operator.stop().await?;
        self.operator.daemon.start_again()?;
        self.operator.wait_until_leading().await?;
        self.pid = self.operator.daemon.pid()?;
        Ok(())
    }

    /// The operator's calls about sessions of the attacker's namespace, but for those on all of them.
    fn lookups(&self) -> Vec<String> {
        let about = format!("/namespaces/{HOSTILE}/browsersessions");
        self.proxy.calls().into_iter().filter(|call| call.starts_with("GET") && call.contains(&about)).collect()
    }

    /// Waits until the operator has renewed its lease so often from now on.
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
        for attack in [Attack::DrippingRefusal, Attack::DrippingState] {
            fleet.attack(attack).await?;
            fleet.until_attacked(attack, 1, 1).await?;
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
        fleet.attack(Attack::HugeRefusal).await?;
        fleet.until_attacked(Attack::HugeRefusal, 3, 1).await?;
        fleet.assert_serves().await?;

        fleet.attack(Attack::EndlessAnswer).await?;
        // One call opens the stream of events; those after it bind.
        let binds = |runner: &Arc<Runner>| runner.calls().saturating_sub(1);
        harness.claims().create(HOSTILE, "bait", session_spec(Attack::EndlessAnswer.name())).await?;
        wait_until("the operator is answered without end", async || {
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
            // A stream that the operator gives up is opened again; one that it reads has much to read.
            fleet.until_attacked(attack, 4, 400).await?;
            fleet.assert_serves().await?;
        }
        // A state that differs from the one before is no write by itself.
        let states: usize = fleet.runners(Attack::ManyStates).iter().map(|runner| runner.hostile_states()).sum();
        let is_write = |call: &&String| !call.starts_with("GET") && call.contains(&format!("/namespaces/{HOSTILE}/"));
        let writes = fleet.proxy.calls().iter().filter(is_write).count();
        ensure!(writes * 10 <= states, "for {states} states there were {writes} writes");
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
            fleet.until_attacked(attack, 1, 1).await?;
        }
        fleet.wait_for_renewals(RENEWALS).await?;
        fleet.assert_serves().await?;
        let mut lookups = BTreeMap::<String, usize>::new();
        for call in fleet.lookups() {
            *lookups.entry(call).or_default() += 1;
        }
        ensure!(!lookups.is_empty(), "nothing was looked up: the attack did not take place");
        // Those of the runners that list no more than they have slots for, under names that can be: each listing once.
        for (call, times) in &lookups {
            let index = call.rsplit_once("/browsersessions/orphan-").and_then(|(_, index)| index.parse::<usize>().ok());
            ensure!(
                index.is_some_and(|index| index < hostile::SLOTS),
                "what no session can be called was looked up: {call}"
            );
            ensure!(*times <= hostile::RUNNERS, "looked up {times} times: {call}");
        }

        // The end of the runners ends it.
        for attack in attacks {
            harness.api::<WorkerPool>(HOSTILE).delete(attack.name(), &DeleteParams::default()).await?;
        }
        wait_until("the hostile runners are gone", async || Ok(harness.count_pods(HOSTILE).await? == 0)).await?;
        fleet.wait_for_renewals(1).await?;
        let before = fleet.lookups().len();
        fleet.wait_for_renewals(RENEWALS).await?;
        let after = fleet.lookups().len();
        ensure!(before == after, "{} lookups for runners that are gone", after - before);
        fleet.assert_healthy()
    });
}

#[test]
fn redirects_are_not_followed() {
    with_fleet("hostile-redirect", async |harness| {
        let mut fleet = AttackedFleet::begin(harness).await?;
        fleet.attack(Attack::Redirect).await?;
        fleet.until_attacked(Attack::Redirect, 3, 1).await?;
        fleet.assert_serves().await?;
        let redirected_connections = harness.simulator.redirected_connections();
        ensure!(redirected_connections == 0, "the operator was sent to another host {redirected_connections} times");
        fleet.assert_healthy()
    });
}

#[test]
fn numbers_that_a_runner_reports_are_clamped_to_its_slots() {
    with_fleet("hostile-numbers", async |harness| {
        let mut fleet = AttackedFleet::begin(harness).await?;
        fleet.attack(Attack::HugeNumbers).await?;
        fleet.until_attacked(Attack::HugeNumbers, 2, 1).await?;
        let pools = harness.api::<WorkerPool>(HOSTILE);
        let spec = pools.get(Attack::HugeNumbers.name()).await?.spec;
        let slots = spec.fixed_replicas() * spec.slots_per_runner;
        // The pool's status is written at most once a second.
        fleet.wait_for_renewals(1).await?;
        fleet.assert_serves().await?;
        let published = pools.get(Attack::HugeNumbers.name()).await?.status.context("it has a status")?.slots;
        let is_within = |count: i32| (0..=slots).contains(&count);
        ensure!(
            [published.total, published.used, published.hot, published.starting].into_iter().all(is_within),
            "a pool of {slots} slots says {published:?}"
        );
        fleet.assert_healthy()
    });
}

/// Pods whose owner is of the kind `WorkerPool` of another API group, without a pool or with the UID of another
/// namespace's.
#[test]
fn pods_that_only_claim_to_be_runners_are_ignored() {
    with_nodes(FEW_CPUS, "hostile-pretenders", async |harness| {
        let mut fleet = AttackedFleet::begin(harness).await?;
        claim(harness, "lasting", SLOTS).await?;
        let own = || harness.simulator.runners().into_iter().filter(|runner| runner.pod.namespace == FLEET);
        let before: BTreeSet<String> = own().map(|runner| runner.pod.uid.clone()).collect();

        let target = harness.api::<WorkerPool>(FLEET).get(POOL).await?;
        let uid = target.metadata.uid.context("it has a UID")?;
        let revision = target.status.and_then(|status| status.revision).context("it has a revision")?;
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

        // One of the pool's own goes and is replaced, although the pods would fill the CPUs if they were launching.
        let idle = own().find(|runner| runner.sessions().is_empty()).context("a runner has no session")?;
        harness.api::<Pod>(FLEET).delete(&idle.pod.name, &DeleteParams::default()).await?;
        wait_until("the runner is replaced", async || {
            Ok(own().count() == RUNNERS && own().all(|runner| runner.pod.uid != idle.pod.uid))
        })
        .await?;
        fleet.assert_serves().await?;
        let called: usize = others().map(|runner| runner.calls()).sum();
        ensure!(called == 0, "the operator has called pods that are no runners {called} times");
        let lost: Vec<_> = before.iter().filter(|uid| own().all(|runner| runner.pod.uid != **uid)).collect();
        ensure!(lost == [&idle.pod.uid], "of the pool's runners these are gone: {lost:?}");
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
        wait_until("as many launch as there are CPUs", async || {
            Ok(fleet.runners(Attack::NeverWarm).len() >= FEW_CPUS.cpus * FEW_CPUS.count)
        })
        .await?;
        harness.create_hot_pool(FLEET, "late", long_lived_pool(RUNNERS, 1)).await?;
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
        // Each has 256 KiB of them.
        let annotations = u64::try_from(LARGE_SESSIONS)? * 256;
        ensure!(grown < annotations / 2, "for {annotations} KiB of annotations the operator took {grown} KiB more");
        fleet.restart().await?;
        fleet.assert_serves().await?;
        fleet.assert_healthy()
    });
}
