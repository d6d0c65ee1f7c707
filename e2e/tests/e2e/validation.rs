//! Validation of sessions and pools by the API server, with messages that state what to do, and defaulting.

use anyhow::{Context, Result, ensure};
use camofleet_e2e::{TestNamespace, test};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams, ValidationDirective},
};
use serde_json::{Value, json};

fn resource(kind: &str) -> ApiResource {
    let plural = format!("{}s", kind.to_lowercase());
    ApiResource {
        group: "camofleet.dev".into(),
        version: "v1alpha1".into(),
        api_version: "camofleet.dev/v1alpha1".into(),
        kind: kind.into(),
        plural,
    }
}

fn api(ns: &TestNamespace, kind: &str) -> Api<DynamicObject> {
    Api::namespaced_with(ns.fleet.client.clone(), &ns.name, &resource(kind))
}

/// The parameters of `kubectl apply --server-side`, with `--dry-run=server` if `dry_run` is set.
fn apply(dry_run: bool) -> PatchParams {
    let params = PatchParams::apply("e2e");
    PatchParams { dry_run, field_validation: Some(ValidationDirective::Strict), ..params }
}

/// A manifest. A null `spec` is left out.
fn manifest(kind: &str, name: &str, spec: &Value) -> Value {
    let mut manifest = json!({ "apiVersion": "camofleet.dev/v1alpha1", "kind": kind, "metadata": { "name": name } });
    if !spec.is_null() {
        manifest["spec"] = spec.clone();
    }
    manifest
}

/// The message of the API server's rejection.
fn rejection(result: Result<DynamicObject, kube::Error>) -> Result<String> {
    match result {
        Ok(accepted) => anyhow::bail!("the API server accepted {}", accepted.data),
        Err(kube::Error::Api(status)) => Ok(status.message.clone()),
        Err(error) => Err(error.into()),
    }
}

fn contains_all(message: &str, expected: &[&str]) -> Result<()> {
    for part in expected {
        ensure!(message.contains(part), "the rejection does not contain {part:?}: {message}");
    }
    Ok(())
}

async fn ensure_rejected(ns: &TestNamespace, kind: &str, name: &str, spec: &Value, expected: &[&str]) -> Result<()> {
    let result = api(ns, kind).patch(name, &apply(true), &Patch::Apply(manifest(kind, name, spec))).await;
    contains_all(&rejection(result)?, expected)
}

async fn ensure_all_rejected(ns: &TestNamespace, kind: &str, cases: &[(Value, &[&str])]) -> Result<()> {
    for (spec, expected) in cases {
        ensure_rejected(ns, kind, "bad", spec, expected).await.with_context(|| format!("{kind} {spec}"))?;
    }
    Ok(())
}

fn long(length: usize) -> String {
    "a".repeat(length)
}

fn many(count: usize) -> Vec<usize> {
    (0..count).collect()
}

#[test]
fn rejects_invalid_sessions() {
    test("bad-sessions", async |ns: TestNamespace| {
        let url = "write the scheme out, as in https://example.org";
        let cases: &[(Value, &[&str])] = &[
            (json!({ "idleTimeoutSeconds": 29 }), &["spec.idleTimeoutSeconds", "greater than or equal to 30"]),
            (json!({ "idleTimeoutSeconds": 86_401 }), &["spec.idleTimeoutSeconds", "less than or equal to 86400"]),
            (json!({ "idleTimeoutSeconds": "5m" }), &["spec.idleTimeoutSeconds", "expected numeric"]),
            (json!({ "maxLifetimeSeconds": 59 }), &["spec.maxLifetimeSeconds", "greater than or equal to 60"]),
            (json!({ "maxLifetimeSeconds": 604_801 }), &["spec.maxLifetimeSeconds", "less than or equal to 604800"]),
            (json!({ "queueTimeoutSeconds": -1 }), &["spec.queueTimeoutSeconds", "greater than or equal to 0"]),
            (json!({ "queueTimeoutSeconds": 86_401 }), &["spec.queueTimeoutSeconds", "less than or equal to 86400"]),
            (json!({ "reconnectGraceSeconds": -1 }), &["spec.reconnectGraceSeconds", "greater than or equal to 0"]),
            (json!({ "reconnectGraceSeconds": 3601 }), &["spec.reconnectGraceSeconds", "less than or equal to 3600"]),
            (json!({ "ttlSecondsAfterFinished": -1 }), &["spec.ttlSecondsAfterFinished", "greater than or equal to 0"]),
            (
                json!({ "ttlSecondsAfterFinished": 604_801 }),
                &["spec.ttlSecondsAfterFinished", "less than or equal to 604800"],
            ),
            (json!({ "engine": "Chrome" }), &["spec.engine", "supported values", "Camoufox", "Firefox"]),
            (json!({ "display": "Vnc" }), &["spec.display", "supported values", "Headless", "Headful", "LiveView"]),
            (
                json!({ "startUrlWait": "networkidle" }),
                &["spec.startUrlWait", "supported values", "None", "DomContentLoaded", "Load"],
            ),
            (json!({ "startUrl": "example.org" }), &["spec.startUrl", url]),
            (json!({ "startUrl": "ftp://example.org" }), &["spec.startUrl", url]),
            (json!({ "startUrl": "file:///etc/passwd" }), &["spec.startUrl", url]),
            (json!({ "startUrl": "javascript:alert(1)" }), &["spec.startUrl", url]),
            (json!({ "startUrl": "https://" }), &["spec.startUrl", url]),
            (json!({ "startUrl": "about:config" }), &["spec.startUrl", "about:blank"]),
            (json!({ "startUrl": "" }), &["spec.startUrl"]),
            (
                json!({ "startUrl": format!("https://example.org/{}", long(2030)) }),
                &["spec.startUrl", "may not be more than 2048"],
            ),
            (json!({ "poolRef": {} }), &["spec.poolRef.name", "Required value"]),
            (json!({ "poolRef": { "name": "" } }), &["spec.poolRef.name", "at least 1 chars"]),
            (json!({ "poolRef": { "name": long(51) } }), &["spec.poolRef.name", "may not be more than 50"]),
            (json!({ "poolRef": { "name": "a", "namespace": "" } }), &["spec.poolRef.namespace", "at least 1 chars"]),
            (json!({ "priority": -1 }), &["spec.priority", "greater than or equal to 0"]),
            (json!({ "priority": 1001 }), &["spec.priority", "less than or equal to 1000"]),
            (json!({ "tenant": "Team A" }), &["spec.tenant", "should match"]),
            (json!({ "vnc": true }), &["spec.vnc", "field not declared"]),
            (Value::Null, &["spec", "Required value"]),
        ];
        ensure_all_rejected(&ns, "BrowserSession", cases).await
    });
}

#[test]
fn rejects_changes_of_immutable_session_fields() {
    test("bad-changes", async |ns: TestNamespace| {
        let sessions = api(&ns, "BrowserSession");
        let spec = json!({
            "poolRef": { "name": "missing" }, "engine": "Firefox", "display": "Headless", "startUrl": "about:blank",
            "startUrlWait": "Load", "queueTimeoutSeconds": 86_400, "ttlSecondsAfterFinished": 0,
        });
        sessions.patch("full", &apply(false), &Patch::Apply(manifest("BrowserSession", "full", &spec))).await?;
        let bare = json!({ "queueTimeoutSeconds": 86_400 });
        sessions.patch("bare", &apply(false), &Patch::Apply(manifest("BrowserSession", "bare", &bare))).await?;

        let cases: &[(&str, Value, &[&str])] = &[
            (
                "full",
                json!({ "poolRef": { "name": "other" } }),
                &["spec.poolRef", "create another session with the pool you want"],
            ),
            ("full", json!({ "poolRef": null }), &["spec.poolRef", "create another session"]),
            ("bare", json!({ "poolRef": { "name": "other" } }), &["spec.poolRef", "create another session"]),
            (
                "full",
                json!({ "engine": "Camoufox" }),
                &["spec.engine", "create another session with the engine you want"],
            ),
            ("bare", json!({ "engine": "Firefox" }), &["spec.engine", "create another session"]),
            (
                "full",
                json!({ "display": "LiveView" }),
                &["spec.display", "create another session with the display you want"],
            ),
            ("full", json!({ "display": null }), &["spec.display", "create another session"]),
            (
                "full",
                json!({ "queueTimeoutSeconds": 1 }),
                &["spec.queueTimeoutSeconds", "delete the session to stop waiting"],
            ),
            ("full", json!({ "reconnectGraceSeconds": 1 }), &["spec.reconnectGraceSeconds", "create another session"]),
            (
                "full",
                json!({ "ttlSecondsAfterFinished": 1 }),
                &["spec.ttlSecondsAfterFinished", "delete the session when you no longer need it"],
            ),
            ("full", json!({ "startUrl": "https://example.org" }), &["spec.startUrl", "navigate with your client"]),
            ("bare", json!({ "startUrl": "https://example.org" }), &["spec.startUrl", "navigate with your client"]),
            ("full", json!({ "startUrlWait": "None" }), &["spec.startUrlWait", "create another session"]),
            ("full", json!({ "idleTimeoutSeconds": 1 }), &["spec.idleTimeoutSeconds", "greater than or equal to 30"]),
        ];
        let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
        for (name, change, expected) in cases {
            let result = sessions.patch(name, &dry_run, &Patch::Merge(json!({ "spec": change }))).await;
            rejection(result)
                .and_then(|message| contains_all(&message, expected))
                .with_context(|| format!("{name} changed by {change}"))?;
        }
        for allowed in [
            json!({ "idleTimeoutSeconds": 60 }),
            json!({ "maxLifetimeSeconds": 600 }),
            json!({ "idleTimeoutSeconds": null }),
        ] {
            for name in ["full", "bare"] {
                let result = sessions.patch(name, &dry_run, &Patch::Merge(json!({ "spec": allowed }))).await;
                result.with_context(|| format!("{name} changed by {allowed}"))?;
            }
        }
        Ok(())
    });
}

#[test]
fn rejects_invalid_pools() {
    test("bad-pools", async |ns: TestNamespace| {
        let env = |name: String| json!({ "name": name, "value": "x" });
        let volume = |source: Value| {
            let mut volume = json!({ "name": "v" });
            volume
                .as_object_mut()
                .expect("the value is an object")
                .extend(source.as_object().expect("the value is an object").clone());
            json!({ "template": { "volumes": [volume] } })
        };
        let labels =
            |count| many(count).iter().map(|n| (format!("l{n}"), json!("x"))).collect::<serde_json::Map<_, _>>();
        let numbered = |count, item: &dyn Fn(usize) -> Value| many(count).into_iter().map(item).collect::<Vec<_>>();
        let cases: &[(Value, &[&str])] = &[
            (json!({ "replicas": -1 }), &["spec.replicas", "greater than or equal to 0"]),
            (json!({ "replicas": 1001 }), &["spec.replicas", "less than or equal to 1000"]),
            (json!({ "slotsPerRunner": 0 }), &["spec.slotsPerRunner", "greater than or equal to 1"]),
            (json!({ "slotsPerRunner": 33 }), &["spec.slotsPerRunner", "less than or equal to 32"]),
            (json!({ "sessionsPerRunner": -1 }), &["spec.sessionsPerRunner", "greater than or equal to 0"]),
            (json!({ "sessionsPerRunner": 100_001 }), &["spec.sessionsPerRunner", "less than or equal to 100000"]),
            (
                json!({ "sessionsPerRunner": 1, "slotsPerRunner": 2 }),
                &["spec.sessionsPerRunner", "must be 0 (no limit) or at least slotsPerRunner"],
            ),
            (
                json!({ "prewarm": { "headless": 1, "headful": 1 } }),
                &["spec.prewarm", "lower them, or raise slotsPerRunner"],
            ),
            (
                json!({ "allowedNamespaces": { "from": "Selector" } }),
                &["spec.allowedNamespaces", "selector is required with from: Selector"],
            ),
            (
                json!({ "allowedNamespaces": { "from": "All", "selector": {} } }),
                &["spec.allowedNamespaces", "set both, or neither"],
            ),
            (
                json!({ "allowedNamespaces": { "from": "Selector", "selector": {
                    "matchExpressions": [{ "key": "team", "operator": "Like", "values": ["a"] }],
                } } }),
                &["spec.allowedNamespaces.selector", "In or NotIn, with values"],
            ),
            (
                json!({ "replicas": 1, "autoscaling": { "maxReplicas": 2 } }),
                &["spec.autoscaling", "mutually exclusive: remove one"],
            ),
            (
                json!({ "allowedNamespaces": { "from": "All" }, "slotsPerRunner": 2 }),
                &["spec.slotsPerRunner", "must be 1 in a pool for other namespaces"],
            ),
            (json!({ "autoscaling": {} }), &["spec.autoscaling.maxReplicas", "Required value"]),
            (
                json!({ "autoscaling": { "maxReplicas": 1, "minReplicas": 2 } }),
                &["spec.autoscaling", "raise maxReplicas"],
            ),
            (json!({ "disruption": "Never" }), &["spec.disruption", "WhenIdle", "Always"]),
            (
                json!({ "allowedNamespaces": { "from": "Other" } }),
                &["spec.allowedNamespaces.from", "Same", "All", "Selector"],
            ),
            (json!({ "limits": { "maxSessions": -1 } }), &["spec.limits.maxSessions", "greater than or equal to 0"]),
            (json!({ "limits": { "maxPriority": 1001 } }), &["spec.limits.maxPriority", "less than or equal to 1000"]),
            (
                json!({ "limits": { "tenantWeights": { "a": 0 } } }),
                &["spec.limits.tenantWeights", "weight must be from 1 to 1000"],
            ),
            (
                json!({ "limits": { "maxLifetimeSeconds": 60 }, "sessionDefaults": { "maxLifetimeSeconds": 61 } }),
                &["spec.sessionDefaults", "lower it, or raise the limit"],
            ),
            (json!({ "prewarm": { "headless": 2 } }), &["spec.prewarm", "lower them, or raise slotsPerRunner"]),
            (json!({ "prewarm": { "headless": -1 } }), &["spec.prewarm.headless", "greater than or equal to 0"]),
            (json!({ "prewarm": { "headful": 33 } }), &["spec.prewarm.headful", "less than or equal to 32"]),
            (json!({ "engine": "Chromium" }), &["spec.engine", "supported values", "Auto", "Camoufox", "Firefox"]),
            (json!({ "screen": { "width": 319 } }), &["spec.screen.width", "greater than or equal to 320"]),
            (json!({ "screen": { "width": 7681 } }), &["spec.screen.width", "less than or equal to 7680"]),
            (json!({ "screen": { "height": 239 } }), &["spec.screen.height", "greater than or equal to 240"]),
            (json!({ "screen": { "height": 4321 } }), &["spec.screen.height", "less than or equal to 4320"]),
            (
                json!({ "sessionDefaults": { "display": "Vnc" } }),
                &["spec.sessionDefaults.display", "supported values", "LiveView"],
            ),
            (
                json!({ "sessionDefaults": { "idleTimeoutSeconds": 29 } }),
                &["spec.sessionDefaults.idleTimeoutSeconds", "greater than or equal to 30"],
            ),
            (
                json!({ "sessionDefaults": { "maxLifetimeSeconds": 59 } }),
                &["spec.sessionDefaults.maxLifetimeSeconds", "greater than or equal to 60"],
            ),
            (json!({ "rollout": { "maxUnavailable": -1 } }), &["spec.rollout.maxUnavailable", "from 0 to 1000"]),
            (json!({ "rollout": { "maxUnavailable": 1001 } }), &["spec.rollout.maxUnavailable", "from 0 to 1000"]),
            (json!({ "rollout": { "maxUnavailable": "101%" } }), &["spec.rollout.maxUnavailable", "0% to 100%"]),
            (json!({ "rollout": { "maxUnavailable": "half" } }), &["spec.rollout.maxUnavailable", "0% to 100%"]),
            (
                json!({ "rollout": { "drainTimeoutSeconds": -1 } }),
                &["spec.rollout.drainTimeoutSeconds", "greater than or equal to 0"],
            ),
            (
                json!({ "rollout": { "drainTimeoutSeconds": 86_401 } }),
                &["spec.rollout.drainTimeoutSeconds", "less than or equal to 86400"],
            ),
            (json!({ "template": { "image": "" } }), &["spec.template.image", "at least 1 chars"]),
            (json!({ "template": { "image": long(513) } }), &["spec.template.image", "may not be more than 512"]),
            (
                json!({ "template": { "env": [env("RUNNER_SLOTS".into())] } }),
                &["spec.template.env", "use the fields of the pool instead"],
            ),
            (
                json!({ "template": { "env": [env("POD_UID".into())] } }),
                &["spec.template.env", "reserved for the operator"],
            ),
            (
                json!({ "template": { "env": numbered(65, &|n| env(format!("E{n}"))) } }),
                &["spec.template.env", "at most 64 items"],
            ),
            (
                volume(json!({ "hostPath": { "path": "/" } })),
                &["spec.template.volumes", "restricted Pod Security Standard"],
            ),
            (
                volume(json!({ "nfs": { "server": "s", "path": "/" } })),
                &["spec.template.volumes", "unsupported volume type"],
            ),
            (volume(json!({})), &["spec.template.volumes", "unsupported volume type"]),
            (
                volume(json!({ "name": "shm", "emptyDir": {} })),
                &["spec.template.volumes", "reserved for the operator: choose another name"],
            ),
            (volume(json!({ "name": "keys", "emptyDir": {} })), &["spec.template.volumes", "choose another name"]),
            (
                json!({ "template": { "volumes": numbered(17, &|n| json!({ "name": format!("v{n}"), "emptyDir": {} })) } }),
                &["spec.template.volumes", "at most 16 items"],
            ),
            (
                json!({ "template": { "volumeMounts": numbered(17, &|n| json!({ "name": "v", "mountPath": format!("/{n}") })) } }),
                &["spec.template.volumeMounts", "at most 16 items"],
            ),
            (
                json!({ "template": { "tolerations": numbered(33, &|n| json!({ "key": format!("t{n}") })) } }),
                &["spec.template.tolerations", "at most 32 items"],
            ),
            (
                json!({ "template": { "imagePullSecrets": numbered(9, &|n| json!({ "name": format!("s{n}") })) } }),
                &["spec.template.imagePullSecrets", "at most 8 items"],
            ),
            (
                json!({ "template": { "metadata": { "labels": { "camofleet.dev/pool": "x" } } } }),
                &["spec.template.metadata.labels", "use another prefix"],
            ),
            (
                json!({ "template": { "metadata": { "labels": { "app.kubernetes.io/name": "x" } } } }),
                &["spec.template.metadata.labels", "use another prefix"],
            ),
            (
                json!({ "template": { "metadata": { "annotations": { "camofleet.dev/public-keys": "x" } } } }),
                &["spec.template.metadata.annotations", "use another prefix"],
            ),
            (
                json!({ "template": { "metadata": { "labels": labels(33) } } }),
                &["spec.template.metadata.labels", "at most 32 items"],
            ),
            (
                json!({ "template": { "metadata": { "annotations": labels(33) } } }),
                &["spec.template.metadata.annotations", "at most 32 items"],
            ),
            (json!({ "template": { "hostNetwork": true } }), &["spec.template.hostNetwork", "field not declared"]),
            (json!({ "network": { "disableIPv6": true } }), &["spec.network", "field not declared"]),
        ];
        ensure_all_rejected(&ns, "WorkerPool", cases).await?;
        ensure_rejected(&ns, "WorkerPool", &long(51), &json!({}), &["at most 50 characters", "choose a shorter name"])
            .await?;

        // Invalid changes of a valid pool, through the pool itself and through its scale subresource.
        let pools = api(&ns, "WorkerPool");
        pools
            .patch(
                "good",
                &apply(false),
                &Patch::Apply(manifest("WorkerPool", "good", &json!({ "replicas": 0, "slotsPerRunner": 2 }))),
            )
            .await?;
        let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
        let bad = json!({ "spec": { "sessionsPerRunner": 1 } });
        contains_all(
            &rejection(pools.patch("good", &dry_run, &Patch::Merge(bad)).await)?,
            &["at least slotsPerRunner"],
        )?;
        match pools.patch_scale("good", &dry_run, &Patch::Merge(json!({ "spec": { "replicas": 1001 } }))).await {
            Err(kube::Error::Api(status)) => {
                contains_all(&status.message, &["spec.replicas", "less than or equal to 1000"])
            }
            other => anyhow::bail!("scaling beyond the limit returned {other:?}"),
        }
    });
}

#[test]
fn fills_in_defaults() {
    test("defaults", async |ns: TestNamespace| {
        let accepted = async |kind: &str, spec: Value| -> Result<Value> {
            let accepted =
                api(&ns, kind).patch("good", &apply(true), &Patch::Apply(manifest(kind, "good", &spec))).await?;
            Ok(accepted.data["spec"].clone())
        };
        let session = json!({
            "priority": 0, "queueTimeoutSeconds": 300, "ttlSecondsAfterFinished": 300, "reconnectGraceSeconds": 60,
            "startUrlWait": "Load",
        });
        ensure!(accepted("BrowserSession", json!({})).await? == session, "an empty session has unexpected defaults");
        ensure!(
            accepted("BrowserSession", session.clone()).await? == session,
            "explicit defaults of a session are changed"
        );

        let pool = json!({
            "slotsPerRunner": 1, "engine": "Auto", "screen": { "width": 1280, "height": 720 }, "sessionDefaults": {},
            "allowedNamespaces": { "from": "Same" }, "limits": { "maxPriority": 0 }, "disruption": "WhenIdle",
            "template": { "metadata": {} }, "rollout": { "maxUnavailable": 1, "drainTimeoutSeconds": 600 },
        });
        let shown = accepted("WorkerPool", json!({})).await?;
        ensure!(shown == pool, "an empty pool has unexpected defaults: {shown}");
        let all = json!({
            "replicas": 1, "slotsPerRunner": 1, "sessionsPerRunner": 1, "engine": "Auto", "screen": { "width": 1280, "height": 720 },
            "prewarm": { "headless": 1, "headful": 0 }, "allowedNamespaces": { "from": "Same" }, "limits": { "maxPriority": 0 }, "disruption": "WhenIdle",
            "sessionDefaults": { "display": "Headless", "idleTimeoutSeconds": 300, "maxLifetimeSeconds": 14_400 },
            "template": { "metadata": { "labels": {}, "annotations": {} }, "resources": { "requests": { "cpu": "100m", "memory": "512Mi" } } },
            "rollout": { "maxUnavailable": 1, "drainTimeoutSeconds": 600 },
        });
        let shown = accepted("WorkerPool", all.clone()).await?;
        ensure!(shown == all, "explicit defaults of a pool become {shown}");
        // The limits of every range and the values of every enum.
        for spec in [
            json!({ "idleTimeoutSeconds": 30, "maxLifetimeSeconds": 60, "queueTimeoutSeconds": 0, "ttlSecondsAfterFinished": 0, "reconnectGraceSeconds": 0, "engine": "Camoufox", "display": "Headless", "startUrlWait": "None", "startUrl": "HTTPS://example.org/?q#f" }),
            json!({ "idleTimeoutSeconds": 86_400, "maxLifetimeSeconds": 604_800, "queueTimeoutSeconds": 86_400, "ttlSecondsAfterFinished": 604_800, "reconnectGraceSeconds": 3600, "engine": "Firefox", "display": "Headful", "startUrlWait": "DomContentLoaded", "startUrl": "data:text/html,<p>" }),
            json!({ "poolRef": { "name": long(50), "namespace": long(63) }, "display": "LiveView", "startUrl": "about:blank", "priority": 1000, "tenant": "team-a" }),
        ] {
            accepted("BrowserSession", spec.clone()).await.with_context(|| spec.to_string())?;
        }
        for spec in [
            json!({ "replicas": 0, "sessionsPerRunner": 0, "engine": "Camoufox", "screen": { "width": 320, "height": 240 }, "prewarm": { "headless": 0 }, "rollout": { "maxUnavailable": 0, "drainTimeoutSeconds": 0 } }),
            json!({ "replicas": 1000, "slotsPerRunner": 32, "sessionsPerRunner": 100_000, "engine": "Firefox", "screen": { "width": 7680, "height": 4320 }, "prewarm": { "headless": 16, "headful": 16 }, "rollout": { "maxUnavailable": "100%", "drainTimeoutSeconds": 86_400 } }),
            json!({ "autoscaling": { "maxReplicas": 1000, "minReplicas": 1000, "bufferSlots": 0, "scaleDownDelaySeconds": 0 }, "disruption": "Always" }),
            json!({ "allowedNamespaces": { "from": "Selector", "selector": { "matchExpressions": [{ "key": "a", "operator": "In", "values": ["b"] }, { "key": "c", "operator": "Exists" }] } }, "limits": { "maxSessions": 0, "maxQueued": 0, "maxSessionsPerTenant": 1, "maxPriority": 1000, "maxLifetimeSeconds": 60, "tenantWeights": { "a": 1, "b": 1000 }, "allowedTenants": ["a"] } }),
            json!({ "template": { "volumes": [{ "name": "v", "emptyDir": {} }], "volumeMounts": [{ "name": "v", "mountPath": "/v" }], "env": [{ "name": "TZ", "value": "UTC" }], "metadata": { "labels": { "team": "a" } } } }),
        ] {
            accepted("WorkerPool", spec.clone()).await.with_context(|| spec.to_string())?;
        }
        Ok(())
    });
}
