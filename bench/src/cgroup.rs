//! Limits CPU time and memory of processes by control groups, of version 1 or 2. Needs root.

use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

const ROOT: &str = "/sys/fs/cgroup";
/// The period in which a share of CPU time is given out, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// How often a group is tried to be removed, and the pause between.
const TRIES: usize = 20;
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// The limit that a group's processes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Hundredths of one core.
    CpuPercent(u32),
    /// Bytes of memory. At more the kernel kills a process of the group.
    Memory(u64),
}

/// A control group with a limit. It is removed when this is dropped, if its processes have ended.
#[derive(Debug)]
pub struct ControlGroup {
    folder: PathBuf,
}

impl ControlGroup {
    /// Makes the group. The name must be unique on this machine.
    ///
    /// # Errors
    /// When this process is not root, or the kernel has no such controller.
    pub fn new(name: &str, limit: Limit) -> Result<Self> {
        let is_v2 = Path::new(ROOT).join("cgroup.controllers").is_file();
        let controller = match limit {
            Limit::CpuPercent(_) => "cpu",
            Limit::Memory(_) => "memory",
        };
        let folder = if is_v2 { Path::new(ROOT).join(name) } else { Path::new(ROOT).join(controller).join(name) };
        if is_v2 {
            // Without it the group has no files of this controller. Where it is in force already, nothing changes.
            write(&Path::new(ROOT).join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
        fs::create_dir(&folder)
            .with_context(|| format!("cannot make the control group {}: this needs root", folder.display()))?;
        let group = Self { folder };
        for (file, value) in settings(is_v2, limit) {
            write(&group.folder.join(file), &value)?;
        }
        Ok(group)
    }

    /// Puts a process into the group, with all its threads.
    ///
    /// # Errors
    /// When it has ended.
    pub fn add(&self, pid: u32) -> Result<()> {
        write(&self.folder.join("cgroup.procs"), &pid.to_string())
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // The kernel lets go of a process a moment after it has ended. A group that still has processes stays.
        let removed = (0..TRIES).any(|_| {
            fs::remove_dir(&self.folder).is_ok() || {
                thread::sleep(RETRY_DELAY);
                false
            }
        });
        if !removed {
            eprintln!("cannot remove the control group {}: it has processes", self.folder.display());
        }
    }
}

/// The files of the group's folder, and what to write into them (kernel: Documentation/admin-guide/cgroup-v2.rst, and
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
