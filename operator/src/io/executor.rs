//! Executes the core's effects, and limits how many run concurrently.

use crate::core::{Effect, Event};
use crate::io::{
    election::Leadership, metrics::Metrics, pruned::PrunedFields, rate_limit::RateLimiter, runners::Runners,
    traces::Traces,
};
use kube::{
    Client,
    runtime::events::{Recorder, Reporter},
};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc::UnboundedSender};

/// Concurrent writes that users wait for. It is of the same order as the API server's default
/// concurrency share for one client, where more would only queue.
const MAX_CONCURRENT_URGENT_WRITES: usize = 64;
/// Concurrent uncached reads.
const MAX_CONCURRENT_READS: usize = 8;
/// Concurrent pod creations. The limit leaves capacity for statuses of sessions.
const MAX_CONCURRENT_POD_CREATES: usize = 8;
/// Concurrent writes of Kubernetes events, which have the lowest priority.
const MAX_CONCURRENT_EVENT_WRITES: usize = 4;
/// Rate and burst of Kubernetes events, for each of the two types. An event costs the API server as much as a status,
/// and the conditions of the session have the same information.
const EVENTS_PER_SECOND: f64 = 10.0;
const EVENT_BURST: f64 = 50.0;

/// Clients, limits and observers for the execution of effects.
pub(super) struct Executor {
    pub(super) client: Client,
    pub(super) leadership: Leadership,
    pub(super) runners: Runners,
    pub(super) recorder: Recorder,
    pub(super) metrics: Metrics,
    pub(super) pruned: PrunedFields,
    pub(super) traces: Traces,
    pub(super) events: UnboundedSender<Event>,
    pub(super) reads: Semaphore,
    pub(super) urgent_writes: Semaphore,
    pub(super) pod_creates: Semaphore,
    pub(super) event_writes: Semaphore,
    /// Limits Kubernetes events of type `Normal`.
    pub(super) normal_events: RateLimiter,
    /// Limits Kubernetes events of type `Warning`.
    pub(super) warnings: RateLimiter,
}

impl Executor {
    /// An executor of a process that does not lead yet.
    pub(super) fn new(
        client: Client,
        identity: &str,
        runners: Runners,
        traces: Traces,
        events: UnboundedSender<Event>,
    ) -> Self {
        let reporter =
            Reporter { controller: "camofleet.dev/operator".to_owned(), instance: Some(identity.to_owned()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            leadership: Leadership::default(),
            runners,
            metrics: Metrics::default(),
            pruned: PrunedFields::default(),
            traces,
            events,
            reads: Semaphore::new(MAX_CONCURRENT_READS),
            urgent_writes: Semaphore::new(MAX_CONCURRENT_URGENT_WRITES),
            pod_creates: Semaphore::new(MAX_CONCURRENT_POD_CREATES),
            event_writes: Semaphore::new(MAX_CONCURRENT_EVENT_WRITES),
            normal_events: RateLimiter::new(EVENTS_PER_SECOND, EVENT_BURST),
            warnings: RateLimiter::new(EVENTS_PER_SECOND, EVENT_BURST),
        }
    }

    pub(super) fn send(&self, event: Event) {
        // The receiver is dropped only when the process stops.
        let _ = self.events.send(event);
    }

    /// Starts an effect. Its result is sent to the core as an event.
    pub(super) fn execute(self: Arc<Self>, effect: Effect) {
        match effect {
            Effect::StreamReports { pod, key, address, slots } => {
                self.runners.start_stream((pod, key), address, slots, self.leadership.clone());
            }
            Effect::StopStreaming { pod } => self.runners.stop_stream(&pod),
            Effect::Observe(observation) => {
                self.metrics.observe(&observation);
                self.traces.observe(&observation);
                self.pruned.observe(&observation);
            }
            Effect::DeletePoolMetrics { pool } => self.metrics.forget(&pool),
            Effect::Bind { session, pod, key, address, request, is_new } => {
                tokio::spawn(async move { self.bind(session, (pod, key), address, request, is_new).await });
            }
            Effect::EndSession { session, pod, key, address } => {
                tokio::spawn(async move { self.end(session, (pod, key), address).await });
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
            Effect::DeletePod { key, pod, reason } => {
                tokio::spawn(async move { self.delete_pod(key, pod, reason).await });
            }
            Effect::AnnotatePod { key, pod, keys } => {
                tokio::spawn(async move { self.annotate_pod(key, pod, keys).await });
            }
            Effect::PatchPool { pool, status } => {
                tokio::spawn(async move { self.patch_pool(pool, *status).await });
            }
            Effect::SetFinalizers { pool, finalizers } => {
                tokio::spawn(async move { self.set_finalizers(pool, finalizers).await });
            }
            Effect::ApplyDisruptionBudget { pool } => {
                tokio::spawn(async move { self.apply_disruption_budget(pool).await });
            }
            Effect::PublishEvent { session, type_, reason, note } => {
                tokio::spawn(async move { self.publish_event(session, type_, reason, note).await });
            }
        }
    }
}
