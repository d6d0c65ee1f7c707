//! The simulated runners of a simulator, and on what addresses they listen.

use super::{
    attack::Attack,
    browsers::{Browsers, Fault},
    http,
    runner::{PodIdentity, Runner, SharedState, lock},
};
use crate::network::listen;
use camofleet_auth::token::PublicKeys;
use camofleet_runner::core::Plan;
use camofleet_runner_api::PORT;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, TcpListener},
    sync::{Arc, Mutex},
};

/// The simulated runners, by pod.
#[derive(Debug)]
pub(super) struct Runners {
    state: Mutex<State>,
    /// The second part of the runners' addresses.
    octet: u8,
    shared: Arc<SharedState>,
}

#[derive(Debug, Default)]
struct State {
    by_pod: BTreeMap<String, Arc<Runner>>,
    latest_address: u16,
    dead_nodes: BTreeSet<String>,
    /// Namespaces whose pods another simulator runs.
    skipped_namespaces: BTreeSet<String>,
    /// Namespaces whose runners attack.
    hostile_namespaces: BTreeSet<String>,
}

impl Runners {
    pub(super) fn new(octet: u8) -> Self {
        Self { state: Mutex::default(), octet, shared: Arc::default() }
    }

    /// What all of them share.
    pub(super) fn shared(&self) -> &SharedState {
        &self.shared
    }

    pub(super) fn all(&self) -> Vec<Arc<Runner>> {
        lock(&self.state).by_pod.values().cloned().collect()
    }

    /// Leaves the pods of that namespace to another simulator.
    pub(super) fn skip_namespace(&self, namespace: &str) {
        lock(&self.state).skipped_namespaces.insert(namespace.to_owned());
    }

    /// Has runners that start in that namespace from now on attack.
    pub(super) fn set_hostile_namespace(&self, namespace: &str) {
        lock(&self.state).hostile_namespaces.insert(namespace.to_owned());
    }

    /// A node loses its power. Returns the runners that it had.
    pub(super) fn power_off_node(&self, name: &str) -> Vec<Arc<Runner>> {
        lock(&self.state).dead_nodes.insert(name.to_owned());
        let lost: Vec<_> = self.all().into_iter().filter(|runner| runner.pod.node == name).collect();
        for runner in &lost {
            runner.power_off();
        }
        lost
    }

    pub(super) fn is_dead(&self, node: &str) -> bool {
        lock(&self.state).dead_nodes.contains(node)
    }

    /// Whether the pods of that namespace are run here.
    pub(super) fn runs_namespace(&self, namespace: &str) -> bool {
        !lock(&self.state).skipped_namespaces.contains(namespace)
    }

    /// How a runner of that pool attacks, if it does.
    pub(super) fn attack_of(&self, namespace: &str, pool: &str) -> Option<Attack> {
        let is_hostile = lock(&self.state).hostile_namespaces.contains(namespace);
        Attack::named(pool).filter(|_| is_hostile)
    }

    /// What is wrong with the browsers of that image.
    pub(super) fn fault_of(&self, image: &str) -> Fault {
        lock(&self.shared.faults).get(image).copied().unwrap_or_default()
    }

    pub(super) fn get(&self, uid: &str) -> Option<Arc<Runner>> {
        lock(&self.state).by_pod.get(uid).cloned()
    }

    /// Starts a runner. On the runtime of the simulator.
    pub(super) fn start(&self, pod: PodIdentity, plan: Plan, browsers: Browsers, keys: PublicKeys) -> Arc<Runner> {
        let mut state = lock(&self.state);
        let (address, listener) = state.listen_on_next_address(self.octet);
        let runner = Arc::new(Runner::new(pod, address, plan, browsers, keys, Arc::clone(&self.shared)));
        state.by_pod.insert(runner.pod.uid.clone(), Arc::clone(&runner));
        tokio::spawn(http::serve(listener, Arc::clone(&runner)));
        runner
    }

    pub(super) fn remove(&self, pod_uid: &str) {
        if let Some(runner) = lock(&self.state).by_pod.remove(pod_uid) {
            runner.kill();
        }
    }

    pub(super) fn retain(&self, pod_uids: &BTreeSet<String>) {
        let gone: Vec<_> = lock(&self.state).by_pod.keys().filter(|uid| !pod_uids.contains(*uid)).cloned().collect();
        for uid in gone {
            self.remove(&uid);
        }
    }
}

impl State {
    /// The next address of the network that nobody has: one that was given back rests as long as can be. The first 256 are
    /// not for runners.
    fn listen_on_next_address(&mut self, octet: u8) -> (IpAddr, TcpListener) {
        loop {
            self.latest_address = self.latest_address.wrapping_add(1).max(256);
            let [high, low] = self.latest_address.to_be_bytes();
            let address = IpAddr::from([127, octet, high, low]);
            if let Ok(listener) = listen(address, PORT) {
                return (address, listener);
            }
        }
    }
}
