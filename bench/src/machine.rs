//! What the figures were measured on.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{fs, time::Duration};

/// Cores, memory, kernel and processor of this machine, and how busy it was in the last minute: with others.
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

/// What a process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in KiB.
    pub memory: u64,
    /// The most that it ever was.
    pub peak_memory: u64,
    /// CPU time, its own and the kernel's for it.
    pub cpu: Duration,
}

impl Usage {
    /// What that process uses now.
    ///
    /// # Errors
    /// When it is not there.
    pub fn of(pid: u32) -> Result<Self> {
        let status = format!("/proc/{pid}/status");
        let memory = |name| field(&status, name).and_then(|text| kilobytes(&text));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
        Ok(Self {
            memory: memory("VmRSS").context("the process is gone")?,
            peak_memory: memory("VmHWM").context("the process is gone")?,
            cpu: cpu_time(&stat).context("/proc/PID/stat is not as proc(5) has it")?,
        })
    }
}

/// The CPU time that this machine has spent since it was started, and how much of it was taken by its host for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// Not idle.
    pub busy: Duration,
    /// Wished for, and not given.
    pub stolen: Duration,
}

impl CpuTimes {
    /// What it is now.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::read(&stat).context("/proc/stat is not as proc(5) has it")
    }

    /// user, nice, system, idle, iowait, irq, softirq, steal: in hundredths of a second.
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

/// Fields 14 and 15. They are in hundredths of a second, on every architecture that the kernel tells this to.
fn cpu_time(stat: &str) -> Option<Duration> {
    // The name of the program, in parentheses, may hold anything.
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
