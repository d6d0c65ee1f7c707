//! What the operator does with sessions and pools.

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
        wait_for_object(&pools, "pool", "to be as wished with no runner", at_rest).await?;
        ensure!(ns.runners().await?.is_empty());
        let session = ns.ready_session(json!({ "poolRef": { "name": "pool" } })).await?;
        let desired = pools.get("pool").await?.status.map(|status| status.desired_replicas);
        ensure!(desired == Some(1), "it wishes for {desired:?}");
        let safe_to_evict = "cluster-autoscaler.kubernetes.io/safe-to-evict";
        let evictable = async || {
            let runner = ns.runners().await?.first().and_then(|pod| pod.annotations().get(safe_to_evict).cloned());
            let budget = ns.api::<PodDisruptionBudget>().get_opt("pool").await?;
            anyhow::Ok((runner, budget.is_some()))
        };
        ensure!(evictable().await? == (Some("true".into()), false), "{:?}", evictable().await?);

        // What is of an old shape and serves goes when its session has ended, or with the drain deadline.
        change_pool(&ns, json!({ "disruption": "WhenIdle" })).await?;
        wait_for_object(&ns.api::<PodDisruptionBudget>(), "pool", "to be made", |_| true).await?;
        change_pool(&ns, json!({ "disruption": "Always" })).await?;
        wait_for(&ns.api::<PodDisruptionBudget>(), "pool", "to be taken away", |budget| budget.is_none()).await?;
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
        // Nobody can serve these.
        let at_once = ns
            .session(
                json!({ "poolRef": { "name": "nobody" }, "queueTimeoutSeconds": 0, "ttlSecondsAfterFinished": 600 }),
            )
            .await?;
        let (object, end) = at_once.finished().await?;
        ensure!(
            end.reason == reasons::QUEUE_TIMEOUT && end.message.contains("no WorkerPool nobody"),
            "it ended as {end:?}"
        );
        ensure!(condition(&object, STALLED).is_some_and(|stalled| stalled.status == "True"), "it is not Stalled");
        ensure!(
            condition(&object, READY).is_some_and(|ready| ready.reason == end.reason),
            "Ready does not say why it is not"
        );

        let forgotten = ns.session(json!({ "queueTimeoutSeconds": 0, "ttlSecondsAfterFinished": 0 })).await?;
        forgotten.gone().await?;

        let waiting = ns.session(json!({ "poolRef": { "name": "pool" } })).await?;
        let object = waiting.wait_for("to be Queued", |session| session.state() == SessionState::Queued).await?;
        let scheduled = condition(&object, SCHEDULED).context("it is not said whether it is scheduled")?;
        ensure!(
            scheduled.reason == reasons::NO_MATCHING_POOL && scheduled.message.contains("create it"),
            "it waits for {scheduled:?}"
        );
        ensure!(condition(&object, FINISHED).is_some_and(|finished| finished.status == "False"));
        ensure!(
            condition(&object, READY).is_some_and(|ready| ready.reason == scheduled.reason),
            "Ready does not say why"
        );

        // A pool that has no runner yet, and then one.
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
        waiting.ready().await?;
        other_engine
            .wait_for("to be told of the engine", |session| {
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
        let (from, to) =
            (status.scheduled_time.context("not scheduled")?.0, status.deadline_time.context("no deadline")?.0);
        ensure!(to.duration_since(from) == SignedDuration::from_secs(1200), "it has from {from} to {to}");

        // Deleted and made again under its name, on the only slot there is.
        session.delete().await?;
        let again = BrowserSession::new(&session.name, serde_json::from_value(json!({}))?);
        let api = ns.api::<BrowserSession>();
        let again = poll("the name to be free", async || Ok(api.create(&PostParams::default(), &again).await?)).await?;
        let ready =
            wait_for_object(&api, &session.name, "to be Ready", |session| session.state() == SessionState::Ready)
                .await?;
        ensure!(ready.uid() == again.uid() && ready.uid().as_ref() != Some(&session.uid), "it is another session");

        // Deleted at once, before anything came of it: nothing is left on the runner.
        api.delete(&session.name, &DeleteParams::default()).await?;
        for _ in 0..5 {
            let short = ns.session(json!({})).await?;
            short.delete().await?;
            short.gone().await?;
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

        // The idle one goes, by the door of `kubectl scale`.
        let scale = json!({ "spec": { "replicas": 1 } });
        ns.api::<WorkerPool>().patch_scale("pool", &PatchParams::default(), &Patch::Merge(scale)).await?;
        poll("the idle runner to go", async || {
            let names = names().await?;
            ensure!(names == [busy.name.clone()], "there are {names:?}");
            Ok(())
        })
        .await?;
        // Of another shape: the one with a session drains once another has the new shape.
        change_pool(&ns, json!({ "template": { "env": [{ "name": "TZ", "value": "UTC" }] } })).await?;
        wait_for_object(&pods, &busy.name, "to drain", |pod| pod.metadata.deletion_timestamp.is_some()).await?;
        session.ready().await?;
        ensure!(names().await?.len() == 1, "it drains before another has the new shape");
        session.delete().await?;
        wait_for(&pods, &busy.name, "to be gone", |pod: Option<&Pod>| pod.is_none()).await?;
        let pool = ns.warm_pool("pool").await?;
        ensure!(pool.status.unwrap_or_default().updated_replicas == 1, "its successor has the old shape");

        // A pool that is deleted lets its session live until the drain deadline.
        change_pool(&ns, json!({ "rollout": { "drainTimeoutSeconds": 3 } })).await?;
        poll("the runner to have the new deadline", async || {
            ns.warm_pool("pool").await?;
            let runners = ns.runners().await?;
            let grace = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
            ensure!(runners.len() == 1 && grace(&runners[0]) == Some(18));
            Ok(())
        })
        .await?;
        let session = ns.ready_session(json!({})).await?;
        ns.api::<WorkerPool>().delete("pool", &DeleteParams::default()).await?;
        let (_, end) = session.finished().await?;
        ensure!(end.reason == reasons::RUNNER_DRAINED, "it ended as {}: {}", end.reason, end.message);
        wait_for(&ns.api::<WorkerPool>(), "pool", "to be gone", |pool: Option<&WorkerPool>| pool.is_none()).await?;
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
        for (name, spec, reason, words) in cases {
            let pool = WorkerPool::new(name, serde_json::from_value(spec)?);
            ns.api().create(&PostParams::default(), &pool).await?;
            let pool = wait_for_object(&ns.api::<WorkerPool>(), name, "to be Stalled", |pool| {
                pool.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, STALLED))
            })
            .await?;
            let stalled = conditions::get(&pool.status.unwrap_or_default().conditions, STALLED)
                .cloned()
                .context("it was just there")?;
            ensure!(stalled.reason == reason && stalled.message.contains(words), "{name} is Stalled by {stalled:?}");
            ns.api::<WorkerPool>().delete(name, &DeleteParams::default()).await?;
        }
        Ok(())
    });
}
