//! Nodes and runners that are simulated by this process, on threads of their own: pods that the real scheduler binds get
//! addresses 127.N.x.y, where the real API of runners is served. Behind it the core of the real runner drives simulated browsers.
//! N is another one for each simulator of this machine.

mod attack;
mod binding_log;
mod browsers;
mod hostile;
mod http;
mod kubelet;
mod process;
mod runner;
mod runners;

pub use attack::{Attack, HEAVY_SESSIONS, HUGE_BODY, ORPHANS};
pub use binding_log::{Binding, BindingLog};
pub use browsers::Fault;
pub use kubelet::Nodes;
pub use runner::{Behaviour, PodIdentity, Runner, SharedState};

use crate::control_plane::{ControlPlane, User};
use anyhow::{Context, Result};
use attack::RedirectTarget;
use kube::{Client, Config};
use kubelet::Kubelet;
use runner::lock;
use runners::Runners;
use std::{sync::Arc, time::Duration};
use tokio::runtime::Runtime;

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
    /// When the nodes cannot be made, or no addresses are left for runners.
    pub async fn start(control_plane: &ControlPlane, nodes: Nodes, launch_time: Duration) -> Result<Self> {
        let config = control_plane.config(User::Admin).await?;
        Self::run(config, control_plane.network.octet(), Some(nodes), None, launch_time).await
    }

    /// Runs the pods of one namespace on the nodes of another simulator, which leaves that namespace alone
    /// ([`Simulator::leave`]). The runners attack as the names of their pools say ([`Attack::name`]). `config` needs all
    /// rights on the namespace's pods; `octet` is the second part of the runners' addresses.
    ///
    /// # Errors
    /// When its threads cannot be started.
    pub async fn start_hostile(config: Config, octet: u8, namespace: &str) -> Result<Self> {
        let simulator = Self::run(config, octet, None, Some(namespace.to_owned()), Duration::ZERO).await?;
        simulator.set_hostile_namespace(namespace);
        Ok(simulator)
    }

    async fn run(
        config: Config,
        octet: u8,
        nodes: Option<Nodes>,
        namespace: Option<String>,
        launch_time: Duration,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("cannot start the simulator's thread")?;
        let simulator = Self { runners: Arc::new(Runners::new(octet)), runtime: Some(runtime) };
        let runners = Arc::clone(&simulator.runners);
        // A client's connections belong to the runtime that it is made on.
        let starting = async move {
            let client = Client::try_from(config.clone())?;
            if let Some(nodes) = nodes {
                nodes.create(&client).await?;
            }
            let redirect_target = RedirectTarget::start(octet).await.context("no port is free for the bystander")?;
            *lock(&runners.shared().redirect_target) = Some(redirect_target);
            let kubelet = Kubelet::new(client, runners, launch_time);
            tokio::spawn(kubelet.run(Client::try_from(config)?, namespace));
            anyhow::Ok(())
        };
        let runtime = simulator.runtime.as_ref().context("it was just made")?;
        runtime.spawn(starting).await.context("the simulator failed")??;
        Ok(simulator)
    }

    /// Leaves the pods of that namespace to another simulator. To be called before there are any.
    pub fn skip_namespace(&self, namespace: &str) {
        self.runners.skip_namespace(namespace);
    }

    /// Runners that start in that namespace from now on attack as the names of their pools say ([`Attack::name`]).
    pub fn set_hostile_namespace(&self, namespace: &str) {
        self.runners.set_hostile_namespace(namespace);
    }

    /// How many connections arrived at the host that [`Attack::Redirect`] redirects to.
    pub fn redirected_connections(&self) -> usize {
        lock(&self.runners.shared().redirect_target).as_ref().map_or(0, RedirectTarget::connections)
    }

    /// Sets what is wrong with the browsers of runners of that image that start from now on.
    pub fn set_fault(&self, image: &str, fault: Fault) {
        lock(&self.runners.shared().faults).insert(image.to_owned(), fault);
    }

    /// Which runner held what.
    pub fn binding_log(&self) -> &BindingLog {
        &self.runners.shared().binding_log
    }

    /// Sessions that are bound from now on end by their idle time-out after this time, or as their objects say.
    pub fn set_session_lifetime(&self, lifetime: Option<Duration>) {
        *lock(&self.runners.shared().session_lifetime) = lifetime;
    }

    /// The `traceparent` of each call to bind that session.
    pub fn traceparents(&self, session: &str) -> Vec<Option<String>> {
        lock(&self.runners.shared().traceparents).get(session).cloned().unwrap_or_default()
    }

    /// The runner in the pod with that UID.
    pub fn runner(&self, pod_uid: &str) -> Option<Arc<Runner>> {
        self.runners.get(pod_uid)
    }

    /// All runners there are.
    pub fn runners(&self) -> Vec<Arc<Runner>> {
        self.runners.all()
    }

    /// A node loses its power: what ran there is lost and answers nobody, and nobody tells the API server. Says which
    /// runners those were.
    pub fn power_off_node(&self, name: &str) -> Vec<Arc<Runner>> {
        self.runners.power_off_node(name)
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
