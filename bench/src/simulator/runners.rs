//! Registry of the simulated runners, and allocation of their addresses.

use super::{
    attack::Attack,
    browsers::{Browsers, Fault},
    http,
    runner::{PodIdentity, Runner, SharedState, lock},
};
use crate::network::listen;
use camofleet_auth::token::PublicKeys;
use camofleet_runner::core::RunnerConfig;
use camofleet_runner_api::PORT;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, TcpListener},
    sync::{Arc, Mutex},
};

#[derive(Debug)]
pub(super) struct Runners {
    state: Mutex<State>,
    /// Second octet of the runners' addresses.
    octet: u8,
    shared: Arc<SharedState>,
}

#[derive(Debug, Default)]
struct State {
    by_pod: BTreeMap<String, Arc<Runner>>,
    latest_address: u16,
    dead_nodes: BTreeSet<String>,
    /// Namespaces that another simulator runs.
    skipped_namespaces: BTreeSet<String>,
    hostile_namespaces: BTreeSet<String>,
}

impl Runners {
    pub(super) fn new(octet: u8) -> Self {
        Self { state: Mutex::default(), octet, shared: Arc::default() }
    }

    /// State shared by all runners.
    pub(super) fn shared(&self) -> &SharedState {
        &self.shared
    }

    pub(super) fn all(&self) -> Vec<Arc<Runner>> {
        lock(&self.state).by_pod.values().cloned().collect()
    }

    /// Leaves a namespace to another simulator.
    pub(super) fn skip_namespace(&self, namespace: &str) {
        lock(&self.state).skipped_namespaces.insert(namespace.to_owned());
    }

    /// Makes runners that start in a namespace from now on attack.
    pub(super) fn set_hostile_namespace(&self, namespace: &str) {
        lock(&self.state).hostile_namespaces.insert(namespace.to_owned());
    }

    /// Powers a node off and returns its runners.
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

    /// Whether this simulator runs the pods of a namespace.
    pub(super) fn runs_namespace(&self, namespace: &str) -> bool {
        !lock(&self.state).skipped_namespaces.contains(namespace)
    }

    /// The attack of a runner of this pool, if its namespace is hostile.
    pub(super) fn attack_of(&self, namespace: &str, pool: &str) -> Option<Attack> {
        let is_hostile = lock(&self.state).hostile_namespaces.contains(namespace);
        Attack::named(pool).filter(|_| is_hostile)
    }

    /// The fault of browsers in runners with this image.
    pub(super) fn fault_of(&self, image: &str) -> Fault {
        lock(&self.shared.faults).get(image).copied().unwrap_or_default()
    }

    pub(super) fn get(&self, uid: &str) -> Option<Arc<Runner>> {
        lock(&self.state).by_pod.get(uid).cloned()
    }

    /// Starts a runner. Must be called on the simulator's runtime.
    pub(super) fn start(
        &self,
        pod: PodIdentity,
        config: RunnerConfig,
        browsers: Browsers,
        keys: PublicKeys,
    ) -> Arc<Runner> {
        let mut state = lock(&self.state);
        let (address, listener) = state.listen_on_next_address(self.octet);
        let runner = Arc::new(Runner::new(pod, address, config, browsers, keys, Arc::clone(&self.shared)));
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
    /// Listens on the next free address. Addresses are reused as late as possible. The first 256 are reserved for other
    /// uses.
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
