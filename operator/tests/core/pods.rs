//! Building of runner pods.

use crate::support::installation;
use camofleet_crds::v1alpha1::{
    Autoscaling, CurrentRevision, Disruption, Limits, Prewarm, Rollout, Screen, WorkerPool, WorkerPoolSpec,
    WorkerPoolStatus,
};
use camofleet_operator::core::runner::pod_build::{Installation, Shape, revision, runner_pod};
use k8s_openapi::{
    api::core::v1::{Container, EnvVar},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::sync::Arc;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

fn traced() -> Installation {
    Installation { runner_environment: vec![(ENDPOINT.into(), "http://installation".into())], ..installation() }
}

fn endpoints(pool: &WorkerPool, installation: &Installation) -> Vec<String> {
    let pod = runner_pod(&Shape::of(&Arc::new(pool.clone()), installation), installation, 0, None, "{}", false);
    let environment = pod.spec.unwrap().containers.remove(0).env.unwrap();
    let named = environment.into_iter().filter(|variable| variable.name == ENDPOINT);
    named.map(|variable| variable.value.unwrap()).collect()
}

#[test]
fn the_pool_overrides_the_trace_endpoint() {
    let mut pool = WorkerPool::new("pool", WorkerPoolSpec::default());
    assert_eq!(endpoints(&pool, &installation()), Vec::<String>::new());
    assert_eq!(endpoints(&pool, &traced()), ["http://installation"]);
    assert_ne!(revision(&pool, &traced()), revision(&pool, &installation()), "a new trace endpoint keeps the revision");
    let own = EnvVar { name: ENDPOINT.into(), value: Some("http://pool".into()), value_from: None };
    pool.spec.template.env.push(own);
    assert_eq!(endpoints(&pool, &traced()), ["http://pool"]);
    assert_eq!(
        revision(&pool, &traced()),
        revision(&pool, &installation()),
        "the installation's endpoint does not affect the pool"
    );
}

#[test]
fn a_published_shape_makes_the_same_pods() {
    let mut pool = WorkerPool::new("pool", WorkerPoolSpec::default());
    let spec = &mut pool.spec;
    (spec.slots_per_runner, spec.sessions_per_runner, spec.disruption) = (3, Some(9), Disruption::Always);
    spec.prewarm = Some(Prewarm { headless: 1, headful: 2 });
    spec.screen = Screen { width: 800, height: 600 };
    spec.rollout = Rollout { drain_timeout_seconds: 7, ..Rollout::default() };
    spec.template.node_selector = [("zone".to_owned(), "a".to_owned())].into();
    spec.template.env.push(EnvVar { name: "TZ".into(), value: Some("UTC".into()), value_from: None });
    spec.template.metadata.labels.insert("team".into(), "a".into());
    spec.limits = Limits { max_sessions: Some(1), ..Limits::default() };
    spec.autoscaling =
        Some(Autoscaling { min_replicas: 0, max_replicas: 1, buffer_slots: 0, scale_down_delay_seconds: 0 });
    let shape = Shape::of(&Arc::new(pool.clone()), &installation());
    let current = shape.to_publish(&installation());
    assert!(!current.shape.contains("maxReplicas") && !current.shape.contains("maxSessions"), "{}", current.shape);
    pool.status = Some(WorkerPoolStatus { current_revision: Some(current), ..WorkerPoolStatus::default() });
    // By now the spec and the installation's image have changed.
    pool.spec = WorkerPoolSpec::default();
    let published = Shape::published(&pool).unwrap();
    let later = Installation { runner_image: "later".into(), ..installation() };
    let make = |shape: &Shape, installation| runner_pod(shape, installation, 0, None, "{}", false);
    assert_eq!(make(&published, &later), make(&shape, &installation()));
    // An operator of the previous version can read the spec.
    let shape = pool.status.as_ref().unwrap().current_revision.as_ref().unwrap().shape.clone();
    let read: WorkerPoolSpec = serde_json::from_str(&shape).unwrap();
    assert_eq!((read.slots_per_runner, read.screen.width), (3, 800));
    pool.status.as_mut().unwrap().current_revision.as_mut().unwrap().shape = "{".into();
    assert!(Shape::published(&pool).is_none(), "an invalid shape is ignored");
}

/// The shape of a default pool as published by the previous version (e72e65b).
const PREVIOUS_SHAPE: &str = r#"{"slotsPerRunner":1,"allowedNamespaces":{"from":"Same"},"limits":{"maxPriority":0},"engine":"Auto","screen":{"width":1280,"height":720},"sessionDefaults":{},"template":{"image":"former","metadata":{}},"rollout":{"maxUnavailable":1,"drainTimeoutSeconds":600},"disruption":"WhenIdle"}"#;

#[test]
fn a_shape_from_the_previous_version_keeps_its_probe_port() {
    let mut pool = WorkerPool::new("pool", WorkerPoolSpec::default());
    let current = CurrentRevision { revision: "0123456789".into(), shape: PREVIOUS_SHAPE.into() };
    pool.status = Some(WorkerPoolStatus { current_revision: Some(current), ..WorkerPoolStatus::default() });
    let published = Shape::published(&pool).unwrap();
    let made = |shape: &Shape| runner_pod(shape, &installation(), 0, None, "{}", false);
    let container = made(&published).spec.unwrap().containers.remove(0);
    assert_eq!(container.image.as_deref(), Some("former"));
    assert_eq!(ports(container), (vec![8070], ["http"; 2].map(String::from)), "its image has no probe port");
    // A later leader publishes the same shape again.
    let again = published.to_publish(&installation());
    pool.status.as_mut().unwrap().current_revision = Some(again.clone());
    let later = Shape::published(&pool).unwrap();
    assert_eq!(made(&later), made(&published));
    assert_eq!(again.revision, "0123456789");
    // The shape of the spec has a probe port, and so another revision.
    let update = Shape::of(&Arc::new(pool.clone()), &installation());
    let container = made(&update).spec.unwrap().containers.remove(0);
    assert_eq!(ports(container), (vec![8070, 8071], ["probes"; 2].map(String::from)));
    assert_ne!(update.revision, published.revision);
}

/// The ports of a runner's container, and the names of the probed ones.
fn ports(container: Container) -> (Vec<i32>, [String; 2]) {
    let ports = container.ports.unwrap().into_iter().map(|port| port.container_port).collect();
    let probed = [container.liveness_probe, container.readiness_probe].map(|probe| {
        match probe.unwrap().http_get.unwrap().port {
            IntOrString::String(name) => name,
            IntOrString::Int(number) => number.to_string(),
        }
    });
    (ports, probed)
}
