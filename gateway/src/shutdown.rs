//! The orderly end of the process.

use crate::error::ApiError;
use std::time::Duration;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long connections may take to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The stages in which the process ends, and the tasks that it waits for.
#[derive(Default)]
pub struct Shutdown {
    /// Cancelled first: the gateway is no longer ready.
    leaving: CancellationToken,
    /// Cancelled a moment later: nothing is accepted, and open connections end.
    draining: CancellationToken,
    /// Connections, relays, and what they started.
    tasks: TaskTracker,
}

impl Shutdown {
    /// Whether the process is about to end.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_cancelled()
    }

    /// Waits until connections have to end.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Cancelled when connections have to end.
    pub fn draining_token(&self) -> CancellationToken {
        self.draining.child_token()
    }

    /// The result of `work`, unless connections have to end before it is there.
    ///
    /// # Errors
    /// That of `work`, or [`ApiError::Draining`].
    pub async fn unless_draining<T>(&self, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        tokio::select! {
            biased;
            () = self.draining() => Err(ApiError::Draining),
            done = work => done,
        }
    }

    /// Starts a task that the process waits for when it ends.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tasks.spawn(task)
    }

    /// The tasks that the process waits for when it ends.
    pub fn tasks(&self) -> TaskTracker {
        self.tasks.clone()
    }

    /// Ends in order: the gateway is not ready any more; after `leave_endpoints` it accepts nothing, and every client
    /// is told to connect again. Returns when all tasks have ended, or after 10 s.
    pub async fn drain(&self, endpoint_removal: Duration) {
        tracing::info!("stopped being ready, because the process ends");
        self.leaving.cancel();
        sleep(endpoint_removal).await;
        self.draining.cancel();
        self.tasks.close();
        if timeout(DRAIN_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "cut the connections that did not end in time");
        }
        tracing::info!("stopped");
    }
}
