//! Waits for conditions. No wait has a fixed duration; the deadline only ends waits that would hang.

use anyhow::{Result, bail};
use kube::{Api, Resource, runtime::wait::await_condition};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// Longest wait for a condition. Generous, because the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(300);
/// Interval of [`poll`].
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Watches an object until a condition holds. The condition receives `None` while the object does not exist.
///
/// # Errors
/// If the condition does not hold within [`DEADLINE`], with the object's state then.
pub async fn wait_for<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    holds: impl Fn(Option<&K>) -> bool + Send + Sync,
) -> Result<Option<K>>
where
    K: Resource + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
{
    match timeout(DEADLINE, await_condition(api.clone(), name, holds)).await {
        Ok(found) => Ok(found?),
        Err(_) => {
            let now = api.get_opt(name).await?;
            bail!("timed out waiting for {name} {what}; it is {}", serde_json::to_string_pretty(&now)?)
        }
    }
}

/// Like [`wait_for`], for conditions of an existing object.
pub async fn wait_for_object<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    holds: impl Fn(&K) -> bool + Send + Sync,
) -> Result<K>
where
    K: Resource + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
{
    let found = wait_for(api, name, what, |object| object.is_some_and(&holds)).await?;
    Ok(found.expect("the condition holds only for an existing object"))
}

/// Calls `attempt` until it succeeds.
///
/// # Errors
/// If it does not succeed within [`DEADLINE`], with its last error.
pub async fn poll<T>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match attempt().await {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() >= deadline => bail!("timed out waiting for {what}: {error:#}"),
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
}
