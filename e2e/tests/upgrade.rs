//! An upgrade from the version before and the rollback to it, with sessions at work: nothing ends, and nothing waits longer than
//! [`LONGEST_WAIT`]. `dev/test --long upgrade` installs the version before, and names the arguments of the upgrade.

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
use k8s_openapi::{api::apps::v1::Deployment, jiff::Timestamp};
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

/// Names a file with the arguments of `helm upgrade` for the current version, one a line.
const ARGUMENTS: &str = "CAMOFLEET_UPGRADE_ARGUMENTS";
const RELEASE: &str = "camo-fleet";
/// The longest that a client, a viewer or a session in the queue may wait while the fleet changes. The requirement itself is a
/// time, so unlike other tests this one measures it.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Between two things that a client or a viewer does.
const PAUSE: Duration = Duration::from_millis(100);
const PAGE: &str = "data:text/html,<title>Green</title><body style='background:%230a7b53'>";

#[test]
fn upgrade_and_rollback_keep_sessions_running() {
    test_alone("upgrade", async |ns: TestNamespace| {
        // Runners of the other version replace these, which drain for as long as their sessions live.
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
        changes(&ns, &live, &mut client, &view, upgrade).await.context("upgrade")?;
        ensure!(live.runner().await? == runner, "after the upgrade the session is published on another runner");

        let rollback = helm(["rollback", RELEASE], &[]);
        changes(&ns, &live, &mut client, &view, rollback).await.context("rollback")?;
        ensure!(live.runner().await? == runner, "after the rollback the session is published on another runner");
        Ok(())
    });
}

/// Takes every slot of the pool `full`. Hands over the session that took the last one, and one that waits for it.
async fn fill(ns: &TestNamespace) -> Result<(Session, Session)> {
    let mut occupant = None;
    loop {
        let on_full = json!({ "poolRef": { "name": "full" }, "queueTimeoutSeconds": 3600 });
        let session = ns.session(on_full).await?;
        let settled = |session: &BrowserSession| {
            matches!(session.state(), SessionState::Queued | SessionState::Ready | SessionState::Finished)
        };
        match (session.wait_for("to be served or to wait", settled).await?.state(), occupant) {
            (SessionState::Queued, Some(occupant)) => return Ok((occupant, session)),
            (SessionState::Ready, _) => occupant = Some(session),
            (state, _) => bail!("a session on a pool with a free slot is {state:?}"),
        }
    }
}

fn chart() -> Result<String> {
    Ok(repository_path("charts/camo-fleet").to_str().context("a path of UTF-8")?.to_owned())
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

/// Lets the fleet change while a client drives the session, a viewer looks at it, and another session waits for a slot, which
/// becomes free when the operator changes.
async fn changes(
    ns: &TestNamespace,
    live: &Session,
    client: &mut NodeClient,
    view: &str,
    change: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (occupant, waiting) = fill(ns).await?;
    let former = operators(&ns.fleet).await?;
    let over = CancellationToken::new();
    let changing = async {
        change.await?;
        for part in ["operator", "gateway"] {
            wait_for_rollout(&ns.fleet, &format!("camofleet-{part}")).await?;
        }
        pools_are_reconciled(ns).await
    };
    let slot = async {
        poll("another operator to start", async || {
            let now = operators(&ns.fleet).await?;
            ensure!(now.iter().any(|uid| !former.contains(uid)), "the operators are {now:?}");
            Ok(())
        })
        .await?;
        let freed = Timestamp::now();
        occupant.delete().await?;
        let got = waiting.wait_for("to get a slot", |session| session.state() != SessionState::Queued).await?;
        ensure!(got.state() != SessionState::Finished, "the session that waited is over: {:?}", got.status);
        let scheduled = got.status.and_then(|status| status.scheduled_time).context("it has no scheduledTime")?.0;
        Ok(Duration::try_from(scheduled.duration_since(freed)).unwrap_or_default())
    };
    let all = async {
        let result = tokio::try_join!(changing, slot);
        over.cancel();
        result
    };
    let (all, client, viewer) = tokio::join!(all, drives(client, &over), looks(ns, live, view, &over));
    let ((), slot) = all?;
    for (who, wait) in [("the client", client?), ("the viewer", viewer?), ("the session in the queue", slot)] {
        eprintln!("{who} waited {:.1} s at most", wait.as_secs_f64());
        ensure!(wait <= LONGEST_WAIT, "{who} waited {:.1} s", wait.as_secs_f64());
    }
    waiting.ready().await?;
    ensure!(live.object().await?.state() == SessionState::Ready, "the live session is not Ready any more");
    let ended = ended(ns).await?;
    ensure!(ended.is_empty(), "these sessions ended: {ended:?}");
    Ok(())
}

/// UIDs of the operator's pods that are to stay.
async fn operators(fleet: &Fleet) -> Result<BTreeSet<String>> {
    Ok(fleet.running_pods("operator").await?.iter().filter_map(ResourceExt::uid).collect())
}

/// Waits until a deployment has as many pods as it should, of its current shape, all available.
async fn wait_for_rollout(fleet: &Fleet, name: &str) -> Result<()> {
    wait_for_object(&fleet.release::<Deployment>(), name, "to be settled", |deployment| {
        let wished = deployment.spec.replicas.unwrap_or(1);
        deployment.status.as_ref().is_some_and(|status| {
            status.observed_generation == deployment.metadata.generation
                && status.replicas == Some(wished)
                && status.available_replicas == Some(wished)
                && status.updated_replicas == Some(wished)
        })
    })
    .await
    .map(drop)
}

/// Waits until the pools have runners of the shape that the version which now leads gives them.
async fn pools_are_reconciled(ns: &TestNamespace) -> Result<()> {
    for pool in ["live", "full"] {
        wait_for_object(&ns.api::<WorkerPool>(), pool, "to have runners of its shape", |pool| {
            pool.status.as_ref().is_some_and(|status| {
                status.observed_generation == pool.metadata.generation
                    && status.updated_replicas >= pool.spec.fixed_replicas()
                    && status.serving.as_ref().map(|serving| &serving.revision) == status.revision.as_ref()
            })
        })
        .await?;
    }
    Ok(())
}

async fn ended(ns: &TestNamespace) -> Result<Vec<String>> {
    let sessions = ns.api::<BrowserSession>().list(&kube::api::ListParams::default()).await?;
    let ended = sessions.into_iter().filter(|session| session.state() == SessionState::Finished);
    Ok(ended.map(|session| session.name_any()).collect())
}

/// The longest time between two successes in a row.
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

/// Works with the page, and connects again when the gateway that it was connected through goes. Says how long it waited at most.
async fn drives(client: &mut NodeClient, over: &CancellationToken) -> Result<Duration> {
    let mut waits = Waits::begin();
    while !over.is_cancelled() {
        match client.run("return page.evaluate(() => window.kept)").await {
            Ok(kept) => {
                ensure!(kept == "kept", "the page is not as it was: it has {kept}");
                waits.succeeded();
                tokio::time::sleep(PAUSE).await;
            }
            Err(_) => drop(
                client.run("await retryWhileUnavailable(connect)").await.context("the client is not let in again")?,
            ),
        }
    }
    waits.succeeded();
    Ok(waits.longest)
}

/// Looks at the display, likewise.
async fn looks(ns: &TestNamespace, live: &Session, token: &str, over: &CancellationToken) -> Result<Duration> {
    let mut waits = Waits::begin();
    while !over.is_cancelled() {
        let Ok(Ok((mut viewer, _))) = timeout(LONGEST_WAIT, rfb::connect_viewer(ns, live, token)).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // A picture that does not come in time is too late anyway.
        while let Ok(Ok(picture)) = timeout(LONGEST_WAIT, viewer.picture()).await {
            let share = picture.share_of(GREEN);
            ensure!(share > 0.6, "only {share} of the display has the page's colour");
            waits.succeeded();
            if over.is_cancelled() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    waits.succeeded();
    Ok(waits.longest)
}
