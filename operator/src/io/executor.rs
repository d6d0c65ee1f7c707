//! Carries out the core's effects. What they need, and how many of each kind are under way at once.

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

/// What effects need to be carried out.
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
    /// Events of what goes well, and of what does not.
    pub(super) normal_events: RateLimiter,
    pub(super) warnings: RateLimiter,
}

impl Executor {
    /// Nothing is under way yet; this process does not lead.
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
            reads: Semaphore::new(READS),
            urgent_writes: Semaphore::new(URGENT_WRITES),
            pod_creates: Semaphore::new(POD_CREATES),
            event_writes: Semaphore::new(EVENT_WRITES),
            normal_events: RateLimiter::new(EVENTS_PER_SECOND, EVENTS_AT_ONCE),
            warnings: RateLimiter::new(EVENTS_PER_SECOND, EVENTS_AT_ONCE),
        }
    }

    pub(super) fn send(&self, event: Event) {
        // Nobody listens any more only when the process stops.
        let _ = self.events.send(event);
    }

    /// Begins what an effect asks for; its answer comes back as an input.
    pub(super) fn execute(self: Arc<Self>, effect: Effect) {
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
            Effect::PublishEvent { session, normal, reason, note } => {
                tokio::spawn(async move { self.publish_event(session, normal, reason, note).await });
            }
        }
    }
}
