//! Runs the operator: starts the watches, the election and the admin listener, and steps the core.

use crate::{
    core::{Core, Event, runner::pod_build::Installation},
    finalizers,
    io::{
        admin::{self, LoadRequest},
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

/// Askers of how busy the fleet is who may wait for an answer.
const LOAD_REQUESTS: usize = 4;
/// Inputs that are taken in as one step at most.
const BATCH: usize = 1024;
/// A core that has nothing to do is asked again after so long.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// What the process was started with.
#[derive(Debug)]
pub struct Options {
    /// What all runner pods get from the installation.
    pub installation: Installation,
    /// Namespace of the release: its Lease, keys and ConfigMap.
    pub namespace: String,
    /// The name under which this process leads: its pod's.
    pub identity: String,
    /// Where probes and metrics are served.
    pub admin_listen: SocketAddr,
    /// Where spans go, if anywhere.
    pub tracer: Option<Arc<Tracer>>,
}

/// Runs until `stop`, and then gives the lease back. When the release's namespace is being deleted, no operator will follow in
/// it: then the finalizers are removed from all pools, so that neither the namespace nor a pool elsewhere waits for an operator.
///
/// # Errors
/// When the API server cannot be used at all, or the admin address cannot be had.
pub async fn run(options: Options, stop: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
    let config =
        Config::infer().await.context("no configuration for the API server: run in a pod, or set KUBECONFIG")?;
    let client = Client::try_from(config.clone()).context("cannot make a client for the API server")?;
    let namespace = options.namespace.clone();
    let ended = serve(options, config, client.clone(), stop).await;
    // Also after a failure: in a namespace that is being deleted, a restarted operator gets neither its Lease nor its key.
    if finalizers::is_terminating(&client, &namespace).await {
        let cause = format!("the operator's namespace {namespace} was deleted");
        if let Err(error) = finalizers::abandon_pools(&client, &cause).await {
            tracing::error!("could not abandon all pools: {error:#}");
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
        keystore::signer(&client, &options.namespace, Issuer::Operator).await.context("no key to sign with")?;
    // Stops when this function returns.
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
    let (load_requests, asked) = mpsc::channel(LOAD_REQUESTS);
    let admin = admin::serve(options.admin_listen, executor.clone(), &watches, load_requests)?;
    let core = Core::new(options.installation);
    let driving = tokio::spawn(drive(core, received, asked, executor.clone(), clock.clone()));

    let stopped = CancellationToken::new();
    let mut warm = watches.warm();
    let electing = async {
        // A leader with cold caches would believe that nothing is there.
        let warmed = tokio::select! {
            warmed = warm.wait_for(|read| watch::is_warm(*read)) => warmed.is_ok(),
            () = stopped.cancelled() => false,
        };
        if warmed {
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

/// Steps the core with the events that arrived, and carries out its effects. The newest report of each runner comes before all
/// other events, so that no report of an earlier term follows the start of the next one. The load is computed only on request,
/// because counting all waiting sessions would slow each step.
async fn drive(
    mut core: Core,
    mut received: UnboundedReceiver<Event>,
    mut asked: mpsc::Receiver<LoadRequest>,
    executor: Arc<Executor>,
    clock: Clock,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let reports = executor.runners.reports();
    loop {
        let sleep = core.wake().map_or(MAX_SLEEP, |at| at.since(clock.now().mono).min(MAX_SLEEP));
        tokio::select! {
            count = received.recv_many(&mut batch, BATCH) => if count == 0 { return },
            Some(ask) = asked.recv() => {
                // Who asked may have gone.
                let _ = ask.send(core.load(clock.now().mono));
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
