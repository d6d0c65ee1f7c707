//! Runs the operator: starts the watches, the election and the admin listener, and drives the core.

use crate::{
    core::{Coordinator, Event, runner::pod_build::Installation},
    finalizers,
    io::{
        admin::{self, StatsRequest},
        clock::Clock,
        election,
        executor::Executor,
        runners::Runners,
        traces::Traces,
        watch,
    },
};
use anyhow::Context;
use camofleet_auth::{keystore, token::Issuer};
use camofleet_runtime::traces::Tracer;
use kube::{Client, Config};
use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Maximum number of queued requests for the statistics.
const STATS_REQUESTS: usize = 4;
/// Maximum number of events per step, without the reports of runners.
const BATCH: usize = 1024;
/// Maximum time between two steps.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// Configuration of the process.
#[derive(Debug)]
pub struct Options {
    /// Settings of the installation for all runner pods.
    pub installation: Installation,
    /// Namespace of the release, with its Lease, keys and ConfigMap.
    pub namespace: String,
    /// Holder identity in leader election: the name of this process's pod.
    pub identity: String,
    /// Listen address of probes and metrics.
    pub admin_listen: SocketAddr,
    /// Exports spans. `None` if traces are not enabled.
    pub tracer: Option<Arc<Tracer>>,
}

/// Runs until `stop` completes, and then releases the Lease. If the release's namespace is being deleted, no later
/// operator can run in it. This function then releases all pools: it removes the finalizer `camofleet.dev/drain` and
/// sets the reason `NoOperator`. Otherwise the namespace, and pools elsewhere, would wait for an operator.
///
/// # Errors
/// The API server cannot be used, or the admin address cannot be bound.
pub async fn run(options: Options, stop: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
    let config =
        Config::infer().await.context("no configuration for the API server: run in a pod, or set KUBECONFIG")?;
    let client = Client::try_from(config.clone()).context("cannot create a client for the API server")?;
    let namespace = options.namespace.clone();
    let ended = serve(options, config, client.clone(), stop).await;
    // This also applies after an error, because in a namespace that is being deleted an operator can create neither its
    // Lease nor its key.
    if finalizers::is_terminating(&client, &namespace).await {
        let cause = format!("the operator's namespace {namespace} was deleted");
        if let Err(error) = finalizers::release_pools(&client, &cause).await {
            tracing::error!("could not release all pools: {error:#}");
        }
    }
    ended
}

async fn serve(
    options: Options,
    config: Config,
    client: Client,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let (events, received) = mpsc::unbounded_channel();
    let watches = watch::start(&config, &options.namespace, &events).context("cannot watch the API server")?;
    let (signer, publication) =
        keystore::signer(&client, &options.namespace, Issuer::Operator).await.context("cannot load the signing key")?;
    // The task is aborted when this function returns.
    let mut publishing = JoinSet::new();
    publishing.spawn(publication.run());
    let clock = Clock::start();
    let executor = Arc::new(Executor::new(
        client.clone(),
        &options.identity,
        Runners::new(signer, clock.clone()),
        Traces::new(options.tracer, clock.clone()),
        events.clone(),
    ));
    let (stats_requests, received_stats_requests) = mpsc::channel(STATS_REQUESTS);
    let admin = admin::serve(options.admin_listen, executor.clone(), &watches, stats_requests)?;
    let core = Coordinator::new(options.installation);
    let driving = tokio::spawn(drive(core, received, received_stats_requests, executor.clone(), clock.clone()));

    let stopped = CancellationToken::new();
    let mut listed = watches.listed_count();
    let electing = async {
        // A leader with incomplete caches would take existing objects for deleted ones.
        let all_listed = tokio::select! {
            result = listed.wait_for(|count| watch::are_all_listed(*count)) => result.is_ok(),
            () = stopped.cancelled() => false,
        };
        if all_listed {
            let leadership = executor.leadership.clone();
            let (namespace, identity) = (&options.namespace, &options.identity);
            election::run(client, namespace, identity, clock, leadership, events, stopped.cancelled()).await;
        }
    };
    let stopping = async {
        stop.await;
        stopped.cancel();
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(electing, stopping) } => {}
        ended = driving => ended.context("the operator's core failed")?,
        ended = admin => ended.context("the admin listener failed")?,
    }
    Ok(())
}

/// Steps the core with the received events, and executes its effects. A step has at most [`BATCH`] events besides the
/// newest report of each runner. The reports come first, so that no report of an earlier term follows the start of the
/// next one. The statistics are computed only on request, because counting all queued sessions would slow down each
/// step.
async fn drive(
    mut core: Coordinator,
    mut received: UnboundedReceiver<Event>,
    mut stats_requests: mpsc::Receiver<StatsRequest>,
    executor: Arc<Executor>,
    clock: Clock,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let reports = executor.runners.reports();
    loop {
        let sleep = core.next_timer().map_or(MAX_SLEEP, |at| at.since(clock.now().monotonic).min(MAX_SLEEP));
        tokio::select! {
            count = received.recv_many(&mut batch, BATCH) => if count == 0 { return },
            Some(reply) = stats_requests.recv() => {
                // The request can have been cancelled.
                let _ = reply.send(core.stats(clock.now().monotonic));
                continue;
            }
            () = reports.arrived() => {}
            () = tokio::time::sleep(sleep) => {}
        }
        let events = reports.take().into_iter().chain(batch.drain(..));
        for effect in core.step(events, clock.now()) {
            executor.clone().execute(effect);
        }
    }
}
