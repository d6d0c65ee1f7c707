//! Tests the traces that the operator exports and its metrics, on a real API server. Needs etcd and the Kubernetes
//! binaries, so only `cargo test --test traces` runs it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use camofleet_bench::{
    binaries::{Kubernetes, OperatorProgram},
    control_plane::User,
    harness::{Harness, Options, pool_of_reused_runners, session_spec},
    operator::Operator,
    simulator::Nodes,
};
use camofleet_crds::v1alpha1::{BrowserSession, BrowserSessionSpec, WorkerPool};
use camofleet_runtime::tls;
use camofleet_testkit::collector::{Collector, only_span};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use std::{panic::AssertUnwindSafe, time::Duration};

/// Longer than any step takes on a loaded machine. A test that hangs then fails at the step that hangs.
const TIMEOUT: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "traced";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

async fn wait_until(what: &str, found: impl AsyncFn() -> bool) {
    let wait = async {
        while !found().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, wait)
        .await
        .unwrap_or_else(|_| panic!("timed out after {TIMEOUT:?} while waiting for: {what}"));
}

fn trace_of(uid: &str) -> String {
    uid.replace('-', "")
}

#[tokio::test]
async fn exports_traces_and_metrics_of_sessions() {
    tls::install_provider().unwrap();
    let options = Options {
        kubernetes: Kubernetes::find(None).await.unwrap(),
        operator: OperatorProgram::for_tests().await.unwrap(),
        nodes: Nodes { count: 1, cpus: 8 },
        launch_time: Duration::ZERO,
    };
    let harness = Harness::start(options).await.unwrap();
    // A panic must not leave the control plane running.
    let outcome = AssertUnwindSafe(check_telemetry(&harness)).catch_unwind().await;
    harness.stop().await.unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

async fn check_telemetry(harness: &Harness) {
    let collector = Collector::start().await.unwrap();
    let env = [(ENDPOINT, collector.endpoint()), ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned())];
    let env = env.map(|(name, value)| (name.to_owned(), value.into())).to_vec();
    let mut operator = harness.start_operator_with("a", harness.control_plane.kubeconfig(User::Operator), env).unwrap();
    operator.wait_until_leading().await.unwrap();
    harness.create_namespace(NAMESPACE).await.unwrap();
    harness.create_hot_pool(NAMESPACE, "pool", pool_of_reused_runners(1, 2)).await.unwrap();

    runners_get_the_collector_endpoint(harness, &collector).await;
    a_session_start_is_one_trace(harness, &collector).await;
    a_rejected_session_ends_its_trace_with_an_error(harness, &collector).await;
    metrics_of_a_deleted_pool_are_removed(harness, &operator).await;
    operator.stop().await.unwrap();
}

async fn runners_get_the_collector_endpoint(harness: &Harness, collector: &Collector) {
    let pods = harness.api::<Pod>(NAMESPACE).list(&ListParams::default()).await.unwrap();
    let [pod] = pods.items.as_slice() else { panic!("expected exactly one runner") };
    let environment = pod.spec.as_ref().unwrap().containers[0].env.as_ref().unwrap();
    let variables: Vec<_> = environment.iter().filter(|variable| variable.name.starts_with("OTEL_")).collect();
    // The operator's other OTEL variables, such as its export interval or credentials of the collector, must not reach
    // runners.
    let [endpoint] = variables[..] else { panic!("{variables:?}") };
    assert_eq!((endpoint.name.as_str(), endpoint.value.clone()), (ENDPOINT, Some(collector.endpoint())));
}

async fn a_session_start_is_one_trace(harness: &Harness, collector: &Collector) {
    let client = harness.session_client();
    let claim = client.claim(NAMESPACE.into(), "hot".into(), "pool".into(), TIMEOUT).await.unwrap();
    assert!(claim.ready.is_some(), "the session is not Ready");
    let sessions = harness.api::<BrowserSession>(NAMESPACE);
    let session = sessions.get("hot").await.unwrap();
    let uid = session.uid().unwrap();
    let trace = collector.wait_for(&trace_of(&uid), &["session.start", "queue", "bind", "publish"]).await.unwrap();

    let [root, queue, bind, publish] =
        ["session.start", "queue", "bind", "publish"].map(|name| only_span(&trace, name));
    assert_eq!((trace.len(), root.parent.as_str(), &root.id), (4, "", &trace_of(&uid)[16..].to_owned()));
    for part in [queue, bind, publish] {
        assert_eq!(part.parent, root.id, "{part:#?}");
        assert!(root.time.0 <= part.time.0 && part.time.1 <= root.time.1, "{part:#?} is not within {root:#?}");
    }
    // The runner's event may arrive before its response, and then the status is written before the bind call returns.
    assert!(queue.time.1 <= bind.time.0 && bind.time.0 <= publish.time.0, "{trace:#?}");
    assert!(trace.iter().all(|span| span.service == "camofleet-operator" && span.error.is_none()), "{trace:#?}");
    let attributes = ["namespace", "name"].map(|what| root.attribute(&format!("camofleet.session.{what}")).unwrap());
    assert_eq!(attributes, [NAMESPACE, "hot"]);
    assert_eq!(queue.attribute("camofleet.pool.name"), Some("pool"));
    let tokens = trace.iter().flat_map(|span| &span.attributes).filter(|(_, value)| value.contains("eyJ"));
    assert_eq!(tokens.count(), 0, "a span contains a token");
    let header = format!("00-{}-{}-01", trace_of(&uid), bind.id);
    assert_eq!(harness.simulator.traceparents(&uid), [Some(header.clone())]);

    // Calls after Ready are not part of the trace: an update of the timeout binds again without `traceparent`.
    let patch = json!({ "spec": { "idleTimeoutSeconds": 40 } });
    sessions.patch("hot", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    wait_until("a second bind call", async || harness.simulator.traceparents(&uid).len() > 1).await;
    assert_eq!(harness.simulator.traceparents(&uid), [Some(header), None]);
    sessions.delete("hot", &DeleteParams::default()).await.unwrap();
    wait_until("the session ends on its runner", async || {
        harness.simulator.binding_log().of_session(&uid).iter().all(|binding| binding.ended.is_some())
    })
    .await;
    assert_eq!(collector.trace(&trace_of(&uid)).len(), 4, "the trace has spans after the start");
}

async fn a_rejected_session_ends_its_trace_with_an_error(harness: &Harness, collector: &Collector) {
    let greedy = BrowserSessionSpec { priority: 1, ttl_seconds_after_finished: 300, ..session_spec("pool") };
    let session = harness.session_client().create(NAMESPACE, "greedy", greedy).await.unwrap();
    let id = trace_of(&session.uid().unwrap());
    let trace = collector.wait_for(&id, &["session.start", "publish"]).await.unwrap();
    assert_eq!(trace.len(), 2, "{trace:#?}");
    let (root, publish) = (only_span(&trace, "session.start"), only_span(&trace, "publish"));
    assert_eq!((root.error.as_deref(), &publish.parent), (Some("PriorityTooHigh"), &root.id));
}

async fn metrics_of_a_deleted_pool_are_removed(harness: &Harness, operator: &Operator) {
    let of_pool = [("pool_namespace", NAMESPACE), ("pool", "pool")];
    let names = ["slots", "session_starts_total", "queue_wait_seconds_count"];
    let names = names.map(|name| format!("camofleet_operator_{name}"));
    let metrics = operator.metrics().await.unwrap();
    for name in &names {
        assert!(metrics.sum(name, &of_pool) > 0.0, "{name} has no value for the pool");
    }
    let kinds = ["BrowserSession", "WorkerPool", "Pod", "Node", "Namespace", "ConfigMap"];
    for kind in kinds {
        let silence = metrics.sum("camofleet_operator_watch_silence_seconds", &[("kind", kind)]);
        assert!(silence > 0.0, "the watch of {kind} has no metric");
    }
    harness.api::<WorkerPool>(NAMESPACE).delete("pool", &DeleteParams::default()).await.unwrap();
    wait_until("the metrics of the pool are removed", async || {
        let metrics = operator.metrics().await.unwrap();
        names.iter().all(|name| !metrics.has(name, &of_pool))
    })
    .await;
}
