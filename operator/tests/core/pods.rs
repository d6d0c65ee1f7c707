//! How runner pods are made.

use super::fleet::installation;
use camofleet_crds::v1alpha1::{WorkerPool, WorkerPoolSpec};
use camofleet_operator::core::pods::{Installation, revision, runner_pod};
use k8s_openapi::api::core::v1::EnvVar;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

fn traced() -> Installation {
    Installation { runner_environment: vec![(ENDPOINT.into(), "http://installation".into())], ..installation() }
}

fn endpoints(pool: &WorkerPool, installation: &Installation) -> Vec<String> {
    let pod = runner_pod(pool, installation, 0, None, "{}");
    let environment = pod.spec.unwrap().containers.remove(0).env.unwrap();
    let named = environment.into_iter().filter(|variable| variable.name == ENDPOINT);
    named.map(|variable| variable.value.unwrap()).collect()
}

#[test]
fn runners_are_told_where_spans_go_unless_their_pool_says_it() {
    let mut pool = WorkerPool::new("pool", WorkerPoolSpec::default());
    assert_eq!(endpoints(&pool, &installation()), Vec::<String>::new());
    assert_eq!(endpoints(&pool, &traced()), ["http://installation"]);
    assert_ne!(revision(&pool, &traced()), revision(&pool, &installation()), "runners of before are not replaced");
    let own = EnvVar { name: ENDPOINT.into(), value: Some("http://pool".into()), value_from: None };
    pool.spec.template.env.push(own);
    assert_eq!(endpoints(&pool, &traced()), ["http://pool"]);
    assert_eq!(
        revision(&pool, &traced()),
        revision(&pool, &installation()),
        "what the pool has set itself did not change"
    );
}
