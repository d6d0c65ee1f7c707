//! The fleet's own processes go and come back, and the node is emptied, while sessions are at work.

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
use camofleet_testkit::rfb::Viewer;
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

/// The operator's process in that pod.
fn operator_process(pod: &Pod) -> Result<host::Process> {
    host::find_process(&pod.uid().context("a pod has a UID")?, "the operator", |process| process.runs(OPERATOR))
}

/// Waits until a deployment has as many pods as it should, all available, and no other.
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
    .map(|_| ())
}

/// Replaces the pods of a component, as `kubectl rollout restart` does, one after another.
async fn restart(fleet: &Fleet, name: &str) -> Result<()> {
    let at = json!({ "spec": { "template": { "metadata": { "annotations": { "kubectl.kubernetes.io/restartedAt": Timestamp::now().to_string() } } } } });
    fleet.release::<Deployment>().patch(name, &PatchParams::default(), &Patch::Merge(at)).await?;
    wait_for_rollout(fleet, name).await
}

/// Each of these sessions is listed by at most one of the namespace's runners.
async fn ensure_no_session_is_on_two_runners(ns: &TestNamespace) -> Result<()> {
    let mut places = BTreeMap::<String, Vec<String>>::new();
    for (runner, state) in ns.runner_states().await? {
        for session in state.sessions {
            places.entry(session.uid).or_default().push(runner.clone());
        }
    }
    let twice: Vec<_> = places.iter().filter(|(_, runners)| runners.len() > 1).collect();
    ensure!(twice.is_empty(), "sessions are on several runners: {twice:?}");
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
                session.ready().await?;
                ensure_no_session_is_on_two_runners(&ns).await?;
                session.delete().await?;
                session.gone().await
            };
            try_join_all(sessions.iter().map(serve)).await.with_context(|| format!("round {round}"))?;
            let uids: Vec<_> = sessions.iter().map(|session| session.uid.clone()).collect();
            history.ensure_each_was_ready_once(&uids).with_context(|| format!("round {round}"))?;
            // A container that dies again is started later each time: the next one dies for the first time.
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
    wait_for_rollout(fleet, OPERATOR).await?;
    poll("the operators that are too many to go", async || {
        let count = fleet.running_pods("operator").await?.len();
        ensure!(count == usize::from(replicas), "there are {count}");
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
    client.run("await retryWhileUnavailable(connect); await page.evaluate(() => { window.kept = 'kept' })").await?;
    for round in 0..rounds() {
        ns.warm_pool_with_sessions("pool", 1).await?;
        let name = wait_for_object(&leases, OPERATOR, "to be held", |lease| holder(lease).is_some()).await?;
        let name = holder(&name).context("it is held")?.to_owned();
        let leader = ns.fleet.release::<Pod>().get(&name).await?;
        let process = operator_process(&leader)?;

        // In the middle of its work.
        let sessions = try_join_all((0..3).map(|_| ns.session(json!({})))).await?;
        process.signal(Signal::SIGSTOP)?;
        let taken_over = wait_for_object(&leases, OPERATOR, "to be held by another", |lease| {
            holder(lease).is_some_and(|holder| holder != name)
        })
        .await;
        let ready = try_join_all(sessions.iter().map(Session::ready)).await;
        process.signal(Signal::SIGCONT)?;
        taken_over.and(ready).with_context(|| format!("round {round}"))?;

        poll("the leader that slept to know that it leads no longer", async || {
            let leads = metrics::of(&leader).await?.sum("camofleet_operator_leader", &[]);
            ensure!(leads == 0.0, "it believes that it leads");
            Ok(())
        })
        .await?;
        ensure_no_session_is_on_two_runners(ns).await?;
        for session in &sessions {
            session.ready().await.context("a session ended when the former leader woke")?;
        }
        let kept = client.run("await retryWhileUnavailable(connect); return page.evaluate(() => window.kept)").await?;
        ensure!(kept == "kept", "round {round}: the live session was touched");
        let uids: Vec<_> = sessions.iter().map(|session| session.uid.clone()).collect();
        history.ensure_each_was_ready_once(&uids).with_context(|| format!("round {round}"))?;
        for session in &sessions {
            session.delete().await?;
            session.gone().await?;
        }
    }
    history.ensure_each_was_ready_once(std::slice::from_ref(&live.uid))
}

#[test]
fn clients_reconnect_after_a_gateway_rollout() {
    test_disrupting_gateways("gateways", async |ns: TestNamespace| {
        ns.pool("pool", json!({})).await?;
        let session = ns.ready_session(json!({})).await?;
        let mut client = NodeClient::connect(&ns, &session).await?;
        client.run("await page.evaluate(() => { window.kept = 'kept' })").await?;
        client.run("globalThis.own = await (await browser.newContext()).newPage(); await own.setContent('<title>own</title>')").await?;
        for round in 0..rounds() {
            restart(&ns.fleet, GATEWAY).await?;
            ensure!(client.run("return disconnected").await? == true, "round {round}: the client was not told");
            let found = client
                .run(
                    "await retryWhileUnavailable(connect);
                     const titles = await Promise.all(browser.contexts().flatMap((context) => context.pages()).map((page) => page.title()));
                     return [await page.evaluate(() => window.kept), titles.includes('own')]",
                )
                .await?;
            ensure!(found == json!(["kept", true]), "round {round}: who connects again finds {found}");
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
            let clients = NodeClient::connect(&ns, &session).await?;
            let view = issue_session_token(&ns, &session.name, &json!({ "scope": "view" })).await?;
            Ok((session, clients, view))
        };
        let mut watched = try_join_all((0..2).map(ready)).await?;
        let mut crowd = connect_clients_and_viewers(&ns, &mut watched).await?;
        for round in 0..rounds() {
            wait_for_terminated_gateways(&ns.fleet).await?;
            for gateway in ns.fleet.running_pods("gateway").await? {
                let pod = gateway.uid().context("a pod has a UID")?;
                host::find_process(&pod, "the gateway", |process| process.runs(GATEWAY))?.signal(Signal::SIGKILL)?;
            }
            let back = connect_clients_and_viewers(&ns, &mut watched)
                .await
                .with_context(|| format!("round {round}, killed"))?;
            drop(replace(&mut crowd, back));
            // A container that dies again is started later each time: the next one dies for the first time.
            restart(&ns.fleet, GATEWAY).await?;
            let back = connect_clients_and_viewers(&ns, &mut watched)
                .await
                .with_context(|| format!("round {round}, restarted"))?;
            drop(replace(&mut crowd, back));
            for (session, ..) in &watched {
                ensure!(session.object().await?.state() == SessionState::Ready, "round {round}: a session ended");
            }
        }
        Ok(())
    });
}

/// When no gateway is ready, a Service's last hope are those that are leaving, whose addresses go before their endpoints do: a
/// client that comes then is answered by nobody, for two minutes if it has so much patience.
async fn wait_for_terminated_gateways(fleet: &Fleet) -> Result<()> {
    poll("the gateways before these to be gone", async || {
        let (_, leaving) = fleet.running_and_terminating("gateway").await?;
        ensure!(leaving.is_empty(), "{} are leaving", leaving.len());
        Ok(())
    })
    .await
}

/// Five clients and five viewers of each session, each of whom tries until somebody lets it in, and finds the page.
async fn connect_clients_and_viewers(
    ns: &TestNamespace,
    watched: &mut [(Session, NodeClient, String)],
) -> Result<Vec<Viewer<impl AsyncRead + AsyncWrite + Unpin + use<>>>> {
    const CLIENTS_AND_VIEWERS: usize = 5;
    let mut viewers = Vec::new();
    for (session, clients, view) in watched {
        let come_back = format!(
            "globalThis.crowd = await Promise.all(Array.from({{ length: {CLIENTS_AND_VIEWERS} }}, () =>
               retryWhileUnavailable(() => playwright.firefox.connect(endpoint, options))));
             return Promise.all(crowd.map((browser) => browser.contexts()[0].pages()[0].title()));",
        );
        let titles = clients.run(&come_back).await?;
        ensure!(titles == json!(vec!["Green"; CLIENTS_AND_VIEWERS]), "the clients find {titles}");
        let look = async |_| {
            poll("a viewer to see the page", async || {
                let (mut viewer, _) = rfb::connect_viewer(ns, session, view).await?;
                let share = viewer.picture().await?.share_of(GREEN);
                ensure!(share > 0.6, "only {share} of the display has the page's colour");
                Ok(viewer)
            })
            .await
        };
        viewers.extend(try_join_all((0..CLIENTS_AND_VIEWERS).map(look)).await?);
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
        let node =
            ns.api::<Pod>().get(&runner.name).await?.spec.and_then(|spec| spec.node_name).context("it has no node")?;

        // Before the operator knows of the cordon: the budget alone protects the session.
        match ns.api::<Pod>().evict(&runner.name, &EvictParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 429 => {}
            other => bail!("the eviction of a runner with a session gave {other:?}"),
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

/// Evicts the namespace's runners as `kubectl drain` does, again until none is left, while a client works.
async fn drain(
    ns: &TestNamespace,
    session: &Session,
    runner: &str,
    client: &mut NodeClient,
    drain: SignedDuration,
) -> Result<()> {
    let pods = ns.api::<Pod>();
    let leaving =
        wait_for_object(&pods, runner, "to be told to go", |pod| pod.metadata.deletion_timestamp.is_some()).await?;
    let told_at = leaving.metadata.deletion_timestamp.as_ref().map(|time| time.0).context("it was told")?
        - SignedDuration::from_secs(leaving.metadata.deletion_grace_period_seconds.unwrap_or_default());
    let evicting = poll("every runner to be gone from the node", async || {
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
        ensure!(on_node.is_empty(), "{} are there", on_node.len());
        Ok(())
    });
    let working = async {
        while client.run("return page.evaluate(() => 1)").await.is_ok() {}
        session.finished().await
    };
    let (evicted, ended) = tokio::join!(evicting, working);
    evicted?;
    let (object, end) = ended?;
    ensure!(end.reason == reasons::RUNNER_DRAINED, "it ended as {}: {}", end.reason, end.message);
    let finished = object.status.and_then(|status| status.finished_time).context("no finishedTime")?.0;
    // Kubernetes writes the former in whole seconds.
    ensure!(
        finished.duration_since(told_at) >= drain - SignedDuration::from_secs(1),
        "it ended at {finished}, before its time: it was told at {told_at}"
    );
    Ok(())
}

/// A cordon empties all pools of the node, and the session that `dev/up` made drains with them: it is made anew.
async fn recreate_demo_session(fleet: &Fleet) -> Result<()> {
    let sessions = fleet.release::<BrowserSession>();
    let Some(demo) = sessions.get_opt("demo").await? else { return Ok(()) };
    let uid = demo.uid();
    sessions.delete("demo", &DeleteParams::default()).await?;
    wait_for(&sessions, "demo", "to be gone", |session: Option<&BrowserSession>| {
        session.is_none_or(|session| session.uid() != uid)
    })
    .await?;
    let manifest = std::fs::read_to_string(repository_path("examples/demo.yaml"))?;
    sessions.create(&PostParams::default(), &serde_yaml::from_str(&manifest)?).await?;
    wait_for_object(&sessions, "demo", "to be Ready", |session| session.state() == SessionState::Ready).await?;
    Ok(())
}
