//! The operator's handling of sessions and pools.

use anyhow::{Context, Result, ensure};
use camofleet_crds::{
    conditions::{self, FINISHED, READY, SCHEDULED, STALLED, pool as pool_reasons, session as reasons},
    v1alpha1::{BrowserSession, SessionState, WorkerPool},
};
use camofleet_e2e::{
    TestNamespace, test,
    wait::{poll, wait_for, wait_for_object},
};
use k8s_openapi::{
    api::{core::v1::Pod, policy::v1::PodDisruptionBudget},
    jiff::SignedDuration,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

#[test]
fn scales_a_pool_from_zero_and_back() {
    test("scaling", async |ns: TestNamespace| {
        let pool = json!({
            "autoscaling": { "minReplicas": 0, "maxReplicas": 2, "bufferSlots": 0, "scaleDownDelaySeconds": 2 },
            "sessionsPerRunner": 0, "engine": "Firefox", "disruption": "Always",
        });
        let pool = WorkerPool::new("pool", serde_json::from_value(pool)?);
        ns.api().create(&PostParams::default(), &pool).await?;
        let pools = ns.api::<WorkerPool>();
        let at_rest = |pool: &WorkerPool| {
            pool.status
                .as_ref()
                .is_some_and(|it| it.desired_replicas == 0 && conditions::is_true(&it.conditions, READY))
        };
        wait_for_object(&pools, "pool", "to be Ready without runners", at_rest).await?;
        ensure!(ns.runners().await?.is_empty());
        let session = ns.ready_session(json!({ "poolRef": { "name": "pool" } })).await?;
        let desired = pools.get("pool").await?.status.map(|status| status.desired_replicas);
        ensure!(desired == Some(1), "desiredReplicas is {desired:?}");
        let safe_to_evict = "cluster-autoscaler.kubernetes.io/safe-to-evict";
        let evictable = async || {
            let runner = ns.runners().await?.first().and_then(|pod| pod.annotations().get(safe_to_evict).cloned());
            let budget = ns.api::<PodDisruptionBudget>().get_opt("pool").await?;
            anyhow::Ok((runner, budget.is_some()))
        };
        ensure!(evictable().await? == (Some("true".into()), false), "{:?}", evictable().await?);

        // A runner of an old revision that serves a session terminates after the session or at the drain deadline.
        change_pool(&ns, json!({ "disruption": "WhenIdle" })).await?;
        wait_for_object(&ns.api::<PodDisruptionBudget>(), "pool", "to exist", |_| true).await?;
        change_pool(&ns, json!({ "disruption": "Always" })).await?;
        wait_for(&ns.api::<PodDisruptionBudget>(), "pool", "to be deleted", |budget| budget.is_none()).await?;
        ensure!(session.object().await?.state() == SessionState::Ready);

        session.delete().await?;
        wait_for_object(&pools, "pool", "to have no runner again", |pool| {
            at_rest(pool) && pool.status.as_ref().is_some_and(|status| status.replicas == 0)
        })
        .await?;
        Ok(())
    });
}

#[test]
fn a_session_without_a_slot_states_its_reason() {
    test("no-slot", async |ns: TestNamespace| {
        let condition = |session: &BrowserSession, type_: &str| {
            session.status.as_ref().and_then(|status| conditions::get(&status.conditions, type_).cloned())
        };
        // No pool can serve these sessions.
        let at_once = ns
            .session(
                json!({ "poolRef": { "name": "missing" }, "queueTimeoutSeconds": 0, "ttlSecondsAfterFinished": 600 }),
            )
            .await?;
        let (object, end) = at_once.wait_until_finished().await?;
        ensure!(
            end.reason == reasons::QUEUE_TIMEOUT && end.message.contains("no WorkerPool missing"),
            "the session ended as {end:?}"
        );
        ensure!(
            condition(&object, STALLED).is_some_and(|stalled| stalled.status == "True"),
            "the session is not Stalled"
        );
        ensure!(
            condition(&object, READY).is_some_and(|ready| ready.reason == end.reason),
            "Ready and Finished have different reasons"
        );

        let expired = ns.session(json!({ "queueTimeoutSeconds": 0, "ttlSecondsAfterFinished": 0 })).await?;
        expired.wait_until_gone().await?;

        let waiting = ns.session(json!({ "poolRef": { "name": "pool" } })).await?;
        let object = waiting.wait_for("to be Queued", |session| session.state() == SessionState::Queued).await?;
        let scheduled = condition(&object, SCHEDULED).context("the session has no Scheduled condition")?;
        ensure!(
            scheduled.reason == reasons::NO_MATCHING_POOL && scheduled.message.contains("create it"),
            "Scheduled is {scheduled:?}"
        );
        ensure!(condition(&object, FINISHED).is_some_and(|finished| finished.status == "False"));
        ensure!(
            condition(&object, READY).is_some_and(|ready| ready.reason == scheduled.reason),
            "Ready and Scheduled have different reasons"
        );

        // A pool without runners first, then with one.
        let pool: WorkerPool = WorkerPool::new("pool", serde_json::from_value(json!({ "replicas": 0 }))?);
        ns.api().create(&PostParams::default(), &pool).await?;
        waiting
            .wait_for("to wait for capacity", |session| {
                condition(session, SCHEDULED)
                    .is_some_and(|it| it.reason == reasons::NO_CAPACITY && it.message.contains("raise its `replicas`"))
            })
            .await?;
        let other_engine = ns.session(json!({ "engine": "Camoufox", "poolRef": { "name": "pool" } })).await?;
        change_pool(&ns, json!({ "replicas": 1, "engine": "Firefox" })).await?;
        waiting.wait_until_ready().await?;
        other_engine
            .wait_for("to state the missing engine", |session| {
                condition(session, SCHEDULED)
                    .is_some_and(|it| it.reason == reasons::NO_MATCHING_POOL && it.message.contains("Camoufox"))
            })
            .await?;
        ensure!(condition(&waiting.object().await?, READY).is_some_and(|ready| ready.reason == reasons::BROWSER_READY));
        Ok(())
    });
}

async fn change_pool(ns: &TestNamespace, spec: Value) -> Result<()> {
    ns.api::<WorkerPool>().patch("pool", &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await?;
    Ok(())
}

#[test]
fn applies_changes_and_deletions_of_sessions() {
    test("changes", async |ns: TestNamespace| {
        ns.pool("pool", json!({ "sessionsPerRunner": 0 })).await?;
        let session = ns.ready_session(json!({ "maxLifetimeSeconds": 600 })).await?;
        let changed = session.patch_spec(json!({ "maxLifetimeSeconds": 1200 })).await?;
        let object = session
            .wait_for("to have its new lifetime", |session| {
                session.status.as_ref().is_some_and(|status| status.observed_generation == changed.metadata.generation)
            })
            .await?;
        let status = object.status.unwrap_or_default();
        let (from, to) = (
            status.scheduled_time.context("the session has no scheduledTime")?.0,
            status.deadline_time.context("the session has no deadlineTime")?.0,
        );
        ensure!(to.duration_since(from) == SignedDuration::from_secs(1200), "scheduled at {from}, deadline {to}");

        // Deleted and recreated with the same name, on the only slot.
        session.delete().await?;
        let recreated = BrowserSession::new(&session.name, serde_json::from_value(json!({}))?);
        let api = ns.api::<BrowserSession>();
        let recreated =
            poll("the name to be free", async || Ok(api.create(&PostParams::default(), &recreated).await?)).await?;
        let ready =
            wait_for_object(&api, &session.name, "to be Ready", |session| session.state() == SessionState::Ready)
                .await?;
        ensure!(
            ready.uid() == recreated.uid() && ready.uid().as_ref() != Some(&session.uid),
            "the Ready session is not the recreated one"
        );

        // Sessions that are deleted before they are Ready leave nothing on the runner.
        api.delete(&session.name, &DeleteParams::default()).await?;
        for _ in 0..5 {
            let short = ns.session(json!({})).await?;
            short.delete().await?;
            short.wait_until_gone().await?;
        }
        ns.warm_pool("pool").await?;
        Ok(())
    });
}

#[test]
fn scaling_and_changing_a_pool_spares_its_sessions() {
    test("scale", async |ns: TestNamespace| {
        ns.pool("pool", json!({ "replicas": 2 })).await?;
        let session = ns.ready_session(json!({})).await?;
        let busy = session.runner().await?;
        let pods = ns.api::<Pod>();
        let names =
            async || Ok::<_, anyhow::Error>(ns.runners().await?.iter().map(ResourceExt::name_any).collect::<Vec<_>>());

        // Scaling down through the scale subresource (`kubectl scale`) removes the idle runner.
        let scale = json!({ "spec": { "replicas": 1 } });
        ns.api::<WorkerPool>().patch_scale("pool", &PatchParams::default(), &Patch::Merge(scale)).await?;
        poll("the idle runner to terminate", async || {
            let names = names().await?;
            ensure!(names == [busy.name.clone()], "the runners are {names:?}");
            Ok(())
        })
        .await?;
        // After a change of the template, the runner with a session drains once a runner of the new revision is warm.
        change_pool(&ns, json!({ "template": { "env": [{ "name": "TZ", "value": "UTC" }] } })).await?;
        wait_for_object(&pods, &busy.name, "to drain", |pod| pod.metadata.deletion_timestamp.is_some()).await?;
        session.wait_until_ready().await?;
        ensure!(names().await?.len() == 1, "the runner drains before another one of the new revision is warm");
        session.delete().await?;
        wait_for(&pods, &busy.name, "to be deleted", |pod: Option<&Pod>| pod.is_none()).await?;
        let pool = ns.warm_pool("pool").await?;
        ensure!(pool.status.unwrap_or_default().updated_replicas == 1, "the new runner has the old revision");

        // Sessions of a deleted pool continue until the drain deadline.
        change_pool(&ns, json!({ "rollout": { "drainTimeoutSeconds": 3 } })).await?;
        poll("a runner with the new drain timeout", async || {
            ns.warm_pool("pool").await?;
            let runners = ns.runners().await?;
            let grace = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
            ensure!(runners.len() == 1 && grace(&runners[0]) == Some(18));
            Ok(())
        })
        .await?;
        let session = ns.ready_session(json!({})).await?;
        ns.api::<WorkerPool>().delete("pool", &DeleteParams::default()).await?;
        let (_, end) = session.wait_until_finished().await?;
        ensure!(end.reason == reasons::RUNNER_DRAINED, "the session ended as {}: {}", end.reason, end.message);
        wait_for(&ns.api::<WorkerPool>(), "pool", "to be deleted", |pool: Option<&WorkerPool>| pool.is_none()).await?;
        Ok(())
    });
}

#[test]
fn a_pool_that_cannot_start_runners_is_stalled() {
    test("stalled", async |ns: TestNamespace| {
        let cases = [
            (
                "no-image",
                json!({ "template": { "image": "localhost/camofleet-no-such-image:1" } }),
                pool_reasons::IMAGE_ERROR,
                "template.image",
            ),
            (
                "no-node",
                json!({ "template": { "nodeSelector": { "no-such": "node" } } }),
                pool_reasons::UNSCHEDULABLE,
                "nodeSelector",
            ),
            (
                "refused",
                json!({ "template": { "resources": { "requests": { "cpu": "2" }, "limits": { "cpu": "1" } } } }),
                pool_reasons::POD_REFUSED,
                "cpu",
            ),
        ];
        for (name, spec, reason, excerpt) in cases {
            let pool = WorkerPool::new(name, serde_json::from_value(spec)?);
            ns.api().create(&PostParams::default(), &pool).await?;
            let pool = wait_for_object(&ns.api::<WorkerPool>(), name, "to be Stalled", |pool| {
                pool.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, STALLED))
            })
            .await?;
            let stalled = conditions::get(&pool.status.unwrap_or_default().conditions, STALLED)
                .cloned()
                .context("the pool has no Stalled condition")?;
            ensure!(
                stalled.reason == reason && stalled.message.contains(excerpt),
                "pool {name} is Stalled with {stalled:?}"
            );
            ns.api::<WorkerPool>().delete(name, &DeleteParams::default()).await?;
        }
        Ok(())
    });
}
