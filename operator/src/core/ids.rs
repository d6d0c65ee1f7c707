//! Identifiers and versions of Kubernetes objects.

/// UID of an object.
pub type Uid = String;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn of(object: &impl kube::Resource) -> Self {
        let meta = object.meta();
        Self { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
    }
}

/// The `resourceVersion` of an object as a number. Versions of one kind can be compared: the larger one is newer
/// (KEP-5504). A version that is not a number counts as the newest.
pub(in crate::core) fn version(object: &impl kube::Resource) -> u64 {
    object.meta().resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}
