//! A Kubernetes control plane without nodes, on loopback and in a temporary directory: etcd, API server, scheduler, and
//! the controllers for garbage collection, namespaces, service accounts and the type checking of admission policies.

use crate::{
    binaries::Kubernetes,
    daemon::{Daemon, Spec},
    network::LoopbackNetwork,
};
use anyhow::{Context, Result, bail};
use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    ffi::OsString,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use uuid::Uuid;

/// Time limit for the start of the API server.
const START_TIMEOUT: Duration = Duration::from_secs(180);
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Body of `/readyz` when the API server is ready.
const READY: &str = "ok";

/// A user of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// A cluster administrator, exempt from API Priority and Fairness.
    Admin,
    /// The operator's service account, in the priority level of all service accounts.
    Operator,
    /// A user whose only permissions are those of [`crate::harness::Harness::grant_tenant`].
    Tenant,
}

impl User {
    fn name(self) -> &'static str {
        match self {
            Self::Admin => "camofleet-bench",
            Self::Operator => "system:serviceaccount:camo-fleet:camofleet-operator",
            Self::Tenant => "tenant",
        }
    }

    fn groups(self) -> &'static str {
        match self {
            Self::Admin => "system:masters",
            Self::Operator => "system:serviceaccounts,system:serviceaccounts:camo-fleet",
            Self::Tenant => "tenants",
        }
    }
}

/// The running control plane. Dropping this kills it.
#[derive(Debug)]
pub struct ControlPlane {
    /// etcd.
    pub etcd: Daemon,
    /// The API server.
    pub api_server: Daemon,
    /// The scheduler.
    pub scheduler: Daemon,
    /// The controller manager, with the controllers that the module lists.
    pub controller_manager: Daemon,
    /// The loopback network of this control plane.
    pub network: LoopbackNetwork,
    folder: TempDir,
}

impl ControlPlane {
    /// Starts all processes, and waits until the API server is ready.
    ///
    /// # Errors
    /// Returns an error if a process cannot be started or exits, or if the API server is not ready in time.
    pub async fn start(kubernetes: &Kubernetes) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("camofleet-bench-").tempdir();
        let folder = folder.context("cannot create a temporary directory")?;
        let path = folder.path();
        let network = LoopbackNetwork::claim()?;
        write_keys(path)?;
        write_users(path, network.host())?;
        let etcd = Daemon::start(etcd(kubernetes, path, network.host()))?;
        let mut api_server = Daemon::start(api_server(kubernetes, path, network.host()))?;
        wait_for_api_server(path, &mut api_server).await?;
        let scheduler = Daemon::start(component(kubernetes, path, "kube-scheduler", &[]))?;
        let controllers = [
            "garbage-collector-controller",
            "namespace-controller",
            "serviceaccount-controller",
            "validatingadmissionpolicy-status-controller",
        ];
        let controllers = format!("--controllers={}", controllers.join(","));
        let controller_manager = Daemon::start(component(kubernetes, path, "kube-controller-manager", &[controllers]))?;
        Ok(Self { etcd, api_server, scheduler, controller_manager, network, folder })
    }

    /// Path of the kubeconfig of a user.
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        kubeconfig_path(self.folder.path(), user)
    }

    /// Writes a kubeconfig for a proxy, which authenticates to the API server as the operator. `name` is the file's
    /// name.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn proxy_kubeconfig(&self, server: &str, name: &str) -> Result<PathBuf> {
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{ "name": "proxy", "cluster": { "server": server } }],
            "users": [{ "name": "proxy", "user": {} }],
            "contexts": [{ "name": "proxy", "context": { "cluster": "proxy", "user": "proxy", "namespace": "default" } }],
        });
        let path = self.file(&format!("{name}.kubeconfig"));
        fs::write(&path, kubeconfig.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Writes a kubeconfig with which the administrator impersonates a user. The API server adds the groups of service
    /// accounts; other users are only in `groups`. `name` is the file's name.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn impersonating_kubeconfig(&self, user: &str, groups: &[&str], name: &str) -> Result<PathBuf> {
        let admin = self.kubeconfig(User::Admin);
        let text = fs::read_to_string(&admin).with_context(|| format!("cannot read {}", admin.display()))?;
        let mut kubeconfig: serde_json::Value = serde_json::from_str(&text)?;
        kubeconfig["users"][0]["user"]["as"] = user.into();
        if !groups.is_empty() {
            kubeconfig["users"][0]["user"]["as-groups"] = groups.into();
        }
        let path = self.file(&format!("{name}.kubeconfig"));
        fs::write(&path, kubeconfig.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Client configuration of a user.
    ///
    /// # Errors
    /// Returns an error if the kubeconfig cannot be read.
    pub async fn config(&self, user: User) -> Result<Config> {
        config_of(self.folder.path(), user).await
    }

    /// A client for a user, with its own connections.
    ///
    /// # Errors
    /// Returns an error if the kubeconfig cannot be read.
    pub async fn client(&self, user: User) -> Result<Client> {
        Ok(Client::try_from(self.config(user).await?)?)
    }

    /// Path of a file in the temporary directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Kills all processes, etcd last.
    ///
    /// # Errors
    /// Returns an error if a process cannot be killed.
    pub async fn stop(&mut self) -> Result<()> {
        for daemon in [&mut self.controller_manager, &mut self.scheduler, &mut self.api_server, &mut self.etcd] {
            daemon.kill().await?;
        }
        Ok(())
    }

    /// Waits until the API server is ready again.
    ///
    /// # Errors
    /// Returns an error if it exits or is not ready in time.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        wait_for_api_server(self.folder.path(), &mut self.api_server).await
    }
}

async fn wait_for_api_server(folder: &Path, api_server: &mut Daemon) -> Result<()> {
    let start = Instant::now();
    let mut last_answer = "no answer yet".to_owned();
    while start.elapsed() < START_TIMEOUT {
        api_server.pid()?;
        // The API server creates its certificate at its first start. Until then, no client can verify it.
        if folder.join(CERTIFICATE).is_file() {
            let client = Client::try_from(config_of(folder, User::Admin).await?)?;
            let request = http::Request::get("/readyz").body(Vec::new())?;
            match tokio::time::timeout(Duration::from_secs(2), client.request_text(request)).await {
                Ok(Ok(answer)) if answer == READY => return Ok(()),
                Ok(Ok(answer)) => last_answer = answer,
                Ok(Err(error)) => last_answer = error.to_string(),
                Err(_) => "no answer within 2 s".clone_into(&mut last_answer),
            }
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
    let seconds = START_TIMEOUT.as_secs();
    bail!("the API server was not ready after {seconds} s: {last_answer}; its log ends: {}", api_server.log_tail())
}

/// File with the API server's self-signed certificate and its CA.
const CERTIFICATE: &str = "certificates/apiserver.crt";
const SIGNING_KEY: &str = "service-accounts.key";
const VERIFYING_KEY: &str = "service-accounts.pub";
const TOKENS: &str = "tokens.csv";
const ETCD_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
const API_PORT: u16 = 6443;

/// Uses the flags of the dev cluster, so that measurements on both can be compared.
fn etcd(kubernetes: &Kubernetes, folder: &Path, host: IpAddr) -> Spec {
    let (client, peer) = (format!("http://{host}:{ETCD_PORT}"), format!("http://{host}:{PEER_PORT}"));
    let args = [
        format!("--data-dir={}", folder.join("etcd").display()),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ];
    spec(kubernetes, folder, "etcd", args)
}

fn api_server(kubernetes: &Kubernetes, folder: &Path, host: IpAddr) -> Spec {
    let path = |name: &str| folder.join(name).display().to_string();
    let args = [
        format!("--etcd-servers=http://{host}:{ETCD_PORT}"),
        format!("--bind-address={host}"),
        format!("--advertise-address={host}"),
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--secure-port={API_PORT}"),
        format!("--cert-dir={}", path("certificates")),
        format!("--token-auth-file={}", path(TOKENS)),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", path(VERIFYING_KEY)),
        format!("--service-account-signing-key-file={}", path(SIGNING_KEY)),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        // The node lifecycle controller, which would remove the taint of a new node, does not run.
        "--disable-admission-plugins=TaintNodesByCondition".to_owned(),
    ];
    spec(kubernetes, folder, "kube-apiserver", args)
}

/// A component that calls the API server. The default client rate limit would be slower than the measured load.
fn component(kubernetes: &Kubernetes, folder: &Path, name: &str, more: &[String]) -> Spec {
    let mut args = vec![
        format!("--kubeconfig={}", kubeconfig_path(folder, User::Admin).display()),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        "--kube-api-qps=2000".to_owned(),
        "--kube-api-burst=4000".to_owned(),
    ];
    args.extend_from_slice(more);
    spec(kubernetes, folder, name, args)
}

fn spec(kubernetes: &Kubernetes, folder: &Path, name: &str, args: impl IntoIterator<Item = String>) -> Spec {
    Spec {
        name: name.to_owned(),
        program: kubernetes.program(name),
        args: args.into_iter().map(OsString::from).collect(),
        env: Vec::new(),
        log: folder.join(format!("{name}.log")),
    }
}

/// Writes the key pair for service account tokens. The API server does not start without one; no test uses such tokens.
fn write_keys(folder: &Path) -> Result<()> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    let document = document.context("cannot generate a key for service accounts")?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref())?;
    let public = AsDer::<PublicKeyX509Der>::as_der(pair.public_key())?;
    fs::write(folder.join(SIGNING_KEY), pem("PRIVATE KEY", document.as_ref()))?;
    fs::write(folder.join(VERIFYING_KEY), pem("PUBLIC KEY", public.as_ref()))?;
    Ok(())
}

fn pem(what: &str, der: &[u8]) -> String {
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", BASE64_STANDARD.encode(der))
}

fn write_users(folder: &Path, host: IpAddr) -> Result<()> {
    let mut tokens = Vec::new();
    for user in [User::Admin, User::Operator, User::Tenant] {
        let (name, token) = (user.name(), Uuid::new_v4().to_string());
        tokens.push(format!("{token},{name},{name},\"{}\"\n", user.groups()));
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{ "name": "bench", "cluster": {
                "server": format!("https://{host}:{API_PORT}"),
                "certificate-authority": folder.join(CERTIFICATE),
            } }],
            "users": [{ "name": "bench", "user": { "token": token } }],
            "contexts": [{ "name": "bench", "context": { "cluster": "bench", "user": "bench", "namespace": "default" } }],
        });
        fs::write(kubeconfig_path(folder, user), kubeconfig.to_string())?;
    }
    fs::write(folder.join(TOKENS), tokens.concat()).context("cannot write the token file of the API server")
}

fn kubeconfig_path(folder: &Path, user: User) -> PathBuf {
    folder.join(match user {
        User::Admin => "admin.kubeconfig",
        User::Operator => "operator.kubeconfig",
        User::Tenant => "tenant.kubeconfig",
    })
}

async fn config_of(folder: &Path, user: User) -> Result<Config> {
    read_config(&kubeconfig_path(folder, user)).await
}

/// Reads a kubeconfig.
///
/// # Errors
/// Returns an error if the file cannot be read or is invalid.
pub async fn read_config(path: &Path) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.with_context(|| format!("{} is not a usable kubeconfig", path.display()))
}
