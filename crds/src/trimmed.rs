//! Trims object metadata for the watch caches of the operator and the gateway.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, api::ObjectMeta, core::DeserializeGuard};
use serde::{Deserialize, Deserializer};
use std::{borrow::Cow, collections::BTreeMap};

/// Labels that the programs read: those of runner pods.
const LABELS: [&str; 4] =
    ["app.kubernetes.io/name", "camofleet.dev/ordinal", "camofleet.dev/pool", "camofleet.dev/revision"];
/// Annotations that the programs read: a session's labels in the REST API, and the public keys of a runner pod.
const ANNOTATIONS: [&str; 2] = ["camofleet.dev/labels", "camofleet.dev/public-keys"];
/// Maximum size of a kept value, in bytes. Values are selected by key, because a user can attach any number of other
/// keys.
const VALUE_BYTES: usize = 8 * 1024;
/// Maximum size of a kept controller reference, in bytes. The API server does not limit the names in it to 253
/// characters.
const OWNER_BYTES: usize = 1024;

/// An object whose metadata is trimmed during deserialization to bound the memory of caches. A user can attach 256 KiB
/// of annotations and any number of labels to an object.
///
/// The kept metadata are the labels and annotations that the programs read, up to 8 KiB each, the owner reference of
/// the controller, and the names, numbers and times that the API server bounds. A `WorkerPool` also keeps its
/// finalizers, because the operator writes that list as a whole, and a `Namespace` keeps its labels, because pools
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

impl<K> From<Trimmed<DeserializeGuard<K>>> for DeserializeGuard<K> {
    fn from(Trimmed(object): Trimmed<Self>) -> Self {
        object
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
    trim_map(&mut meta.annotations, &ANNOTATIONS);
    if kind != "Namespace" {
        trim_map(&mut meta.labels, &LABELS);
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

fn trim_map(map: &mut Option<BTreeMap<String, String>>, read: &[&str]) {
    let mut kept = map.take().unwrap_or_default();
    kept.retain(|key, value| read.contains(&key.as_str()) && value.len() <= VALUE_BYTES);
    *map = (!kept.is_empty()).then_some(kept);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1alpha1::{BrowserSession, WorkerPool};
    use k8s_openapi::api::core::v1::{Namespace, Pod};
    use serde_json::{Value, json};

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
    fn drops_metadata_that_is_never_read() {
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
        assert_eq!(pool.metadata.finalizers.unwrap(), ["example.com/hold"], "the operator writes the list as a whole");
        let mut namespace = object("Namespace", &json!({}));
        namespace["apiVersion"] = json!("v1");
        let Trimmed(namespace) = serde_json::from_value::<Trimmed<Namespace>>(namespace).unwrap();
        assert_eq!(namespace.metadata.labels.map(|labels| labels.len()), Some(20_001), "selectors match labels");
        assert_eq!(namespace.metadata.finalizers, None);
    }

    #[test]
    fn trims_unparsable_objects_too() {
        let broken = object("BrowserSession", &json!({ "display": "Hologram" }));
        let Trimmed(guard) = serde_json::from_value::<Trimmed<DeserializeGuard<BrowserSession>>>(broken).unwrap();
        assert_eq!(guard.meta().labels.as_ref().map(BTreeMap::len), Some(1));
        assert!(guard.meta().managed_fields.is_none() && guard.0.is_err());
    }

    #[test]
    fn keeps_known_annotations_whatever_a_user_adds() {
        let trimmed = |add: &[(&str, usize)]| {
            let own = [("camofleet.dev/public-keys".to_owned(), "keys".to_owned())];
            let added = add.iter().map(|(key, size)| ((*key).to_owned(), "x".repeat(*size)));
            let mut map = Some(own.into_iter().chain(added).collect());
            trim_map(&mut map, &ANNOTATIONS);
            map.unwrap_or_default()
        };
        let keys = BTreeMap::from([("camofleet.dev/public-keys".to_owned(), "keys".to_owned())]);
        // Keys that sort before and after the known one.
        assert_eq!(trimmed(&[("camofleet.dev/a", VALUE_BYTES), ("camofleet.dev/z", VALUE_BYTES)]), keys);
        assert_eq!(trimmed(&[("camofleet.dev/labels", VALUE_BYTES + 1)]), keys);
        assert_eq!(trimmed(&[("camofleet.dev/labels", VALUE_BYTES)]).len(), 2);
        assert_eq!(trimmed(&[("camofleet.dev/public-keys", VALUE_BYTES + 1)]).len(), 0);
    }

    #[test]
    fn keeps_runner_pod_labels_whatever_a_user_adds() {
        let mut pod = object("Pod", &json!({}));
        pod["apiVersion"] = json!("v1");
        for index in 0..2000 {
            pod["metadata"]["labels"][format!("camofleet.dev/{index}")] = json!("x".repeat(63));
        }
        for label in LABELS {
            pod["metadata"]["labels"][label] = json!("kept");
        }
        let Trimmed(pod) = serde_json::from_value::<Trimmed<Pod>>(pod).unwrap();
        assert_eq!(pod.metadata.labels, Some(LABELS.map(|label| (label.to_owned(), "kept".to_owned())).into()));
    }
}
