//! The shell around the core: it watches, calls and writes, and decides nothing.

mod admin;
mod api_writes;
mod clock;
mod election;
mod metrics;
mod pace;
mod pruned;
mod rate_limit;
mod runner_calls;
mod traces;
mod watch;

use crate::{
    core::{Core, Effect, Input, Load, runner::pod_build::Installation},
    finalizers,
};
use anyhow::Context;
use camofleet_auth::{keystore, token::Issuer};
use camofleet_runtime::traces::Tracer;
use clock::Clock;
use election::Leadership;
pub use election::NAME as LEASE;
use kube::{
    Client, Config,
    runtime::events::{Recorder, Reporter},
};
use metrics::Metrics;
use pruned::PrunedFields;
use rate_limit::Allowance;
use runner_calls::Runners;
use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::{
    Semaphore,
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use traces::Traces;

/// Writes of what people wait for that are under way at once. The API server's own default for one client's share is of
/// that order; more only queue up there.
const URGENT_WRITES: usize = 64;
/// Reads past the cache that are under way at once.
const READS: usize = 8;
/// Runner pods that are made at once: claims go before them.
const POD_CREATES: usize = 8;
/// Events, which nobody waits for.
const EVENT_WRITES: usize = 4;
/// Events that are sent in a second, of either type, and those that were not sent before. Each costs the API server as much as
/// a status, and what they tell of a session stands in its conditions.
const EVENTS_PER_SECOND: f64 = 10.0;
const EVENTS_AT_ONCE: f64 = 50.0;
/// Askers of how busy the fleet is who may wait for an answer.
const LOAD_ASKS: usize = 4;
/// Inputs that are taken in as one step at most.
const BATCH: usize = 1024;
/// A core that has nothing to do is asked again after so long.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

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

/// Asks the core how busy the fleet is. None: this process does not lead.
type LoadAsk = oneshot::Sender<Option<Load>>;

/// What effects need to be carried out.
struct Shell {
    client: Client,
    leadership: Leadership,
    runners: Runners,
    recorder: Recorder,
    metrics: Metrics,
    pruned: PrunedFields,
    traces: Traces,
    inputs: UnboundedSender<Input>,
    reads: Semaphore,
    urgent_writes: Semaphore,
    pod_creates: Semaphore,
    event_writes: Semaphore,
    /// Events of what goes well, and of what does not.
    normal_events: Allowance,
    warnings: Allowance,
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
    let (inputs, received) = mpsc::unbounded_channel();
    let watches = watch::start(&config, &options.namespace, &inputs).context("cannot watch the API server")?;
    let (signer, publication) =
        keystore::signer(&client, &options.namespace, Issuer::Operator).await.context("no key to sign with")?;
    // Stops when this function returns.
    let mut publishing = JoinSet::new();
    publishing.spawn(publication.keep());
    let clock = Clock::start();
    let reporter =
        Reporter { controller: "camofleet.dev/operator".to_owned(), instance: Some(options.identity.clone()) };
    let shell = Arc::new(Shell {
        recorder: Recorder::new(client.clone(), reporter),
        client: client.clone(),
        leadership: Leadership::default(),
        runners: Runners::new(signer, clock.clone()),
        metrics: Metrics::default(),
        pruned: PrunedFields::default(),
        traces: Traces::new(options.tracer, clock.clone()),
        inputs: inputs.clone(),
        reads: Semaphore::new(READS),
        urgent_writes: Semaphore::new(URGENT_WRITES),
        pod_creates: Semaphore::new(POD_CREATES),
        event_writes: Semaphore::new(EVENT_WRITES),
        normal_events: Allowance::new(EVENTS_PER_SECOND, EVENTS_AT_ONCE),
        warnings: Allowance::new(EVENTS_PER_SECOND, EVENTS_AT_ONCE),
    });
    let (load_asks, asked) = mpsc::channel(LOAD_ASKS);
    let admin = admin::serve(options.admin_listen, shell.clone(), &watches, load_asks)?;
    let core = Core::new(options.installation);
    let driving = tokio::spawn(drive(core, received, asked, shell.clone(), clock.clone()));

    let stopped = CancellationToken::new();
    let mut warm = watches.warm();
    let electing = async {
        // A leader with cold caches would believe that nothing is there.
        let warmed = tokio::select! {
            warmed = warm.wait_for(|read| watch::is_warm(*read)) => warmed.is_ok(),
            () = stopped.cancelled() => false,
        };
        if warmed {
            let leadership = shell.leadership.clone();
            let (namespace, identity) = (&options.namespace, &options.identity);
            election::run(client, namespace, identity, clock, leadership, inputs, stopped.cancelled()).await;
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
    mut received: UnboundedReceiver<Input>,
    mut asked: mpsc::Receiver<LoadAsk>,
    shell: Arc<Shell>,
    clock: Clock,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let reports = shell.runners.reports();
    loop {
        let sleep = core.wake().map_or(LONGEST_SLEEP, |at| at.since(clock.now().mono).min(LONGEST_SLEEP));
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
        let inputs = reports.take().into_iter().chain(batch.drain(..));
        for effect in core.step(inputs, clock.now()) {
            shell.clone().carry_out(effect);
        }
    }
}

impl Shell {
    fn tell(&self, input: Input) {
        // Nobody listens any more only when the process stops.
        let _ = self.inputs.send(input);
    }

    /// Begins what an effect asks for; its answer comes back as an input.
    fn carry_out(self: Arc<Self>, effect: Effect) {
        match effect {
            Effect::Follow { pod, address, slots } => {
                self.runners.follow(pod, address, slots, self.leadership.clone());
            }
            Effect::Unfollow { pod } => self.runners.unfollow(&pod),
            Effect::Observe(observation) => {
                self.metrics.observe(&observation);
                self.traces.observe(&observation);
                self.pruned.observe(&observation);
            }
            Effect::Forget { pool } => self.metrics.forget(&pool),
            Effect::Bind { session, pod, address, request, starts } => {
                tokio::spawn(async move { self.bind(session, pod, address, request, starts).await });
            }
            Effect::End { session, pod, address } => {
                tokio::spawn(async move { self.end(session, pod, address).await });
            }
            Effect::PatchSession { session, status, urgent } => {
                tokio::spawn(async move { self.patch_session(session, *status, urgent).await });
            }
            Effect::ReadSession { key, session } => {
                tokio::spawn(async move { self.read_session(key, session).await });
            }
            Effect::ReadPod { key, pod, session } => {
                tokio::spawn(async move { self.read_pod(key, pod, session).await });
            }
            Effect::DeleteSession { key, session } => {
                tokio::spawn(async move { self.delete_session(key, session).await });
            }
            Effect::CreatePod { pool, pod } => {
                tokio::spawn(async move { self.create_pod(pool, *pod).await });
            }
            Effect::DeletePod { key, pod, why } => {
                tokio::spawn(async move { self.delete_pod(key, pod, why).await });
            }
            Effect::AnnotatePod { key, pod, keys } => {
                tokio::spawn(async move { self.annotate_pod(key, pod, keys).await });
            }
            Effect::PatchPool { pool, status } => {
                tokio::spawn(async move { self.patch_pool(pool, *status).await });
            }
            Effect::FinalizePool { pool, finalizers } => {
                tokio::spawn(async move { self.finalize_pool(pool, finalizers).await });
            }
            Effect::ProtectPool { pool } => {
                tokio::spawn(async move { self.protect_pool(pool).await });
            }
            Effect::Tell { session, normal, reason, note } => {
                tokio::spawn(async move { self.publish_event(session, normal, reason, note).await });
            }
        }
    }
}
