//! Simulates nodes and runners. Pods that the real scheduler binds get addresses in 127.N.0.0/16, where this process
//! serves the real runner API. Each runner has the state machine of the real runner, which drives simulated browsers.
//! The simulator runs on its own thread, and N differs between the simulators of one machine.

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

/// The simulated nodes and runners. Dropping this stops them.
#[derive(Debug)]
pub struct Simulator {
    runners: Arc<Runners>,
    runtime: Option<Runtime>,
}

impl Simulator {
    /// Creates the nodes and runs the pods that are bound to them. A browser takes `launch_time` to launch.
    ///
    /// # Errors
    /// Returns an error if the nodes cannot be created or the runtime cannot be started.
    pub async fn start(control_plane: &ControlPlane, nodes: Nodes, launch_time: Duration) -> Result<Self> {
        let config = control_plane.config(User::Admin).await?;
        Self::run(config, control_plane.network.octet(), Some(nodes), None, launch_time).await
    }

    /// Runs the pods of one namespace on the nodes of another simulator, which must skip that namespace
    /// ([`Simulator::skip_namespace`]). Each runner carries out the attack that its pool is named after
    /// ([`Attack::name`]). `config` needs all permissions on the namespace's pods; `octet` is the second octet of the
    /// runners' addresses.
    ///
    /// # Errors
    /// Returns an error if the runtime cannot be started.
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
        let runtime = runtime.context("cannot start the simulator's runtime")?;
        let simulator = Self { runners: Arc::new(Runners::new(octet)), runtime: Some(runtime) };
        let runners = Arc::clone(&simulator.runners);
        // A client's connections belong to the runtime that creates the client.
        let starting = async move {
            let client = Client::try_from(config.clone())?;
            if let Some(nodes) = nodes {
                nodes.create(&client).await?;
            }
            let redirect_target =
                RedirectTarget::start(octet).await.context("cannot listen for redirected connections")?;
            *lock(&runners.shared().redirect_target) = Some(redirect_target);
            let kubelet = Kubelet::new(client, runners, launch_time);
            tokio::spawn(kubelet.run(Client::try_from(config)?, namespace));
            anyhow::Ok(())
        };
        let runtime = simulator.runtime.as_ref().context("the runtime was just created")?;
        runtime.spawn(starting).await.context("the simulator panicked")??;
        Ok(simulator)
    }

    /// Leaves a namespace to another simulator. Call this before the namespace has pods.
    pub fn skip_namespace(&self, namespace: &str) {
        self.runners.skip_namespace(namespace);
    }

    /// Makes runners that start in a namespace carry out the attack that their pool is named after ([`Attack::name`]).
    pub fn set_hostile_namespace(&self, namespace: &str) {
        self.runners.set_hostile_namespace(namespace);
    }

    /// Number of connections to the host that [`Attack::Redirect`] redirects to.
    pub fn redirected_connections(&self) -> usize {
        lock(&self.runners.shared().redirect_target).as_ref().map_or(0, RedirectTarget::connections)
    }

    /// Sets the fault of browsers in runners that start with this image from now on.
    pub fn set_fault(&self, image: &str, fault: Fault) {
        lock(&self.runners.shared().faults).insert(image.to_owned(), fault);
    }

    /// The log of all bindings.
    pub fn binding_log(&self) -> &BindingLog {
        &self.runners.shared().binding_log
    }

    /// Sets the lifetime of sessions that are bound from now on; they end by their idle timeout. `None`: as in their
    /// specs.
    pub fn set_session_lifetime(&self, lifetime: Option<Duration>) {
        *lock(&self.runners.shared().session_lifetime) = lifetime;
    }

    /// The `traceparent` header of each bind call for a session, in order.
    pub fn traceparents(&self, session: &str) -> Vec<Option<String>> {
        lock(&self.runners.shared().traceparents).get(session).cloned().unwrap_or_default()
    }

    /// The runner in the pod with this UID.
    pub fn runner(&self, pod_uid: &str) -> Option<Arc<Runner>> {
        self.runners.get(pod_uid)
    }

    /// All running runners.
    pub fn runners(&self) -> Vec<Arc<Runner>> {
        self.runners.all()
    }

    /// Powers a node off: its runners lose everything and stop answering, and their pods stay in the API server.
    /// Returns those runners.
    pub fn power_off_node(&self, name: &str) -> Vec<Arc<Runner>> {
        self.runners.power_off_node(name)
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // A plain drop would wait for the threads, which panics inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
