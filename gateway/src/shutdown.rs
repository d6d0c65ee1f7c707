//! Graceful shutdown: fails the readiness probe, closes connections, and waits for the tasks.

use crate::error::ApiError;
use std::time::Duration;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long [`Shutdown::drain`] waits for connections to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The stages of a shutdown, and the tasks that it waits for.
#[derive(Default)]
pub struct Shutdown {
    /// Cancelled first: the gateway is no longer ready.
    begun: CancellationToken,
    /// Cancelled second: the gateway accepts no connections and closes the open ones.
    draining: CancellationToken,
    /// Connections, relays, and the tasks that they spawned.
    tasks: TaskTracker,
}

impl Shutdown {
    /// Whether a shutdown has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Waits until connections have to close.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// A token that is cancelled when connections have to close.
    pub fn draining_token(&self) -> CancellationToken {
        self.draining.child_token()
    }

    /// Runs `work` until it completes or connections have to close.
    ///
    /// # Errors
    /// The error of `work`, or [`ApiError::Draining`].
    pub async fn unless_draining<T>(&self, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        tokio::select! {
            biased;
            () = self.draining() => Err(ApiError::Draining),
            done = work => done,
        }
    }

    /// Spawns a task that the shutdown waits for.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn(task)
    }

    /// The tasks that the shutdown waits for.
    pub fn tasks(&self) -> TaskTracker {
        self.tasks.clone()
    }

    /// Shuts down in order: the readiness probe fails; after `endpoint_removal` the gateway stops accepting and closes
    /// every connection with a request to connect again. Returns when all tasks have ended, or 10 s after that.
    pub async fn drain(&self, endpoint_removal: Duration) {
        tracing::info!("became unready for the shutdown");
        self.begun.cancel();
        sleep(endpoint_removal).await;
        self.draining.cancel();
        self.tasks.close();
        if timeout(DRAIN_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "dropped the connections that did not close in time");
        }
        tracing::info!("stopped");
    }
}
