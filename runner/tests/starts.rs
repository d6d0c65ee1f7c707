//! What a real runner tells a collector of traces.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use camofleet_crds::v1alpha1::Display;
use camofleet_runner_api::{BindRequest, SessionPhase, StartPage, Tier};
use camofleet_testkit::collector::{Collector, only_span};
use support::{Bed, request};

const TRACE: &str = "0b2f6a5e7c1d4e8f9a3b5c6d7e8f9a0b";
const CALLER: &str = "00f067aa0ba902b7";

async fn start(collector: &Collector, flags: &[&str]) -> Bed {
    let endpoint = collector.endpoint();
    Bed::start_with(flags, |command, _| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "100");
    })
    .await
}

#[tokio::test]
async fn a_cold_start_goes_on_with_the_callers_trace() {
    let collector = Collector::start().await.unwrap();
    let mut bed = start(&collector, &[]).await;
    let asked =
        BindRequest { start_url: Some("data:text/html,<title>secret</title>".into()), ..request(Display::Headless) };
    let header = format!("00-{TRACE}-{CALLER}-01");
    let bound = bed.bind_in(Some(&header), "cold", &asked).await.unwrap();
    assert_eq!((bound.session.tier, bound.session.phase), (Tier::Cold, SessionPhase::Starting));
    let trace = collector.wait_for(TRACE, &["bind", "launch", "start page"]).await.unwrap();

    let [bind, launch, page] = ["bind", "launch", "start page"].map(|name| only_span(&trace, name));
    assert_eq!((trace.len(), bind.parent.as_str()), (3, CALLER));
    assert!([launch, page].iter().all(|part| part.parent == bind.id), "{trace:#?}");
    assert!(trace.iter().all(|span| span.service == "camofleet-runner" && span.error.is_none()), "{trace:#?}");
    assert!(bind.time.0 == launch.time.0 && bind.time.1 <= launch.time.1, "{trace:#?}");
    assert!(launch.time.1 == page.time.0 && page.time.0 <= page.time.1, "{trace:#?}");
    let told = trace.iter().flat_map(|span| &span.attributes).map(|(_, value)| value);
    assert!(told.clone().all(|value| !value.contains("secret") && !value.contains("eyJ")), "{trace:#?}");

    // A repeated call is told, and the start is over.
    bed.bind_in(Some(&format!("00-{TRACE}-{}-01", "1".repeat(16))), "cold", &asked).await.unwrap();
    // Nor is one that nobody records.
    bed.end("cold").await;
    bed.until("an empty list", |state| state.sessions.is_empty().then_some(())).await;
    let unrecorded = "f".repeat(32);
    bed.bind_in(Some(&format!("00-{unrecorded}-{CALLER}-00")), "unrecorded", &request(Display::Headless))
        .await
        .unwrap();
    bed.end("unrecorded").await;
    // What is left is sent when it ends.
    bed.terminate().await;
    let names = |trace: &str| collector.trace(trace).into_iter().map(|span| span.name).collect::<Vec<_>>();
    assert_eq!(names(&unrecorded), Vec::<String>::new());
    assert_eq!(names(TRACE).iter().filter(|name| *name == "bind").count(), 2);
    assert_eq!(names(TRACE).len(), 4);
}

#[tokio::test]
async fn a_start_page_that_fails_is_told_without_its_address() {
    let collector = Collector::start().await.unwrap();
    let bed = start(&collector, &["--prewarm-headless=1"]).await;
    bed.until_warm().await;
    let failing = BindRequest { start_url: Some("http://127.0.0.1:1/?secret".into()), ..request(Display::Headless) };
    let bound = bed.bind_in(Some(&format!("00-{TRACE}-{CALLER}-01")), "hot", &failing).await.unwrap();
    assert_eq!(bound.session.tier, Tier::Hot);
    let trace = collector.wait_for(TRACE, &["bind", "start page"]).await.unwrap();
    let (bind, page) = (only_span(&trace, "bind"), only_span(&trace, "start page"));
    assert_eq!((trace.len(), page.error.as_deref(), &page.parent), (2, Some("failed"), &bind.id));
    assert!(matches!(bed.state().await.session("hot").unwrap().start_page, StartPage::Failed { .. }));
}
