//! Shared steps of the failure tests: the cluster, waiting for conditions, and the final check of invariants.

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

/// Namespace of sessions and pools.
pub const FLEET: &str = "fleet";
/// Name of the default pool.
pub const POOL: &str = "hot";
/// Time limit of each wait. Long, because several tests run at once; it only separates a hang from a slow step.
pub const TIMEOUT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Runs a test on a new cluster. Keeps the logs if the test fails.
pub fn with_fleet(name: &str, test: impl AsyncFnOnce(&mut Harness) -> Result<()>) {
    with_nodes(Nodes { count: 10, cpus: 64 }, name, test);
}

/// Like [`with_fleet`], with the given nodes.
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

/// The Kubernetes binaries and the operator, found or built once.
pub fn programs() -> &'static (Kubernetes, OperatorProgram) {
    static PROGRAMS: OnceLock<(Kubernetes, OperatorProgram)> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        tls::install_provider().expect("the TLS provider is installed once");
        let finding = async { anyhow::Ok((Kubernetes::find(None).await?, OperatorProgram::for_tests().await?)) };
        runtime().block_on(finding).expect("the binaries exist or can be built")
    })
}

fn runtime() -> Runtime {
    Runtime::new().expect("the runtime starts")
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
    eprintln!("kept the logs in {}", folder.display());
    Ok(())
}

/// The spec of a session without practical time limits whose object is kept for a day after its end.
pub fn retained_session_spec(pool: &str) -> BrowserSessionSpec {
    BrowserSessionSpec { ttl_seconds_after_finished: 86400, ..session_spec(pool) }
}

/// Creates sessions `name-0`, `name-1`, … on [`POOL`], and waits until all are Ready.
pub async fn claim(harness: &Harness, name: &str, count: usize) -> Result<()> {
    let claims = start_claims(harness, name, count, Arrivals::Burst).await?;
    ensure_all_ready(&claims)
}

/// Starts to create sessions on [`POOL`] with an arrival pattern. The future waits until each is Ready or times out.
pub fn start_claims(
    harness: &Harness,
    name: &str,
    count: usize,
    arrivals: Arrivals,
) -> impl Future<Output = Result<Vec<Claim>>> + use<> {
    let (client, sessions, name) = (harness.session_client(), harness.sessions.clone(), name.to_owned());
    async move {
        let claim = |index| {
            let (client, sessions, name) = (client.clone(), sessions.clone(), format!("{name}-{index}"));
            async move {
                let (requested, ready) = (Instant::now(), sessions.await_ready(FLEET, &name));
                client.create_with_retry(FLEET, &name, retained_session_spec(POOL)).await?;
                let ready = tokio::time::timeout(TIMEOUT, ready).await.ok().and_then(Result::ok);
                Ok(Claim { requested, ready })
            }
        };
        arrivals.run(count, claim).await
    }
}

/// Fails if a session was not Ready in time.
pub fn ensure_all_ready(claims: &[Claim]) -> Result<()> {
    let not_ready = claims.iter().filter(|claim| claim.ready.is_none()).count();
    ensure!(not_ready == 0, "{not_ready} of {} sessions were not Ready in time", claims.len());
    Ok(())
}

/// Starts an operator and waits until it leads.
pub async fn start_leader(harness: &Harness, identity: &str) -> Result<Operator> {
    let mut operator = harness.start_operator(identity)?;
    operator.wait_until_leading().await?;
    Ok(operator)
}

/// Waits until a condition holds; `what` describes it in the error.
pub async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let waiting = async {
        while !condition().await? {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    };
    tokio::time::timeout(TIMEOUT, waiting).await.with_context(|| format!("timed out while waiting for: {what}"))?
}

/// Checks the invariants in [`FLEET`], where no session may have finished.
pub async fn assert_invariants(harness: &Harness) -> Result<()> {
    assert_invariants_except(harness, FLEET, |_, _| false).await
}

/// Checks the invariants in a namespace. `is_expected_end` decides whether a session may have finished with a reason.
pub async fn assert_invariants_except(
    harness: &Harness,
    namespace: &str,
    is_expected_end: impl Fn(&BrowserSession, &str) -> bool,
) -> Result<()> {
    let violations = harness.check_invariants(namespace, TIMEOUT, is_expected_end).await?;
    ensure!(violations.is_empty(), "namespace {namespace} violates invariants:\n{violations}");
    Ok(())
}
