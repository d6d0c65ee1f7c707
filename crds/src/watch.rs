//! What the watch caches of operator and gateway have in common: how a broken watch is retried, and how much of an object's
//! metadata is kept.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Resource,
    api::ObjectMeta,
    runtime::{
        utils::Backoff,
        watcher::{self, DefaultBackoff},
    },
};
use serde::{Deserialize, Deserializer};
use std::{borrow::Cow, collections::BTreeMap, time::Duration};

/// A watch that was broken begins again after so long at most.
const LONGEST: Duration = Duration::from_secs(5);
/// Objects per page of a list. An object has up to 1.5 MiB (etcd's `--max-request-bytes`), and a page is read whole before it is
/// parsed: kube's default of 500 could exceed the memory limit of the process.
const PAGE_SIZE: u32 = 50;
/// Labels and annotations are kept when they belong to this project.
const OWN_PREFIX: &str = "camofleet.dev/";
/// The label that selects runner pods.
const NAME_LABEL: &str = "app.kubernetes.io/name";
/// Bytes of keys and values that are kept of an object's labels, and as many of its annotations.
const KEPT_BYTES: usize = 8 * 1024;
/// Bytes of a controller reference that is kept. Names have at most 253 characters, but the API server does not check that here.
const OWNER_BYTES: usize = 1024;

/// The pauses of a watch after failures: kube's own, which grow from 0.8 s, but not up to 30 s. Sessions wait until an API server
/// that is back is heard, and these are a few watches, not one of each node.
#[derive(Default)]
pub struct Pauses(DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(LONGEST))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// The configuration with which every watch starts: the memory that a list takes is bounded.
pub fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE_SIZE)
}

/// An object whose metadata was trimmed while it was deserialized, so that caches hold only what is read. A user who may create an
/// object may attach 256 KiB of annotations and any number of labels to it.
///
/// Labels and annotations of `camofleet.dev/` and the label `app.kubernetes.io/name` are kept, up to 8 KiB of each, and of the owner
/// references the controller's. The rest consists of names, numbers and times that the API server bounds. Two kinds keep more: a
/// `WorkerPool` its finalizers, because the operator writes that list as a whole, and a `Namespace` its labels, because pools
/// select by them.
#[derive(Clone, Debug)]
pub struct Trimmed<K>(pub K);

impl<'de, K: Deserialize<'de> + Resource> Deserialize<'de> for Trimmed<K>
where
    K::DynamicType: Default,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = K::deserialize(deserializer)?;
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        trim(object.meta_mut(), &kind);
        Ok(Self(object))
    }
}

impl<K: Resource> Resource for Trimmed<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic_type: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic_type)
    }

    fn group(dynamic_type: &K::DynamicType) -> Cow<'_, str> {
        K::group(dynamic_type)
    }

    fn version(dynamic_type: &K::DynamicType) -> Cow<'_, str> {
        K::version(dynamic_type)
    }

    fn plural(dynamic_type: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic_type)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

fn trim(meta: &mut ObjectMeta, kind: &str) {
    meta.managed_fields = None;
    meta.generate_name = None;
    meta.self_link = None;
    trim_map(&mut meta.annotations);
    if kind != "Namespace" {
        trim_map(&mut meta.labels);
    }
    if kind != "WorkerPool" {
        meta.finalizers = None;
    }
    if let Some(owners) = &mut meta.owner_references {
        owners.retain(|owner| owner.controller == Some(true) && size_of(owner) <= OWNER_BYTES);
        owners.shrink_to_fit();
    }
}

fn size_of(owner: &OwnerReference) -> usize {
    owner.api_version.len() + owner.kind.len() + owner.name.len() + owner.uid.len()
}

fn trim_map(map: &mut Option<BTreeMap<String, String>>) {
    let mut left = KEPT_BYTES;
    let kept = map.take().unwrap_or_default().into_iter().filter(|(key, value)| {
        let is_own = key.starts_with(OWN_PREFIX) || key == NAME_LABEL;
        let fits = is_own.then(|| left.checked_sub(key.len() + value.len())).flatten();
        left = fits.unwrap_or(left);
        fits.is_some()
    });
    let kept: BTreeMap<_, _> = kept.collect();
    *map = (!kept.is_empty()).then_some(kept);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1alpha1::{BrowserSession, WorkerPool};
    use k8s_openapi::api::core::v1::Namespace;
    use kube::core::DeserializeGuard;
    use serde_json::{Value, json};

    #[test]
    fn pauses_grow_but_not_far() {
        let pauses: Vec<_> = Pauses::default().take(20).collect();
        assert!(pauses[0] < LONGEST && pauses[19] == LONGEST, "{pauses:?}");
    }

    fn object(kind: &str, spec: &Value) -> Value {
        let labels: BTreeMap<String, String> =
            (0..20_000).map(|index| (format!("label-{index}"), "value".to_owned())).collect();
        let owner = |controller: bool, name: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": "u", "controller": controller });
        let mut object = json!({
            "apiVersion": "camofleet.dev/v1alpha1", "kind": kind, "spec": spec,
            "metadata": {
                "name": "a", "namespace": "ns", "uid": "uid", "resourceVersion": "7", "generation": 3,
                "finalizers": ["example.com/hold"], "labels": labels,
                "annotations": { "note": "x".repeat(256 * 1024), "camofleet.dev/labels": "{\"team\":\"qa\"}" },
                "ownerReferences": [owner(false, "other"), owner(true, "controller")],
                "managedFields": [{ "manager": "m".repeat(100_000), "operation": "Update" }],
            },
        });
        object["metadata"]["labels"]["app.kubernetes.io/name"] = json!("kept");
        object
    }

    #[test]
    fn an_object_is_held_without_the_metadata_that_is_not_read() {
        let Trimmed(session) =
            serde_json::from_value::<Trimmed<BrowserSession>>(object("BrowserSession", &json!({}))).unwrap();
        let expected = json!({
            "name": "a", "namespace": "ns", "uid": "uid", "resourceVersion": "7", "generation": 3,
            "labels": { "app.kubernetes.io/name": "kept" },
            "annotations": { "camofleet.dev/labels": "{\"team\":\"qa\"}" },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "ConfigMap", "name": "controller", "uid": "u", "controller": true,
            }],
        });
        assert_eq!(serde_json::to_value(&session.metadata).unwrap(), expected);
        let Trimmed(pool) = serde_json::from_value::<Trimmed<WorkerPool>>(object("WorkerPool", &json!({}))).unwrap();
        assert_eq!(pool.metadata.finalizers.unwrap(), ["example.com/hold"], "it is written as a whole");
        let mut namespace = object("Namespace", &json!({}));
        namespace["apiVersion"] = json!("v1");
        let Trimmed(namespace) = serde_json::from_value::<Trimmed<Namespace>>(namespace).unwrap();
        assert_eq!(namespace.metadata.labels.map(|labels| labels.len()), Some(20_001), "selectors match them");
        assert_eq!(namespace.metadata.finalizers, None);
    }

    #[test]
    fn what_cannot_be_read_is_trimmed_as_well() {
        let broken = object("BrowserSession", &json!({ "display": "Hologram" }));
        let Trimmed(guard) = serde_json::from_value::<Trimmed<DeserializeGuard<BrowserSession>>>(broken).unwrap();
        assert_eq!(guard.meta().labels.as_ref().map(BTreeMap::len), Some(1));
        assert!(guard.meta().managed_fields.is_none() && guard.0.is_err());
    }

    #[test]
    fn own_annotations_are_bounded_too() {
        let own = |count: usize, size: usize| {
            let map = (0..count).map(|index| (format!("{OWN_PREFIX}{index:04}"), "x".repeat(size))).collect();
            let mut map = Some(map);
            trim_map(&mut map);
            map.unwrap_or_default()
        };
        assert_eq!(own(1, 300_000).len(), 0);
        let kept: usize = own(2000, 100).iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(kept > KEPT_BYTES / 2 && kept <= KEPT_BYTES, "{kept} bytes");
        assert_eq!(own(3, 100).len(), 3);
    }
}
