//! The simulated runners of a simulator, and on what addresses they listen.

use super::{
    attack::Attack,
    browsers::{Browsers, Fault},
    http,
    runner::{PodIdentity, Runner, World, lock},
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
    all: Mutex<All>,
    /// The second part of the runners' addresses.
    second: u8,
    world: Arc<World>,
}

#[derive(Debug, Default)]
struct All {
    by_pod: BTreeMap<String, Arc<Runner>>,
    latest_address: u16,
    dead_nodes: BTreeSet<String>,
    /// Namespaces whose pods another simulator runs.
    left: BTreeSet<String>,
    /// Namespaces whose runners attack.
    hostile: BTreeSet<String>,
}

impl Runners {
    pub(super) fn new(second: u8) -> Self {
        Self { all: Mutex::default(), second, world: Arc::default() }
    }

    /// What all of them share.
    pub(super) fn world(&self) -> &World {
        &self.world
    }

    pub(super) fn all(&self) -> Vec<Arc<Runner>> {
        lock(&self.all).by_pod.values().cloned().collect()
    }

    /// Leaves the pods of that namespace to another simulator.
    pub(super) fn leave(&self, namespace: &str) {
        lock(&self.all).left.insert(namespace.to_owned());
    }

    /// Has runners that start in that namespace from now on attack.
    pub(super) fn make_hostile(&self, namespace: &str) {
        lock(&self.all).hostile.insert(namespace.to_owned());
    }

    /// A node loses its power. Returns the runners that it had.
    pub(super) fn lose_node(&self, name: &str) -> Vec<Arc<Runner>> {
        lock(&self.all).dead_nodes.insert(name.to_owned());
        let lost: Vec<_> = self.all().into_iter().filter(|runner| runner.pod.node == name).collect();
        for runner in &lost {
            runner.lose_power();
        }
        lost
    }

    pub(super) fn is_dead(&self, node: &str) -> bool {
        lock(&self.all).dead_nodes.contains(node)
    }

    /// Whether the pods of that namespace are run here.
    pub(super) fn has(&self, namespace: &str) -> bool {
        !lock(&self.all).left.contains(namespace)
    }

    /// How a runner of that pool attacks, if it does.
    pub(super) fn attack_of(&self, namespace: &str, pool: &str) -> Option<Attack> {
        let is_hostile = lock(&self.all).hostile.contains(namespace);
        Attack::named(pool).filter(|_| is_hostile)
    }

    /// What is wrong with the browsers of that image.
    pub(super) fn fault_of(&self, image: &str) -> Fault {
        lock(&self.world.faults).get(image).copied().unwrap_or_default()
    }

    pub(super) fn of_pod(&self, uid: &str) -> Option<Arc<Runner>> {
        lock(&self.all).by_pod.get(uid).cloned()
    }

    /// Starts a runner. On the runtime of the simulator.
    pub(super) fn start(&self, pod: PodIdentity, plan: Plan, browsers: Browsers, keys: PublicKeys) -> Arc<Runner> {
        let mut all = lock(&self.all);
        let (address, listener) = all.listen_somewhere(self.second);
        let runner = Arc::new(Runner::new(pod, address, plan, browsers, keys, Arc::clone(&self.world)));
        all.by_pod.insert(runner.pod.uid.clone(), Arc::clone(&runner));
        tokio::spawn(http::serve(listener, Arc::clone(&runner)));
        runner
    }

    pub(super) fn remove(&self, pod_uid: &str) {
        if let Some(runner) = lock(&self.all).by_pod.remove(pod_uid) {
            runner.kill();
        }
    }

    pub(super) fn keep_only(&self, pod_uids: &BTreeSet<String>) {
        let gone: Vec<_> = lock(&self.all).by_pod.keys().filter(|uid| !pod_uids.contains(*uid)).cloned().collect();
        for uid in gone {
            self.remove(&uid);
        }
    }
}

impl All {
    /// The next address of the network that nobody has: one that was given back rests as long as can be. The first 256 are
    /// not for runners.
    fn listen_somewhere(&mut self, second: u8) -> (IpAddr, TcpListener) {
        loop {
            self.latest_address = self.latest_address.wrapping_add(1).max(256);
            let [high, low] = self.latest_address.to_be_bytes();
            let address = IpAddr::from([127, second, high, low]);
            if let Ok(listener) = listen(address, PORT) {
                return (address, listener);
            }
        }
    }
}
