//! What the operator does with sessions and pools.

use anyhow::{Context, Result, ensure};
use camofleet_crds::{
    conditions::{self, FINISHED, READY, SCHEDULED, STALLED, pool as pool_reasons, session as reasons},
    v1alpha1::{BrowserSession, SessionState, WorkerPool},
};
use camofleet_e2e::{
    Space, test,
    wait::{poll, until, until_it},
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
fn a_pool_scales_from_zero_and_back() {
    test("scaling", async |space: Space| {
        let pool = json!({
            "autoscaling": { "minReplicas": 0, "maxReplicas": 2, "bufferSlots": 0, "scaleDownDelaySeconds": 2 },
            "sessionsPerRunner": 0, "engine": "Firefox", "disruption": "Always",
        });
        let pool = WorkerPool::new("pool", serde_json::from_value(pool)?);
        space.api().create(&PostParams::default(), &pool).await?;
        let pools = space.api::<WorkerPool>();
        let at_rest = |pool: &WorkerPool| {
            pool.status
                .as_ref()
                .is_some_and(|it| it.desired_replicas == 0 && conditions::is_true(&it.conditions, READY))
        };
        until_it(&pools, "pool", "to be as wished with no runner", at_rest).await?;
        ensure!(space.runners().await?.is_empty());
        let session = space.ready_session(json!({ "poolRef": { "name": "pool" } })).await?;
        let desired = pools.get("pool").await?.status.map(|status| status.desired_replicas);
        ensure!(desired == Some(1), "it wishes for {desired:?}");
        let safe_to_evict = "cluster-autoscaler.kubernetes.io/safe-to-evict";
        let evictable = async || {
            let runner = space.runners().await?.first().and_then(|pod| pod.annotations().get(safe_to_evict).cloned());
            let budget = space.api::<PodDisruptionBudget>().get_opt("pool").await?;
            anyhow::Ok((runner, budget.is_some()))
        };
        ensure!(evictable().await? == (Some("true".into()), false), "{:?}", evictable().await?);

        // What is of an old shape and serves goes when its session has ended, or with the drain deadline.
        change_pool(&space, json!({ "disruption": "WhenIdle" })).await?;
        until_it(&space.api::<PodDisruptionBudget>(), "pool", "to be made", |_| true).await?;
        change_pool(&space, json!({ "disruption": "Always" })).await?;
        until(&space.api::<PodDisruptionBudget>(), "pool", "to be taken away", |budget| budget.is_none()).await?;
        ensure!(session.object().await?.state() == SessionState::Ready);

        session.delete().await?;
        until_it(&pools, "pool", "to have no runner again", |pool| {
            at_rest(pool) && pool.status.as_ref().is_some_and(|status| status.replicas == 0)
        })
        .await?;
        Ok(())
    });
}

#[test]
fn a_session_without_a_slot() {
    test("queue", async |space: Space| {
        let condition = |session: &BrowserSession, type_: &str| {
            session.status.as_ref().and_then(|status| conditions::get(&status.conditions, type_).cloned())
        };
        // Nobody can serve these.
        let at_once = space
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

        let forgotten = space.session(json!({ "queueTimeoutSeconds": 0, "ttlSecondsAfterFinished": 0 })).await?;
        forgotten.gone().await?;

        let waiting = space.session(json!({ "poolRef": { "name": "pool" } })).await?;
        let object = waiting.until("to be Queued", |session| session.state() == SessionState::Queued).await?;
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
        space.api().create(&PostParams::default(), &pool).await?;
        waiting
            .until("to wait for capacity", |session| {
                condition(session, SCHEDULED)
                    .is_some_and(|it| it.reason == reasons::NO_CAPACITY && it.message.contains("raise its `replicas`"))
            })
            .await?;
        let other_engine = space.session(json!({ "engine": "Camoufox", "poolRef": { "name": "pool" } })).await?;
        change_pool(&space, json!({ "replicas": 1, "engine": "Firefox" })).await?;
        waiting.ready().await?;
        other_engine
            .until("to be told of the engine", |session| {
                condition(session, SCHEDULED)
                    .is_some_and(|it| it.reason == reasons::NO_MATCHING_POOL && it.message.contains("Camoufox"))
            })
            .await?;
        ensure!(condition(&waiting.object().await?, READY).is_some_and(|ready| ready.reason == reasons::BROWSER_READY));
        Ok(())
    });
}

async fn change_pool(space: &Space, spec: Value) -> Result<()> {
    space.api::<WorkerPool>().patch("pool", &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await?;
    Ok(())
}

#[test]
fn changes_and_deletions_of_sessions() {
    test("changes", async |space: Space| {
        space.pool("pool", json!({ "sessionsPerRunner": 0 })).await?;
        let session = space.ready_session(json!({ "maxLifetimeSeconds": 600 })).await?;
        let changed = session.change(json!({ "maxLifetimeSeconds": 1200 })).await?;
        let object = session
            .until("to have its new lifetime", |session| {
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
        let api = space.api::<BrowserSession>();
        let again = poll("the name to be free", async || Ok(api.create(&PostParams::default(), &again).await?)).await?;
        let ready =
            until_it(&api, &session.name, "to be Ready", |session| session.state() == SessionState::Ready).await?;
        ensure!(ready.uid() == again.uid() && ready.uid().as_ref() != Some(&session.uid), "it is another session");

        // Deleted at once, before anything came of it: nothing is left on the runner.
        api.delete(&session.name, &DeleteParams::default()).await?;
        for _ in 0..5 {
            let short = space.session(json!({})).await?;
            short.delete().await?;
            short.gone().await?;
        }
        space.warm_pool("pool").await?;
        Ok(())
    });
}

#[test]
fn pools_are_scaled_and_changed() {
    test("scale", async |space: Space| {
        space.pool("pool", json!({ "replicas": 2 })).await?;
        let session = space.ready_session(json!({})).await?;
        let busy = session.runner().await?;
        let pods = space.api::<Pod>();
        let names = async || {
            Ok::<_, anyhow::Error>(space.runners().await?.iter().map(ResourceExt::name_any).collect::<Vec<_>>())
        };

        // The idle one goes, by the door of `kubectl scale`.
        let scale = json!({ "spec": { "replicas": 1 } });
        space.api::<WorkerPool>().patch_scale("pool", &PatchParams::default(), &Patch::Merge(scale)).await?;
        poll("the idle runner to go", async || {
            let names = names().await?;
            ensure!(names == [busy.name.clone()], "there are {names:?}");
            Ok(())
        })
        .await?;
        // Of another shape: the one with a session drains once another has the new shape.
        change_pool(&space, json!({ "template": { "env": [{ "name": "TZ", "value": "UTC" }] } })).await?;
        until_it(&pods, &busy.name, "to drain", |pod| pod.metadata.deletion_timestamp.is_some()).await?;
        session.ready().await?;
        ensure!(names().await?.len() == 1, "it drains before another has the new shape");
        session.delete().await?;
        until(&pods, &busy.name, "to be gone", |pod: Option<&Pod>| pod.is_none()).await?;
        let pool = space.warm_pool("pool").await?;
        ensure!(pool.status.unwrap_or_default().updated_replicas == 1, "its successor has the old shape");

        // A pool that is deleted lets its session live until the drain deadline.
        change_pool(&space, json!({ "rollout": { "drainTimeoutSeconds": 3 } })).await?;
        poll("the runner to have the new deadline", async || {
            space.warm_pool("pool").await?;
            let runners = space.runners().await?;
            let grace = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
            ensure!(runners.len() == 1 && grace(&runners[0]) == Some(18));
            Ok(())
        })
        .await?;
        let session = space.ready_session(json!({})).await?;
        space.api::<WorkerPool>().delete("pool", &DeleteParams::default()).await?;
        let (_, end) = session.finished().await?;
        ensure!(end.reason == reasons::RUNNER_DRAINED, "it ended as {}: {}", end.reason, end.message);
        until(&space.api::<WorkerPool>(), "pool", "to be gone", |pool: Option<&WorkerPool>| pool.is_none()).await?;
        Ok(())
    });
}

#[test]
fn pools_that_cannot_come_up() {
    test("stalled", async |space: Space| {
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
            space.api().create(&PostParams::default(), &pool).await?;
            let pool = until_it(&space.api::<WorkerPool>(), name, "to be Stalled", |pool| {
                pool.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, STALLED))
            })
            .await?;
            let stalled = conditions::get(&pool.status.unwrap_or_default().conditions, STALLED)
                .cloned()
                .context("it was just there")?;
            ensure!(stalled.reason == reason && stalled.message.contains(words), "{name} is Stalled by {stalled:?}");
            space.api::<WorkerPool>().delete(name, &DeleteParams::default()).await?;
        }
        Ok(())
    });
}
