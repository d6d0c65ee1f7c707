//! Nodes and runners that are simulated by this process, on threads of their own: pods that the real scheduler binds get
//! addresses 127.1.x.y, where the real API of runners is served, without a browser behind it.

mod chart;
mod http;
mod kubelet;
mod record;
mod runner;

pub use chart::{Chart, Plan};
pub use kubelet::Nodes;
pub use record::{Binding, Record};
pub use runner::{Behaviour, PodIdentity, Runner, World};

use crate::control_plane::{ControlPlane, User};
use anyhow::{Context, Result};
use camofleet_runner_api::{PORT, token::PublicKeys};
use kube::Client;
use kubelet::Kubelet;
use runner::lock;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::Runtime,
};

/// The kernel's queue of connections that were not accepted yet. A leader that starts calls every runner at once.
const BACKLOG: u32 = 4096;

/// The simulated part of the cluster. It is gone when this is dropped.
#[derive(Debug)]
pub struct Simulator {
    runners: Arc<Runners>,
    runtime: Option<Runtime>,
}

impl Simulator {
    /// Makes the nodes, and runs what is put on them. A browser takes `launch_time` to start.
    ///
    /// # Errors
    /// When the nodes cannot be made, or the port of runners is taken.
    pub async fn start(control_plane: &ControlPlane, nodes: Nodes, launch_time: Duration) -> Result<Self> {
        let listener = listen()?;
        let config = control_plane.config(User::Admin).await?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("cannot start the simulator's thread")?;
        let simulator = Self { runners: Arc::default(), runtime: Some(runtime) };
        let runners = Arc::clone(&simulator.runners);
        // A client's connections belong to the runtime that it is made on.
        let starting = async move {
            let client = Client::try_from(config.clone())?;
            nodes.make(&client).await?;
            let kubelet = Kubelet::new(client, Arc::clone(&runners), launch_time);
            tokio::spawn(kubelet.run(Client::try_from(config)?));
            tokio::spawn(http::serve(TcpListener::from_std(listener)?, runners));
            anyhow::Ok(())
        };
        let runtime = simulator.runtime.as_ref().context("it was just made")?;
        runtime.spawn(starting).await.context("the simulator failed")??;
        Ok(simulator)
    }

    /// Which runner held what.
    pub fn record(&self) -> &Record {
        &self.runners.world.record
    }

    /// Sessions that are bound from now on end by themselves after so long, or not at all.
    pub fn let_sessions_live(&self, life: Option<Duration>) {
        *lock(&self.runners.world.life) = life;
    }

    /// The `traceparent` of each call to bind that session.
    pub fn traceparents(&self, session: &str) -> Vec<Option<String>> {
        lock(&self.runners.world.traceparents).get(session).cloned().unwrap_or_default()
    }

    /// The runner in the pod with that UID.
    pub fn runner(&self, pod_uid: &str) -> Option<Arc<Runner>> {
        self.runners.of_pod(pod_uid)
    }

    /// All runners there are.
    pub fn runners(&self) -> Vec<Arc<Runner>> {
        lock(&self.runners.all).by_pod.values().cloned().collect()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // To wait for its threads is not allowed on another runtime's.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn listen() -> Result<std::net::TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    let address = (Ipv4Addr::UNSPECIFIED, PORT).into();
    let listener = socket.bind(address).and_then(|()| socket.listen(BACKLOG)).and_then(TcpListener::into_std);
    listener.with_context(|| format!("cannot listen on port {PORT} for the runners: does another benchmark run?"))
}

/// The simulated runners, by pod and by address.
#[derive(Debug, Default)]
pub(crate) struct Runners {
    all: Mutex<All>,
    world: Arc<World>,
}

#[derive(Debug, Default)]
struct All {
    by_pod: BTreeMap<String, Arc<Runner>>,
    by_address: HashMap<IpAddr, Arc<Runner>>,
    latest_address: u16,
}

impl Runners {
    fn at(&self, address: IpAddr) -> Option<Arc<Runner>> {
        lock(&self.all).by_address.get(&address).cloned()
    }

    fn of_pod(&self, uid: &str) -> Option<Arc<Runner>> {
        lock(&self.all).by_pod.get(uid).cloned()
    }

    fn start(&self, pod: PodIdentity, plan: Plan, keys: PublicKeys) -> Arc<Runner> {
        let mut all = lock(&self.all);
        let address = all.free_address();
        let runner = Arc::new(Runner::new(pod, address, plan, keys, Arc::clone(&self.world)));
        all.by_pod.insert(runner.pod.uid.clone(), Arc::clone(&runner));
        all.by_address.insert(address, Arc::clone(&runner));
        runner
    }

    fn remove(&self, pod_uid: &str) {
        let mut all = lock(&self.all);
        if let Some(runner) = all.by_pod.remove(pod_uid) {
            all.by_address.remove(&runner.address);
            runner.kill();
        }
    }

    fn keep_only(&self, pod_uids: &BTreeSet<String>) {
        let gone: Vec<_> = lock(&self.all).by_pod.keys().filter(|uid| !pod_uids.contains(*uid)).cloned().collect();
        for uid in gone {
            self.remove(&uid);
        }
    }
}

impl All {
    /// The next of 127.1.0.0/16 that nobody has: one that was given back rests as long as can be.
    fn free_address(&mut self) -> IpAddr {
        loop {
            self.latest_address = self.latest_address.wrapping_add(1);
            let [high, low] = self.latest_address.to_be_bytes();
            let address = IpAddr::from([127, 1, high, low]);
            if !self.by_address.contains_key(&address) {
                return address;
            }
        }
    }
}
