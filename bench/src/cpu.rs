//! CPU usage during a measurement, by process: shows what limits the result, and whether other programs used the
//! machine.

use crate::{
    daemon::Daemon,
    harness::Harness,
    machine::{CpuTimes, Usage},
    operator::Operator,
};
use anyhow::Result;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A running measurement.
#[derive(Debug)]
pub struct CpuWatch {
    since: Instant,
    machine: CpuTimes,
    processes: BTreeMap<&'static str, Duration>,
}

impl CpuWatch {
    /// Starts a measurement.
    ///
    /// # Errors
    /// Returns an error if `/proc` cannot be read.
    pub fn start(harness: &Harness, operator: &Operator) -> Result<Self> {
        Ok(Self { since: Instant::now(), machine: CpuTimes::now()?, processes: processes(harness, operator) })
    }

    /// Percent of one CPU since the start, by process. `bench` is this process with the simulator, `others` all
    /// unrelated processes, `stolen` the time that the hypervisor gave to other virtual machines.
    ///
    /// # Errors
    /// Returns an error if `/proc` cannot be read.
    pub fn percent(&self, harness: &Harness, operator: &Operator) -> Result<Value> {
        let elapsed = self.since.elapsed();
        let percent = |time: Duration| time.as_secs_f64() / elapsed.as_secs_f64() * 100.0;
        let now = CpuTimes::now()?;
        let mut used = json!({ "stolen": percent(now.stolen.saturating_sub(self.machine.stolen)) });
        let mut others = now.busy.saturating_sub(self.machine.busy);
        for (name, time) in processes(harness, operator) {
            let time = time.saturating_sub(self.processes.get(name).copied().unwrap_or_default());
            others = others.saturating_sub(time);
            used[name] = json!(percent(time));
        }
        used["others"] = json!(percent(others));
        Ok(used)
    }
}

fn processes(harness: &Harness, operator: &Operator) -> BTreeMap<&'static str, Duration> {
    let control_plane = &harness.control_plane;
    let pids = [
        ("etcd", control_plane.etcd.id()),
        ("api_server", control_plane.api_server.id()),
        ("scheduler", control_plane.scheduler.id()),
        ("controller_manager", control_plane.controller_manager.id()),
        ("operator", Daemon::id(&operator.daemon)),
        ("bench", Some(std::process::id())),
    ];
    pids.into_iter().filter_map(|(name, pid)| Some((name, Usage::of(pid?).ok()?.cpu))).collect()
}
