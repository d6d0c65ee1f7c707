//! Executes reads and writes of API objects. Each has a timeout. A write runs only while this process certainly leads,
//! and has the resourceVersion or UID of the object that the decision was based on as a precondition.

use crate::core::{
    Event, EventType, Key, ReadFailure, Uid, WriteFailure,
    runner::{
        pod_build,
        pod_read::{KEYS_ANNOTATION, PartialPod, RunnerPod},
    },
};
use crate::io::executor::Executor;
use camofleet_crds::{
    trimmed::Trimmed,
    v1alpha1::{BrowserSession, BrowserSessionStatus, Disruption, WorkerPool, WorkerPoolStatus},
};
use camofleet_runtime::traces::{KeyValue, SpanKind};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
    runtime::events::{Event as KubernetesEvent, EventType as KubernetesEventType},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{future::Future, sync::Arc, time::Duration};

/// Timeout of a request, including retries, after which the core decides again. It is shorter than the 5 s between the
/// end of one leader's term and the start of the next, so that no write of a former leader lands in a later term.
const WRITE_TIMEOUT: Duration = Duration::from_secs(4);
const CREATE_POD: &str = "pod_create";
const BUDGET: &str = "poddisruptionbudget";
const FIELD_MANAGER: &str = "camofleet-operator";

impl Executor {
    pub(super) async fn patch_session(&self, session: Arc<BrowserSession>, status: BrowserSessionStatus, urgent: bool) {
        let uid = session.uid().unwrap_or_default();
        let state = status.state.as_str();
        let was_ready = session.status.as_ref().is_some_and(|status| status.ready_time.is_some());
        let span = (!was_ready).then(|| self.traces.begin(&uid, "publish", SpanKind::Client)).flatten();
        // The core limits the writes that are not urgent.
        let _permit = if urgent { Some(self.urgent_writes.acquire().await) } else { None };
        let patch = status_patch(session.as_ref(), session.status.as_ref(), &status);
        let api = self.namespaced::<Trimmed<BrowserSession>>(&Key::of(session.as_ref()));
        let name = session.name_any();
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let answer = self.write("browsersession_status", api.patch_status(&name, &params, &Patch::Merge(patch))).await;
        match &answer {
            Ok(_) => tracing::info!(
                session = uid,
                namespace = session.namespace(),
                name,
                state,
                "published the session's status"
            ),
            Err(failure) => {
                tracing::warn!(
                    session = uid,
                    namespace = session.namespace(),
                    name,
                    state,
                    ?failure,
                    "could not publish the session's status"
                );
            }
        }
        if let Some(span) = span {
            let failure = answer.as_ref().err().map(|failure| failure.outcome().to_owned());
            span.end([KeyValue::new("camofleet.session.state", state)], failure);
        }
        self.send(Event::SessionPatched { session, answer: answer.map(|Trimmed(session)| Arc::new(session)) });
    }

    pub(super) async fn read_session(&self, key: Key, session: Uid) {
        let answer = self.read::<BrowserSession>(&key).await.map(|found| found.map(Arc::new));
        self.send(Event::SessionRead { key, session, answer });
    }

    pub(super) async fn read_pod(&self, key: Key, pod: Uid, session: Uid) {
        let found = self.read::<PartialPod>(&key).await;
        let answer = found.map(|found| found.is_some_and(|found| found.uid().as_ref() == Some(&pod)));
        self.send(Event::PodRead { session, pod, answer });
    }

    /// Reads an object from the API server, without retries.
    async fn read<K>(&self, key: &Key) -> Result<Option<K>, ReadFailure>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let _permit = self.reads.acquire().await;
        let (namespace, name) = (&key.namespace, &key.name);
        match tokio::time::timeout(WRITE_TIMEOUT, self.namespaced::<Trimmed<K>>(key).get_opt(name)).await {
            Ok(Ok(found)) => Ok(found.map(|Trimmed(found)| found)),
            Ok(Err(error)) => {
                tracing::warn!(namespace, name, %error, "could not read an object");
                let is_rejected = matches!(&error, kube::Error::Api(status) if matches!(status.code, 400 | 403));
                Err(if is_rejected { ReadFailure::Rejected } else { ReadFailure::Transient })
            }
            Err(_) => {
                tracing::warn!(namespace, name, "timed out reading an object");
                Err(ReadFailure::Transient)
            }
        }
    }

    pub(super) async fn delete_session(&self, key: Key, session: Uid) {
        let api = self.namespaced::<BrowserSession>(&key);
        let params = uid_precondition(&session);
        let answer = self.write("browsersession_delete", api.delete(&key.name, &params)).await.map(|_| ());
        let (namespace, name) = (&key.namespace, &key.name);
        match &answer {
            Ok(()) => tracing::info!(session, namespace, name, "deleted the session after its TTL"),
            Err(failure) => {
                tracing::warn!(session, namespace, name, ?failure, "could not delete the session after its TTL");
            }
        }
        self.send(Event::SessionDeleted { session, answer });
    }

    pub(super) async fn create_pod(&self, pool: Key, pod: Pod) {
        let name = pod.name_any();
        let _permit = self.pod_creates.acquire().await;
        let api = self.namespaced::<Pod>(&pool);
        let written = self.write(CREATE_POD, api.create(&PostParams::default(), &pod)).await.map(|_| ());
        // A conflict can mean that an earlier attempt created the pod.
        let pods = self.namespaced::<PartialPod>(&pool);
        let created = match written {
            Err(WriteFailure::Conflict) => match tokio::time::timeout(WRITE_TIMEOUT, pods.get_opt(&name)).await {
                Ok(Ok(Some(found)))
                    if RunnerPod::read(&found).is_some_and(|found| has_same_controller(&found, &pod)) =>
                {
                    Ok(())
                }
                Ok(Ok(Some(_))) => Err(WriteFailure::Rejected(format!(
                    "pod {name} exists and is not a runner of this pool: delete it"
                ))),
                Ok(Ok(None)) => Err(WriteFailure::Transient("the pod existed but was deleted meanwhile".to_owned())),
                Ok(Err(error)) => Err(failure(CREATE_POD, &error)),
                Err(_) => Err(WriteFailure::Transient("timed out reading the pod".to_owned())),
            },
            other => other,
        };
        match &created {
            Ok(()) => {
                tracing::info!(namespace = pool.namespace, pool = pool.name, pod = name, "created the runner pod");
            }
            Err(failure) => {
                tracing::warn!(
                    namespace = pool.namespace,
                    pool = pool.name,
                    pod = name,
                    ?failure,
                    "could not create the runner pod"
                );
            }
        }
        self.send(Event::PodCreated { pool, name, answer: created });
    }

    pub(super) async fn delete_pod(&self, key: Key, pod: Uid, reason: &'static str) {
        let api = self.namespaced::<PartialPod>(&key);
        let params = uid_precondition(&pod);
        let answer = self.write("pod_delete", api.delete(&key.name, &params)).await.map(|_| ());
        let namespace = &key.namespace;
        match &answer {
            Ok(()) => tracing::info!(namespace, pod = key.name, reason, "deleted the runner pod"),
            Err(failure) => {
                tracing::warn!(namespace, pod = key.name, reason, ?failure, "could not delete the runner pod");
            }
        }
        self.send(Event::PodDeleted { pod, answer });
    }

    pub(super) async fn annotate_pod(&self, key: Key, pod: Uid, keys: String) {
        let api = self.namespaced::<Trimmed<PartialPod>>(&key);
        let patch = json!({ "metadata": { "uid": pod, "annotations": { KEYS_ANNOTATION: &keys } } });
        let answer = self.write("pod_patch", api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))).await;
        let answer = answer.map(|Trimmed(patched)| {
            if let Some(pod) = RunnerPod::read(&patched) {
                self.send(Event::Pods(crate::core::Change::Applied(pod)));
            }
        });
        self.send(Event::PodAnnotated { pod, keys, answer });
    }

    pub(super) async fn patch_pool(&self, pool: Arc<WorkerPool>, status: WorkerPoolStatus) {
        let key = Key::of(pool.as_ref());
        let api = self.namespaced::<Trimmed<WorkerPool>>(&key);
        let patch = status_patch(pool.as_ref(), pool.status.as_ref(), &status);
        let answer = self
            .write("workerpool_status", api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)))
            .await;
        self.send(Event::PoolPatched { pool, answer: answer.map(|Trimmed(pool)| Some(Arc::new(pool))) });
    }

    pub(super) async fn set_finalizers(&self, pool: Arc<WorkerPool>, finalizers: Vec<String>) {
        let key = Key::of(pool.as_ref());
        let api = self.namespaced::<Trimmed<WorkerPool>>(&key);
        let patch = json!({ "metadata": { "resourceVersion": pool.resource_version(), "finalizers": finalizers } });
        let answer =
            self.write("workerpool_patch", api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))).await;
        self.send(Event::PoolPatched { pool, answer: answer.map(|Trimmed(pool)| Some(Arc::new(pool))) });
    }

    /// Creates, updates or deletes the pool's PodDisruptionBudget, as its `disruption` requires.
    pub(super) async fn apply_disruption_budget(&self, pool: Arc<WorkerPool>) {
        let key = Key::of(pool.as_ref());
        let answer = match pool.spec.disruption {
            Disruption::WhenIdle => self.forbid_eviction(&key, &pool).await,
            Disruption::Always => self.allow_eviction(&key, &pool).await,
        };
        if let Err(failure) = &answer {
            let (namespace, pool) = (&key.namespace, &key.name);
            tracing::warn!(namespace, pool, ?failure, "could not apply the pool's disruption budget, retrying");
        }
        self.send(Event::DisruptionBudgetApplied { pool, answer });
    }

    /// Applies a PodDisruptionBudget that forbids the eviction of every healthy runner, because only the operator
    /// drains runners. An absolute `minAvailable` needs no scale lookup, which would be wrong while the number of
    /// runners changes. Unhealthy pods can be evicted.
    async fn forbid_eviction(&self, key: &Key, pool: &WorkerPool) -> Result<(), WriteFailure> {
        let budget = PodDisruptionBudget {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                labels: Some(pod_build::pool_labels(pool)),
                owner_references: Some(pool.controller_owner_ref(&()).into_iter().collect()),
                ..ObjectMeta::default()
            },
            spec: Some(PodDisruptionBudgetSpec {
                min_available: Some(IntOrString::Int(i32::MAX)),
                selector: Some(LabelSelector {
                    match_labels: Some(pod_build::pool_labels(pool)),
                    ..LabelSelector::default()
                }),
                unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
                ..PodDisruptionBudgetSpec::default()
            }),
            status: None,
        };
        let api = self.namespaced::<PodDisruptionBudget>(key);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let answer = match self.write(BUDGET, api.patch(&key.name, &params, &owned_budget_patch(pool, &budget))).await {
            Err(WriteFailure::Gone) => self.write(BUDGET, api.create(&PostParams::default(), &budget)).await,
            Err(WriteFailure::Rejected(_)) => Err(WriteFailure::Rejected(format!(
                "PodDisruptionBudget {} in namespace {} does not belong to this pool, so the runners of the pool can \
                 be evicted with their sessions: delete or rename that PodDisruptionBudget",
                key.name, key.namespace
            ))),
            patched => patched,
        };
        answer.map(|_| ())
    }

    /// Deletes the pool's own PodDisruptionBudget, if it exists.
    async fn allow_eviction(&self, key: &Key, pool: &WorkerPool) -> Result<(), WriteFailure> {
        let api = self.namespaced::<PodDisruptionBudget>(key);
        let found = match tokio::time::timeout(WRITE_TIMEOUT, api.get_opt(&key.name)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(failure(BUDGET, &error)),
            Err(_) => return Err(WriteFailure::Transient("timed out reading the PodDisruptionBudget".to_owned())),
        };
        let Some(own) = found.filter(|budget| {
            budget.owner_references().iter().any(|owner| Some(&owner.uid) == pool.metadata.uid.as_ref())
        }) else {
            return Ok(());
        };
        let params = uid_precondition(own.metadata.uid.as_deref().unwrap_or_default());
        match self.write(BUDGET, api.delete(&key.name, &params)).await {
            Ok(_) | Err(WriteFailure::Gone | WriteFailure::Conflict) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Publishes a Kubernetes event about a session. Events above the rate limit are omitted, and failures are ignored,
    /// because nothing depends on events.
    pub(super) async fn publish_event(
        &self,
        session: Arc<BrowserSession>,
        type_: EventType,
        reason: String,
        note: String,
    ) {
        let (limiter, type_) = match type_ {
            EventType::Normal => (&self.normal_events, KubernetesEventType::Normal),
            EventType::Warning => (&self.warnings, KubernetesEventType::Warning),
        };
        if !limiter.try_acquire() {
            self.metrics.record_write("event", "omitted");
            return;
        }
        let event = KubernetesEvent { type_, reason, note: Some(note), action: "Serve".to_owned(), secondary: None };
        let _permit = self.event_writes.acquire().await;
        let about = session.object_ref(&());
        let publishing = self.recorder.publish(&event, &about);
        match tokio::time::timeout(WRITE_TIMEOUT, publishing).await {
            Ok(Ok(())) => self.metrics.record_write("event", "ok"),
            // The session or its namespace may have been deleted meanwhile.
            Ok(Err(error)) => {
                self.metrics.record_write("event", "failed");
                tracing::debug!(%error, "could not publish an event");
            }
            Err(_) => self.metrics.record_write("event", "failed"),
        }
    }

    fn namespaced<K>(&self, key: &Key) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// Executes a write if this process leads, and counts its outcome. All writes go through this function.
    async fn write<T>(
        &self,
        kind: &'static str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, WriteFailure> {
        if self.leadership.epoch().is_none() {
            return Err(WriteFailure::Transient("this process no longer leads".to_owned()));
        }
        let answer = match tokio::time::timeout(WRITE_TIMEOUT, call).await {
            Ok(Ok(written)) => Ok(written),
            Ok(Err(error)) => Err(failure(kind, &error)),
            Err(_) => Err(WriteFailure::Transient(format!("timed out after {} s", WRITE_TIMEOUT.as_secs()))),
        };
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(failure) => failure.outcome(),
        };
        self.metrics.record_write(kind, outcome);
        answer
    }
}

impl WriteFailure {
    /// Value of the metric label `outcome`.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Rejected(_) => "refused",
            Self::Transient(_) => "transient",
        }
    }
}

/// Returns whether the existing pod has the same controller as the pod to create.
fn has_same_controller(found: &RunnerPod, desired: &Pod) -> bool {
    desired.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == found.pool.1)
}

/// Merge patch (RFC 7396) of the whole status, which removes fields that the desired status lacks. The resourceVersion
/// is a precondition, so the patch cannot change a later version or a re-created object.
fn status_patch<K: Resource, S: Serialize + DeserializeOwned>(object: &K, former: Option<&S>, desired: &S) -> Value {
    let json = |status: &S| serde_json::to_value(status).expect("a status is plain data");
    let mut status = json(desired);
    if let (Value::Object(status), Some(Value::Object(former))) = (&mut status, former.map(json)) {
        for (field, _) in former {
            status.entry(field).or_insert(Value::Null);
        }
    }
    json!({ "metadata": { "resourceVersion": object.meta().resource_version }, "status": status })
}

/// JSON patch (RFC 6902) that sets the spec of a PodDisruptionBudget, and fails if the pool does not own it.
fn owned_budget_patch(pool: &WorkerPool, budget: &PodDisruptionBudget) -> Patch<PodDisruptionBudget> {
    let patch = json!([
        { "op": "test", "path": "/metadata/ownerReferences/0/uid", "value": pool.metadata.uid },
        { "op": "replace", "path": "/spec", "value": budget.spec },
    ]);
    Patch::Json(serde_json::from_value(patch).expect("a valid JSON patch"))
}

fn uid_precondition(uid: &str) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    }
}

fn failure(kind: &str, error: &kube::Error) -> WriteFailure {
    match error {
        // Quotas and Pod Security reject pods with 403. For other kinds, the operator lacks a permission that it can
        // still be granted.
        kube::Error::Api(status) if status.code == 403 && kind != CREATE_POD => {
            WriteFailure::Transient(status.message.clone())
        }
        kube::Error::Api(status) => match status.code {
            404 => WriteFailure::Gone,
            409 => WriteFailure::Conflict,
            400 | 403 | 413 | 422 => WriteFailure::Rejected(status.message.clone()),
            _ => WriteFailure::Transient(status.message.clone()),
        },
        _ => WriteFailure::Transient(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camofleet_crds::v1alpha1::{BrowserSessionSpec, SessionState, WorkerPoolSpec};

    #[test]
    fn patches_a_budget_only_if_the_pool_owns_it() {
        let mut pool = WorkerPool::new("p", WorkerPoolSpec::default());
        pool.metadata.uid = Some("p-1".into());
        let Patch::Json(patch) = owned_budget_patch(&pool, &PodDisruptionBudget::default()) else {
            panic!("not a JSON patch")
        };
        let patch = serde_json::to_value(patch).unwrap();
        assert_eq!(patch[0], json!({ "op": "test", "path": "/metadata/ownerReferences/0/uid", "value": "p-1" }));
        assert_eq!(patch[1]["path"], "/spec");
    }

    #[test]
    fn removes_status_fields_that_are_no_longer_set() {
        let mut session = BrowserSession::new("s", BrowserSessionSpec::default());
        session.metadata.resource_version = Some("7".into());
        let former =
            BrowserSessionStatus { ws_endpoint: Some("ws://x".into()), pool: Some("p".into()), ..Default::default() };
        let desired =
            BrowserSessionStatus { pool: Some("p".into()), state: SessionState::Finished, ..Default::default() };
        let patch = status_patch(&session, Some(&former), &desired);
        assert_eq!(
            patch,
            json!({ "metadata": { "resourceVersion": "7" }, "status": { "state": "Finished", "pool": "p", "wsEndpoint": null } })
        );
    }
}
