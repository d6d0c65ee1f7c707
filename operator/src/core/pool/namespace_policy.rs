//! Decides which namespaces may use a pool.

use camofleet_crds::v1alpha1::{NamespacesFrom, WorkerPool};
use kube::core::{Selector, SelectorExt};
use std::collections::BTreeMap;

/// Labels of namespaces, by name.
pub(in crate::core) type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// A pool's `allowedNamespaces`. The pool's own namespace is always allowed ([`Pool::allows_namespace`]).
///
/// [`Pool::allows_namespace`]: crate::core::pool::state::Pool::allows_namespace
#[derive(Debug)]
pub(in crate::core) enum NamespacePolicy {
    Same,
    All,
    Labelled(Selector),
    /// The selector is invalid.
    None,
}

impl NamespacePolicy {
    pub(in crate::core) fn of(pool: &WorkerPool) -> Self {
        let allowed = &pool.spec.allowed_namespaces;
        match allowed.from {
            NamespacesFrom::Same => Self::Same,
            NamespacesFrom::All => Self::All,
            NamespacesFrom::Selector => {
                allowed.selector.clone().unwrap_or_default().try_into().map_or(Self::None, Self::Labelled)
            }
        }
    }

    pub(in crate::core) fn allows(&self, namespace: &str, namespaces: &Namespaces) -> bool {
        match self {
            Self::Same | Self::None => false,
            Self::All => true,
            Self::Labelled(selector) => namespaces.get(namespace).is_some_and(|labels| selector.matches(labels)),
        }
    }
}
