//! Raises the limit of open files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files to `wanted`, or to the hard limit if that is lower, and returns the new limit.
/// Container runtimes start processes with a soft limit of 1024 for compatibility with select(2).
///
/// # Errors
/// The kernel rejects reading or setting the limit.
pub fn raise_limit(wanted: u64) -> std::io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised = wanted.min(hard).max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, raised, hard)?;
    Ok(raised)
}
