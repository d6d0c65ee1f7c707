//! The operator's clock. The wall clock of the node can be wrong, or be set while sessions wait. It is therefore read
//! once, advanced by the monotonic clock, and corrected by the `Date` header of the API server's responses about the
//! Lease.

use crate::core::{Monotonic, Now};
use http::{Request, header::DATE};
use k8s_openapi::jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use kube::{Client, client::Body};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// Tolerated offset from the API server's clock, because `Date` has whole seconds and responses have latency.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(3);

/// A clock that clones share.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    start: Instant,
    /// Wall time at `start`.
    started: Arc<Mutex<Timestamp>>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: Instant::now(), started: Arc::new(Mutex::new(Timestamp::now())) }
    }

    pub(super) fn now(&self) -> Now {
        let elapsed = SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::MAX);
        let started = *self.started.lock().unwrap_or_else(PoisonError::into_inner);
        Now {
            monotonic: Monotonic(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)),
            wall: started.saturating_add(elapsed).unwrap_or(started),
        }
    }

    /// Wraps a client, and corrects the clock by the `Date` header of each response (RFC 9110 section 6.6.1).
    pub(super) fn corrected_by(&self, client: Client) -> Client {
        let (clock, namespace) = (self.clone(), client.default_namespace().to_owned());
        let calling = tower::service_fn(move |request: Request<Body>| {
            let (client, clock) = (client.clone(), clock.clone());
            async move {
                let sent = clock.now().wall;
                let answer = client.send(request).await?;
                let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
                if let Some(date) = date.and_then(|date| rfc2822::DateTimeParser::new().parse_timestamp(date).ok()) {
                    clock.correct(sent, date);
                }
                Ok::<_, kube::Error>(answer)
            }
        });
        Client::new(calling, namespace)
    }

    /// Sets the clock to the API server's `date`, unless that lies between the time at which the request was `sent` and
    /// now, give or take the tolerance.
    fn correct(&self, sent: Timestamp, date: Timestamp) {
        let offset = date.duration_since(self.now().wall);
        if offset > TOLERANCE || date.duration_since(sent) < -TOLERANCE {
            tracing::warn!(seconds = offset.as_secs(), "adjusted the clock to the API server's");
            let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
            *started = started.saturating_add(offset).unwrap_or(*started);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;
    use std::convert::Infallible;

    const SECOND: SignedDuration = SignedDuration::from_secs(1);

    #[test]
    fn follows_the_api_server_when_the_offset_exceeds_the_tolerance() {
        let clock = Clock::start();
        let before = clock.now().wall;
        clock.correct(before, before - SECOND);
        // A response that took 5 s has an old date.
        clock.correct(before - SECOND * 5, before - SECOND * 5);
        assert!(clock.now().wall.duration_since(before).abs() < SECOND);
        let hour = SignedDuration::from_hours(1);
        for date in [before + hour, before - hour] {
            clock.correct(clock.now().wall, date);
            assert!(clock.now().wall.duration_since(date).abs() < SECOND);
        }
    }

    #[tokio::test]
    async fn reads_the_date_header() {
        let server = tower::service_fn(|_: Request<Body>| async {
            let answer = Response::builder().status(404).header(DATE, "Sun, 06 Nov 1994 08:49:37 GMT");
            Ok::<_, Infallible>(answer.body(Body::empty()).unwrap())
        });
        let clock = Clock::start();
        let client = clock.corrected_by(Client::new(server, "ns"));
        client.send(Request::new(Body::empty())).await.unwrap();
        let date: Timestamp = "1994-11-06T08:49:37Z".parse().unwrap();
        assert!(clock.now().wall.duration_since(date).abs() < SECOND);
    }
}
