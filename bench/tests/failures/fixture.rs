//! What the tests begin and end with.

use anyhow::{Context, Result, ensure};
use camofleet_bench::{
    arrivals::{Arrivals, Claim},
    binaries::{Kubernetes, OperatorProgram},
    harness::{Harness, Options, session_spec},
    operator::Operator,
    simulator::Nodes,
};
use camofleet_crds::v1alpha1::{BrowserSession, BrowserSessionSpec};
use camofleet_runtime::tls;
use std::{
    fs,
    future::Future,
    path::Path,
    sync::OnceLock,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// The namespace of sessions and pools.
pub const FLEET: &str = "fleet";
/// The pool.
pub const POOL: &str = "hot";
/// What has not happened by then will not: it tells what hangs from what is slow, on a machine with many tests.
pub const TIMEOUT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Runs a test on a cluster of its own. Of one that fails the logs are kept.
pub fn with_fleet(name: &str, test: impl AsyncFnOnce(&mut Harness) -> Result<()>) {
    with_nodes(Nodes { count: 10, cpus: 64 }, name, test);
}

/// The same on a cluster with those nodes.
pub fn with_nodes(nodes: Nodes, name: &str, test: impl AsyncFnOnce(&mut Harness) -> Result<()>) {
    let (kubernetes, operator) = programs();
    let options =
        Options { kubernetes: kubernetes.clone(), operator: operator.clone(), nodes, launch_time: Duration::ZERO };
    let outcome = runtime().block_on(async {
        let mut harness = Harness::start(options).await?;
        harness.create_namespace(FLEET).await?;
        let outcome = test(&mut harness).await;
        if outcome.is_err() {
            keep_logs(&harness, name)?;
        }
        harness.stop().await?;
        outcome
    });
    if let Err(error) = outcome {
        panic!("{error:#}");
    }
}

/// What is run: found, or built, once.
pub fn programs() -> &'static (Kubernetes, OperatorProgram) {
    static PROGRAMS: OnceLock<(Kubernetes, OperatorProgram)> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        tls::install_provider().expect("no other TLS provider is there");
        let finding = async { anyhow::Ok((Kubernetes::find(None).await?, OperatorProgram::for_tests().await?)) };
        runtime().block_on(finding).expect("the programs are there or can be built")
    })
}

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime can be had")
}

fn keep_logs(harness: &Harness, name: &str) -> Result<()> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder)?;
    for file in fs::read_dir(harness.control_plane.file("."))? {
        let path = file?.path();
        if let (Some(name), true) = (path.file_name(), path.extension().is_some_and(|ending| ending == "log")) {
            fs::copy(&path, folder.join(name))?;
        }
    }
    eprintln!("logs are in {}", folder.display());
    Ok(())
}

/// A session that waits as long as it must, lives until somebody ends it, and is kept when it is over.
pub fn retained_session_spec(pool: &str) -> BrowserSessionSpec {
    BrowserSessionSpec { ttl_seconds_after_finished: 86400, ..session_spec(pool) }
}

/// Makes sessions of the pool, named by that and their numbers, and waits until all are Ready.
pub async fn claim(harness: &Harness, name: &str, count: usize) -> Result<()> {
    let claims = start_claims(harness, name, count, Arrivals::Burst).await?;
    ensure_all_ready(&claims)
}

/// Makes sessions of the pool that come like that, and waits until they are Ready or it is time to give up.
pub fn start_claims(
    harness: &Harness,
    name: &str,
    count: usize,
    arrivals: Arrivals,
) -> impl Future<Output = Result<Vec<Claim>>> + use<> {
    let (claims, sessions, name) = (harness.claims(), harness.sessions.clone(), name.to_owned());
    async move {
        let claim = |index| {
            let (claims, sessions, name) = (claims.clone(), sessions.clone(), format!("{name}-{index}"));
            async move {
                let (requested, ready) = (Instant::now(), sessions.await_ready(FLEET, &name));
                claims.create_with_retry(FLEET, &name, retained_session_spec(POOL)).await?;
                let ready = tokio::time::timeout(TIMEOUT, ready).await.ok().and_then(Result::ok);
                Ok(Claim { requested, ready })
            }
        };
        arrivals.run(count, claim).await
    }
}

/// All of them became Ready.
pub fn ensure_all_ready(claims: &[Claim]) -> Result<()> {
    let not_ready = claims.iter().filter(|claim| claim.ready.is_none()).count();
    ensure!(not_ready == 0, "{not_ready} of {} sessions were not Ready in time", claims.len());
    Ok(())
}

/// An operator that leads.
pub async fn start_leader(harness: &Harness, identity: &str) -> Result<Operator> {
    let mut operator = harness.start_operator(identity)?;
    operator.wait_until_leading().await?;
    Ok(operator)
}

/// Waits until that is so.
pub async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let waiting = async {
        while !condition().await? {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    };
    tokio::time::timeout(TIMEOUT, waiting).await.with_context(|| format!("it did not come to this: {what}"))?
}

/// Nothing was lost, doubled or leaked, and no session ended that nobody ended.
pub async fn assert_invariants(harness: &Harness) -> Result<()> {
    assert_invariants_except(harness, FLEET, |_, _| false).await
}

/// The same of a namespace in which sessions may have ended, for reasons that are right.
pub async fn assert_invariants_except(
    harness: &Harness,
    namespace: &str,
    is_expected_end: impl Fn(&BrowserSession, &str) -> bool,
) -> Result<()> {
    let violations = harness.check_invariants(namespace, TIMEOUT, is_expected_end).await?;
    ensure!(violations.is_empty(), "namespace {namespace} is not whole:\n{violations}");
    Ok(())
}
