//! Streams sessions, pools and their changes as Server-Sent Events.
//!
//! A stream begins with `reset`, which contains all sessions and pools. Then follow `session` and `worker`, each with a
//! new or changed object, and `session-gone` and `worker-gone`. A reader that reconnects with a recent `Last-Event-ID`
//! of the same replica gets the changes that it missed; any other reader gets another `reset`. On an idle stream,
//! `alive` is sent every 15 s, so that a page can distinguish a dead stream from an idle one.

use crate::{
    auth::{
        extract::{MayRead, Namespace},
        principal::Principal,
    },
    cache::{
        changes::{Changed, Position},
        session::Key,
    },
    error::Problem,
    rest::{
        activity, compat,
        documents::{Deletion, Snapshot},
        lookup, workers,
    },
    state::Gateway,
};
use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue};
use serde::Serialize;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};

/// How long to collect changes into one batch.
const BATCH_DELAY: Duration = Duration::from_millis(100);
/// Interval of the polls for activity while a reader is connected.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Interval of `alive` on an idle stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: &str = "last-event-id";

/// Streams sessions, pools and their changes as Server-Sent Events.
///
/// The first event is `reset` with all sessions and pools. Then follow `session`, `worker`, `session-gone` and
/// `worker-gone`, and `alive` every 15 s on an idle stream. A reader that sends `Last-Event-ID` gets the changes that
/// it missed, or another `reset`.
#[utoipa::path(
    get, path = "/events", tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that the reader received")),
    responses(
        (
            status = 200, content_type = "text/event-stream", body = String,
            description = "The data of each event is JSON: Snapshot, Session, Worker or Deletion",
        ),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 503, body = Problem),
    )
)]
pub async fn events(
    MayRead { target: Namespace(namespace), principal }: MayRead<Namespace>,
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
) -> Response {
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let position = last.and_then(|id| gateway.changes.parse_event_id(id));
    let reader = Reader { gateway, namespace, principal, position, next_poll: Instant::now() };
    let batches = stream::unfold(reader, |mut reader| async {
        let events = reader.next().await?;
        Some((stream::iter(events), reader))
    });
    let alive = KeepAlive::new().interval(KEEP_ALIVE).event(Event::default().event("alive").data("{}"));
    let sse = Sse::new(batches.flatten().map(Ok::<_, Infallible>)).keep_alive(alive);
    let mut response = sse.into_response();
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Reader {
    gateway: Arc<Gateway>,
    namespace: String,
    principal: Principal,
    /// None: the next event is `reset`.
    position: Option<Position>,
    /// When runners are polled next.
    next_poll: Instant,
}

impl Reader {
    /// Waits for the next events, at least one. None when the stream ends, because the gateway drains or the reader's
    /// credential is no longer valid.
    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            let Some(position) = self.position else { return Some(vec![self.reset()]) };
            let gateway = Arc::clone(&self.gateway);
            tokio::select! {
                biased;
                () = gateway.shutdown.draining() => return None,
                () = self.wait_until_invalid() => return None,
                () = sleep_until(self.next_poll) => {
                    self.next_poll = Instant::now() + POLL_INTERVAL;
                    // In a separate task, so that a slow runner does not delay the stream. The results arrive as
                    // changes.
                    let keys = gateway.sessions.keys_in(&self.namespace);
                    let polling = Arc::clone(&gateway);
                    gateway.shutdown.spawn(async move { activity::refresh(&polling, &keys, POLL_INTERVAL).await });
                    continue;
                }
                () = gateway.changes.wait_past(position) => {}
            }
            sleep(BATCH_DELAY).await;
            let missed = gateway.changes.since(position);
            self.position = missed.as_ref().map(|(_, position)| *position);
            let Some((changed, position)) = missed else { continue };
            let mut events: Vec<_> = changed.iter().filter_map(|changed| self.event_for(changed)).collect();
            // Only the last event of a batch has an id, so a reader that received a part of the batch gets all of it
            // again.
            if let Some(last) = events.pop() {
                events.push(last.id(gateway.changes.event_id(position)));
                return Some(events);
            }
        }
    }

    fn reset(&mut self) -> Event {
        let (gateway, namespace) = (&self.gateway, &self.namespace);
        // Taken before the objects are read, so that a concurrent change is sent again.
        let position = gateway.changes.end();
        self.position = Some(position);
        let snapshot = Snapshot {
            sessions: lookup::documents_in(gateway, namespace),
            workers: workers::documents_in(gateway, namespace),
        };
        event("reset", &snapshot).id(gateway.changes.event_id(position))
    }

    fn event_for(&self, changed: &Changed) -> Option<Event> {
        let gateway = &self.gateway;
        let gone = |key: &Key| Deletion { id: key.name().to_owned() };
        match changed {
            Changed::Session(key) if key.namespace() == self.namespace => {
                Some(match lookup::document_of(gateway, key) {
                    Some(session) => event("session", &session),
                    None => event("session-gone", &gone(key)),
                })
            }
            Changed::Pool(key) if key.namespace() == self.namespace => Some(match gateway.pools.get(key) {
                Some(pool) => event("worker", &compat::worker(&pool)),
                None => event("worker-gone", &gone(key)),
            }),
            Changed::Session(_) | Changed::Pool(_) => None,
        }
    }

    async fn wait_until_invalid(&self) {
        // A change of the token's role also ends the stream. The client reconnects with the new role.
        self.gateway.auth.wait_until_invalid(&self.principal, |now| now.role() == self.principal.role()).await;
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    Event::default().event(name).json_data(data).expect("documents serialize to JSON without line breaks")
}
