//! Renders the chart with Helm, applies its objects to the harness, and runs its Jobs with their service accounts'
//! permissions.

use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    control_plane::{User, read_config},
    harness::Harness,
    operator::NAMESPACE,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, TypeMeta},
};
use serde::Deserialize;
use serde_json::Value;
use std::{path::Path, process::Stdio};
use tokio::process::Command;

/// The chart's objects, as Helm renders them for the release `camo-fleet`.
pub struct Chart(Vec<DynamicObject>);

impl Chart {
    /// Renders the chart as an install does, with look-ups in the cluster, but without its CRDs, which the harness has
    /// installed. Each value is an argument of Helm's `--set`.
    pub async fn render(harness: &Harness, values: &[&str]) -> Result<Self> {
        let kubeconfig = harness.control_plane.kubeconfig(User::Admin);
        let kubeconfig = kubeconfig.to_str().context("the path is not UTF-8")?;
        Self::template(harness, &["--dry-run=server", "--kubeconfig", kubeconfig], values).await
    }

    /// Renders the chart without a cluster, as for `kubectl apply`.
    pub async fn print(harness: &Harness, values: &[&str]) -> Result<Self> {
        Self::template(harness, &[], values).await
    }

    async fn template(harness: &Harness, flags: &[&str], values: &[&str]) -> Result<Self> {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/camo-fleet");
        let mut command = Command::new(harness.options.kubernetes.program("helm"));
        command.args(["template", "camo-fleet"]).arg(chart).args(["--namespace", NAMESPACE]).args(flags);
        command.args(["--set", "crds.install=false"]).args(values.iter().flat_map(|value| ["--set", value]));
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("cannot run helm")?;
        ensure!(output.status.success(), "helm template: {}", String::from_utf8_lossy(&output.stderr));
        let mut objects = Vec::new();
        for document in serde_yaml::Deserializer::from_slice(&output.stdout) {
            let document = Value::deserialize(document)?;
            if !document.is_null() {
                objects.push(serde_json::from_value(document)?);
            }
        }
        Ok(Self(objects))
    }

    /// The objects of a kind whose names `wanted` accepts.
    pub fn of_kind<'a>(
        &'a self,
        kind: &'a str,
        wanted: impl Fn(&str) -> bool + 'a,
    ) -> impl Iterator<Item = &'a DynamicObject> {
        self.0.iter().filter(move |object| {
            object.types.as_ref().is_some_and(|types| types.kind == kind)
                && object.metadata.name.as_deref().is_some_and(&wanted)
        })
    }

    /// Applies the roles and bindings of a component.
    pub async fn grant(&self, client: &Client, component: &str) -> Result<()> {
        for kind in ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"] {
            for object in self.of_kind(kind, |name| name == component) {
                apply(client, object).await?;
            }
        }
        Ok(())
    }

    /// Runs the program of a Job as the Job's service account, and returns its log.
    pub async fn run_job(&self, harness: &Harness, job: &str) -> Result<String> {
        self.grant(&harness.client, job).await?;
        let rendered = self.of_kind("Job", |name| name == job).next().with_context(|| format!("no Job {job}"))?;
        let container = &rendered.data["spec"]["template"]["spec"]["containers"][0];
        let args: Vec<String> = serde_json::from_value(container["args"].clone())?;
        let account = format!("system:serviceaccount:{NAMESPACE}:{job}");
        let kubeconfig = harness.control_plane.impersonating_kubeconfig(&account, &[], job)?;
        let mut command = Command::new(&harness.options.operator.path);
        // As Kubernetes does with `$$` in arguments.
        command.args(args.iter().map(|arg| arg.replace("$$", "$")));
        command.env_clear().env("KUBECONFIG", kubeconfig).env("POD_NAMESPACE", NAMESPACE);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("cannot run the Job")?;
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "Job {job} failed: {log}");
        Ok(log)
    }
}

/// Applies an object as Helm would.
pub async fn apply(client: &Client, object: &DynamicObject) -> Result<DynamicObject> {
    let name = object.metadata.name.as_deref().context("the object has no name")?;
    let params = PatchParams::apply("helm").force();
    let applied = api_of(client, object)?.patch(name, &params, &Patch::Apply(object)).await;
    applied.with_context(|| format!("cannot apply {name}"))
}

/// The API of the object's kind and namespace.
pub fn api_of(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>> {
    let types: &TypeMeta = object.types.as_ref().context("the object has no kind")?;
    let kind = ApiResource::from_gvk(&types.try_into()?);
    Ok(match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
        None => Api::all_with(client.clone(), &kind),
    })
}

/// A client that impersonates a user.
pub async fn client_as(harness: &Harness, user: &str, groups: &[&str], name: &str) -> Result<Client> {
    let kubeconfig = harness.control_plane.impersonating_kubeconfig(user, groups, name)?;
    Ok(Client::try_from(read_config(&kubeconfig).await?)?)
}
