//! Fences off operators whose term as leader has ended.

use camofleet_runner_api::{ErrorReason, ErrorResponse};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The highest epoch of any leader that has called this runner. Clones share the value.
#[derive(Clone, Debug, Default)]
pub struct HighestEpoch(Arc<AtomicU64>);

/// The term of a calling leader. It can end between authentication and the call itself, because the request body may
/// arrive slowly.
#[derive(Clone, Debug)]
pub struct Term {
    epoch: u64,
    highest_epoch: HighestEpoch,
}

impl HighestEpoch {
    /// Returns the term of a leader that calls with this epoch, and ends all earlier terms.
    pub fn term(&self, epoch: u64) -> Term {
        self.0.fetch_max(epoch, Ordering::AcqRel);
        Term { epoch, highest_epoch: self.clone() }
    }
}

impl Term {
    /// Checks that no leader of a later term has called.
    ///
    /// # Errors
    /// [`ErrorReason::StaleEpoch`] when one has.
    pub fn check(&self) -> Result<(), ErrorResponse> {
        let (epoch, highest) = (self.epoch, self.highest_epoch.0.load(Ordering::Acquire));
        if epoch >= highest {
            return Ok(());
        }
        let message = format!("epoch {epoch} is stale: a leader of epoch {highest} has already called this runner");
        Err(ErrorResponse { reason: ErrorReason::StaleEpoch, message })
    }
}
