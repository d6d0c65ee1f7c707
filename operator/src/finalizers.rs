//! Releases pools that no operator will drain: removes the drain finalizer, so that the deletion of the pool or of its
//! namespace completes.

use crate::core::{FINALIZER, Key, finalizer_removal};
use anyhow::{Context, bail};
use camofleet_crds::{
    conditions::{self, ConditionStatus, READY, STALLED, pool as reasons},
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
const MAX_CONCURRENT_WRITES: usize = 16;
/// Delay between two passes over the pools. A write of a previous leader that is still in flight completes within it.
const PASS_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout for all passes. Together with the release of the Lease it fits into a pod's default grace period of 30 s.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout for one read of the operator's own namespace.
const NAMESPACE_TIMEOUT: Duration = Duration::from_secs(2);
const NAMESPACE_ATTEMPTS: usize = 3;
const NAMESPACE_RETRY_DELAY: Duration = Duration::from_millis(500);

/// An unparsed `WorkerPool`, because a pool that another version wrote must not block the others.
pub(crate) type AnyPool = DynamicObject;

/// API for the pools of one namespace, or of all namespaces.
pub(crate) fn pools_api(client: &Client, namespace: Option<&str>) -> Api<AnyPool> {
    let kind = ApiResource::erase::<WorkerPool>(&());
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
        None => Api::all_with(client.clone(), &kind),
    }
}

/// Lists pools. The list is empty if the CRD no longer exists.
pub(crate) async fn list_pools(client: &Client, namespace: Option<&str>) -> anyhow::Result<Vec<AnyPool>> {
    match pools_api(client, namespace).list(&ListParams::default()).await {
        Ok(pools) => Ok(pools.items),
        Err(Error::Api(status)) if status.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error).context("cannot list the pools"),
    }
}

/// Removes the drain finalizer from this version of the pool. If the pool has changed since, the result is a conflict.
/// A deleted pool is not an error.
async fn remove_finalizer(client: &Client, pool: &AnyPool) -> kube::Result<()> {
    let others: Vec<_> = pool.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    let patch = json!({ "metadata": { "resourceVersion": pool.resource_version(), "finalizers": others } });
    let api = pools_api(client, pool.namespace().as_deref());
    unless_gone(api.patch(&pool.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)
}

/// Ignores the error that an object no longer exists.
pub(crate) fn unless_gone<T>(answer: kube::Result<T>) -> kube::Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns whether the namespace is being deleted or no longer exists. `false` if the API server does not respond,
/// because a restart of the operator is far more common than the deletion of its namespace.
pub(crate) async fn is_terminating(client: &Client, namespace: &str) -> bool {
    let api = Api::<Namespace>::all(client.clone());
    for _ in 0..NAMESPACE_ATTEMPTS {
        match timeout(NAMESPACE_TIMEOUT, api.get_metadata_opt(namespace)).await {
            Ok(Ok(found)) => return found.is_none_or(|found| found.metadata.deletion_timestamp.is_some()),
            // Kubernetes before 1.33 can delete the operator's ServiceAccount first. Then all requests fail with 401.
            Ok(Err(Error::Api(status))) if status.code < 429 => {
                tracing::warn!(namespace, "could not read the operator's namespace: {}", status.message);
                return false;
            }
            Ok(Err(error)) => tracing::warn!(namespace, %error, "could not read the operator's namespace"),
            Err(_) => tracing::warn!(namespace, "timed out reading the operator's namespace"),
        }
        sleep(NAMESPACE_RETRY_DELAY).await;
    }
    false
}

/// Releases every pool of the cluster: sets the reason `NoOperator` with this `cause` in its conditions, and removes
/// its drain finalizer. An operator that is installed later adopts the pool and adds the finalizer again. Repeats until
/// no pool has the finalizer.
///
/// # Errors
/// Pools still have the finalizer after 15 s.
pub async fn release_pools(client: &Client, cause: &str) -> anyhow::Result<()> {
    release_until_none_is_held(
        async || list_pools(client, None).await,
        async |pool| release_pool(client, pool, cause).await,
    )
    .await
}

/// Removes the drain finalizer from the listed pools without changing their conditions. Repeats until no pool has the
/// finalizer, because writes of an operator that still leads cause conflicts.
///
/// # Errors
/// Pools still have the finalizer after 15 s.
pub(crate) async fn remove_finalizers(
    client: &Client,
    list: impl AsyncFn() -> anyhow::Result<Vec<AnyPool>>,
) -> anyhow::Result<()> {
    release_until_none_is_held(list, async |pool| remove_finalizer(client, &pool).await).await
}

async fn release_until_none_is_held(
    list: impl AsyncFn() -> anyhow::Result<Vec<AnyPool>>,
    release: impl AsyncFn(AnyPool) -> kube::Result<()>,
) -> anyhow::Result<()> {
    let passes = async {
        loop {
            match release_pass(&list, &release).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => tracing::warn!("could not release all pools, retrying: {error:#}"),
            }
            sleep(PASS_INTERVAL).await;
        }
    };
    if timeout(RELEASE_TIMEOUT, passes).await.is_ok() {
        return Ok(());
    }
    bail!(
        "pools still have the finalizer {FINALIZER} after {} s, or could not be listed. If the deletion of a pool does \
         not complete, remove its finalizer: {}",
        RELEASE_TIMEOUT.as_secs(),
        finalizer_removal(&Key { namespace: "NAMESPACE".into(), name: "NAME".into() })
    )
}

/// Releases the listed pools that have the finalizer, and returns their number.
async fn release_pass(
    list: impl AsyncFn() -> anyhow::Result<Vec<AnyPool>>,
    release: impl AsyncFn(AnyPool) -> kube::Result<()>,
) -> anyhow::Result<usize> {
    let held: Vec<_> = list().await?.into_iter().filter(has_drain_finalizer).collect();
    let found = held.len();
    let release = &release;
    stream::iter(held)
        .for_each_concurrent(MAX_CONCURRENT_WRITES, |pool| async move {
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

async fn release_pool(client: &Client, mut pool: AnyPool, cause: &str) -> kube::Result<()> {
    let api = pools_api(client, pool.namespace().as_deref());
    let patch = Patch::Merge(released_status(&pool, cause, Timestamp::now()));
    match api.patch_status(&pool.name_any(), &PatchParams::default(), &patch).await {
        Ok(patched) => pool = patched,
        // The finalizer is removed even if the conditions could not be set.
        Err(error) => {
            tracing::warn!(namespace = pool.namespace(), pool = pool.name_any(), %error, "could not set the pool's conditions");
        }
    }
    remove_finalizer(client, &pool).await
}

/// Merge patch that sets the conditions of a pool that no operator manages.
fn released_status(pool: &AnyPool, cause: &str, now: Timestamp) -> Value {
    let status: Option<WorkerPoolStatus> = serde_json::from_value(pool.data["status"].clone()).ok();
    let mut conditions = status.map(|status| status.conditions).unwrap_or_default();
    let message = format!(
        "no operator manages this pool: {cause}. Install an operator to use the pool again. If the deletion of the \
         pool does not complete, remove its finalizer: {}",
        finalizer_removal(&Key::of(pool))
    );
    for (type_, truth) in [(READY, ConditionStatus::Unknown), (STALLED, ConditionStatus::True)] {
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
    fn the_condition_of_a_released_pool_explains_how_to_delete_it() {
        let kind = ApiResource::erase::<WorkerPool>(&());
        let ready = json!({ "type": "Ready", "status": "True", "reason": "AllRunnersReady", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" });
        let mut pool =
            DynamicObject::new("headless", &kind).within("team-a").data(json!({ "status": { "conditions": [ready] } }));
        pool.metadata.resource_version = Some("7".into());
        let patch = released_status(&pool, "it was uninstalled", Timestamp::from_second(1_800_000_000).unwrap());
        assert_eq!(patch["metadata"], json!({ "resourceVersion": "7" }));
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        let of = |type_: &str| conditions.iter().find(|condition| condition["type"] == type_).unwrap();
        assert_eq!(conditions.len(), 2);
        assert_eq!((&of("Ready")["status"], &of("Stalled")["status"]), (&json!("Unknown"), &json!("True")));
        let message = of("Stalled")["message"].as_str().unwrap();
        assert!(message.contains("kubectl patch workerpool headless -n team-a --type=merge"), "{message}");
    }
}
