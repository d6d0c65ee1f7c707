//! Tests of the traces that a real runner exports to a collector.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use camofleet_crds::v1alpha1::{Display, StartTier};
use camofleet_runner_api::{BindRequest, SessionPhase, StartPage};
use camofleet_testkit::collector::{Collector, only_span};
use support::{TestRunner, request};

const TRACE: &str = "0b2f6a5e7c1d4e8f9a3b5c6d7e8f9a0b";
const CALLER: &str = "00f067aa0ba902b7";

async fn start(collector: &Collector, flags: &[&str]) -> TestRunner {
    let endpoint = collector.endpoint();
    TestRunner::start_with(flags, |command, _| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "100");
    })
    .await
}

#[tokio::test]
async fn a_cold_start_continues_the_trace_of_its_caller() {
    let collector = Collector::start().await.unwrap();
    let mut runner = start(&collector, &[]).await;
    let bind_request =
        BindRequest { start_url: Some("data:text/html,<title>secret</title>".into()), ..request(Display::Headless) };
    let header = format!("00-{TRACE}-{CALLER}-01");
    let bound = runner.bind_traced(Some(&header), "cold", &bind_request).await.unwrap();
    assert_eq!((bound.session.tier, bound.session.phase), (StartTier::Cold, SessionPhase::Starting));
    let trace = collector.wait_for(TRACE, &["bind", "launch", "start_page"]).await.unwrap();

    let [bind, launch, page] = ["bind", "launch", "start_page"].map(|name| only_span(&trace, name));
    assert_eq!((trace.len(), bind.parent.as_str()), (3, CALLER));
    assert!([launch, page].iter().all(|part| part.parent == bind.id), "{trace:#?}");
    assert!(trace.iter().all(|span| span.service == "camofleet-runner" && span.error.is_none()), "{trace:#?}");
    assert!(bind.time.0 == launch.time.0 && bind.time.1 <= launch.time.1, "{trace:#?}");
    assert!(launch.time.1 == page.time.0 && page.time.0 <= page.time.1, "{trace:#?}");
    let values = trace.iter().flat_map(|span| &span.attributes).map(|(_, value)| value);
    assert!(values.clone().all(|value| !value.contains("secret") && !value.contains("eyJ")), "{trace:#?}");

    // A repeated call has its own span, but no further spans of the finished start.
    runner.bind_traced(Some(&format!("00-{TRACE}-{}-01", "1".repeat(16))), "cold", &bind_request).await.unwrap();
    // A call whose trace is not recorded has no span.
    runner.end("cold").await;
    runner.wait_for("an empty list", |state| state.sessions.is_empty().then_some(())).await;
    let unrecorded = "f".repeat(32);
    runner
        .bind_traced(Some(&format!("00-{unrecorded}-{CALLER}-00")), "unrecorded", &request(Display::Headless))
        .await
        .unwrap();
    runner.end("unrecorded").await;
    // The runner exports the remaining spans when it exits.
    runner.terminate().await;
    let names = |trace: &str| collector.trace(trace).into_iter().map(|span| span.name).collect::<Vec<_>>();
    assert_eq!(names(&unrecorded), Vec::<String>::new());
    assert_eq!(names(TRACE).iter().filter(|name| *name == "bind").count(), 2);
    assert_eq!(names(TRACE).len(), 4);
}

#[tokio::test]
async fn the_span_of_a_failed_start_page_omits_its_address() {
    let collector = Collector::start().await.unwrap();
    let runner = start(&collector, &["--prewarm-headless=1"]).await;
    runner.wait_until_warm().await;
    let failing = BindRequest { start_url: Some("http://127.0.0.1:1/?secret".into()), ..request(Display::Headless) };
    let bound = runner.bind_traced(Some(&format!("00-{TRACE}-{CALLER}-01")), "hot", &failing).await.unwrap();
    assert_eq!(bound.session.tier, StartTier::Hot);
    let trace = collector.wait_for(TRACE, &["bind", "start_page"]).await.unwrap();
    let (bind, page) = (only_span(&trace, "bind"), only_span(&trace, "start_page"));
    assert_eq!((trace.len(), page.error.as_deref(), &page.parent), (2, Some("failed"), &bind.id));
    assert!(matches!(runner.state().await.session("hot").unwrap().start_page, StartPage::Failed { .. }));
}
