//! Maintenance of pools and nodes under load: scaling, rollouts, cordons, deletion, and an upgrade of the operator.

use crate::fixture::{
    FLEET, POOL, TIMEOUT, assert_invariants, claim, ensure_all_ready, retained_session_spec, start_claims,
    start_leader, wait_until, with_fleet,
};
use anyhow::{Result, ensure};
use camofleet_bench::{
    arrivals::Arrivals,
    control_plane::User,
    harness::{Harness, pool_of_reused_runners},
    operator::RUNNER_IMAGE,
    sessions::ObservedSession,
};
use camofleet_crds::v1alpha1::{Rollout, WorkerPool, WorkerPoolSpec};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Sessions of each pool, which has 160 slots.
const SESSIONS: usize = 125;
const RUNNERS: usize = 40;
const POOLS: [&str; 4] = ["scaled", "rolled", "lasting", "deleted"];

#[test]
fn no_session_of_500_ends_by_scaling_rollout_cordon_or_pool_deletion() {
    with_fleet("maintenance", async |harness| {
        let harness = &*harness;
        let _operator = start_leader(harness, "a").await?;
        for pool in POOLS {
            let rollout: Rollout = serde_json::from_value(json!({ "drainTimeoutSeconds": 3600 }))?;
            harness.create_pool(FLEET, pool, WorkerPoolSpec { rollout, ..pool_of_reused_runners(RUNNERS, 4) }).await?;
        }
        let sessions = POOLS.iter().flat_map(|pool| {
            (0..SESSIONS).map(move |index| {
                let (client, name) = (harness.session_client(), format!("{pool}-{index}"));
                client.claim_with(FLEET.to_owned(), name, retained_session_spec(pool), TIMEOUT)
            })
        });
        let sessions = try_join_all(sessions).await?;
        ensure!(sessions.iter().all(|claim| claim.ready.is_some()), "not all sessions were Ready in time");

        let pools = harness.api::<WorkerPool>(FLEET);
        let change = async |pool: &str, spec: Value| {
            pools.patch(pool, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await
        };
        let cordoned = ["simulated-0", "simulated-1", "simulated-2"];
        let nodes = Api::<Node>::all(harness.client.clone());
        change("scaled", json!({ "replicas": 10 })).await?;
        change("rolled", json!({ "template": { "metadata": { "labels": { "shape": "new" } } } })).await?;
        pools.delete("deleted", &DeleteParams::default()).await?;
        for node in cordoned {
            let patch = Patch::Merge(json!({ "spec": { "unschedulable": true } }));
            nodes.patch(node, &PatchParams::default(), &patch).await?;
        }
        // All idle runners that must go are gone, and the new ones have started.
        wait_until("the pools are as desired except for runners with sessions", async || {
            let updated = pools.get("rolled").await?.status.unwrap_or_default().updated_replicas;
            let idle = runners_without_sessions(harness).await?;
            Ok(updated >= 5
                && idle
                    .iter()
                    .all(|(pool, node)| !cordoned.contains(&node.as_str()) && pool != "deleted" && pool != "scaled"))
        })
        .await?;
        let live =
            harness.sessions.count(FLEET, |seen| seen.ready.is_some() && seen.finished.is_none() && !seen.deleted);
        ensure!(live == SESSIONS * POOLS.len(), "{live} of {} sessions are live", SESSIONS * POOLS.len());
        let held = harness.simulator.binding_log().held().len();
        ensure!(held == live, "runners hold {held} sessions, but {live} are live");

        // The maintenance completes when the users delete their sessions.
        let names = POOLS.iter().flat_map(|pool| (0..SESSIONS).map(move |index| format!("{pool}-{index}")));
        let ends = names.map(|name| async move { harness.session_client().delete(FLEET, &name).await });
        try_join_all(ends).await?;
        wait_until("the deleted pool is gone", async || Ok(pools.get_opt("deleted").await?.is_none())).await?;
        assert_invariants(harness).await?;
        wait_until("the cordoned nodes are empty", async || {
            let pods = harness.api::<Pod>(FLEET).list(&ListParams::default()).await?.items;
            let on = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            Ok(!pods.iter().any(|pod| cordoned.contains(&on(pod).as_str())))
        })
        .await
    });
}

#[test]
fn no_session_ends_when_a_new_operator_version_takes_over() {
    with_fleet("upgrade", async |harness| {
        let harness = &*harness;
        let mut former = start_leader(harness, "a").await?;
        let rollout: Rollout = serde_json::from_value(json!({ "drainTimeoutSeconds": 3600 }))?;
        harness.create_hot_pool(FLEET, POOL, WorkerPoolSpec { rollout, ..pool_of_reused_runners(15, 4) }).await?;
        claim(harness, "before", 30).await?;
        let pools = harness.api::<WorkerPool>(FLEET);
        let before = pools.get(POOL).await?.status.unwrap_or_default().revision;

        // The new version has another runner image, so the revision of the runners changes too.
        let env = vec![(RUNNER_IMAGE.to_owned(), "simulated-2".into())];
        let mut next = harness.start_operator_with("b", harness.control_plane.kubeconfig(User::Operator), env)?;
        let claims = start_claims(harness, "meanwhile", 20, Arrivals::Poisson { rate: 10.0 });
        let handing_over = async {
            wait_until("the new operator serves its metrics", async || Ok(next.metrics().await.is_ok())).await?;
            former.stop().await?;
            next.wait_until_leading().await
        };
        let (claims, handed_over) = tokio::join!(claims, handing_over);
        handed_over?;
        ensure_all_ready(&claims?)?;
        wait_until("the new revision is current", async || {
            let status = pools.get(POOL).await?.status.unwrap_or_default();
            let current = status.current_revision.map(|current| current.revision);
            Ok(current != before && current == status.revision && status.updated_replicas >= 2)
        })
        .await?;
        let live = |seen: &ObservedSession| {
            seen.ready.is_some() && seen.finished.is_none() && !seen.deleted && seen.runners.len() == 1
        };
        let live = harness.sessions.count(FLEET, live);
        ensure!(live == 50, "{live} of 50 sessions are live on their first runner");
        // The last runners of the former revision, and the surge runner, go when their sessions end.
        let names =
            (0..30).map(|index| format!("before-{index}")).chain((0..20).map(|index| format!("meanwhile-{index}")));
        try_join_all(names.map(|name| async move { harness.session_client().delete(FLEET, &name).await })).await?;
        assert_invariants(harness).await
    });
}

/// Pool and node of each runner pod without sessions.
async fn runners_without_sessions(harness: &Harness) -> Result<BTreeSet<(String, String)>> {
    let busy: BTreeSet<String> = harness
        .simulator
        .runners()
        .into_iter()
        .filter(|runner| !runner.sessions().is_empty())
        .map(|runner| runner.pod.uid.clone())
        .collect();
    let pods = harness.api::<Pod>(FLEET).list(&ListParams::default()).await?.items;
    let idle = pods.into_iter().filter(|pod| !pod.metadata.uid.as_ref().is_some_and(|uid| busy.contains(uid)));
    Ok(idle
        .map(|pod| {
            let owner = pod.metadata.owner_references.unwrap_or_default().into_iter().next();
            let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
            (owner.map(|owner| owner.name).unwrap_or_default(), node)
        })
        .collect())
}
