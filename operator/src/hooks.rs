//! What the chart's hook Jobs do around a release: its own pools after an install and an upgrade, since a release cannot
//! hold a kind and its objects at once, and the end of all pools before an uninstall, since without an operator nobody
//! takes their finalizers off.

use crate::{core::FINALIZER, shell::LEASE};
use anyhow::{Context, bail};
use camofleet_crds::v1alpha1::{BrowserSession, SessionState, WorkerPool};
use k8s_openapi::{
    api::coordination::v1::Lease,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Client, Error, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::CustomResourceExt,
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// Owner of the fields that the chart's values set.
const FIELD_MANAGER: &str = "camofleet-chart";
/// So long the API server may take to serve a kind that was just installed.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(60);
/// What is waited for is looked at so often.
const PERIOD: Duration = Duration::from_secs(1);
/// A leader renews its Lease every two seconds. The rest is for clocks that differ.
const LONGEST_SILENCE: SignedDuration = SignedDuration::from_secs(60);
/// A working operator needs no longer for pools whose last session has ended.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(30);

/// Applies the pools, by their names, to the namespace, and deletes those that match the selector and are not among them: what
/// an earlier revision of the release had. A pool that the API server refuses does not stop the others. They are JSON and no
/// `WorkerPool`, which would drop unknown fields where the API server tells of them.
pub async fn apply_pools(
    client: Client,
    namespace: &str,
    selector: &str,
    pools: &BTreeMap<String, Value>,
) -> anyhow::Result<()> {
    until_established(&client).await?;
    let api: Api<WorkerPool> = Api::namespaced(client, namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
    let mut refused = Vec::new();
    for (name, pool) in pools {
        match api.patch(name, &params, &Patch::Apply(pool)).await {
            Ok(_) => tracing::info!(namespace, name, "pool applied"),
            Err(Error::Api(refusal)) => {
                tracing::error!(namespace, name, "pool refused: {}", refusal.message);
                refused.push(name.as_str());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot apply the pool {name}")),
        }
    }
    let ours = api.list(&ListParams::default().labels(selector)).await.context("cannot list the release's pools")?;
    for name in ours.iter().map(ResourceExt::name_any) {
        if !pools.contains_key(&name) {
            tracing::info!(namespace, name, "pool deleted: it is no longer in the chart's values");
            delete(&api, &name).await?;
        }
    }
    if !refused.is_empty() {
        bail!("refused: {}. Mend it in the chart's values, under `pools`, and upgrade again", refused.join(", "));
    }
    Ok(())
}

async fn until_established(client: &Client) -> anyhow::Result<()> {
    let name = WorkerPool::crd_name();
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    timeout(ESTABLISH_TIMEOUT, await_condition(api, name, is_crd_established()))
        .await
        .with_context(|| format!("{name} was not established within {} s", ESTABLISH_TIMEOUT.as_secs()))?
        .with_context(|| format!("cannot watch the CustomResourceDefinition {name}"))?;
    Ok(())
}

/// Deletes all pools of the cluster and lets the operator drain them; `namespace` is the release's. Sessions that still run
/// after `patience` are deleted. Where no operator is at work, its finalizers are taken off in its place, so that nothing
/// hangs.
pub async fn delete_pools(client: Client, namespace: &str, patience: Duration) -> anyhow::Result<()> {
    if drained(&client, namespace, patience).await? {
        return Ok(());
    }
    delete_sessions(&client).await?;
    if drained(&client, namespace, OPERATOR_PATIENCE).await? {
        return Ok(());
    }
    tracing::warn!("finalizers are taken off, and runners stop by themselves");
    release_pools(&client).await
}

/// Deletes the pools and waits until they are gone, but no longer than `patience`, and only while somebody drains them.
async fn drained(client: &Client, namespace: &str, patience: Duration) -> anyhow::Result<bool> {
    let deadline = Instant::now() + patience;
    let mut told = None;
    loop {
        let pools = pools(client).await?;
        if pools.is_empty() {
            tracing::info!("no pool is left");
            return Ok(true);
        }
        for pool in pools.iter().filter(|pool| pool.metadata.deletion_timestamp.is_none()) {
            let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
            tracing::info!(namespace, name, "pool deleted: its sessions may go on until its drain deadline");
            delete(&Api::<WorkerPool>::namespaced(client.clone(), &namespace), &name).await?;
        }
        let sessions: i32 = pools.iter().filter_map(|pool| Some(pool.status.as_ref()?.slots.used)).sum();
        if told.replace((pools.len(), sessions)) != Some((pools.len(), sessions)) {
            tracing::info!(pools = pools.len(), sessions, "draining");
        }
        if !an_operator_leads(client, namespace).await? {
            tracing::warn!("no operator is at work, so nothing drains");
            return Ok(false);
        }
        if Instant::now() >= deadline {
            tracing::warn!(seconds = patience.as_secs(), "the time to drain is over");
            return Ok(false);
        }
        sleep(PERIOD).await;
    }
}

async fn an_operator_leads(client: &Client, namespace: &str) -> anyhow::Result<bool> {
    let lease = Api::<Lease>::namespaced(client.clone(), namespace).get_opt(LEASE).await;
    let spec = lease.context("cannot read the operator's Lease")?.and_then(|lease| lease.spec).unwrap_or_default();
    let held = spec.holder_identity.is_some_and(|holder| !holder.is_empty());
    let renewed = spec.renew_time.is_some_and(|at| Timestamp::now().duration_since(at.0) < LONGEST_SILENCE);
    Ok(held && renewed)
}

async fn pools(client: &Client) -> anyhow::Result<Vec<WorkerPool>> {
    match Api::<WorkerPool>::all(client.clone()).list(&ListParams::default()).await {
        Ok(pools) => Ok(pools.items),
        // The kind is gone, and all of it with it.
        Err(Error::Api(refusal)) if refusal.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error).context("cannot list the pools"),
    }
}

async fn delete_sessions(client: &Client) -> anyhow::Result<()> {
    let sessions = Api::<BrowserSession>::all(client.clone()).list(&ListParams::default()).await;
    for session in sessions.context("cannot list the sessions")? {
        if session.status.as_ref().is_some_and(|status| status.state == SessionState::Finished) {
            continue;
        }
        let (namespace, name) = (session.namespace().unwrap_or_default(), session.name_any());
        tracing::warn!(namespace, name, "session deleted");
        delete(&Api::<BrowserSession>::namespaced(client.clone(), &namespace), &name).await?;
    }
    Ok(())
}

async fn release_pools(client: &Client) -> anyhow::Result<()> {
    for pool in pools(client).await? {
        let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
        let others: Vec<_> = pool.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        // Of this state of the object only: what somebody else adds meanwhile is not lost.
        let patch = json!({ "metadata": { "resourceVersion": pool.resource_version(), "finalizers": others } });
        let api: Api<WorkerPool> = Api::namespaced(client.clone(), &namespace);
        unless_gone(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await)
            .with_context(|| format!("cannot take the finalizer off the pool {namespace}/{name}"))?;
    }
    Ok(())
}

async fn delete<K>(api: &Api<K>, name: &str) -> anyhow::Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    unless_gone(api.delete(name, &DeleteParams::default()).await).with_context(|| format!("cannot delete {name}"))
}

/// That an object is gone already is no failure here.
fn unless_gone<T>(answer: kube::Result<T>) -> kube::Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(Error::Api(refusal)) if refusal.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
