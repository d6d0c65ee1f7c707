//! Fences off operators of earlier terms.

use camofleet_runner_api::{ErrorReason, ErrorResponse};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The highest epoch with which a leader has called this runner. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Epochs(Arc<AtomicU64>);

/// The term of the leader that calls. It may be over before what it asks for is decided: the body of a request can be slow.
#[derive(Clone, Debug)]
pub struct Term {
    epoch: u64,
    epochs: Epochs,
}

impl Epochs {
    /// The term of a leader that calls with this epoch. Its call ends all earlier terms.
    pub fn term(&self, epoch: u64) -> Term {
        self.0.fetch_max(epoch, Ordering::AcqRel);
        Term { epoch, epochs: self.clone() }
    }
}

impl Term {
    /// Checks that no leader of a later term has called until now.
    ///
    /// # Errors
    /// When one has.
    pub fn check(&self) -> Result<(), ErrorResponse> {
        let (epoch, highest) = (self.epoch, self.epochs.0.load(Ordering::Acquire));
        if epoch >= highest {
            return Ok(());
        }
        let message = format!("a leader of epoch {highest} has called before, and this is one of epoch {epoch}");
        Err(ErrorResponse { reason: ErrorReason::StaleEpoch, message })
    }
}
