//! Waiting for a condition. Nothing here waits for a time: the deadline only tells a failure from a hang.

use anyhow::{Result, bail};
use kube::{Api, Resource, runtime::wait::await_condition};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// After so long, what was waited for is taken not to come. Generous: the machine may be busy with other things.
pub const DEADLINE: Duration = Duration::from_secs(300);
/// How often things are looked at that cannot be watched.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Watches the object of that name until the condition holds; `None` is an object that is not there.
///
/// # Errors
/// When it does not come to hold, with the object as it then is.
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
            bail!("waited in vain for {name} {what}; it is {}", serde_json::to_string_pretty(&now)?)
        }
    }
}

/// The same for an object that is there when the condition holds.
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
    Ok(found.expect("the condition holds of an object only"))
}

/// Looks again and again until `look` finds what it looks for.
///
/// # Errors
/// When it never does, with what it said last.
pub async fn poll<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() >= deadline => bail!("waited in vain for {what}: {error:#}"),
            Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
}
