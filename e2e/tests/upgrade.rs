//! An upgrade from the upgrade base and the rollback to it: no running session ends, and no client waits longer than
//! [`MAX_WAIT`]. `dev/test --long upgrade` installs the upgrade base (`dev/lib/versions.sh`) and passes the arguments
//! of the upgrade.

use anyhow::{Context, Result, bail, ensure};
use camofleet_crds::v1alpha1::{BrowserSession, SessionState, WorkerPool};
use camofleet_e2e::{
    Fleet, Session, TestNamespace,
    clients::NodeClient,
    fleet::{RELEASE_NAMESPACE, repository_path, run_program},
    rest::issue_session_token,
    rfb::{self, GREEN},
    test_alone,
    wait::{poll, wait_for_object},
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;
use std::{
    collections::BTreeSet,
    env, fs,
    future::Future,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Environment variable with the path of a file that has the arguments of `helm upgrade` for the current version, one
/// per line.
const ARGUMENTS: &str = "CAMOFLEET_UPGRADE_ARGUMENTS";
const RELEASE: &str = "camo-fleet";
/// Longest wait of a client, a viewer or a queued session during a change of version. Unlike other tests, this one
/// measures time, because the requirement is one.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Pause between two actions of a client or viewer.
const PAUSE: Duration = Duration::from_millis(100);
const PAGE: &str = "data:text/html,<title>Green</title><body style='background:%230a7b53'>";

#[test]
fn upgrade_and_rollback_keep_sessions_running() {
    test_alone("upgrade", async |ns: TestNamespace| {
        // The other version replaces these runners, which drain until their sessions end.
        let patient = json!({ "drainTimeoutSeconds": 3600 });
        ns.pool("live", json!({ "sessionDefaults": { "display": "LiveView" }, "rollout": patient })).await?;
        ns.pool("full", json!({ "sessionsPerRunner": 0, "rollout": patient })).await?;
        let live = ns.ready_session(json!({ "poolRef": { "name": "live" }, "startUrl": PAGE })).await?;
        let runner = live.runner().await?;
        let mut client = NodeClient::connect(&ns, &live).await?;
        client.run("await page.evaluate(() => { window.kept = 'kept' })").await?;
        let view = issue_session_token(&ns, &live.name, &json!({ "scope": "view" })).await?;

        let (chart, arguments) = (chart()?, upgrade_arguments()?);
        let upgrade = helm(["upgrade", RELEASE, chart.as_str(), "--reset-values"], &arguments);
        measure_waits_during(&ns, &live, &mut client, &view, upgrade).await.context("upgrade")?;
        ensure!(live.runner().await? == runner, "the upgrade moved the session to another runner");

        let rollback = helm(["rollback", RELEASE], &[]);
        measure_waits_during(&ns, &live, &mut client, &view, rollback).await.context("rollback")?;
        ensure!(live.runner().await? == runner, "the rollback moved the session to another runner");
        Ok(())
    });
}

/// Fills all slots of the pool `full`. Returns the session in the last slot, and one that waits for it.
async fn fill(ns: &TestNamespace) -> Result<(Session, Session)> {
    let mut occupant = None;
    loop {
        let spec = json!({ "poolRef": { "name": "full" }, "queueTimeoutSeconds": 3600 });
        let session = ns.session(spec).await?;
        let decided = |session: &BrowserSession| {
            matches!(session.state(), SessionState::Queued | SessionState::Ready | SessionState::Finished)
        };
        match (session.wait_for("to be Ready or Queued", decided).await?.state(), occupant) {
            (SessionState::Queued, Some(occupant)) => return Ok((occupant, session)),
            (SessionState::Ready, _) => occupant = Some(session),
            (state, _) => bail!("a session of a pool with a free slot is {state:?}"),
        }
    }
}

fn chart() -> Result<String> {
    Ok(repository_path("charts/camo-fleet").to_str().context("the path is not UTF-8")?.to_owned())
}

fn upgrade_arguments() -> Result<Vec<String>> {
    let file =
        env::var_os(ARGUMENTS).with_context(|| format!("{ARGUMENTS} is not set: run dev/test --long upgrade"))?;
    Ok(fs::read_to_string(file)?.lines().map(str::to_owned).collect())
}

async fn helm<const N: usize>(command: [&str; N], more: &[String]) -> Result<()> {
    let more = more.iter().map(String::as_str);
    let arguments: Vec<&str> = command.into_iter().chain(["-n", RELEASE_NAMESPACE, "--wait"]).chain(more).collect();
    run_program("dev/helm", &arguments).await.map(drop)
}

/// Runs `change` while a client drives the session, a viewer watches it, and another session waits for a slot, which
/// the test frees when a new operator has started.
async fn measure_waits_during(
    ns: &TestNamespace,
    live: &Session,
    client: &mut NodeClient,
    view: &str,
    change: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (occupant, waiting) = fill(ns).await?;
    let former = operators(&ns.fleet).await?;
    let done = CancellationToken::new();
    let changing = async {
        change.await?;
        for part in ["operator", "gateway"] {
            ns.fleet.wait_for_rollout(&format!("camofleet-{part}")).await?;
        }
        wait_for_pools(ns).await
    };
    let slot = async {
        poll("a new operator to start", async || {
            let now = operators(&ns.fleet).await?;
            ensure!(now.iter().any(|uid| !former.contains(uid)), "the operators are {now:?}");
            Ok(())
        })
        .await?;
        let freed = Timestamp::now();
        occupant.delete().await?;
        let served = waiting.wait_for("to get a slot", |session| session.state() != SessionState::Queued).await?;
        ensure!(served.state() != SessionState::Finished, "the queued session finished: {:?}", served.status);
        let scheduled =
            served.status.and_then(|status| status.scheduled_time).context("the session has no scheduledTime")?.0;
        Ok(Duration::try_from(scheduled.duration_since(freed)).unwrap_or_default())
    };
    let all = async {
        let results = tokio::try_join!(changing, slot);
        done.cancel();
        results
    };
    let (all, client, viewer) = tokio::join!(all, drive(client, &done), watch(ns, live, view, &done));
    let ((), slot) = all?;
    for (waiter, wait) in [("the client", client?), ("the viewer", viewer?), ("the queued session", slot)] {
        eprintln!("{waiter} waited {:.1} s at most", wait.as_secs_f64());
        ensure!(wait <= MAX_WAIT, "{waiter} waited {:.1} s", wait.as_secs_f64());
    }
    waiting.wait_until_ready().await?;
    ensure!(live.object().await?.state() == SessionState::Ready, "the running session is no longer Ready");
    let finished = finished_sessions(ns).await?;
    ensure!(finished.is_empty(), "sessions finished: {finished:?}");
    Ok(())
}

/// UIDs of the operator's pods that are not terminating.
async fn operators(fleet: &Fleet) -> Result<BTreeSet<String>> {
    Ok(fleet.running_pods("operator").await?.iter().filter_map(ResourceExt::uid).collect())
}

/// Waits until the pools have runners of the revision that the leading version gives them.
async fn wait_for_pools(ns: &TestNamespace) -> Result<()> {
    for pool in ["live", "full"] {
        wait_for_object(&ns.api::<WorkerPool>(), pool, "to have runners of its revision", |pool| {
            pool.status.as_ref().is_some_and(|status| {
                status.observed_generation == pool.metadata.generation
                    && status.updated_replicas >= pool.spec.fixed_replicas()
                    && status.current_revision.as_ref().map(|current| &current.revision) == status.revision.as_ref()
            })
        })
        .await?;
    }
    Ok(())
}

async fn finished_sessions(ns: &TestNamespace) -> Result<Vec<String>> {
    let sessions = ns.api::<BrowserSession>().list(&kube::api::ListParams::default()).await?;
    let finished = sessions.into_iter().filter(|session| session.state() == SessionState::Finished);
    Ok(finished.map(|session| session.name_any()).collect())
}

/// Measures the longest time between consecutive successes.
struct Waits {
    latest: Instant,
    longest: Duration,
}

impl Waits {
    fn begin() -> Self {
        Self { latest: Instant::now(), longest: Duration::ZERO }
    }

    fn succeeded(&mut self) {
        self.longest = self.longest.max(self.latest.elapsed());
        self.latest = Instant::now();
    }
}

/// Drives the page, and reconnects when its gateway stops. Returns the longest wait.
async fn drive(client: &mut NodeClient, done: &CancellationToken) -> Result<Duration> {
    let mut waits = Waits::begin();
    while !done.is_cancelled() {
        match client.run("return page.evaluate(() => window.kept)").await {
            Ok(kept) => {
                ensure!(kept == "kept", "the page lost its state: it has {kept}");
                waits.succeeded();
                tokio::time::sleep(PAUSE).await;
            }
            Err(_) => {
                client.run("await retryWhileUnavailable(connect)").await.context("the client cannot reconnect")?;
            }
        }
    }
    waits.succeeded();
    Ok(waits.longest)
}

/// Watches the display, and reconnects when its gateway stops. Returns the longest wait.
async fn watch(ns: &TestNamespace, live: &Session, token: &str, done: &CancellationToken) -> Result<Duration> {
    let mut waits = Waits::begin();
    while !done.is_cancelled() {
        let Ok(Ok((mut viewer, _))) = timeout(MAX_WAIT, rfb::connect_viewer(ns, live, token)).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // A picture that takes longer has exceeded the limit anyway.
        while let Ok(Ok(picture)) = timeout(MAX_WAIT, viewer.picture()).await {
            let share = picture.share_of(GREEN);
            ensure!(share > 0.6, "the page covers only {share} of the display");
            waits.succeeded();
            if done.is_cancelled() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    waits.succeeded();
    Ok(waits.longest)
}
