//! Runs the real operator binary, and reads its metrics and readiness.

use crate::{
    binaries::OperatorProgram,
    daemon::{Daemon, Spec},
    machine::Usage,
};
use anyhow::{Context, Result, bail};
use camofleet_testkit::metrics::{Metrics, Sample};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

/// The operator's namespace.
pub const NAMESPACE: &str = "camo-fleet";
/// Time limit for a new leader. The lease of a killed leader expires after 15 s.
const LEAD_TIMEOUT: Duration = Duration::from_secs(180);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const WRITES: &str = "camofleet_operator_writes_total";
const LEADER: &str = "camofleet_operator_leader";

/// A running operator. Dropping this kills it.
#[derive(Debug)]
pub struct Operator {
    /// The process.
    pub daemon: Daemon,
    /// Its identity in the lease.
    pub identity: String,
    admin: SocketAddr,
    client: reqwest::Client,
}

/// Environment variable with the default runner image.
pub const RUNNER_IMAGE: &str = "CAMOFLEET_RUNNER_IMAGE";

impl Operator {
    /// Starts an operator that serves metrics and probes on `admin`. `env` is its whole environment; `KUBECONFIG` must
    /// point to the API server.
    ///
    /// # Errors
    /// Returns an error if the process cannot be started.
    pub fn start(
        program: &OperatorProgram,
        identity: &str,
        admin: SocketAddr,
        mut env: Vec<(String, OsString)>,
        log: PathBuf,
    ) -> Result<Self> {
        let listen = admin.to_string();
        if env.iter().all(|(name, _)| name != RUNNER_IMAGE) {
            env.push((RUNNER_IMAGE.to_owned(), "simulated".into()));
        }
        let args = ["run", "--public-url=http://127.0.0.1", "--namespace", NAMESPACE];
        let args = args.into_iter().chain(["--identity", identity, "--admin-listen", &listen]);
        let daemon = Daemon::start(Spec {
            name: format!("operator {identity}"),
            program: program.path.clone(),
            args: args.map(Into::into).collect(),
            env,
            log,
        })?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        Ok(Self { daemon, identity: identity.to_owned(), admin, client })
    }

    /// Sends SIGTERM. The operator releases its lease.
    ///
    /// # Errors
    /// Returns an error if the process cannot be killed.
    pub async fn stop(&mut self) -> Result<()> {
        self.daemon.terminate(STOP_TIMEOUT).await
    }

    /// Waits until this operator leads.
    ///
    /// # Errors
    /// Returns an error if the operator exits or does not lead in time.
    pub async fn wait_until_leading(&mut self) -> Result<()> {
        let began = Instant::now();
        while !self.is_leader().await {
            self.daemon.pid()?;
            if began.elapsed() > LEAD_TIMEOUT {
                let (identity, seconds) = (&self.identity, LEAD_TIMEOUT.as_secs());
                bail!("operator {identity} does not lead after {seconds} s; its log ends: {}", self.daemon.log_tail());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Whether its metrics say that it leads.
    pub async fn is_leader(&self) -> bool {
        self.metrics().await.is_ok_and(|metrics| metrics.sum(LEADER, &[]) > 0.0)
    }

    /// Writes to the API server since the start of the process.
    ///
    /// # Errors
    /// Returns an error if the metrics cannot be read.
    pub async fn writes(&self) -> Result<Writes> {
        Ok(Writes::of(&self.metrics().await?))
    }

    /// The current metrics.
    ///
    /// # Errors
    /// Returns an error if the metrics cannot be read.
    pub async fn metrics(&self) -> Result<Metrics> {
        let url = format!("http://{}/metrics", self.admin);
        let answer = self.client.get(url).send().await.and_then(reqwest::Response::error_for_status);
        let answer = answer.with_context(|| format!("cannot read the metrics of operator {}", self.identity))?;
        Ok(Metrics::new(answer.text().await?))
    }

    /// HTTP status and body of the readiness probe.
    ///
    /// # Errors
    /// Returns an error without an HTTP response.
    pub async fn readiness(&self) -> Result<(u16, String)> {
        let answer = self.client.get(format!("http://{}/readyz", self.admin)).send().await;
        let answer = answer.with_context(|| format!("cannot read the readiness of operator {}", self.identity))?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Memory and CPU time used.
    ///
    /// # Errors
    /// Returns an error if the process has exited.
    pub fn usage(&mut self) -> Result<Usage> {
        Usage::of(self.daemon.pid()?)
    }
}

/// Waits until one of the operators leads, and returns its index.
///
/// # Errors
/// Returns an error if none leads in time.
pub async fn wait_for_leader(operators: &mut [Operator]) -> Result<usize> {
    let began = Instant::now();
    while began.elapsed() < LEAD_TIMEOUT {
        for (index, operator) in operators.iter_mut().enumerate() {
            if operator.daemon.is_running() && operator.is_leader().await {
                return Ok(index);
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let log = operators.first().context("no operators were given")?.daemon.log_tail();
    bail!("no operator leads after {} s; the log of the first one ends: {log}", LEAD_TIMEOUT.as_secs())
}

/// Numbers of writes by kind and outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes(BTreeMap<(String, String), usize>);

impl Writes {
    /// Reads the counters from the metrics.
    pub fn of(metrics: &Metrics) -> Self {
        let count = |sample: Sample| {
            let [kind, outcome] = [sample.label("kind")?, sample.label("outcome")?].map(str::to_owned);
            Some(((kind, outcome), sample.value()?))
        };
        Self(metrics.samples(WRITES).filter_map(count).collect())
    }

    /// Writes since an earlier reading.
    pub fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().map(|(what, count)| {
            let former = before.0.get(what).copied().unwrap_or_default();
            (what.clone(), count.saturating_sub(former))
        });
        Self(grown.filter(|(_, count)| *count > 0).collect())
    }

    /// The sum of both.
    pub fn plus(mut self, other: Self) -> Self {
        for (what, count) in other.0 {
            *self.0.entry(what).or_default() += count;
        }
        self
    }

    /// Writes of one kind with any outcome.
    pub fn of_kind(&self, kind: &str) -> usize {
        self.0.iter().filter(|((other, _), _)| other == kind).map(|(_, count)| count).sum()
    }

    /// Counts nested by kind and outcome.
    pub fn to_json(&self) -> Value {
        let mut kinds = json!({});
        for ((kind, outcome), count) in &self.0 {
            kinds[kind][outcome] = json!(count);
        }
        kinds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(text: &str) -> Writes {
        Writes::of(&Metrics::new(text.to_owned()))
    }

    #[test]
    fn counts_writes_by_kind_and_outcome() {
        let before = writes("camofleet_operator_writes_total{kind=\"event\",outcome=\"ok\"} 2\n");
        let after = writes(concat!(
            "# TYPE camofleet_operator_writes counter\n",
            "camofleet_operator_writes_total{kind=\"event\",outcome=\"ok\"} 5\n",
            "camofleet_operator_writes_total{kind=\"event\",outcome=\"failed\"} 1\n",
            "camofleet_operator_runner_call_seconds_count{call=\"bind\",outcome=\"ok\"} 9\n",
        ));
        let since = after.since(&before);
        assert_eq!(since.of_kind("event"), 4);
        assert_eq!(since.to_json(), json!({ "event": { "ok": 3, "failed": 1 } }));
        assert_eq!(since.of_kind("pod_create"), 0);
    }
}
