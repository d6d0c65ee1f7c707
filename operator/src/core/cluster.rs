//! Cluster state outside the operator's own kinds: nodes, namespaces, and the public keys that runners trust.

use crate::core::{
    messages::{Change, Namespace, Node},
    pool::namespace_policy::Namespaces,
};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(in crate::core) struct Cluster {
    nodes: BTreeMap<String, Node>,
    namespaces: Namespaces,
    keys: Option<String>,
}

/// Which namespaces' labels have changed.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::core) enum LabelChange {
    /// No namespace, or a deleted one, which has no waiting sessions.
    None,
    One(String),
    /// All namespaces, because they were listed again.
    Any,
}

impl LabelChange {
    pub(in crate::core) fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::None => false,
            Self::One(name) => name == namespace,
            Self::Any => true,
        }
    }
}

impl Cluster {
    /// Applies a change of nodes. Returns whether a relevant field has changed.
    pub(in crate::core) fn node_changed(&mut self, change: Change<Node>) -> bool {
        match change {
            Change::Listed(all) => self.nodes = all.into_iter().map(|node| (node.name.clone(), node)).collect(),
            Change::Applied(node) => {
                if self.nodes.get(&node.name) == Some(&node) {
                    return false;
                }
                self.nodes.insert(node.name.clone(), node);
            }
            Change::Deleted(node) => {
                self.nodes.remove(&node.name);
            }
        }
        true
    }

    pub(in crate::core) fn namespace_changed(&mut self, change: Change<Namespace>) -> LabelChange {
        match change {
            Change::Listed(all) => {
                self.namespaces = all.into_iter().map(|namespace| (namespace.name, namespace.labels)).collect();
                LabelChange::Any
            }
            Change::Applied(namespace) => {
                let former = self.namespaces.insert(namespace.name.clone(), namespace.labels.clone());
                if former.as_ref() == Some(&namespace.labels) {
                    return LabelChange::None;
                }
                LabelChange::One(namespace.name)
            }
            Change::Deleted(namespace) => {
                self.namespaces.remove(&namespace.name);
                LabelChange::None
            }
        }
    }

    /// Stores the published keys. Returns whether they have changed.
    pub(in crate::core) fn keys_changed(&mut self, keys: String) -> bool {
        let changed = self.keys.as_ref() != Some(&keys);
        self.keys = Some(keys);
        changed
    }

    pub(in crate::core) fn is_cordoned(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| node.cordoned)
    }

    /// Whole CPUs of the nodes that are ready and not cordoned.
    pub(in crate::core) fn launch_cpus(&self) -> usize {
        self.nodes.values().filter(|node| node.ready && !node.cordoned).map(|node| node.cpus).sum()
    }

    pub(in crate::core) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// The public keys in the format of the pod annotation. `None` until they are known.
    pub(in crate::core) fn keys(&self) -> Option<&str> {
        self.keys.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: bool, cordoned: bool, cpus: usize) -> Node {
        Node { name: name.into(), ready, cordoned, cpus }
    }

    fn namespace(name: &str, team: &str) -> Namespace {
        Namespace { name: name.into(), labels: [("team".to_owned(), team.to_owned())].into() }
    }

    #[test]
    fn counts_the_cpus_of_ready_uncordoned_nodes() {
        let mut cluster = Cluster::default();
        assert_eq!(cluster.launch_cpus(), 0);
        let nodes = vec![node("a", true, false, 4), node("b", true, true, 8), node("c", false, false, 16)];
        assert!(cluster.node_changed(Change::Listed(nodes)));
        assert_eq!((cluster.launch_cpus(), cluster.is_cordoned("b"), cluster.is_cordoned("a")), (4, true, false));
        assert!(!cluster.node_changed(Change::Applied(node("b", true, true, 8))), "the node has not changed");
        assert!(cluster.node_changed(Change::Applied(node("b", true, false, 8))));
        assert_eq!(cluster.launch_cpus(), 12);
        assert!(cluster.node_changed(Change::Deleted(node("b", true, false, 8))));
        assert_eq!((cluster.launch_cpus(), cluster.is_cordoned("b")), (4, false));
    }

    #[test]
    fn reports_only_label_changes_of_namespaces() {
        let mut cluster = Cluster::default();
        assert_eq!(cluster.namespace_changed(Change::Listed(vec![namespace("a", "x")])), LabelChange::Any);
        assert_eq!(cluster.namespace_changed(Change::Applied(namespace("a", "x"))), LabelChange::None);
        let changed = cluster.namespace_changed(Change::Applied(namespace("a", "y")));
        assert!(changed.includes("a") && !changed.includes("b"));
        assert_eq!(cluster.namespaces()["a"]["team"], "y");
        assert_eq!(cluster.namespace_changed(Change::Deleted(namespace("a", "y"))), LabelChange::None);
        assert!(cluster.namespaces().is_empty());
    }

    #[test]
    fn reports_only_changed_keys() {
        let mut cluster = Cluster::default();
        assert_eq!(cluster.keys(), None);
        assert!(
            cluster.keys_changed("a".into()) && !cluster.keys_changed("a".into()) && cluster.keys_changed("b".into())
        );
        assert_eq!(cluster.keys(), Some("b"));
    }
}
