//! Implements the chart's hook Jobs. After an install, upgrade or rollback they apply the release's pools, because a
//! release cannot contain both a CRD and its objects. Before an uninstall they drain and delete the pools.

use crate::{
    finalizers::{AnyPool, list_pools, pools_api, remove_finalizers, unless_gone},
    io::LEASE,
};
use anyhow::{Context, bail};
use camofleet_crds::v1alpha1::{BrowserSession, SessionState, WorkerPool};
use k8s_openapi::{
    api::coordination::v1::Lease,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Client, Error, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
    core::CustomResourceExt,
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display, Formatter},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// Field manager of the fields that the chart's values set.
const FIELD_MANAGER: &str = "camofleet-chart";
/// Field manager of the two ownership annotations below. It differs from [`FIELD_MANAGER`], so that an earlier chart,
/// which does not set these annotations, does not remove them when it applies its pools after a rollback.
const OWNERSHIP_MANAGER: &str = "camofleet-chart-record";
/// Annotation with the namespace and name of the release that applies the pool.
const RELEASE_ANNOTATION: &str = "camofleet.dev/release";
/// Annotation with the UID of the pool that the release created. A copy of that pool has the same annotation but
/// another UID.
const CREATED_ANNOTATION: &str = "camofleet.dev/created-uid";
/// Labels of a release's pools, as `_helpers.tpl` renders them.
const NAME_LABEL: (&str, &str) = ("app.kubernetes.io/name", "camofleet-pool");
const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// Timeout for the API server to serve a newly installed CRD.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between two reads of the pools during a drain.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum age of the last renewal of a held Lease. A leader renews every 2 s, and the rest tolerates clock
/// differences.
const MAX_RENEWAL_AGE: SignedDuration = SignedDuration::from_secs(60);
/// Time in which a working operator removes a pool after its last session has ended.
const FINAL_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// A Helm release. Displayed as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Namespace of the release and its pools.
    pub namespace: String,
    /// Name of the release.
    pub name: String,
}

impl Display for Release {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

impl Release {
    /// Returns whether this release created the pool, by the pool's ownership annotations. An earlier chart did not set
    /// them. For its pools, the field manager and the labels decide.
    fn created(&self, pool: &impl ResourceExt) -> bool {
        match pool.annotations().get(RELEASE_ANNOTATION) {
            Some(release) => {
                let created = pool.annotations().get(CREATED_ANNOTATION);
                *release == self.to_string() && created.is_some() && created == pool.meta().uid.as_ref()
            }
            None => self.applied_by_earlier_chart(pool),
        }
    }

    fn applied_by_earlier_chart(&self, pool: &impl ResourceExt) -> bool {
        let has = |label: &str, value: &str| pool.labels().get(label).is_some_and(|found| found == value);
        let applied = |entry: &ManagedFieldsEntry| {
            entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
        };
        has(NAME_LABEL.0, NAME_LABEL.1) && has(INSTANCE_LABEL, &self.name) && pool.managed_fields().iter().any(applied)
    }

    /// Ownership annotations for a pool that the release applies. `created` is the pool's UID if the release also
    /// created it.
    fn ownership_annotations(&self, created: Option<&str>) -> Value {
        let mut annotations = json!({ RELEASE_ANNOTATION: self.to_string() });
        if let Some(uid) = created {
            annotations[CREATED_ANNOTATION] = json!(uid);
        }
        annotations
    }
}

/// Applies the pools, given by name, to the release's namespace, and deletes pools that an earlier revision of the
/// release created and that are not among them. A pool that the API server rejects does not affect the others. The
/// pools are JSON because `WorkerPool` would drop unknown fields, which the API server reports.
///
/// # Errors
/// A pool was rejected, or a request to the API server failed.
pub async fn apply_pools(client: Client, release: &Release, pools: &BTreeMap<String, Value>) -> anyhow::Result<()> {
    until_established(&client).await?;
    let namespace = &release.namespace;
    let api = pools_api(&client, Some(namespace));
    let mut rejected = Vec::new();
    for (name, pool) in pools {
        match apply(&api, release, name, pool).await {
            Ok(true) => tracing::info!(namespace, pool = name, "applied the pool"),
            Ok(false) => {
                tracing::warn!(
                    namespace,
                    pool = name,
                    "applied the pool, which this release did not create: an uninstall keeps it"
                );
            }
            Err(Error::Api(status)) => {
                tracing::error!(namespace, pool = name, "the API server rejected the pool: {}", status.message);
                rejected.push(name.as_str());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot apply the pool {name}")),
        }
    }
    let present = api.list_metadata(&ListParams::default()).await.context("cannot list the release's pools")?;
    for pool in present.items.iter().filter(|pool| release.created(*pool)) {
        let name = pool.name_any();
        if !pools.contains_key(&name) {
            delete(&api, pool).await?;
            tracing::info!(namespace, pool = name, "deleted the pool, which is no longer in the chart's values");
        }
    }
    if !rejected.is_empty() {
        bail!(
            "the API server rejected {}. Correct them under `pools` in the chart's values, and upgrade again",
            rejected.join(", ")
        );
    }
    Ok(())
}

/// Applies a pool and sets its ownership annotations. Returns whether the release created the pool, now or earlier.
async fn apply(api: &Api<AnyPool>, release: &Release, name: &str, pool: &Value) -> kube::Result<bool> {
    let found = api.get_metadata_opt(name).await?;
    let created = found.as_ref().is_none_or(|found| release.created(found));
    // An existing pool is annotated before it is applied. Afterwards it would look like a pool that an earlier chart
    // created.
    if let Some(found) = &found
        && !found.annotations().contains_key(RELEASE_ANNOTATION)
    {
        annotate_ownership(api, release, found, created).await?;
    }
    let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
    let applied = api.patch(name, &params, &Patch::Apply(pool)).await?;
    if found.is_none() {
        annotate_ownership(api, release, &applied, created).await?;
    }
    Ok(created)
}

async fn annotate_ownership(
    api: &Api<AnyPool>,
    release: &Release,
    pool: &impl ResourceExt,
    created: bool,
) -> kube::Result<()> {
    let uid = pool.uid().unwrap_or_default();
    let annotations = release.ownership_annotations(created.then_some(uid.as_str()));
    // The UID is a precondition: the patch fails if another pool has the name now.
    let patch = json!({ "metadata": { "uid": uid, "annotations": annotations } });
    let params = PatchParams { field_manager: Some(OWNERSHIP_MANAGER.to_owned()), ..PatchParams::default() };
    api.patch_metadata(&pool.name_any(), &params, &Patch::Merge(patch)).await.map(drop)
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

/// Which pools an uninstall deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolSelection {
    /// The pools that the release created.
    Release,
    /// All pools of the cluster.
    Cluster,
}

/// Deletes pools before an uninstall, and waits while the operator drains them. Deletes sessions that still run on them
/// after `drain_timeout`. If no operator leads, removes the pools' finalizers itself, so that the uninstall does not
/// hang.
///
/// # Errors
/// A request to the API server failed.
pub async fn delete_pools(
    client: Client,
    release: &Release,
    selection: PoolSelection,
    drain_timeout: Duration,
) -> anyhow::Result<()> {
    let uninstall = Uninstall { client, release, selection };
    uninstall.log_kept_pools().await?;
    if uninstall.drain(drain_timeout).await? {
        return Ok(());
    }
    uninstall.delete_sessions().await?;
    if uninstall.drain(FINAL_DRAIN_TIMEOUT).await? {
        return Ok(());
    }
    tracing::warn!(
        "gave up waiting for the pools to drain: removing their finalizers, and their runners stop at the drain deadline"
    );
    remove_finalizers(&uninstall.client, async || uninstall.pools().await).await
}

struct Uninstall<'a> {
    client: Client,
    release: &'a Release,
    selection: PoolSelection,
}

impl Uninstall<'_> {
    /// The pools to delete that still exist.
    async fn pools(&self) -> anyhow::Result<Vec<AnyPool>> {
        match self.selection {
            PoolSelection::Cluster => list_pools(&self.client, None).await,
            PoolSelection::Release => {
                let mut pools = list_pools(&self.client, Some(&self.release.namespace)).await?;
                pools.retain(|pool| self.release.created(pool));
                Ok(pools)
            }
        }
    }

    async fn log_kept_pools(&self) -> anyhow::Result<()> {
        if self.selection == PoolSelection::Release {
            for pool in list_pools(&self.client, Some(&self.release.namespace)).await? {
                if !self.release.created(&pool) {
                    let (namespace, pool) = (&self.release.namespace, pool.name_any());
                    tracing::info!(namespace, pool, "kept the pool: this release did not create it");
                }
            }
        }
        Ok(())
    }

    /// Deletes the pools and waits until they no longer exist. Returns false after `drain_timeout`, or if no operator
    /// leads.
    async fn drain(&self, drain_timeout: Duration) -> anyhow::Result<bool> {
        let deadline = Instant::now() + drain_timeout;
        let mut logged = None;
        loop {
            let pools = self.pools().await?;
            if pools.is_empty() {
                tracing::info!("no pool is left to delete");
                return Ok(true);
            }
            for pool in pools.iter().filter(|pool| pool.metadata.deletion_timestamp.is_none()) {
                let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
                delete(&pools_api(&self.client, Some(&namespace)), pool).await?;
                tracing::info!(
                    namespace,
                    pool = name,
                    "deleted the pool: its sessions can run until its drain deadline"
                );
            }
            // `status.slots` does not include terminating runners, so it is 0 here.
            let runners: i64 = pools.iter().filter_map(|pool| pool.data["status"]["replicas"].as_i64()).sum();
            if logged.replace((pools.len(), runners)) != Some((pools.len(), runners)) {
                tracing::info!(pools = pools.len(), runners, "found pools that still drain");
            }
            if !self.has_leader().await? {
                tracing::warn!("found no leading operator, so the pools do not drain");
                return Ok(false);
            }
            if Instant::now() >= deadline {
                tracing::warn!(seconds = drain_timeout.as_secs(), "drain timeout passed");
                return Ok(false);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn has_leader(&self) -> anyhow::Result<bool> {
        let lease = Api::<Lease>::namespaced(self.client.clone(), &self.release.namespace).get_opt(LEASE).await;
        let spec = lease.context("cannot read the operator's Lease")?.and_then(|lease| lease.spec).unwrap_or_default();
        let held = spec.holder_identity.is_some_and(|holder| !holder.is_empty());
        let renewed = spec.renew_time.is_some_and(|at| Timestamp::now().duration_since(at.0) < MAX_RENEWAL_AGE);
        Ok(held && renewed)
    }

    /// Deletes the unfinished sessions that the pools serve, or all unfinished sessions if all pools of the cluster are
    /// deleted.
    async fn delete_sessions(&self) -> anyhow::Result<()> {
        let pools = self.pools().await?;
        let keys: BTreeSet<_> =
            pools.iter().map(|pool| (pool.namespace().unwrap_or_default(), pool.name_any())).collect();
        for session in self.sessions(&pools).await? {
            let on_pool = session
                .status
                .as_ref()
                .and_then(|status| status.pool.clone())
                .is_some_and(|pool| keys.contains(&(session.pool_namespace().to_owned(), pool)));
            if session.state() == SessionState::Finished || self.selection == PoolSelection::Release && !on_pool {
                continue;
            }
            let (namespace, name) = (session.namespace().unwrap_or_default(), session.name_any());
            delete(&Api::<BrowserSession>::namespaced(self.client.clone(), &namespace), &session).await?;
            tracing::warn!(namespace, session = session.uid(), name, "deleted the session");
        }
        Ok(())
    }

    /// Lists the sessions that the pools can serve. The hook's role permits reading other namespaces only if a pool in
    /// the values allows them. Sessions that it cannot read end at the drain deadline of their runner.
    async fn sessions(&self, pools: &[AnyPool]) -> anyhow::Result<Vec<BrowserSession>> {
        let shared = pools
            .iter()
            .any(|pool| pool.data["spec"]["allowedNamespaces"]["from"].as_str().is_some_and(|from| from != "Same"));
        if shared || self.selection == PoolSelection::Cluster {
            match Api::<BrowserSession>::all(self.client.clone()).list(&ListParams::default()).await {
                Err(Error::Api(status)) if status.code == 403 && self.selection == PoolSelection::Release => {
                    tracing::warn!(
                        "could not list the sessions of other namespaces, which run until their drain deadline: {}",
                        status.message
                    );
                }
                sessions => return Ok(sessions.context("cannot list the sessions")?.items),
            }
        }
        let api = Api::<BrowserSession>::namespaced(self.client.clone(), &self.release.namespace);
        Ok(api.list(&ListParams::default()).await.context("cannot list the sessions")?.items)
    }
}

/// Deletes this object, but not a later object with its name.
async fn delete<K>(api: &Api<K>, object: &impl ResourceExt) -> anyhow::Result<()>
where
    K: Clone + fmt::Debug + serde::de::DeserializeOwned,
{
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: object.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    let name = object.name_any();
    match api.delete(&name, &params).await {
        // Another object has the name, so the one to delete is gone.
        Err(Error::Api(status)) if status.is_conflict() => Ok(()),
        answer => unless_gone(answer).with_context(|| format!("cannot delete {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::api::{ApiResource, DynamicObject};

    fn release() -> Release {
        Release { namespace: "camo-fleet".to_owned(), name: "fleet".to_owned() }
    }

    /// A pool with this UID, these annotations, and fields of this manager.
    fn pool(uid: &str, annotations: &[(&str, &str)], manager: &str) -> AnyPool {
        let mut pool = DynamicObject::new("headless", &ApiResource::erase::<WorkerPool>(&()));
        pool.metadata.uid = Some(uid.to_owned());
        pool.metadata.annotations =
            Some(annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
        pool.metadata.labels = Some(BTreeMap::from([
            (NAME_LABEL.0.to_owned(), NAME_LABEL.1.to_owned()),
            (INSTANCE_LABEL.to_owned(), "fleet".to_owned()),
        ]));
        pool.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            operation: Some("Apply".to_owned()),
            ..ManagedFieldsEntry::default()
        }]);
        pool
    }

    #[test]
    fn recognizes_a_created_pool_by_its_annotated_uid() {
        let annotations = [(RELEASE_ANNOTATION, "camo-fleet/fleet"), (CREATED_ANNOTATION, "u-1")];
        assert!(release().created(&pool("u-1", &annotations, FIELD_MANAGER)));
        assert!(!release().created(&pool("u-2", &annotations, FIELD_MANAGER)), "a copy has another UID");
        let found = [(RELEASE_ANNOTATION, "camo-fleet/fleet")];
        assert!(!release().created(&pool("u-1", &found, FIELD_MANAGER)), "applied but created by a user");
        let other = [(RELEASE_ANNOTATION, "browsers/fleet"), (CREATED_ANNOTATION, "u-1")];
        assert!(!release().created(&pool("u-1", &other, FIELD_MANAGER)), "another release");
    }

    #[test]
    fn falls_back_to_field_manager_and_labels_without_ownership_annotations() {
        assert!(release().created(&pool("u-1", &[], FIELD_MANAGER)));
        assert!(!release().created(&pool("u-1", &[], "kubectl")), "a copy has another field manager");
        let mut unlabelled = pool("u-1", &[], FIELD_MANAGER);
        unlabelled.metadata.labels = None;
        assert!(!release().created(&unlabelled));
        let other = Release { name: "other".to_owned(), ..release() };
        assert!(!other.created(&pool("u-1", &[], FIELD_MANAGER)), "another release");
    }
}
