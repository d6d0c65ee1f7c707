//! Control groups (v1 or v2) that limit CPU time and memory of processes. Needs root.

use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

const ROOT: &str = "/sys/fs/cgroup";
/// CPU bandwidth period in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// Attempts to remove a group, with [`RETRY_DELAY`] in between.
const TRIES: usize = 20;
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Limit shared by all processes of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Percent of one core.
    CpuPercent(u32),
    /// Bytes. Above this, the kernel kills a process of the group.
    Memory(u64),
}

/// A control group with a limit. Dropping it removes the group once its processes have exited.
#[derive(Debug)]
pub struct ControlGroup {
    folder: PathBuf,
}

impl ControlGroup {
    /// Creates a group. `name` must be unique on this machine.
    ///
    /// # Errors
    /// Returns an error without root, or if the kernel lacks the controller.
    pub fn new(name: &str, limit: Limit) -> Result<Self> {
        let is_v2 = Path::new(ROOT).join("cgroup.controllers").is_file();
        let controller = match limit {
            Limit::CpuPercent(_) => "cpu",
            Limit::Memory(_) => "memory",
        };
        let folder = if is_v2 { Path::new(ROOT).join(name) } else { Path::new(ROOT).join(controller).join(name) };
        if is_v2 {
            // This creates the controller's files in child groups. It has no effect if the controller is already
            // enabled.
            write(&Path::new(ROOT).join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
        fs::create_dir(&folder)
            .with_context(|| format!("cannot create the control group {}; run as root", folder.display()))?;
        let group = Self { folder };
        for (file, value) in settings(is_v2, limit) {
            write(&group.folder.join(file), &value)?;
        }
        Ok(group)
    }

    /// Moves a process with all its threads into the group.
    ///
    /// # Errors
    /// Returns an error if the process has exited.
    pub fn add(&self, pid: u32) -> Result<()> {
        write(&self.folder.join("cgroup.procs"), &pid.to_string())
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // A process leaves its group a moment after its exit. A group that still has processes cannot be removed.
        let removed = (0..TRIES).any(|_| {
            fs::remove_dir(&self.folder).is_ok() || {
                thread::sleep(RETRY_DELAY);
                false
            }
        });
        if !removed {
            eprintln!("cannot remove the control group {}: it still has processes", self.folder.display());
        }
    }
}

/// Files in the group's directory and their contents (kernel: Documentation/admin-guide/cgroup-v2.rst, and
/// cgroup-v1/memory.rst and scheduler/sched-bwc.rst).
fn settings(is_v2: bool, limit: Limit) -> Vec<(&'static str, String)> {
    match (is_v2, limit) {
        (true, Limit::CpuPercent(percent)) => vec![("cpu.max", format!("{} {PERIOD}", quota(percent)))],
        (true, Limit::Memory(bytes)) => vec![("memory.max", bytes.to_string())],
        (false, Limit::CpuPercent(percent)) => {
            vec![("cpu.cfs_period_us", PERIOD.to_string()), ("cpu.cfs_quota_us", quota(percent).to_string())]
        }
        (false, Limit::Memory(bytes)) => vec![("memory.limit_in_bytes", bytes.to_string())],
    }
}

fn quota(percent: u32) -> u64 {
    PERIOD * u64::from(percent) / 100
}

fn write(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).with_context(|| format!("cannot write {value:?} to {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_a_core_is_25_ms_of_each_100_ms() {
        let quarter = Limit::CpuPercent(25);
        assert_eq!(settings(true, quarter), [("cpu.max", "25000 100000".to_owned())]);
        assert_eq!(settings(false, quarter)[1], ("cpu.cfs_quota_us", "25000".to_owned()));
    }
}
