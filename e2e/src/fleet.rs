//! Locates the fleet under test: its API server, gateway URL, admin token and pods.

use crate::wait::wait_for_object;
use anyhow::{Context, Result, ensure};
use camofleet_runtime::tls;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, Config, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    env, fs,
    net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::PathBuf,
};
use tokio::process::Command;

/// The namespace into which `dev/up` installs the chart.
pub const RELEASE_NAMESPACE: &str = "camo-fleet";

/// The fleet under test.
#[derive(Clone)]
pub struct Fleet {
    /// A client of the API server with cluster-admin permissions.
    pub client: Client,
}

impl Fleet {
    /// The fleet of `$KUBECONFIG` or, without it, of `.dev/kubeconfig` in the checkout.
    ///
    /// # Errors
    /// If the file does not exist or is not a kubeconfig.
    pub async fn find() -> Result<Self> {
        // Fails if this process has already installed the provider, which is fine.
        tls::install_provider().ok();
        let path = env::var_os("KUBECONFIG").map_or_else(|| dev_path("kubeconfig"), PathBuf::from);
        let kubeconfig = Kubeconfig::read_from(&path)
            .with_context(|| format!("cannot read {}: run dev/up, or set KUBECONFIG", path.display()))?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // Tests examine rejections: a rejected eviction, for example, is a 429, which kube would retry.
        config.default_retry = false;
        Ok(Self { client: Client::try_from(config)? })
    }

    /// Base URL of the gateway (`http://…`, without a trailing slash).
    pub fn gateway_url(&self) -> Result<String> {
        read_dev_file("gateway.url")
    }

    /// A static token with the role admin.
    pub fn admin_token(&self) -> Result<String> {
        read_dev_file("token")
    }

    /// The address of this machine that pods can reach: the source address of its connections to the gateway.
    pub fn host_address(&self) -> Result<IpAddr> {
        let url = self.gateway_url()?;
        let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let gateway: SocketAddr = authority.to_socket_addrs()?.next().context("the gateway's URL has no address")?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // Connecting a UDP socket sends nothing; it only selects the route.
        socket.connect(gateway)?;
        Ok(socket.local_addr()?.ip())
    }

    /// The pods of a component (`operator` or `gateway`) that are not terminating.
    pub async fn running_pods(&self, component: &str) -> Result<Vec<Pod>> {
        Ok(self.running_and_terminating(component).await?.0)
    }

    /// All pods of a component: first those that are not terminating, then those that are.
    pub async fn running_and_terminating(&self, component: &str) -> Result<(Vec<Pod>, Vec<Pod>)> {
        let labels = ListParams::default().labels(&format!("app.kubernetes.io/name=camofleet-{component}"));
        let pods = self.release::<Pod>().list(&labels).await?.items;
        Ok(pods.into_iter().partition(|pod| pod.metadata.deletion_timestamp.is_none()))
    }

    /// The only pod of the operator that is not terminating.
    ///
    /// # Errors
    /// If there is none or more than one.
    pub async fn operator(&self) -> Result<Pod> {
        let mut pods = self.running_pods("operator").await?;
        ensure!(
            pods.len() == 1,
            "expected one operator, found {:?}",
            pods.iter().map(Pod::name_any).collect::<Vec<_>>()
        );
        Ok(pods.remove(0))
    }

    /// Waits until all pods of a deployment are current and available, and no others exist.
    pub async fn wait_for_rollout(&self, deployment: &str) -> Result<()> {
        wait_for_object(&self.release::<Deployment>(), deployment, "to be rolled out", |deployment| {
            let desired = deployment.spec.replicas.unwrap_or(1);
            deployment.status.as_ref().is_some_and(|status| {
                status.observed_generation == deployment.metadata.generation
                    && status.replicas == Some(desired)
                    && status.available_replicas == Some(desired)
                    && status.updated_replicas == Some(desired)
            })
        })
        .await
        .map(drop)
    }

    /// The API for objects of the release's namespace.
    pub fn release<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), RELEASE_NAMESPACE)
    }
}

/// The path of a file in the checkout.
pub fn repository_path(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

/// Runs a program of the checkout and returns its output.
///
/// # Errors
/// If the program fails, with its stderr.
pub async fn run_program(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(repository_path(program)).args(arguments).output().await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}\n{stderr}", arguments.join(" "), output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn dev_path(name: &str) -> PathBuf {
    repository_path(".dev").join(name)
}

fn read_dev_file(name: &str) -> Result<String> {
    let path = dev_path(name);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}: run dev/up", path.display()))?;
    Ok(text.trim().to_owned())
}
