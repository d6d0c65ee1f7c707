//! What there is and what changes, as Server-Sent Events.
//!
//! A stream begins with `reset`, which holds everything, unless the reader comes back with a `Last-Event-ID` that is
//! known here. Then come `session` and `worker`, each with the whole of one that is new or changed, and `session-gone`
//! and `worker-gone`. A reader that was away for too long, or comes to another replica, is told `reset` again. When
//! nothing happens, `alive` is said every 15 s, by which a page tells a stream that is dead from one on which there is
//! no news.

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
        documents::{Everything, Gone},
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

/// Changes of so long a time are told together.
const BATCH_DELAY: Duration = Duration::from_millis(100);
/// While somebody reads, runners are asked this often for what happens in their sessions.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// On a stream on which nothing happens, `alive` is said this often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: &str = "last-event-id";

/// What there is and what changes, as Server-Sent Events: `reset` with everything, then `session`, `worker`, `session-gone` and
/// `worker-gone`; `alive` every 15 s when nothing happens. A reader that sends `Last-Event-ID` is told what it missed, or `reset` again.
#[utoipa::path(
    get, path = "/events", tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that the reader was events")),
    responses(
        (status = 200, content_type = "text/event-stream", body = String, description = "The data of each event is JSON: Everything, Session, Worker or Gone"),
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
    /// None: it has to be told everything.
    position: Option<Position>,
    /// When runners are asked next.
    next_poll: Instant,
}

impl Reader {
    /// The next events, which are at least one. None: the stream ends, since the gateway goes or the reader's token is good no longer.
    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            let Some(position) = self.position else { return Some(vec![self.reset()]) };
            let gateway = Arc::clone(&self.gateway);
            tokio::select! {
                biased;
                () = gateway.shutdown.draining() => return None,
                () = self.revoked() => return None,
                () = sleep_until(self.next_poll) => {
                    self.next_poll = Instant::now() + POLL_INTERVAL;
                    // In a task of its own, so that a silent runner does not delay the stream. Results arrive as
                    // changes.
                    let keys = gateway.sessions.keys_in(&self.namespace);
                    let asking = Arc::clone(&gateway);
                    gateway.shutdown.spawn(async move { activity::refresh(&asking, &keys, POLL_INTERVAL).await });
                    continue;
                }
                () = gateway.changes.wait_past(position) => {}
            }
            sleep(BATCH_DELAY).await;
            let missed = gateway.changes.since(position);
            self.position = missed.as_ref().map(|(_, position)| *position);
            let Some((changed, position)) = missed else { continue };
            let mut events: Vec<_> = changed.iter().filter_map(|changed| self.event_for(changed)).collect();
            // Who has read only a part is told all of it again.
            if let Some(last) = events.pop() {
                events.push(last.id(gateway.changes.event_id(position)));
                return Some(events);
            }
        }
    }

    fn reset(&mut self) -> Event {
        let (gateway, namespace) = (&self.gateway, &self.namespace);
        // Before it is looked at: what changes meanwhile is told again.
        let position = gateway.changes.end();
        self.position = Some(position);
        let everything = Everything {
            sessions: lookup::documents_in(gateway, namespace),
            workers: workers::documents_in(gateway, namespace),
        };
        event("reset", &everything).id(gateway.changes.event_id(position))
    }

    fn event_for(&self, changed: &Changed) -> Option<Event> {
        let gateway = &self.gateway;
        let gone = |key: &Key| Gone { id: key.name().to_owned() };
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

    async fn revoked(&self) {
        // A token that was given another role ends the stream, too: the client connects again with that role.
        self.gateway.auth.revoked(&self.principal, |now| now.role() == self.principal.role()).await;
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    Event::default().event(name).json_data(data).expect("documents serialize, and JSON has no line breaks")
}
