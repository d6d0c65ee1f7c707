//! The gateway's Prometheus metrics. Every label has a small, fixed set of values.

use camofleet_runtime::server::Counts;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{fmt, sync::atomic::Ordering, time::Duration};

/// The outcome of a failed request or of a relayed connection: the values of the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// Rejected: no valid credential.
    Unauthorized,
    /// Rejected: the credential or the origin does not permit the request.
    Forbidden,
    /// Rejected: not a WebSocket handshake.
    NotWebSocket,
    /// Rejected: invalid request.
    BadRequest,
    /// Rejected: the session has no live view.
    NoLiveView,
    /// Rejected: another client holds the initial page.
    InitialPageHeld,
    /// Rejected: no such session, pool or path.
    NotFound,
    /// Rejected: the session has ended.
    Gone,
    /// Rejected: the session did not become Ready in time.
    NotReady,
    /// Rejected: the gateway is shutting down.
    Draining,
    /// Rejected: a request to the API server failed.
    ApiServer,
    /// Rejected: no connection to the runner.
    RunnerUnreachable,
    /// Rejected by the runner, which did not accept the gateway or the client.
    RunnerRefused,
    /// The client disconnected before the response, or a side disconnected before the upgrade completed.
    ClientLeft,
    /// Relayed until the client sent a Close frame.
    ClientClosed,
    /// Relayed until the client disconnected without a Close frame or stopped responding.
    ClientLost,
    /// Relayed until the runner sent a Close frame.
    RunnerClosed,
    /// Relayed until the runner disconnected without a Close frame. Its pod may still run.
    RunnerLost,
    /// Relayed until the session ended.
    SessionEnded,
    /// Relayed until the gateway closed the connection because it is shutting down.
    Drained,
    /// Relayed until the client's credential was revoked or expired.
    Revoked,
    /// Relayed until a side violated WebSocket or RFB.
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

/// Connections to the public listener, as the server in `camofleet-runtime` counts them.
struct Clients {
    connections: Gauge,
    unauthenticated: Gauge,
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
    /// Counts bytes that were relayed to a client.
    pub fn to_client(&self, bytes: usize) {
        self.to_client.inc_by(bytes as u64);
    }

    /// Counts bytes that were relayed to a runner.
    pub fn to_runner(&self, bytes: usize) {
        self.to_runner.inc_by(bytes as u64);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("camofleet_gateway");
        let open = Gauge::default();
        registry.register("connections_open", "Relayed connections that are open", open.clone());
        let outcomes = Family::default();
        registry.register("connections", "Failed requests and relayed connections, by outcome", outcomes.clone());
        let clients = Clients {
            connections: Gauge::default(),
            unauthenticated: Gauge::default(),
            shed: Counter::default(),
            refused: Counter::default(),
        };
        registry.register("clients_open", "Open connections to the public listener", clients.connections.clone());
        let help = "Open unauthenticated connections, and unauthenticated requests in progress behind trusted proxies";
        registry.register("clients_anonymous", help, clients.unauthenticated.clone());
        let help = "Unauthenticated connections, idle connections of trusted proxies, and unauthenticated requests \
                    behind them that were ended because a limit was reached";
        registry.register("clients_shed", help, clients.shed.clone());
        let help = "Connections that were closed at once because only authenticated ones were open, up to the limit";
        registry.register("clients_refused", help, clients.refused.clone());
        let bytes = Family::<ByDirection, Counter>::default();
        registry.register_with_unit("relayed", "Relayed bytes, by direction", Unit::Bytes, bytes.clone());
        let counter = |direction| bytes.get_or_create(&ByDirection { direction }).clone();
        let traffic = Traffic { to_client: counter(Direction::ToClient), to_runner: counter(Direction::ToRunner) };
        let dial = Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]);
        let help = "Time from the dial of a runner to the head of its response";
        registry.register_with_unit("dial", help, Unit::Seconds, dial.clone());
        Self { registry, open, outcomes, clients, traffic, dial }
    }
}

impl Metrics {
    /// Counts the outcome of a failed request or of a relayed connection.
    pub fn record(&self, outcome: Outcome) {
        self.outcomes.get_or_create(&ByOutcome { outcome }).inc();
    }

    /// Counts the start of a relayed connection.
    pub fn opened(&self) {
        self.open.inc();
    }

    /// Counts the end of a relayed connection, and its outcome.
    pub fn closed(&self, outcome: Outcome) {
        self.open.dec();
        self.record(outcome);
    }

    /// The counters of relayed bytes.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Records the time from the dial of a runner to the head of its response.
    pub fn observe_dial(&self, took: Duration) {
        self.dial.observe(took.as_secs_f64());
    }

    /// Renders all metrics in the OpenMetrics text format. `served`: the counts of the public listener.
    pub fn render(&self, served: Counts) -> Result<String, fmt::Error> {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.clients.connections.set(gauge(served.connections));
        self.clients.unauthenticated.set(gauge(served.unauthenticated));
        self.clients.shed.inner().store(served.shed, Ordering::Relaxed);
        self.clients.refused.inner().store(served.refused, Ordering::Relaxed);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
