//! Kills, pauses and restarts operators and gateways, and drains the node, while sessions are running.

use anyhow::{Context, Result, bail, ensure};
use camofleet_crds::{
    conditions::session as reasons,
    v1alpha1::{BrowserSession, SessionState},
};
use camofleet_e2e::{
    Fleet, Session, TestNamespace,
    clients::NodeClient,
    fleet::repository_path,
    history::History,
    host, metrics,
    rest::issue_session_token,
    rfb::{self, GREEN},
    rounds, test_alone, test_disrupting_gateways, test_disrupting_operator,
    wait::{poll, wait_for, wait_for_object},
};
use camofleet_testkit::rfb::RfbClient;
use futures::future::try_join_all;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams},
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{collections::BTreeMap, mem::replace};
use tokio::io::{AsyncRead, AsyncWrite};

const OPERATOR: &str = "camofleet-operator";
const GATEWAY: &str = "camofleet-gateway";
const GREEN_PAGE: &str = "data:text/html,<title>Green</title><body style='background:%230a7b53'>";

/// The operator process in a pod.
fn operator_process(pod: &Pod) -> Result<host::Process> {
    host::find_process(&pod.uid().context("the pod has no UID")?, "the operator", |process| process.runs(OPERATOR))
}

/// Replaces the pods of a component one by one, as `kubectl rollout restart` does.
async fn restart(fleet: &Fleet, name: &str) -> Result<()> {
    let patch = json!({ "spec": { "template": { "metadata": { "annotations": { "kubectl.kubernetes.io/restartedAt": Timestamp::now().to_string() } } } } });
    fleet.release::<Deployment>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    fleet.wait_for_rollout(name).await
}

/// Fails if two of the namespace's runners list the same session.
async fn ensure_no_session_is_on_two_runners(ns: &TestNamespace) -> Result<()> {
    let mut runners_by_session = BTreeMap::<String, Vec<String>>::new();
    for (runner, state) in ns.runner_states().await? {
        for session in state.sessions {
            runners_by_session.entry(session.uid).or_default().push(runner.clone());
        }
    }
    let duplicates: Vec<_> = runners_by_session.iter().filter(|(_, runners)| runners.len() > 1).collect();
    ensure!(duplicates.is_empty(), "sessions are on several runners: {duplicates:?}");
    Ok(())
}

#[test]
fn serves_each_session_once_when_the_operator_is_killed_during_a_burst() {
    test_disrupting_operator("operator-killed", async |ns: TestNamespace| {
        ns.pool("pool", json!({ "replicas": 2, "slotsPerRunner": 2, "sessionsPerRunner": 0 })).await?;
        let history = History::watch(ns.api()).await?;
        for round in 0..rounds() {
            ns.warm_pool("pool").await?;
            let operator = operator_process(&ns.fleet.operator().await?)?;
            let create = async |number: usize| -> Result<Session> {
                let session = ns.session(json!({})).await?;
                if number == 7 {
                    operator.signal(Signal::SIGKILL)?;
                }
                Ok(session)
            };
            let sessions = try_join_all((0..20).map(create)).await?;
            let serve = async |session: &Session| -> Result<()> {
                session.wait_until_ready().await?;
                ensure_no_session_is_on_two_runners(&ns).await?;
                session.delete().await?;
                session.wait_until_gone().await
            };
            try_join_all(sessions.iter().map(serve)).await.with_context(|| format!("round {round}"))?;
            let uids: Vec<_> = sessions.iter().map(|session| session.uid.clone()).collect();
            history.ensure_each_was_ready_once(&uids).with_context(|| format!("round {round}"))?;
            // New pods, because the kubelet delays the restart of a container that crashed before.
            restart(&ns.fleet, OPERATOR).await?;
        }
        Ok(())
    });
}

#[test]
fn a_paused_leader_assigns_no_session_twice() {
    test_disrupting_operator("leaders", async |ns: TestNamespace| {
        ns.pool("pool", json!({ "replicas": 2, "slotsPerRunner": 2, "sessionsPerRunner": 0 })).await?;
        let result = pause_leaders(&ns).await;
        scale_operator(&ns.fleet, 1).await?;
        result
    });
}

async fn scale_operator(fleet: &Fleet, replicas: u8) -> Result<()> {
    let patch = json!({ "spec": { "replicas": replicas } });
    fleet.release::<Deployment>().patch(OPERATOR, &PatchParams::default(), &Patch::Merge(patch)).await?;
    fleet.wait_for_rollout(OPERATOR).await?;
    poll("surplus operators to terminate", async || {
        let count = fleet.running_pods("operator").await?.len();
        ensure!(count == usize::from(replicas), "{count} are running");
        Ok(())
    })
    .await
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

async fn pause_leaders(ns: &TestNamespace) -> Result<()> {
    scale_operator(&ns.fleet, 2).await?;
    let leases = ns.fleet.release::<Lease>();
    let history = History::watch(ns.api()).await?;
    let live = ns.ready_session(json!({})).await?;
    let mut client = NodeClient::start(ns, &live).await?;
    let connect = "await retryWhileUnavailable(() => connect('&client=worker'))";
    client.run(&format!("{connect}; await page.evaluate(() => {{ window.kept = 'kept' }})")).await?;
    for round in 0..rounds() {
        ns.warm_pool_with_sessions("pool", 1).await?;
        let name = wait_for_object(&leases, OPERATOR, "to be held", |lease| holder(lease).is_some()).await?;
        let name = holder(&name).context("the lease has no holder")?.to_owned();
        let leader = ns.fleet.release::<Pod>().get(&name).await?;
        let process = operator_process(&leader)?;

        // Paused while it assigns sessions.
        let sessions = try_join_all((0..3).map(|_| ns.session(json!({})))).await?;
        process.signal(Signal::SIGSTOP)?;
        let taken_over = wait_for_object(&leases, OPERATOR, "to be held by another operator", |lease| {
            holder(lease).is_some_and(|holder| holder != name)
        })
        .await;
        let ready = try_join_all(sessions.iter().map(Session::wait_until_ready)).await;
        process.signal(Signal::SIGCONT)?;
        taken_over.and(ready).with_context(|| format!("round {round}"))?;

        poll("the paused leader to report that it lost the lease", async || {
            let leads = metrics::of(&leader).await?.sum("camofleet_operator_leader", &[]);
            ensure!(leads == 0.0, "it reports that it leads");
            Ok(())
        })
        .await?;
        ensure_no_session_is_on_two_runners(ns).await?;
        for session in &sessions {
            session.wait_until_ready().await.context("a session ended when the former leader resumed")?;
        }
        let kept = client.run(&format!("{connect}; return page.evaluate(() => window.kept)")).await?;
        ensure!(kept == "kept", "round {round}: the page of the running session lost its state");
        let uids: Vec<_> = sessions.iter().map(|session| session.uid.clone()).collect();
        history.ensure_each_was_ready_once(&uids).with_context(|| format!("round {round}"))?;
        for session in &sessions {
            session.delete().await?;
            session.wait_until_gone().await?;
        }
    }
    history.ensure_each_was_ready_once(std::slice::from_ref(&live.uid))
}

#[test]
fn clients_reconnect_after_a_gateway_rollout() {
    test_disrupting_gateways("gateways", async |ns: TestNamespace| {
        ns.pool("pool", json!({})).await?;
        let session = ns.ready_session(json!({})).await?;
        let mut client = NodeClient::start(&ns, &session).await?;
        client.run("await connect('&client=worker'); await page.evaluate(() => { window.kept = 'kept' })").await?;
        client.run("globalThis.own = await (await browser.newContext()).newPage(); await own.setContent('<title>own</title>')").await?;
        for round in 0..rounds() {
            restart(&ns.fleet, GATEWAY).await?;
            ensure!(client.run("return disconnected").await? == true, "round {round}: the client was not disconnected");
            let found = client
                .run(
                    "await retryWhileUnavailable(() => connect('&client=worker'));
                     const titles = await Promise.all(browser.contexts().flatMap((context) => context.pages()).map((page) => page.title()));
                     return [await page.evaluate(() => window.kept), titles.includes('own')]",
                )
                .await?;
            ensure!(found == json!(["kept", true]), "round {round}: the reconnected client found {found}");
        }
        Ok(())
    });
}

#[test]
fn clients_and_viewers_reconnect_after_all_gateways_are_killed() {
    test_disrupting_gateways("gateways-killed", async |ns: TestNamespace| {
        let pool = json!({ "slotsPerRunner": 2, "sessionsPerRunner": 0, "sessionDefaults": { "display": "LiveView" } });
        ns.pool("pool", pool).await?;
        let ready = async |_| -> Result<(Session, NodeClient, String)> {
            let session = ns.ready_session(json!({ "startUrl": GREEN_PAGE })).await?;
            let client = NodeClient::connect(&ns, &session).await?;
            let view = issue_session_token(&ns, &session.name, &json!({ "scope": "view" })).await?;
            Ok((session, client, view))
        };
        let mut sessions = try_join_all((0..2).map(ready)).await?;
        let mut viewers = connect_clients_and_viewers(&ns, &mut sessions).await?;
        for round in 0..rounds() {
            wait_for_terminated_gateways(&ns.fleet).await?;
            for gateway in ns.fleet.running_pods("gateway").await? {
                let pod = gateway.uid().context("the pod has no UID")?;
                host::find_process(&pod, "the gateway", |process| process.runs(GATEWAY))?.signal(Signal::SIGKILL)?;
            }
            let reconnected = connect_clients_and_viewers(&ns, &mut sessions)
                .await
                .with_context(|| format!("round {round}, killed"))?;
            drop(replace(&mut viewers, reconnected));
            // New pods, because the kubelet delays the restart of a container that crashed before.
            restart(&ns.fleet, GATEWAY).await?;
            let reconnected = connect_clients_and_viewers(&ns, &mut sessions)
                .await
                .with_context(|| format!("round {round}, restarted"))?;
            drop(replace(&mut viewers, reconnected));
            for (session, ..) in &sessions {
                ensure!(session.object().await?.state() == SessionState::Ready, "round {round}: a session ended");
            }
        }
        Ok(())
    });
}

/// Waits until gateways of an earlier rollout are gone. When no gateway is ready, a Service routes to terminating pods,
/// whose addresses disappear before their endpoints do. A connection attempt then gets no response and times out after
/// two minutes.
async fn wait_for_terminated_gateways(fleet: &Fleet) -> Result<()> {
    poll("the previous gateways to terminate", async || {
        let (_, terminating) = fleet.running_and_terminating("gateway").await?;
        ensure!(terminating.is_empty(), "{} are terminating", terminating.len());
        Ok(())
    })
    .await
}

/// Connects five clients and five viewers to each session, retrying while the gateway is unavailable, and checks that
/// each client can create a context and each viewer sees the page.
async fn connect_clients_and_viewers(
    ns: &TestNamespace,
    sessions: &mut [(Session, NodeClient, String)],
) -> Result<Vec<RfbClient<impl AsyncRead + AsyncWrite + Unpin + use<>>>> {
    const CLIENTS_AND_VIEWERS: usize = 5;
    let mut viewers = Vec::new();
    for (session, client, view) in sessions {
        let reconnect = format!(
            "globalThis.browsers = await Promise.all(Array.from({{ length: {CLIENTS_AND_VIEWERS} }}, () =>
               retryWhileUnavailable(() => playwright.firefox.connect(endpoint, options))));
             await Promise.all(browsers.map((browser) => browser.newContext()));
             return browsers.map((browser) => browser.contexts().length)",
        );
        let contexts = client.run(&reconnect).await?;
        ensure!(contexts == json!(vec![1; CLIENTS_AND_VIEWERS]), "the clients see {contexts} contexts");
        let view_page = async |_| {
            poll("a viewer to see the page", async || {
                let (mut viewer, _) = rfb::connect_viewer(ns, session, view).await?;
                let share = viewer.picture().await?.share_of(GREEN);
                ensure!(share > 0.6, "the page covers only {share} of the display");
                Ok(viewer)
            })
            .await
        };
        viewers.extend(try_join_all((0..CLIENTS_AND_VIEWERS).map(view_page)).await?);
    }
    Ok(viewers)
}

#[test]
fn draining_the_node_honours_the_drain_timeout() {
    test_alone("node-drain", async |ns: TestNamespace| {
        const DRAIN: SignedDuration = SignedDuration::from_secs(15);
        let pool = json!({ "replicas": 2, "rollout": { "drainTimeoutSeconds": DRAIN.as_secs() } });
        ns.pool("pool", pool).await?;
        let session = ns.ready_session(json!({})).await?;
        let mut client = NodeClient::connect(&ns, &session).await?;
        let runner = session.runner().await?;
        let nodes = Api::<Node>::all(ns.fleet.client.clone());
        let node = ns
            .api::<Pod>()
            .get(&runner.name)
            .await?
            .spec
            .and_then(|spec| spec.node_name)
            .context("the pod has no node")?;

        // Before the cordon, only the disruption budget protects the session.
        match ns.api::<Pod>().evict(&runner.name, &EvictParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 429 => {}
            other => bail!("evicting a runner with a session returned {other:?} instead of 429"),
        }
        nodes.cordon(&node).await?;
        let drained = drain(&ns, &session, &runner.name, &mut client, DRAIN).await;
        nodes.uncordon(&node).await?;
        let restored = recreate_demo_session(&ns.fleet).await;
        drained.and(restored)?;
        ns.warm_pool("pool").await?;
        Ok(())
    });
}

/// Evicts the namespace's runners repeatedly, as `kubectl drain` does, until none remains, while a client drives the
/// session.
async fn drain(
    ns: &TestNamespace,
    session: &Session,
    runner: &str,
    client: &mut NodeClient,
    drain: SignedDuration,
) -> Result<()> {
    let pods = ns.api::<Pod>();
    let terminating =
        wait_for_object(&pods, runner, "to be terminating", |pod| pod.metadata.deletion_timestamp.is_some()).await?;
    let deleted_at = terminating
        .metadata
        .deletion_timestamp
        .as_ref()
        .map(|time| time.0)
        .context("the pod has no deletion timestamp")?
        - SignedDuration::from_secs(terminating.metadata.deletion_grace_period_seconds.unwrap_or_default());
    let evicting = poll("all runners to leave the node", async || {
        let on_node: Vec<_> = pods
            .list(&ListParams::default())
            .await?
            .into_iter()
            .filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()))
            .collect();
        for pod in &on_node {
            match pods.evict(&pod.name_any(), &EvictParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 429) => {}
                Err(error) => return Err(error.into()),
            }
        }
        ensure!(on_node.is_empty(), "{} remain", on_node.len());
        Ok(())
    });
    let driving = async {
        while client.run("return page.evaluate(() => 1)").await.is_ok() {}
        session.wait_until_finished().await
    };
    let (evicted, ended) = tokio::join!(evicting, driving);
    evicted?;
    let (object, end) = ended?;
    ensure!(end.reason == reasons::RUNNER_DRAINED, "the session ended as {}: {}", end.reason, end.message);
    let finished = object.status.and_then(|status| status.finished_time).context("the session has no finishedTime")?.0;
    // Kubernetes truncates deletion timestamps to whole seconds.
    ensure!(
        finished.duration_since(deleted_at) >= drain - SignedDuration::from_secs(1),
        "the session ended at {finished}, before the drain timeout; its pod was deleted at {deleted_at}"
    );
    Ok(())
}

/// Recreates the session of `dev/up`, because a cordon drains all runners of the node, including that session's.
async fn recreate_demo_session(fleet: &Fleet) -> Result<()> {
    let sessions = fleet.release::<BrowserSession>();
    let Some(demo) = sessions.get_opt("demo").await? else { return Ok(()) };
    let uid = demo.uid();
    sessions.delete("demo", &DeleteParams::default()).await?;
    wait_for(&sessions, "demo", "to be deleted", |session: Option<&BrowserSession>| {
        session.is_none_or(|session| session.uid() != uid)
    })
    .await?;
    let manifest = std::fs::read_to_string(repository_path("examples/demo.yaml"))?;
    sessions.create(&PostParams::default(), &serde_yaml::from_str(&manifest)?).await?;
    wait_for_object(&sessions, "demo", "to be Ready", |session| session.state() == SessionState::Ready).await?;
    Ok(())
}
