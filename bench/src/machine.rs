//! Description of this machine, and resource usage of the machine and its processes from `/proc`.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{fs, time::Duration};

/// Cores, memory, kernel, CPU model, and the load average of the last minute, which shows other work on the machine.
pub fn describe() -> Value {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cores": cores,
        "memory_mb": field("/proc/meminfo", "MemTotal").and_then(|text| kilobytes(&text)).map(|kilobytes| kilobytes / 1024),
        "kernel": kernel.trim(),
        "load": fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split_once(' ')?.0.parse::<f64>().ok()),
        "cpu": field("/proc/cpuinfo", "model name"),
    })
}

/// Resource usage of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in KiB.
    pub memory: u64,
    /// Peak resident memory in KiB.
    pub peak_memory: u64,
    /// CPU time in user and kernel mode.
    pub cpu: Duration,
}

impl Usage {
    /// Reads the usage of a process.
    ///
    /// # Errors
    /// Returns an error if the process has exited.
    pub fn of(pid: u32) -> Result<Self> {
        let status = format!("/proc/{pid}/status");
        let memory = |name| field(&status, name).and_then(|text| kilobytes(&text));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has exited")?;
        Ok(Self {
            memory: memory("VmRSS").context("the process has exited")?,
            peak_memory: memory("VmHWM").context("the process has exited")?,
            cpu: cpu_time(&stat).context("cannot parse /proc/PID/stat as described in proc(5)")?,
        })
    }
}

/// CPU time of the whole machine since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// Time not spent idle.
    pub busy: Duration,
    /// Time that the hypervisor gave to other virtual machines.
    pub stolen: Duration,
}

impl CpuTimes {
    /// Reads the current values.
    ///
    /// # Errors
    /// Returns an error if `/proc/stat` cannot be read.
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::read(&stat).context("cannot parse /proc/stat as described in proc(5)")
    }

    /// The fields are user, nice, system, idle, iowait, irq, softirq and steal, in hundredths of a second.
    fn read(stat: &str) -> Option<Self> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let times: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
        let [user, nice, system, _, _, irq, softirq, steal] = *times.first_chunk()?;
        let time = |hundredths: u64| Duration::from_millis(hundredths * 10);
        Some(Self { busy: time(user + nice + system + irq + softirq), stolen: time(steal) })
    }
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    })
}

fn kilobytes(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Sums fields 14 and 15 (utime, stime). The unit is `USER_HZ`, which is 100 on every architecture.
fn cpu_time(stat: &str) -> Option<Duration> {
    // The program name in parentheses may contain spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut hundredths = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((hundredths()? + hundredths()?) * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_cpu_time_after_any_program_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1000 100 18446744073709551615";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(3)));
    }

    #[test]
    fn parses_the_cpu_times_of_the_machine() {
        let stat = "cpu  100 0 200 5000 7 0 300 40 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        let (busy, stolen) = (Duration::from_secs(6), Duration::from_millis(400));
        assert_eq!(CpuTimes::read(stat), Some(CpuTimes { busy, stolen }));
    }

    #[test]
    fn reads_the_memory_of_this_process() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.memory > 0 && usage.peak_memory >= usage.memory);
    }
}
