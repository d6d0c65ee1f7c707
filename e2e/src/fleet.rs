//! The installed fleet: where it is, and what it is made of.

use anyhow::{Context, Result, ensure};
use camofleet_runtime::tls;
use k8s_openapi::api::core::v1::Pod;
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

/// The namespace that `dev/up` installs the chart into.
pub const RELEASE_NAMESPACE: &str = "camo-fleet";

/// The fleet that the tests drive.
#[derive(Clone)]
pub struct Fleet {
    /// The API server, as its administrator.
    pub client: Client,
}

impl Fleet {
    /// The fleet of `$KUBECONFIG`, else of `.dev/kubeconfig` in the checkout.
    ///
    /// # Errors
    /// When there is no such file, or it is none.
    pub async fn find() -> Result<Self> {
        // The second of two in one process: the provider is there.
        tls::install_provider().ok();
        let path = env::var_os("KUBECONFIG").map_or_else(|| dev_path("kubeconfig"), PathBuf::from);
        let kubeconfig = Kubeconfig::read_from(&path)
            .with_context(|| format!("cannot read {}: run dev/up, or set KUBECONFIG", path.display()))?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // Refusals are looked for here: "too many requests", which is how evictions are refused, is an answer like others.
        config.default_retry = false;
        Ok(Self { client: Client::try_from(config)? })
    }

    /// Base of the gateway's URLs (`http://…`, without a slash at its end).
    pub fn gateway_url(&self) -> Result<String> {
        read_dev_file("gateway.url")
    }

    /// A token of the role admin.
    pub fn admin_token(&self) -> Result<String> {
        read_dev_file("token")
    }

    /// The address of this machine that pods reach: the one from which it reaches the gateway.
    pub fn host_address(&self) -> Result<IpAddr> {
        let url = self.gateway_url()?;
        let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let gateway: SocketAddr = authority.to_socket_addrs()?.next().context("the gateway's URL has no address")?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // Sends nothing: it asks for the route.
        socket.connect(gateway)?;
        Ok(socket.local_addr()?.ip())
    }

    /// The pods of a component (`operator` or `gateway`) that are to stay.
    pub async fn running_pods(&self, component: &str) -> Result<Vec<Pod>> {
        Ok(self.running_and_terminating(component).await?.0)
    }

    /// All pods of a component: those that are to stay, and those that are told to go.
    pub async fn running_and_terminating(&self, component: &str) -> Result<(Vec<Pod>, Vec<Pod>)> {
        let labels = ListParams::default().labels(&format!("app.kubernetes.io/name=camofleet-{component}"));
        let pods = self.release::<Pod>().list(&labels).await?.items;
        Ok(pods.into_iter().partition(|pod| pod.metadata.deletion_timestamp.is_none()))
    }

    /// The one pod of the operator.
    ///
    /// # Errors
    /// When there are none or several.
    pub async fn operator(&self) -> Result<Pod> {
        let mut pods = self.running_pods("operator").await?;
        ensure!(pods.len() == 1, "one operator was expected: {:?}", pods.iter().map(Pod::name_any).collect::<Vec<_>>());
        Ok(pods.remove(0))
    }

    /// Objects of the release's namespace.
    pub fn release<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), RELEASE_NAMESPACE)
    }
}

/// A file of the checkout.
pub fn repository_path(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

/// Runs a program of the checkout, and hands over what it printed.
///
/// # Errors
/// When it fails, with what it printed to standard error.
pub async fn run_program(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(repository_path(program)).args(arguments).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}\n{said}", arguments.join(" "), output.status);
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
