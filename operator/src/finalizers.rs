//! Removes the drain finalizer from pools that no operator will drain, so that deleting such a pool or its namespace ends.

use crate::core::{FINALIZER, Key, finalizer_removal};
use anyhow::{Context, bail};
use camofleet_crds::{
    conditions::{self, READY, STALLED, Truth, pool as reasons},
    v1alpha1::{WorkerPool, WorkerPoolStatus},
};
use futures::{StreamExt, stream};
use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{
    Api, Client, Error, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Concurrent writes. A cluster has tens of pools, and the process has half a minute.
const MAX_WRITES: usize = 16;
/// Pause between two passes over the pools. A former leader's write that is still under way lands within it.
const PASS_INTERVAL: Duration = Duration::from_secs(1);
/// All passes together. With the return of the lease it fits into a pod's default grace period of 30 s.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(15);
/// A read of the operator's own namespace, and how often it is tried.
const NAMESPACE_TIMEOUT: Duration = Duration::from_secs(2);
const NAMESPACE_ATTEMPTS: usize = 3;
const NAMESPACE_RETRY_DELAY: Duration = Duration::from_millis(500);

/// A `WorkerPool` that is not parsed: a pool written by another version must not stop the others.
pub(crate) type AnyPool = DynamicObject;

/// The pools of one namespace, or of all.
pub(crate) fn pools_api(client: &Client, namespace: Option<&str>) -> Api<AnyPool> {
    let kind = ApiResource::erase::<WorkerPool>(&());
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
        None => Api::all_with(client.clone(), &kind),
    }
}

/// Lists pools. Once the kind is gone, so are all its objects.
pub(crate) async fn list_pools(client: &Client, namespace: Option<&str>) -> anyhow::Result<Vec<AnyPool>> {
    match pools_api(client, namespace).list(&ListParams::default()).await {
        Ok(pools) => Ok(pools.items),
        Err(Error::Api(status)) if status.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error).context("cannot list the pools"),
    }
}

/// Removes the drain finalizer from this version of the pool; a later version gives a conflict. An absent pool is no error.
async fn remove_finalizer(client: &Client, pool: &AnyPool) -> kube::Result<()> {
    let others: Vec<_> = pool.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    let patch = json!({ "metadata": { "resourceVersion": pool.resource_version(), "finalizers": others } });
    let api = pools_api(client, pool.namespace().as_deref());
    unless_gone(api.patch(&pool.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)
}

/// An object that is already gone is no error.
pub(crate) fn unless_gone<T>(answer: kube::Result<T>) -> kube::Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the namespace is being deleted or is gone. False when the API server does not say: a restart of the operator is
/// far more common than the end of its namespace.
pub(crate) async fn is_terminating(client: &Client, namespace: &str) -> bool {
    let api = Api::<Namespace>::all(client.clone());
    for _ in 0..NAMESPACE_ATTEMPTS {
        match timeout(NAMESPACE_TIMEOUT, api.get_metadata_opt(namespace)).await {
            Ok(Ok(found)) => return found.is_none_or(|found| found.metadata.deletion_timestamp.is_some()),
            // Before 1.33, Kubernetes may delete the operator's account first: 401 from then on.
            Ok(Err(Error::Api(status))) if status.code < 429 => {
                tracing::warn!(namespace, "could not read the operator's namespace: {}", status.message);
                return false;
            }
            Ok(Err(error)) => tracing::warn!(namespace, %error, "could not read the operator's namespace"),
            Err(_) => tracing::warn!(namespace, "the API server did not answer about the operator's namespace"),
        }
        sleep(NAMESPACE_RETRY_DELAY).await;
    }
    false
}

/// Abandons every pool of the cluster: its conditions say that no operator serves it and why (`cause`), and its drain
/// finalizer is removed. An operator that is installed later takes the pool over, finalizer included. Passes are repeated
/// until one finds no finalizer.
///
/// # Errors
/// When pools are left with the finalizer after 15 s.
pub async fn abandon_pools(client: &Client, cause: &str) -> anyhow::Result<()> {
    release_pools(async || list_pools(client, None).await, async |pool| abandon(client, pool, cause).await).await
}

/// Removes the drain finalizer from the listed pools and leaves their conditions alone. Passes are repeated as above: an
/// operator that still leads writes to these pools, and each of its writes is a conflict.
///
/// # Errors
/// When pools are left with the finalizer after 15 s.
pub(crate) async fn remove_finalizers(
    client: &Client,
    list: impl AsyncFn() -> anyhow::Result<Vec<AnyPool>>,
) -> anyhow::Result<()> {
    release_pools(list, async |pool| remove_finalizer(client, &pool).await).await
}

async fn release_pools(
    list: impl AsyncFn() -> anyhow::Result<Vec<AnyPool>>,
    release: impl AsyncFn(AnyPool) -> kube::Result<()>,
) -> anyhow::Result<()> {
    let passes = async {
        loop {
            match release_pass(&list, &release).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => tracing::warn!("could not remove the finalizers of all pools, retrying: {error:#}"),
            }
            sleep(PASS_INTERVAL).await;
        }
    };
    if timeout(RELEASE_TIMEOUT, passes).await.is_ok() {
        return Ok(());
    }
    bail!(
        "pools still have the finalizer {FINALIZER} after {} s, or could not be listed. Remove it from a pool that is deleted and does not go: {}",
        RELEASE_TIMEOUT.as_secs(),
        finalizer_removal(&Key { namespace: "NAMESPACE".into(), name: "NAME".into() })
    )
}

/// Returns how many pools had the finalizer.
async fn release_pass(
    list: impl AsyncFn() -> anyhow::Result<Vec<AnyPool>>,
    release: impl AsyncFn(AnyPool) -> kube::Result<()>,
) -> anyhow::Result<usize> {
    let held: Vec<_> = list().await?.into_iter().filter(has_drain_finalizer).collect();
    let found = held.len();
    let release = &release;
    stream::iter(held)
        .for_each_concurrent(MAX_WRITES, |pool| async move {
            let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
            match release(pool).await {
                Ok(()) => tracing::info!(namespace, pool = name, "removed the drain finalizer"),
                Err(error) => tracing::warn!(namespace, pool = name, %error, "could not remove the drain finalizer"),
            }
        })
        .await;
    Ok(found)
}

fn has_drain_finalizer(pool: &AnyPool) -> bool {
    pool.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

async fn abandon(client: &Client, mut pool: AnyPool, cause: &str) -> kube::Result<()> {
    let api = pools_api(client, pool.namespace().as_deref());
    let patch = Patch::Merge(abandoned(&pool, cause, Timestamp::now()));
    match api.patch_status(&pool.name_any(), &PatchParams::default(), &patch).await {
        Ok(patched) => pool = patched,
        // The finalizer matters more than the words about it.
        Err(error) => {
            tracing::warn!(namespace = pool.namespace(), pool = pool.name_any(), %error, "could not set the pool's conditions");
        }
    }
    remove_finalizer(client, &pool).await
}

/// A merge patch of the status of a pool that no operator serves.
fn abandoned(pool: &AnyPool, cause: &str, now: Timestamp) -> Value {
    let status: Option<WorkerPoolStatus> = serde_json::from_value(pool.data["status"].clone()).ok();
    let mut conditions = status.map(|status| status.conditions).unwrap_or_default();
    let message = format!(
        "no operator serves this pool: {cause}. Install one to serve it again. If the pool is deleted and does not go, \
         remove its finalizer: {}",
        finalizer_removal(&Key::of(pool))
    );
    for (type_, truth) in [(READY, Truth::Unknown), (STALLED, Truth::True)] {
        let generation = pool.metadata.generation;
        conditions::set(&mut conditions, type_, truth, reasons::NO_OPERATOR, &message, generation, now);
    }
    json!({
        "metadata": { "resourceVersion": pool.resource_version() },
        "status": { "conditions": conditions },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_of_an_abandoned_pool_explains_how_to_delete_it() {
        let kind = ApiResource::erase::<WorkerPool>(&());
        let ready = json!({ "type": "Ready", "status": "True", "reason": "AllRunnersReady", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" });
        let mut pool =
            DynamicObject::new("headless", &kind).within("team-a").data(json!({ "status": { "conditions": [ready] } }));
        pool.metadata.resource_version = Some("7".into());
        let patch = abandoned(&pool, "it was uninstalled", Timestamp::from_second(1_800_000_000).unwrap());
        assert_eq!(patch["metadata"], json!({ "resourceVersion": "7" }));
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        let of = |type_: &str| conditions.iter().find(|condition| condition["type"] == type_).unwrap();
        assert_eq!(conditions.len(), 2);
        assert_eq!((&of("Ready")["status"], &of("Stalled")["status"]), (&json!("Unknown"), &json!("True")));
        let message = of("Stalled")["message"].as_str().unwrap();
        assert!(message.contains("kubectl patch workerpool headless -n team-a --type=merge"), "{message}");
    }
}
