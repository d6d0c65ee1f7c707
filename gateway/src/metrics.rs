//! What is counted. Every label has a handful of values, written down here.

use camofleet_runtime::server::Counts;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{fmt, sync::atomic::Ordering, time::Duration};

/// What became of a connection that was asked for. The values of the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// No token, or none that is good.
    Unauthorized,
    /// A token or an origin that may not do this.
    Forbidden,
    /// No WebSocket was asked for.
    NotWebSocket,
    /// The request cannot be understood.
    BadRequest,
    /// The session has no live view.
    NoLiveView,
    /// No session of that name.
    NotFound,
    /// The session was over.
    Gone,
    /// The session did not become Ready in time.
    NotReady,
    /// The gateway was going.
    Draining,
    /// The API server could not be asked.
    ApiServer,
    /// The runner could not be reached.
    RunnerUnreachable,
    /// The runner refused the connection.
    RunnerRefused,
    /// The client went before the connection stood.
    ClientLeft,
    /// Relayed until the client said goodbye.
    ClientClosed,
    /// Relayed until the client was lost.
    ClientLost,
    /// Relayed until the runner said goodbye.
    RunnerClosed,
    /// Relayed until the runner was lost.
    RunnerLost,
    /// Relayed until the session was over.
    SessionEnded,
    /// Relayed until the gateway went.
    Drained,
    /// Relayed until the client's token was good no longer.
    Revoked,
    /// Relayed until somebody sent what is no WebSocket.
    ProtocolError,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByDirection {
    direction: Direction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Direction {
    ToClient,
    ToRunner,
}

/// The gateway's metrics.
pub struct Metrics {
    registry: Registry,
    open: Gauge,
    outcomes: Family<ByOutcome, Counter>,
    clients: Clients,
    traffic: Traffic,
    dial: Histogram,
}

/// The public listener's connections, as its server counts them.
struct Clients {
    connections: Gauge,
    anonymous: Gauge,
    shed: Counter,
    refused: Counter,
}

/// Counts relayed bytes.
#[derive(Clone, Default)]
pub struct Traffic {
    to_client: Counter,
    to_runner: Counter,
}

impl Traffic {
    /// So many more bytes went to a client.
    pub fn to_client(&self, bytes: usize) {
        self.to_client.inc_by(bytes as u64);
    }

    /// So many more bytes went to a runner.
    pub fn to_runner(&self, bytes: usize) {
        self.to_runner.inc_by(bytes as u64);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("camofleet_gateway");
        let open = Gauge::default();
        registry.register("connections_open", "Connections that are relayed now", open.clone());
        let outcomes = Family::default();
        registry.register("connections", "Connections that were asked for, by what became of them", outcomes.clone());
        let clients = Clients {
            connections: Gauge::default(),
            anonymous: Gauge::default(),
            shed: Counter::default(),
            refused: Counter::default(),
        };
        registry.register(
            "clients_open",
            "Connections of clients, whether relayed or not",
            clients.connections.clone(),
        );
        let help =
            "Connections of clients without a valid credential, and such requests that came through trusted proxies";
        registry.register("clients_anonymous", help, clients.anonymous.clone());
        let help = "Those without a valid credential that were closed because there were too many";
        registry.register("clients_shed", help, clients.shed.clone());
        let help = "Connections that were closed at once because there were too many with a valid credential";
        registry.register("clients_refused", help, clients.refused.clone());
        let bytes = Family::<ByDirection, Counter>::default();
        registry.register_with_unit("relayed", "Bytes that were relayed, by direction", Unit::Bytes, bytes.clone());
        let counter = |direction| bytes.get_or_create(&ByDirection { direction }).clone();
        let traffic = Traffic { to_client: counter(Direction::ToClient), to_runner: counter(Direction::ToRunner) };
        let dial = Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]);
        let help = "From the dial of a runner to the head of its answer";
        registry.register_with_unit("dial", help, Unit::Seconds, dial.clone());
        Self { registry, open, outcomes, clients, traffic, dial }
    }
}

impl Metrics {
    /// A connection that was asked for came to this.
    pub fn record(&self, outcome: Outcome) {
        self.outcomes.get_or_create(&ByOutcome { outcome }).inc();
    }

    /// A connection is relayed from now on.
    pub fn opened(&self) {
        self.open.inc();
    }

    /// A connection is no longer relayed, and ended like this.
    pub fn closed(&self, outcome: Outcome) {
        self.open.dec();
        self.record(outcome);
    }

    /// Counts relayed bytes.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Records how long a runner took to answer.
    pub fn observe_dial(&self, took: Duration) {
        self.dial.observe(took.as_secs_f64());
    }

    /// All of it, in OpenMetrics text, with what the public listener's server counts.
    pub fn render(&self, served: Counts) -> Result<String, fmt::Error> {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.clients.connections.set(gauge(served.connections));
        self.clients.anonymous.set(gauge(served.anonymous));
        self.clients.shed.inner().store(served.shed, Ordering::Relaxed);
        self.clients.refused.inner().store(served.refused, Ordering::Relaxed);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
