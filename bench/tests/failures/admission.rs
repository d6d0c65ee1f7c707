//! The chart's admission policies on a real API server: the requests that they reject, and those that they must accept.

use crate::{
    chart::{Chart, api_of, apply, client_as},
    fixture::{FLEET, POOL, claim, start_leader, wait_until, with_fleet},
};
use anyhow::{Context, Result, ensure};
use camofleet_bench::harness::{Harness, pool_of_reused_runners, session_spec};
use camofleet_crds::v1alpha1::{BrowserSession, SessionState, WorkerPool};
use k8s_openapi::api::core::v1::{Binding, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::fmt::Debug;

const KEYS: &str = "camofleet.dev/public-keys";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const POLICIES: [&str; 2] = ["camofleet-runner-pods", "camofleet-object-metadata"];

/// Installs the policies, and asserts that Kubernetes has checked the types of their expressions without a warning.
async fn install_policies(harness: &Harness) -> Result<()> {
    let chart = Chart::render(harness, &[]).await?;
    let mut installed = 0;
    for kind in ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] {
        for object in chart.of_kind(kind, |_| true) {
            apply(&harness.client, object).await?;
            installed += 1;
        }
    }
    ensure!(
        installed == 2 * POLICIES.len(),
        "installed {installed} objects instead of {} policies with a binding each",
        POLICIES.len()
    );
    for policy in chart.of_kind("ValidatingAdmissionPolicy", |_| true) {
        let (api, name) = (api_of(&harness.client, policy)?, policy.name_any());
        wait_until("the policy's types are checked", async || {
            Ok(api.get(&name).await?.data["status"]["typeChecking"].is_object())
        })
        .await?;
        let checked = api.get(&name).await?;
        let warnings = &checked.data["status"]["typeChecking"]["expressionWarnings"];
        ensure!(warnings.is_null(), "policy {name}: {warnings}");
    }
    Ok(())
}

/// Asserts that the policy rejected the request with a message that contains `words`.
fn assert_rejected<T: Debug>(what: &str, answer: kube::Result<T>, policy: &str, words: &str) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) => {
            let message = &status.message;
            ensure!(
                message.contains(policy) && message.contains(words),
                "{what} was rejected for another reason: {message}"
            );
            Ok(())
        }
        answer => anyhow::bail!("{what} was not rejected: {answer:?}"),
    }
}

fn pod(name: &str, metadata: &Value) -> Result<Pod> {
    let mut pod = json!({
        "metadata": { "name": name },
        "spec": { "schedulerName": "none", "containers": [{ "name": "runner", "image": "simulated" }] },
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut pod["metadata"], metadata) {
        all.extend(more.clone());
    }
    Ok(serde_json::from_value(pod)?)
}

#[test]
fn only_the_operator_may_create_runner_pods_and_set_their_keys() {
    with_fleet("runner-policy", async |harness| {
        install_policies(harness).await?;
        // A cluster administrator: RBAC allows every request.
        let mallory = client_as(harness, "mallory", &["system:masters"], "mallory").await?;
        let pods = Api::<Pod>::namespaced(mallory.clone(), FLEET);
        let (create, merge) = (PostParams::default(), PatchParams::default());
        let runner_label = json!({ "labels": { "app.kubernetes.io/name": "camofleet-runner" } });
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        // The API server enforces a policy some time after its creation.
        wait_until("the policy is in force", async || {
            Ok(pods.create(&dry, &pod("early", &runner_label)?).await.is_err())
        })
        .await?;

        // The operator, the scheduler and the nodes are not rejected.
        let _operator = start_leader(harness, "a").await?;
        harness.create_hot_pool(FLEET, POOL, pool_of_reused_runners(2, 1)).await?;
        claim(harness, "claim", 2).await?;
        let runners = pods.list(&ListParams::default().labels("app.kubernetes.io/name=camofleet-runner")).await?.items;
        ensure!(runners.len() == 2, "{} runners instead of 2", runners.len());
        let runner = runners[0].name_any();
        let pool = harness.api::<WorkerPool>(FLEET).get(POOL).await?;

        let [policy, _] = POLICIES;
        let [label, owner, keys] =
            ["app.kubernetes.io/name=camofleet-runner", "controller of a pod", "annotation camofleet.dev/public-keys"];
        let owned = |uid: &str| {
            let reference = json!({ "apiVersion": "camofleet.dev/v1alpha1", "kind": "WorkerPool", "name": POOL, "uid": uid,
                "controller": true });
            json!({ "ownerReferences": [reference] })
        };
        let own = owned(&pool.uid().context("the pool has no UID")?);
        let annotated = json!({ "annotations": { KEYS: "{}" } });
        for (what, metadata, words) in
            [("a runner's label", &runner_label, label), ("a pool as owner", &own, owner), ("keys", &annotated, keys)]
        {
            assert_rejected(what, pods.create(&create, &pod("made", metadata)?).await, policy, words)?;
        }
        pods.create(&create, &pod("plain", &json!({ "labels": { "app": "other" } }))?).await?;
        let other_owner = owned("00000000-0000-0000-0000-000000000000");
        let without_keys = json!({ "annotations": { KEYS: null } });
        for (what, name, metadata, words) in [
            ("a later label", "plain", &runner_label, label),
            ("a later owner", "plain", &own, owner),
            ("later keys", "plain", &annotated, keys),
            ("another owner of a runner", runner.as_str(), &other_owner, owner),
            ("other keys of a runner", &runner, &annotated, keys),
            ("a runner's keys taken away", &runner, &without_keys, keys),
        ] {
            let patch = Patch::Merge(json!({ "metadata": metadata }));
            assert_rejected(what, pods.patch(name, &merge, &patch).await, policy, words)?;
            // An update of the status cannot change owners (kubernetes: pkg/registry/core/pod/strategy.go).
            if words != owner {
                assert_rejected(
                    &format!("{what}, by the status"),
                    pods.patch_status(name, &merge, &patch).await,
                    policy,
                    words,
                )?;
            }
        }
        // Kubernetes copies a binding's annotations to its pod.
        let mut binding: Binding = serde_json::from_value(json!({
            "metadata": { "name": "plain", "annotations": { KEYS: "{}" } },
            "target": { "apiVersion": "v1", "kind": "Node", "name": "simulated-9" },
        }))?;
        let bind = async |binding: &Binding| {
            // The response is a Status, not a Binding.
            pods.create_subresource::<Binding, Value>("binding", "plain", &create, binding).await
        };
        assert_rejected("keys by a binding", bind(&binding).await, policy, keys)?;
        let bindings = Api::<Binding>::namespaced(mallory.clone(), FLEET);
        assert_rejected("keys by a former binding", bindings.create(&create, &binding).await, policy, keys)?;
        binding.metadata.annotations = None;
        bind(&binding).await.context("a binding without annotations")?;
        wait_until("the pod is bound", async || {
            Ok(pods.get("plain").await?.spec.is_some_and(|spec| spec.node_name.as_deref() == Some("simulated-9")))
        })
        .await?;

        // Requests that other users may still make for a runner.
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { "example.com/seen": "yes" } } }));
        pods.patch(&runner, &merge, &patch).await.context("an unrelated annotation")?;
        let collector = client_as(
            harness,
            "system:serviceaccount:kube-system:generic-garbage-collector",
            &["system:masters"],
            "gc",
        )
        .await?;
        let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": null } }));
        let collected = Api::<Pod>::namespaced(collector, FLEET);
        collected.patch(&runner, &merge, &patch).await.context("the garbage collector removes an owner")?;
        pods.delete(&runner, &DeleteParams::default().grace_period(0)).await?;
        harness.api::<WorkerPool>(FLEET).delete(POOL, &DeleteParams::default().grace_period(0)).await?;
        harness.delete_sessions(FLEET).await?;
        wait_until("the pool's runners are gone", async || {
            let left =
                pods.list_metadata(&ListParams::default().labels("app.kubernetes.io/name=camofleet-runner")).await?;
            Ok(left.items.is_empty())
        })
        .await
    });
}

/// Annotations whose keys and values have that many bytes, most of them in two-byte characters.
fn annotations(bytes: usize) -> Value {
    let key = "example.com/a";
    let rest = bytes - key.len();
    json!({ key: format!("{}{}", "ü".repeat(rest / 2), "x".repeat(rest % 2)) })
}

fn labels(count: usize) -> Value {
    Value::Object((0..count).map(|index| (format!("example.com/{index}"), json!("x"))).collect::<Map<_, _>>())
}

async fn merge<K>(api: &Api<K>, name: &str, metadata: &Value) -> kube::Result<K>
where
    K: Clone + DeserializeOwned + Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(json!({ "metadata": metadata }))).await
}

#[test]
fn metadata_is_bounded_and_existing_larger_objects_keep_working() {
    with_fleet("metadata-policy", async |harness| {
        // An object of each kind exceeds the bounds before the policy is installed.
        let large = |bytes, count| json!({ "annotations": annotations(bytes), "labels": labels(count) });
        let (sessions, pools) = (harness.api::<BrowserSession>(FLEET), harness.api::<WorkerPool>(FLEET));
        harness.create_pool(FLEET, POOL, pool_of_reused_runners(1, 2)).await?;
        merge(&pools, POOL, &large(200_000, 40)).await?;
        sessions.create(&PostParams::default(), &BrowserSession::new("large", session_spec(POOL))).await?;
        merge(&sessions, "large", &large(200_000, 40)).await?;
        install_policies(harness).await?;
        let mallory = client_as(harness, "mallory", &["system:masters"], "mallory").await?;
        assert_metadata_bounds::<BrowserSession>(
            &mallory,
            "large",
            json!({ "idleTimeoutSeconds": 600 }),
            16384,
            || BrowserSession::new("new", session_spec(POOL)),
        )
        .await
        .context("sessions")?;
        assert_metadata_bounds::<WorkerPool>(&mallory, POOL, json!({ "replicas": 2 }), 65536, || {
            WorkerPool::new("new", pool_of_reused_runners(0, 1))
        })
        .await
        .context("pools")?;

        // The operator serves and deletes them.
        let _operator = start_leader(harness, "a").await?;
        harness.wait_for_hot(FLEET, POOL, 1).await?;
        wait_until("the large session is Ready", async || {
            Ok(sessions.get("large").await?.state() == SessionState::Ready)
        })
        .await?;
        sessions.delete("large", &DeleteParams::default()).await?;
        pools.delete(POOL, &DeleteParams::default()).await?;
        wait_until("the large pool is gone", async || Ok(pools.get_opt(POOL).await?.is_none())).await
    });
}

fn finalizers(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("example.com/{index}")).collect()
}

fn owners(count: usize) -> Vec<Value> {
    let owner =
        |index| json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": format!("uid-{index}") });
    (0..count).map(owner).collect()
}

/// Tests the bounds of a kind. `large` is an object that exceeded them before the policy was installed, with 200,000
/// bytes and 40 labels; `new` returns one without metadata; `max_applied` is the bound on `last-applied-configuration`,
/// in bytes.
async fn assert_metadata_bounds<K>(
    client: &Client,
    large: &str,
    spec: Value,
    max_applied: usize,
    new: impl Fn() -> K,
) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug,
{
    let [_, policy] = POLICIES;
    let api = Api::<K>::namespaced(client.clone(), FLEET);
    let with = |metadata: Value| -> Result<K> {
        let mut object = serde_json::to_value(new())?;
        if let (Value::Object(all), Value::Object(more)) = (&mut object["metadata"], metadata) {
            all.extend(more);
        }
        Ok(serde_json::from_value(object)?)
    };
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let applied = |bytes: usize| json!({ "annotations": { LAST_APPLIED: "x".repeat(bytes) } });
    wait_until("the policy is in force", async || {
        Ok(api.create(&dry, &with(json!({ "labels": labels(33) }))?).await.is_err())
    })
    .await?;
    for (what, metadata, words) in [
        ("33 labels", json!({ "labels": labels(33) }), "33 labels exceed the limit of 32"),
        ("17 finalizers", json!({ "finalizers": finalizers(17) }), "17 finalizers exceed the limit of 16"),
        ("17 owners", json!({ "ownerReferences": owners(17) }), "17 owner references exceed the limit of 16"),
        ("513 annotations", json!({ "annotations": labels(513) }), "513 annotations exceed the limit of 512"),
        ("4097 bytes", json!({ "annotations": annotations(4097) }), "have 4097 bytes, more than the limit of 4096"),
        ("a long last-applied-configuration", applied(max_applied + 1), "use kubectl apply --server-side"),
    ] {
        assert_rejected(what, api.create(&dry, &with(metadata)?).await, policy, words)?;
    }
    for metadata in [json!({ "labels": labels(32), "annotations": annotations(4096) }), applied(max_applied)] {
        api.create(&dry, &with(metadata)?).await.context("within the bounds")?;
    }
    api.create(&PostParams::default(), &new()).await?;
    let grown = merge(&api, "new", &json!({ "annotations": annotations(4097) })).await;
    assert_rejected("growth", grown, policy, "have 4097 bytes")?;
    api.delete("new", &DeleteParams::default()).await?;

    // The spec of the large object can change; its metadata can shrink but not grow.
    let changed = api.patch(large, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await;
    changed.context("a change of the spec")?;
    let grown = merge(&api, large, &json!({ "annotations": { "example.com/b": "" } })).await;
    assert_rejected("a large one grows", grown, policy, "more than the limit of 4096")?;
    let grown = merge(&api, large, &json!({ "labels": { "example.com/more": "" } })).await;
    assert_rejected("a large one gets a label", grown, policy, "41 labels")?;
    let shrunk = json!({ "annotations": annotations(150_000), "labels": { "example.com/0": null } });
    merge(&api, large, &shrunk).await.context("a large one shrinks")?;
    Ok(())
}
