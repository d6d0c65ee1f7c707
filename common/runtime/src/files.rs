//! The limit of open files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files to `wanted`, as far as the hard limit permits, and returns it. Container runtimes start
/// processes with a soft limit of 1024 for the sake of select(2).
///
/// # Errors
/// The system refuses to read or to set the limit.
pub fn raise_limit(wanted: u64) -> std::io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised = wanted.min(hard).max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, raised, hard)?;
    Ok(raised)
}
