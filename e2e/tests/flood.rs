//! Silent connections to a runner for two minutes: nothing restarts, and the gateway connects clients to the session all the
//! while. `dev/test --long flood` runs it.

use anyhow::{Context, Result, ensure};
use camofleet_e2e::{
    TestNamespace, clients::NodeClient, endpoints::open_websocket, fleet::RELEASE_NAMESPACE, test_alone,
};
use camofleet_runner_api::PORT;
use camofleet_runtime::files;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet};

/// Connections at once.
const SILENT: usize = 1500;
const DURATION: Duration = Duration::from_secs(120);
/// The longest that the gateway may take to connect a client. The requirement itself is a time, so unlike other tests this one
/// measures it.
const LONGEST_CALL: Duration = Duration::from_secs(1);
/// Between two calls.
const PAUSE: Duration = Duration::from_millis(500);
/// From the end of a connection to the next attempt. The runner closes most of them for the newest; without a pause this would
/// measure how many connections the machine can make.
const RECONNECT: Duration = Duration::from_secs(1);

#[test]
fn idle_connections_restart_no_container_and_delay_no_client() {
    test_alone("flood", async |ns: TestNamespace| {
        files::raise_limit(u64::MAX)?;
        ns.pool("pool", json!({})).await?;
        let session = ns.ready_session(json!({ "poolRef": { "name": "pool" } })).await?;
        let (runner, url) = (session.runner().await?, session.ws_endpoint().await?);
        let runner: SocketAddr = runner.address.parse().context("the runner's address")?;
        ensure!(runner.port() == PORT, "the runner's API is at {runner}");
        let restarts = restarts(&ns).await?;

        let (mut silent, connected) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..SILENT {
            silent.spawn(hold(runner, Arc::clone(&connected)));
        }
        let token = ns.fleet.admin_token()?;
        let (began, mut calls) = (Instant::now(), 0);
        while began.elapsed() < DURATION {
            let asked = Instant::now();
            drop(open_websocket(&url, &token).await?);
            let took = asked.elapsed();
            ensure!(took < LONGEST_CALL, "call {calls} took {took:?}");
            calls += 1;
            tokio::time::sleep(PAUSE).await;
        }
        ensure!(connected.load(Ordering::Relaxed) >= SILENT, "not all silent connections were made");
        NodeClient::connect(&ns, &session).await?.run("await page.goto('data:text/html,<title>x</title>')").await?;
        silent.shutdown().await;
        ensure!(self::restarts(&ns).await? == restarts, "containers were restarted");
        Ok(())
    });
}

/// Holds a connection on which nothing is sent, and makes another one when it is closed.
async fn hold(runner: SocketAddr, connected: Arc<AtomicUsize>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(runner).await {
            connected.fetch_add(1, Ordering::Relaxed);
            stream.read_u8().await.ok();
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// How often the containers of the fleet and of the test were restarted, by pod.
async fn restarts(ns: &TestNamespace) -> Result<BTreeMap<String, i32>> {
    let fleet = Api::<Pod>::namespaced(ns.fleet.client.clone(), RELEASE_NAMESPACE);
    let mut pods = fleet.list(&ListParams::default()).await?.items;
    pods.extend(ns.runners().await?);
    let count = |pod: Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let restarts = statuses.into_iter().flatten().map(|status| status.restart_count).sum();
        (pod.name_any(), restarts)
    };
    Ok(pods.into_iter().map(count).collect())
}
