//! Holds idle connections to a runner for two minutes, during which no container restarts and the gateway keeps
//! connecting clients to the session. `dev/test --long flood` runs this test.

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

/// Concurrent connections.
const IDLE_CONNECTIONS: usize = 1500;
const DURATION: Duration = Duration::from_secs(120);
/// Longest time that the gateway may take to connect a client. Unlike other tests, this one measures time, because the
/// requirement is one.
const MAX_CONNECT_TIME: Duration = Duration::from_secs(1);
/// Pause between two connections of clients.
const PAUSE: Duration = Duration::from_millis(500);
/// Pause before an idle connection that was closed is reopened. The runner closes most of them in favour of newer ones,
/// so without a pause the test would measure how many connections the machine can open.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

#[test]
fn idle_connections_restart_no_container_and_delay_no_client() {
    test_alone("flood", async |ns: TestNamespace| {
        files::raise_limit(u64::MAX)?;
        ns.pool("pool", json!({})).await?;
        let session = ns.ready_session(json!({ "poolRef": { "name": "pool" } })).await?;
        let (runner, url) = (session.runner().await?, session.ws_endpoint().await?);
        let runner: SocketAddr = runner.address.parse().context("the runner's address has no IP and port")?;
        ensure!(runner.port() == PORT, "the runner's address is {runner}, expected port {PORT}");
        let restarts = restarts(&ns).await?;

        let (mut idle, connected) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..IDLE_CONNECTIONS {
            idle.spawn(hold(runner, Arc::clone(&connected)));
        }
        let token = ns.fleet.admin_token()?;
        let (began, mut attempts) = (Instant::now(), 0);
        while began.elapsed() < DURATION {
            let start = Instant::now();
            drop(open_websocket(&url, &token).await?);
            let took = start.elapsed();
            ensure!(took < MAX_CONNECT_TIME, "connection {attempts} took {took:?}");
            attempts += 1;
            tokio::time::sleep(PAUSE).await;
        }
        ensure!(connected.load(Ordering::Relaxed) >= IDLE_CONNECTIONS, "not all idle connections were opened");
        NodeClient::connect(&ns, &session).await?.run("await page.goto('data:text/html,<title>x</title>')").await?;
        idle.shutdown().await;
        ensure!(self::restarts(&ns).await? == restarts, "containers were restarted");
        Ok(())
    });
}

/// Holds a connection without sending, and reopens it when it is closed.
async fn hold(runner: SocketAddr, connected: Arc<AtomicUsize>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(runner).await {
            connected.fetch_add(1, Ordering::Relaxed);
            stream.read_u8().await.ok();
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Restart counts of the containers of the release and of the test, by pod.
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
