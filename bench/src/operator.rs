//! The real operator's process, and what it tells of itself.

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

/// The namespace of the release.
pub const NAMESPACE: &str = "camo-fleet";
/// A former leader's lease runs out after 15 s.
const LEAD_TIMEOUT: Duration = Duration::from_secs(180);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const WRITES: &str = "camofleet_operator_writes_total";
const LEADER: &str = "camofleet_operator_leader";

/// An operator. It is gone when this is dropped.
#[derive(Debug)]
pub struct Operator {
    /// Its process.
    pub daemon: Daemon,
    /// The name under which it leads.
    pub identity: String,
    admin: SocketAddr,
    client: reqwest::Client,
}

/// Names the image of runners whose pool names none.
pub const RUNNER_IMAGE: &str = "CAMOFLEET_RUNNER_IMAGE";

impl Operator {
    /// Starts an operator of that name, whose metrics are told there, in that environment: it says by `KUBECONFIG` how the
    /// API server is reached.
    ///
    /// # Errors
    /// When it cannot be started.
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

    /// Asks it to end, which gives its lease back.
    ///
    /// # Errors
    /// When the kernel does not let it be killed.
    pub async fn stop(&mut self) -> Result<()> {
        self.daemon.terminate(STOP_TIMEOUT).await
    }

    /// Waits until it leads.
    ///
    /// # Errors
    /// When it ends, or does not lead in time.
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

    /// Whether it says that it leads.
    pub async fn is_leader(&self) -> bool {
        self.metrics().await.is_ok_and(|metrics| metrics.sum(LEADER, &[]) > 0.0)
    }

    /// What it has written since its start.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn writes(&self) -> Result<Writes> {
        Ok(Writes::of(&self.metrics().await?))
    }

    /// Its metrics now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<Metrics> {
        let url = format!("http://{}/metrics", self.admin);
        let answer = self.client.get(url).send().await.and_then(reqwest::Response::error_for_status);
        let answer = answer.with_context(|| format!("operator {} tells no metrics", self.identity))?;
        Ok(Metrics::new(answer.text().await?))
    }

    /// The answer of its readiness probe: HTTP status and body.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn readiness(&self) -> Result<(u16, String)> {
        let answer = self.client.get(format!("http://{}/readyz", self.admin)).send().await;
        let answer = answer.with_context(|| format!("operator {} does not say whether it is ready", self.identity))?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The memory and CPU time that it has used.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&mut self) -> Result<Usage> {
        Usage::of(self.daemon.pid()?)
    }
}

/// Which of them leads, once one does.
///
/// # Errors
/// When none does in time.
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
    let log = operators.first().context("there are operators")?.daemon.log_tail();
    bail!("no operator leads after {} s; a log ends: {log}", LEAD_TIMEOUT.as_secs())
}

/// Counts of writes by kind and outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes(BTreeMap<(String, String), usize>);

impl Writes {
    /// Writes to the API server since the operator's start.
    pub fn of(metrics: &Metrics) -> Self {
        let count = |sample: Sample| {
            let [kind, outcome] = [sample.label("kind")?, sample.label("outcome")?].map(str::to_owned);
            Some(((kind, outcome), sample.value()?))
        };
        Self(metrics.samples(WRITES).filter_map(count).collect())
    }

    /// What was written after that.
    pub fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().map(|(what, count)| {
            let former = before.0.get(what).copied().unwrap_or_default();
            (what.clone(), count.saturating_sub(former))
        });
        Self(grown.filter(|(_, count)| *count > 0).collect())
    }

    /// Both together.
    pub fn plus(mut self, other: Self) -> Self {
        for (what, count) in other.0 {
            *self.0.entry(what).or_default() += count;
        }
        self
    }

    /// All of one kind, whatever came of them.
    pub fn of_kind(&self, kind: &str) -> usize {
        self.0.iter().filter(|((other, _), _)| other == kind).map(|(_, count)| count).sum()
    }

    /// By kind, and within that by outcome.
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
