//! Loss of nodes with the runners on them.

use crate::fixture::{FLEET, POOL, TIMEOUT, assert_invariants_except, claim, start_leader, wait_until, with_fleet};
use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    harness::{Harness, pool_of_reused_runners},
    simulator::Runner,
};
use camofleet_crds::conditions::session::RUNNER_LOST;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc};

#[test]
fn runners_on_dead_nodes_are_replaced_and_only_their_sessions_are_lost() {
    with_fleet("nodes", async |harness| {
        let _operator = start_leader(harness, "a").await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(12, 4)).await?;
        claim(harness, "early", 40).await?;
        let busy: BTreeSet<String> = harness
            .simulator
            .runners()
            .into_iter()
            .filter(|runner| !runner.sessions().is_empty())
            .map(|runner| runner.pod.node.clone())
            .collect();
        let mut busy = busy.into_iter();
        let (gone, dead) =
            (busy.next().context("no node has sessions")?, busy.next().context("only one node has sessions")?);
        let lost_with = |runners: &[Arc<Runner>]| -> BTreeSet<String> {
            let uids = harness.sessions.all(FLEET).into_iter();
            let on = |uid: &String| runners.iter().any(|runner| runner.pod.uid == *uid);
            uids.filter(|seen| seen.runners.iter().any(on)).map(|seen| seen.uid).collect()
        };

        // The first node disappears with its Node object, and its pods are garbage collected.
        let nodes = Api::<Node>::all(harness.client.clone());
        let vanished = harness.simulator.power_off_node(&gone);
        nodes.delete(&gone, &DeleteParams::default()).await?;
        for runner in &vanished {
            delete_pod(harness, runner, 0).await?;
        }
        // The second node is dead but keeps its Node object: its pods are deleted, but no kubelet terminates them.
        let stuck = harness.simulator.power_off_node(&dead);
        let taint = json!({ "spec": { "unschedulable": true } });
        nodes.patch(&dead, &PatchParams::default(), &Patch::Merge(taint)).await?;
        for runner in &stuck {
            delete_pod(harness, runner, 1).await?;
        }
        let lost: BTreeSet<String> = lost_with(&vanished).into_iter().chain(lost_with(&stuck)).collect();
        ensure!(!lost.is_empty(), "the lost nodes had no sessions");
        harness.sessions.wait_for(lost.len(), FLEET, "finished", TIMEOUT, |seen| seen.finished.is_some()).await?;
        claim(harness, "late", 10).await?;
        // Finally an administrator confirms that the dead node is off, and force-deletes its pods.
        for runner in &stuck {
            delete_pod(harness, runner, 0).await?;
        }
        wait_until("the pods of the dead node are gone", async || {
            let left = harness.api::<Pod>(FLEET).list_metadata(&kube::api::ListParams::default()).await?.items;
            Ok(!left.iter().any(|pod| stuck.iter().any(|runner| pod.uid().as_ref() == Some(&runner.pod.uid))))
        })
        .await?;
        assert_invariants_except(harness, FLEET, |session, reason| {
            reason == RUNNER_LOST && session.uid().is_some_and(|uid| lost.contains(&uid))
        })
        .await
    });
}

async fn delete_pod(harness: &Harness, runner: &Runner, grace: u32) -> Result<()> {
    let params = DeleteParams { grace_period_seconds: Some(grace), ..DeleteParams::default() };
    harness.api::<Pod>(FLEET).delete(&runner.pod.name, &params).await?;
    Ok(())
}
